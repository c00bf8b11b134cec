"""From what was seen to conditions, status and events."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vllm_operator
from vllm_operator.api.conditions import REASONS, ConditionType, Reason
from vllm_operator.reconcile import report as reporting
from vllm_operator.reconcile.observe import Observation, PodObservation, RouteObservation, WorkloadObservation
from vllm_operator.reconcile.report import Happening, Subject, Verdict, accepted, refused, report, transitions
from vllm_operator.serving.external import ExternalResult, ExternalState
from vllm_operator.serving.probe import ProbeResult, ProbeState
from vllm_operator.serving.startup import StartUp

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"

POD = PodObservation(
    name="p1", uid="1", address="10.0.0.1", new=True, leaving=False, ready=True, scheduled=True,
    unschedulable=None, unschedulable_since=None, trouble=None, restarts=0,
)  # fmt: skip
WORKLOAD = WorkloadObservation(
    exists=True, wanted=1, total=1, updated=1, ready=1, available=1, complete=True, observed=True,
    deadline_exceeded=None, replica_failure=None, pods=(POD,),
)  # fmt: skip
OK = ProbeResult(ProbeState.OK, models=("m",), max_model_len=4096)
ROUTE = RouteObservation(True, Reason.ROUTE_ACCEPTED, "every gateway has accepted the route")
SEEN = Observation(WORKLOAD, {"1": OK}, ROUTE)
SUBJECT = Subject(generation=3, accepted=accepted(), suspended=False, wanted=1, served_model_names=["m"])
NOT_READY = replace(POD, ready=False)
STUCK = replace(NOT_READY, scheduled=False, unschedulable="no room")
COMING = replace(WORKLOAD, total=1, updated=1, ready=0, available=0, complete=False, pods=(NOT_READY,))


def seen(workload: WorkloadObservation = WORKLOAD, *, probe: ProbeResult | None = OK, **changes: Any) -> Observation:
    return replace(SEEN, workload=workload, probes={} if probe is None else {"1": probe}, **changes)


def troubled(reason: Reason) -> Observation:
    return seen(replace(COMING, pods=(replace(NOT_READY, trouble=(reason, "words")),)))


def bad(state: ProbeState) -> Observation:
    return seen(probe=ProbeResult(state, "words"))


A, S, W, V, R = (
    ConditionType.ACCEPTED,
    ConditionType.SCHEDULED,
    ConditionType.WORKLOAD_AVAILABLE,
    ConditionType.SERVING,
    ConditionType.ROUTE_READY,
)
NONE = replace(WORKLOAD, wanted=0, total=0, updated=0, ready=0, available=0, pods=())
ABSENT = replace(NONE, exists=False)
IDLE = replace(SUBJECT, wanted=0)
OUTSIDE = replace(SUBJECT, external=True)


def outside(state: ExternalState) -> Observation:
    return seen(ABSENT, probe=None, external=ExternalResult(state, "" if state is ExternalState.OK else "words"))


ROWS: list[tuple[ConditionType, str, Reason, Subject, Observation]] = [
    (A, "True", Reason.ACCEPTED, SUBJECT, SEEN),
    (S, "True", Reason.SCHEDULED, SUBJECT, SEEN),
    (S, "True", Reason.SCALED_TO_ZERO, IDLE, seen(NONE)),
    (S, "True", Reason.SUSPENDED, replace(IDLE, suspended=True), seen(NONE)),
    (S, "False", Reason.UNSCHEDULABLE, SUBJECT, seen(replace(COMING, pods=(STUCK,)))),
    (S, "False", Reason.YIELDING, replace(SUBJECT, yielding=True), seen(replace(COMING, pods=(STUCK,)))),
    (S, "False", Reason.PODS_REJECTED, SUBJECT, seen(replace(COMING, replica_failure="quota", pods=()))),
    (S, "Unknown", Reason.AWAITING_SCHEDULING, SUBJECT, seen(replace(COMING, pods=()))),
    (W, "True", Reason.AVAILABLE, SUBJECT, SEEN),
    (W, "False", Reason.SCALED_TO_ZERO, IDLE, seen(NONE)),
    (W, "False", Reason.SUSPENDED, replace(IDLE, suspended=True), seen(NONE)),
    (W, "False", Reason.STARTING, SUBJECT, seen(COMING)),
    (
        W,
        "False",
        Reason.ROLLING_OUT,
        SUBJECT,
        seen(replace(COMING, total=2, pods=(NOT_READY, replace(POD, new=False)))),
    ),
    (W, "False", Reason.POD_NOT_READY, SUBJECT, seen(replace(COMING, complete=True))),
    (W, "False", Reason.IMAGE_PULL_FAILED, SUBJECT, troubled(Reason.IMAGE_PULL_FAILED)),
    (W, "False", Reason.CONTAINER_CONFIG_ERROR, SUBJECT, troubled(Reason.CONTAINER_CONFIG_ERROR)),
    (W, "False", Reason.OUT_OF_MEMORY, SUBJECT, troubled(Reason.OUT_OF_MEMORY)),
    (W, "False", Reason.ILLEGAL_INSTRUCTION, SUBJECT, troubled(Reason.ILLEGAL_INSTRUCTION)),
    (W, "False", Reason.CRASH_LOOP_BACK_OFF, SUBJECT, troubled(Reason.CRASH_LOOP_BACK_OFF)),
    (W, "False", Reason.CONTAINER_RESTARTED, SUBJECT, troubled(Reason.CONTAINER_RESTARTED)),
    (W, "False", Reason.PODS_REJECTED, SUBJECT, seen(replace(COMING, replica_failure="quota", pods=()))),
    (W, "False", Reason.DEADLINE_EXCEEDED, SUBJECT, seen(replace(COMING, deadline_exceeded="late"))),
    (W, "False", Reason.NOT_ACCEPTED, replace(SUBJECT, accepted=refused(Reason.INVALID_SPEC, "x")), seen(ABSENT)),
    (V, "True", Reason.SERVING, SUBJECT, SEEN),
    (V, "False", Reason.NO_READY_PODS, SUBJECT, seen(COMING)),
    (V, "Unknown", Reason.NOT_PROBED, SUBJECT, seen(probe=None)),
    (V, "False", Reason.HEALTH_CHECK_FAILED, SUBJECT, bad(ProbeState.UNHEALTHY)),
    (V, "False", Reason.UNREACHABLE, SUBJECT, bad(ProbeState.UNREACHABLE)),
    (V, "False", Reason.MODEL_NOT_LISTED, SUBJECT, bad(ProbeState.NO_MODELS)),
    (V, "False", Reason.MODEL_NOT_LISTED, SUBJECT, seen(probe=replace(OK, models=("other",)))),
    (V, "False", Reason.API_KEY_REJECTED, SUBJECT, bad(ProbeState.KEY_REJECTED)),
    (R, "True", Reason.ROUTE_ACCEPTED, SUBJECT, SEEN),
    (R, "False", Reason.ROUTE_REJECTED, SUBJECT, seen(route=RouteObservation(False, Reason.ROUTE_REJECTED, "no"))),
    (R, "Unknown", Reason.AWAITING_GATEWAY, SUBJECT, seen(route=RouteObservation(None, Reason.AWAITING_GATEWAY, "?"))),
    (ConditionType.READY, "True", Reason.READY, SUBJECT, SEEN),
    (S, "True", Reason.EXTERNAL, OUTSIDE, outside(ExternalState.OK)),
    (W, "True", Reason.EXTERNAL, OUTSIDE, outside(ExternalState.OK)),
    (W, "False", Reason.SUSPENDED, replace(OUTSIDE, wanted=0, suspended=True), outside(ExternalState.OK)),
    (V, "True", Reason.SERVING, OUTSIDE, outside(ExternalState.OK)),
    (V, "Unknown", Reason.NOT_PROBED, OUTSIDE, seen(ABSENT)),
    (V, "False", Reason.ADDRESS_NOT_ALLOWED, OUTSIDE, outside(ExternalState.NOT_ALLOWED)),
    (V, "False", Reason.UNREACHABLE, OUTSIDE, outside(ExternalState.UNREACHABLE)),
    (V, "False", Reason.TLS_FAILED, OUTSIDE, outside(ExternalState.TLS_FAILED)),
    (V, "False", Reason.API_KEY_REJECTED, OUTSIDE, outside(ExternalState.KEY_REJECTED)),
    (V, "False", Reason.HEALTH_CHECK_FAILED, OUTSIDE, outside(ExternalState.UNHEALTHY)),
    (V, "False", Reason.NOT_OPENAI, OUTSIDE, outside(ExternalState.NOT_OPENAI)),
    (V, "False", Reason.MODEL_NOT_LISTED, OUTSIDE, outside(ExternalState.MODEL_NOT_LISTED)),
    (ConditionType.READY, "True", Reason.READY, OUTSIDE, outside(ExternalState.OK)),
]


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in status["conditions"]}


@pytest.mark.parametrize(
    ("kind", "status", "reason", "subject", "observation"),
    ROWS,
    ids=[f"{row[0]}={row[1]}-{row[2]}-{number}" for number, row in enumerate(ROWS)],
)
def test_condition(
    kind: ConditionType, status: str, reason: Reason, subject: Subject, observation: Observation
) -> None:
    found = conditions(report(subject, observation, previous={}, now=NOW))[kind]
    assert (found["status"], found["reason"]) == (status, reason)
    assert found["message"]
    assert found["observedGeneration"] == 3
    if kind in (S, W) and status != "True" and subject.wanted:
        ready = conditions(report(subject, observation, previous={}, now=NOW))["Ready"]
        assert ready["status"] != "True", "Ready never lies"


ELSEWHERE = {
    # Produced by other rooms, and tested there or in test_convergence.py.
    Reason.INVALID_SPEC, Reason.INVALID_ENGINE_ARGS, Reason.INVALID_PARALLELISM, Reason.INVALID_POD_TEMPLATE,
    Reason.NOT_IMPLEMENTED, Reason.REFERENCE_NOT_FOUND, Reason.CHILD_CONFLICT, Reason.CHILD_REJECTED,
    Reason.PERMISSION_DENIED, Reason.ROUTE_DISABLED, Reason.NO_GATEWAY, Reason.GATEWAY_API_NOT_INSTALLED,
    Reason.GATEWAY_NOT_FOUND, Reason.API_ERROR, Reason.INTERNAL_ERROR, Reason.TERMINATING,
    Reason.READING_MODEL, Reason.HUB_UNAVAILABLE, Reason.MODEL_NOT_FOUND, Reason.MODEL_ACCESS_DENIED, Reason.INVALID_MODEL,
    Reason.DOES_NOT_FIT, Reason.NEEDS_GATEWAY, Reason.BY_GATEWAY, Reason.NAME_TAKEN,
    Reason.GATEWAY_NOT_READY, Reason.REJECTED_BY_GATEWAY,
}  # fmt: skip


def test_every_reason_is_produced_by_some_code_and_shown_by_some_test() -> None:
    sources = {
        path: path.read_text()
        for path in Path(vllm_operator.__file__).parent.rglob("*.py")
        if path.name != "conditions.py"
    }
    # _CALM only sorts reasons; it makes none.
    text = re.sub(r"_CALM = .*?\n\)\n", "", "\n".join(sources.values()), flags=re.DOTALL)
    unused = {reason for reason in Reason if f"Reason.{reason.name}" not in text}
    assert not unused, f"no code gives these reasons: remove them from api/conditions.py or use them: {sorted(unused)}"
    shown = {row[2] for row in ROWS}
    missing = set(Reason) - shown - ELSEWHERE
    assert not missing, f"no test here shows {sorted(missing)}"
    assert not shown & ELSEWHERE
    assert set(REASONS) == set(Reason)
    other_tests = "".join(
        path.read_text()
        for path in Path(__file__).parents[1].rglob("test_*.py")
        if path != Path(__file__)
    )  # fmt: skip
    untested = {reason for reason in ELSEWHERE if f"Reason.{reason.name}" not in other_tests}
    assert not untested, f"listed as tested elsewhere, but nowhere found: {sorted(untested)}"


READY_ROWS: list[tuple[str, Subject, Observation, str, Reason]] = [
    ("refused", replace(SUBJECT, accepted=refused(Reason.INVALID_SPEC, "x")), SEEN, "False", Reason.INVALID_SPEC),
    ("unknown to the API server", replace(SUBJECT, accepted=Verdict(A, "Unknown", Reason.API_ERROR, "x")), SEEN, "False",
     Reason.API_ERROR),
    ("idle", IDLE, seen(NONE), "False", Reason.SCALED_TO_ZERO),
    ("no node says more than starting", SUBJECT, seen(replace(COMING, pods=(STUCK,))), "False", Reason.UNSCHEDULABLE),
    ("starting", SUBJECT, seen(COMING), "False", Reason.STARTING),
    ("the old one serves, the new one comes", SUBJECT,
     seen(replace(COMING, total=2, pods=(replace(NOT_READY, uid="2"), replace(POD, new=False)))), "False", Reason.ROLLING_OUT),
    ("not probed", SUBJECT, seen(probe=None), "Unknown", Reason.NOT_PROBED),
    ("sick", SUBJECT, bad(ProbeState.UNHEALTHY), "False", Reason.HEALTH_CHECK_FAILED),
    ("a pod that is not ready says why", SUBJECT, seen(replace(COMING, complete=True)), "False", Reason.POD_NOT_READY),
    ("no route", SUBJECT, seen(route=RouteObservation(False, Reason.GATEWAY_NOT_FOUND, "x")), "False",
     Reason.GATEWAY_NOT_FOUND),
    ("route unknown", SUBJECT, seen(route=RouteObservation(None, Reason.AWAITING_GATEWAY, "x")), "Unknown",
     Reason.AWAITING_GATEWAY),
    ("one of two pods answers", replace(SUBJECT, wanted=2),
     seen(replace(WORKLOAD, wanted=2, total=2, updated=2, available=1, ready=1, pods=(POD, replace(NOT_READY, uid="2")))),
     "True", Reason.READY),
]  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "observation", "status", "reason"), [row[1:] for row in READY_ROWS], ids=[row[0] for row in READY_ROWS]
)
def test_ready(subject: Subject, observation: Observation, status: str, reason: Reason) -> None:
    found = conditions(report(subject, observation, previous={}, now=NOW))["Ready"]
    assert (found["status"], found["reason"]) == (status, reason)


@pytest.mark.parametrize("reason", sorted(reporting.TERMINAL))
def test_terminal_refusals_are_stalled(reason: Reason) -> None:
    found = conditions(report(replace(SUBJECT, accepted=refused(reason, "x")), SEEN, previous={}, now=NOW))
    assert found["Stalled"]["reason"] == reason
    assert "Reconciling" not in found


@pytest.mark.parametrize(
    ("subject", "observation", "shown"),
    [
        (SUBJECT, SEEN, set()),
        (IDLE, seen(NONE), set()),
        (SUBJECT, seen(COMING), {"Reconciling"}),
        (replace(SUBJECT, accepted=refused(Reason.REFERENCE_NOT_FOUND, "x")), SEEN, {"Reconciling"}),
        (replace(SUBJECT, accepted=refused(Reason.CHILD_REJECTED, "x")), SEEN, {"Reconciling"}),
        (replace(IDLE, accepted=refused(Reason.INVALID_SPEC, "x")), seen(NONE), {"Stalled"}),
        (SUBJECT, seen(replace(COMING, deadline_exceeded="late")), {"Stalled"}),
    ],
    ids=["ready", "idle", "starting", "waiting", "rejected", "refused while idle", "late"],
)
def test_kstatus(subject: Subject, observation: Observation, shown: set[str]) -> None:
    found = conditions(report(subject, observation, previous={}, now=NOW))
    assert found.keys() & {"Reconciling", "Stalled"} == shown
    assert all(found[kind]["status"] == "True" for kind in shown)


def test_the_worst_trouble_is_told_whatever_the_order_of_pods() -> None:
    crashed = replace(NOT_READY, name="p1", trouble=(Reason.CRASH_LOOP_BACK_OFF, "crash"))
    pulling = replace(NOT_READY, name="p2", trouble=(Reason.IMAGE_PULL_FAILED, "pull"))
    found = [
        conditions(report(SUBJECT, seen(replace(COMING, pods=pods)), previous={}, now=NOW))[W]
        for pods in ((crashed, pulling), (pulling, crashed))
    ]
    assert found[0] == found[1]
    assert found[0]["message"] == "pod p2: pull"


def test_troubles_of_old_and_leaving_pods_do_not_count() -> None:
    crashed = replace(POD, uid="2", trouble=(Reason.CRASH_LOOP_BACK_OFF, "crash"))
    for gone in (replace(crashed, new=False), replace(crashed, leaving=True)):
        found = conditions(report(SUBJECT, seen(replace(COMING, pods=(NOT_READY, gone))), previous={}, now=NOW))[W]
        assert found["reason"] != Reason.CRASH_LOOP_BACK_OFF


def test_messages_do_not_depend_on_the_order_of_pods_or_probes() -> None:
    pods = tuple(replace(POD, name=f"p{number}", uid=str(number)) for number in range(4))
    probes = {
        "0": OK,
        "1": ProbeResult(ProbeState.UNHEALTHY, "b"),
        "2": ProbeResult(ProbeState.UNREACHABLE, "a"),
        "3": OK,
    }
    subject = replace(SUBJECT, wanted=4)
    one = report(subject, replace(SEEN, workload=replace(WORKLOAD, pods=pods), probes=probes), previous={}, now=NOW)
    back = dict(reversed(probes.items()))
    two = report(subject, replace(SEEN, workload=replace(WORKLOAD, pods=pods[::-1]), probes=back), previous={}, now=NOW)
    assert one == two
    assert conditions(one)[V]["message"] == "2 of 4 ready pods answer; pod p1: b; pod p2: a"


def test_missing_names_are_named() -> None:
    subject = replace(SUBJECT, served_model_names=["z", "m", "a"])
    found = conditions(report(subject, SEEN, previous={}, now=NOW))[V]
    assert found["message"] == "pod p1: /v1/models lacks a, z"


def test_a_new_process_believes_the_status_until_it_has_asked() -> None:
    before = report(SUBJECT, SEEN, previous={}, now=NOW)
    after = report(SUBJECT, seen(probe=None), previous=before, now=LATER)
    assert after == {**before}
    sick = report(SUBJECT, bad(ProbeState.UNHEALTHY), previous=before, now=LATER)
    assert report(SUBJECT, seen(probe=None), previous=sick, now=LATER) == sick
    other = seen(replace(WORKLOAD, pods=(replace(POD, name="p2", uid="2"),)), probe=None)
    asked_nobody = report(SUBJECT, other, previous=sick, now=LATER)
    assert conditions(asked_nobody)[V]["reason"] == Reason.NOT_PROBED, "bad news of a pod that is gone"


def test_transition_times_move_with_the_status_only() -> None:
    before = report(SUBJECT, seen(COMING), previous={}, now=NOW)
    same = report(SUBJECT, seen(replace(COMING, deadline_exceeded="late")), previous=before, now=LATER)
    assert conditions(same)[W]["reason"] == Reason.DEADLINE_EXCEEDED
    assert conditions(same)[W]["lastTransitionTime"] == NOW
    ready = report(SUBJECT, SEEN, previous=same, now=LATER)
    assert conditions(ready)[W]["lastTransitionTime"] == LATER
    assert conditions(ready)[A]["lastTransitionTime"] == NOW


def test_a_long_message_is_cut() -> None:
    found = conditions(
        report(replace(SUBJECT, accepted=refused(Reason.INVALID_SPEC, "x" * 9000)), SEEN, previous={}, now=NOW)
    )
    assert len(found[A]["message"]) == reporting.MESSAGE_LIMIT
    assert found[A]["message"].endswith("…")


def test_max_model_len_is_the_least_and_is_kept_with_the_revision() -> None:
    subject = replace(SUBJECT, fields={"revision": "r1", "url": None})
    probes = {"1": OK, "2": replace(OK, max_model_len=2048), "3": replace(OK, max_model_len=None)}
    before = report(subject, replace(SEEN, probes=probes), previous={}, now=NOW)
    assert before["maxModelLen"] == 2048
    assert "url" not in before
    assert report(subject, seen(probe=None), previous=before, now=NOW)["maxModelLen"] == 2048
    other = replace(SUBJECT, fields={"revision": "r2"})
    assert "maxModelLen" not in report(other, seen(probe=None), previous=before, now=NOW)


def test_vllms_own_figures_stand_next_to_the_estimate() -> None:
    uid = SEEN.workload.pods[0].uid
    subject = replace(SUBJECT, fields={"revision": "r1", "sizing": {"kvCacheTokens": 1100}})
    probes = {uid: replace(OK, kv_cache_tokens=1000), "of an old pod": replace(OK, kv_cache_tokens=5)}
    before = report(subject, replace(SEEN, probes=probes), previous={}, now=NOW)
    assert before["sizing"] == {"kvCacheTokens": 1100, "measured": {"kvCacheTokens": 1000, "errorPercent": 10}}
    # An operator that has just started has asked nobody.
    assert report(subject, seen(probe=None), previous=before, now=NOW)["sizing"] == before["sizing"]
    probes[uid] = replace(probes[uid], start_up=StartUp(weights=15.2, kv_cache=50.94, load_seconds=61.2))
    probes["of an old pod"] = replace(OK, start_up=StartUp(weights=99, cuda_graphs=9))
    started = report(subject, replace(SEEN, probes=probes), previous={}, now=NOW)["sizing"]["measured"]
    assert started == {
        "kvCacheTokens": 1000,
        "errorPercent": 10,
        "weights": "15.20Gi",
        "kvCache": "50.94Gi",
        "loadSeconds": 62,
    }
    # It reads the log after it has asked the pod: what it does not know yet is not taken back.
    probes = {uid: replace(OK, kv_cache_tokens=1000)}
    known = {"revision": "r1", "sizing": {"measured": started}}
    again = report(subject, replace(SEEN, probes=probes), previous=known, now=NOW)["sizing"]["measured"]
    assert again == started
    other = replace(subject, fields={"revision": "r2", "sizing": {"accelerator": "cpu"}})
    assert report(other, seen(probe=None), previous=before, now=NOW)["sizing"] == {"accelerator": "cpu"}
    unsized = report(other, replace(SEEN, probes=probes), previous={}, now=NOW)
    assert unsized["sizing"]["measured"]["kvCacheTokens"] == 1000
    assert "errorPercent" not in unsized["sizing"]["measured"]


# events


def happenings(*steps: tuple[Subject, Observation]) -> list[list[tuple[str, str]]]:
    told: list[list[tuple[str, str]]] = []
    status: dict[str, Any] = {}
    for subject, observation in steps:
        found = report(subject, observation, previous=status, now=NOW)
        told.append([(happening.type, happening.reason) for happening in transitions(status, found)])
        status = found
    return told


def test_events_of_a_life() -> None:
    invalid = replace(SUBJECT, accepted=refused(Reason.INVALID_SPEC, "x"))
    assert happenings(
        (SUBJECT, seen(COMING)),
        (SUBJECT, seen(COMING)),
        (SUBJECT, seen(probe=None)),
        (SUBJECT, SEEN),
        (SUBJECT, bad(ProbeState.UNHEALTHY)),
        (SUBJECT, SEEN),
        (invalid, SEEN),
        (SUBJECT, SEEN),
        (IDLE, seen(NONE)),
    ) == [
        [("Normal", "Accepted"), ("Normal", "Starting")],
        [],
        [],
        [("Normal", "Ready")],
        [("Warning", "HealthCheckFailed")],
        [("Normal", "Ready")],
        [("Warning", "InvalidSpec")],
        [("Normal", "Accepted"), ("Normal", "Ready")],
        [("Normal", "ScaledToZero")],
    ]


def test_another_message_alone_is_no_event() -> None:
    before = report(replace(SUBJECT, accepted=refused(Reason.INVALID_SPEC, "x")), SEEN, previous={}, now=NOW)
    after = report(replace(SUBJECT, accepted=refused(Reason.INVALID_SPEC, "y")), SEEN, previous=before, now=NOW)
    assert transitions(before, after) == []
    assert before != after


def test_an_event_says_what_the_condition_says() -> None:
    status = report(SUBJECT, SEEN, previous={}, now=NOW)
    assert Happening("Normal", "Ready", "requests are answered", "Ready") in transitions({}, status)


# properties

PODS = st.lists(
    st.builds(
        PodObservation,
        name=st.sampled_from(["a", "b", "c"]),
        uid=st.sampled_from(["1", "2", "3"]),
        address=st.just("10.0.0.1"),
        new=st.booleans(),
        leaving=st.booleans(),
        ready=st.booleans(),
        scheduled=st.booleans(),
        unschedulable=st.none() | st.just("no room"),
        unschedulable_since=st.none(),
        trouble=st.none() | st.sampled_from([(reason, "words") for reason in reporting._TROUBLE_ORDER]),
        restarts=st.integers(0, 3),
    ),
    max_size=3,
).map(tuple)
COUNTS = st.integers(0, 3)
WORKLOADS = st.builds(
    WorkloadObservation, exists=st.booleans(), wanted=COUNTS, total=COUNTS, updated=COUNTS, ready=COUNTS, available=COUNTS,
    complete=st.booleans(), observed=st.booleans(), deadline_exceeded=st.none() | st.just("late"),
    replica_failure=st.none() | st.just("quota"), pods=PODS,
)  # fmt: skip
PROBES = st.dictionaries(
    st.sampled_from(["1", "2", "3"]),
    st.builds(ProbeResult, state=st.sampled_from(ProbeState), detail=st.just("words"), models=st.sampled_from([(), ("m",)]),
              max_model_len=st.none() | st.integers(1, 9)),
)  # fmt: skip
OBSERVATIONS = st.builds(Observation, workload=WORKLOADS, probes=PROBES, route=st.just(ROUTE))
SUBJECTS = st.builds(
    Subject,
    generation=st.integers(1, 3),
    accepted=st.sampled_from([accepted(), refused(Reason.INVALID_SPEC, "x"), refused(Reason.REFERENCE_NOT_FOUND, "y")]),
    suspended=st.booleans(),
    wanted=COUNTS,
    served_model_names=st.just(["m"]),
    yielding=st.booleans(),
    fields=st.sampled_from([{}, {"revision": "r"}]),
)


@given(subject=SUBJECTS, observation=OBSERVATIONS, before=st.tuples(SUBJECTS, OBSERVATIONS))
def test_the_same_seen_again_is_the_same_status(
    subject: Subject, observation: Observation, before: tuple[Subject, Observation]
) -> None:
    previous = report(*before, previous={}, now=NOW)
    once = report(subject, observation, previous=previous, now=LATER)
    again = report(subject, observation, previous=once, now="2026-01-03T00:00:00Z")
    assert again == once
    assert transitions(once, again) == []


@given(subject=SUBJECTS, observation=OBSERVATIONS)
def test_what_always_holds(subject: Subject, observation: Observation) -> None:
    status = report(subject, observation, previous={}, now=NOW)
    found = conditions(status)
    assert len(found) == len(status["conditions"])
    assert {str(kind) for kind in (A, S, W, V, R, ConditionType.READY)} <= found.keys()
    assert not {"Reconciling", "Stalled"} <= found.keys()
    assert not re.search(r"\d{4}-\d\d-\d\d", " ".join(each["message"] for each in status["conditions"]))
    if found["Ready"]["status"] == "True":
        assert found["Accepted"]["status"] == found["Serving"]["status"] == found["RouteReady"]["status"] == "True"
        assert observation.workload.rolled_out
        assert subject.wanted > 0
        assert not {"Reconciling", "Stalled"} & found.keys()
