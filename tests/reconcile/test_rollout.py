"""When an old pod goes first."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vllm_operator.reconcile.observe import PodObservation, WorkloadObservation, observe_workload
from vllm_operator.reconcile.rollout import YIELDED, is_yielded, should_yield

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE = timedelta(seconds=30)

OLD = PodObservation(
    name="old", uid="1", address="10.0.0.1", new=False, leaving=False, ready=True, scheduled=True,
    unschedulable=None, unschedulable_since=None, trouble=None, restarts=0,
)  # fmt: skip
NEW = replace(OLD, name="new", uid="2", new=True)
STUCK = replace(
    NEW, scheduled=False, ready=False, unschedulable="no room", unschedulable_since=NOW - timedelta(minutes=1)
)


def workload(*pods: PodObservation) -> WorkloadObservation:
    return replace(observe_workload(None, [], wanted=1, template_hash="x"), pods=pods)


def decide(*pods: PodObservation, automatic: bool = True, already: bool = False) -> tuple[bool, timedelta | None]:
    return should_yield(workload(*pods), automatic=automatic, already=already, now=NOW, patience=PATIENCE)


def test_the_scheduler_has_had_its_time() -> None:
    assert decide(OLD, STUCK) == (True, None)


def test_just_at_the_end_of_patience() -> None:
    assert decide(OLD, replace(STUCK, unschedulable_since=NOW - PATIENCE)) == (True, None)


def test_there_is_time_left() -> None:
    stuck = replace(STUCK, unschedulable_since=NOW - timedelta(seconds=10))
    assert decide(OLD, stuck) == (False, timedelta(seconds=20))


def test_the_longest_waiting_pod_counts() -> None:
    recent = replace(STUCK, uid="3", unschedulable_since=NOW)
    assert decide(OLD, recent, STUCK) == (True, None)


def test_no_time_is_known() -> None:
    assert decide(OLD, replace(STUCK, unschedulable_since=None)) == (False, PATIENCE)


@pytest.mark.parametrize(
    "pods",
    [
        (OLD, NEW),
        (STUCK,),
        (replace(OLD, leaving=True), STUCK),
        (replace(OLD, scheduled=False), STUCK),
        (OLD, replace(STUCK, leaving=True)),
        (OLD, replace(STUCK, new=False)),
        (),
    ],
    ids=[
        "nobody waits",
        "nobody to go",
        "it goes already",
        "it holds no GPU",
        "the waiting one goes",
        "old waits",
        "none",
    ],
)
def test_nothing_is_to_be_yielded(pods: tuple[PodObservation, ...]) -> None:
    assert decide(*pods) == (False, None)


def test_only_auto_yields() -> None:
    assert decide(OLD, STUCK, automatic=False, already=True) == (False, None)


def test_it_lasts_until_the_last_old_pod_is_gone() -> None:
    assert decide(OLD, NEW, already=True) == (True, None)
    assert decide(NEW, already=True) == (False, None)
    assert decide(replace(OLD, leaving=True), NEW, already=True) == (False, None)


def test_is_yielded() -> None:
    assert is_yielded({"spec": {"strategy": dict(YIELDED)}})
    assert not is_yielded({"spec": {"strategy": {"type": "Recreate"}}})
    assert not is_yielded({"spec": {}})
    assert not is_yielded(None)
