"""An API server that dies, stalls, is slow or answers with errors: the operator survives it and comes to the right children."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from vllm_operator.api.names import LABEL_MODEL
from vllm_operator.cluster import kinds

from .api import Api, condition, model, settled, wait_until
from .conftest import Log, Operators
from .operator_process import measure_for
from .proxy import Chaos, Fault, FaultProxy

MODELS = 10
STALL = 4.0
"""Seconds: less than a lease may go without being renewed, so that the operator has to live through it."""


@pytest.fixture
def proxy(api: Api) -> Iterator[FaultProxy]:
    with FaultProxy(api.access) as running:
        yield running


@pytest.fixture
def restarted_api_server(operators: Operators) -> None:
    """An API server that has just started does not know the roles yet, and denies everything for a moment."""
    operators.may_be_denied = True


def _name(number: int) -> str:
    return f"m{number}"


def _create(api: Api, namespace: str, product: str) -> None:
    api.create_models(namespace, [model(_name(number), product=product) for number in range(MODELS)])


def _edit(api: Api, namespace: str, number: int) -> None:
    """Every model gets another length and another number of replicas, some are deleted."""
    if number % 5 == 4:
        api.delete(kinds.VLLM_MODEL, namespace, _name(number))
    else:
        spec: dict[str, Any] = {"engine": {"maxModelLen": 1024 * (number + 1)}, "replicas": number % 3}
        api.edit(namespace, _name(number), spec)


def _problem(api: Api, namespace: str) -> str | None:
    """What is not yet as the edits want it; None when all is."""
    for number in range(MODELS):
        name = _name(number)
        deployment = api.find(kinds.DEPLOYMENT, namespace, name)
        if number % 5 == 4:
            for kind in (*kinds.CHILD_KINDS, kinds.POD):
                if api.items(kind, namespace, f"{LABEL_MODEL}={name}"):
                    return f"{kind} of the deleted {name} is left"
            if api.items(kinds.CONTROLLER_REVISION, namespace, f"{LABEL_MODEL}={name}"):
                return f"revision of the deleted {name} is left"
            continue
        if deployment is None:
            return f"{name} has no Deployment"
        containers = deployment["spec"]["template"]["spec"]["containers"]
        if str(1024 * (number + 1)) not in " ".join(containers[0].get("args") or containers[0].get("command") or []):
            return f"{name} has not the new length: {containers[0]}"
        if deployment["spec"]["replicas"] != number % 3:
            return f"{name} has not the new replicas"
        if api.find(kinds.SERVICE, namespace, name) is None:
            return f"{name} has no Service"
        if (api.find(kinds.POD_DISRUPTION_BUDGET, namespace, name) is not None) != (number % 3 > 1):
            return f"{name} has a wrong PodDisruptionBudget"
        found = api.model(namespace, name)
        reason = condition(found).get("reason")
        if not (settled(found) if number % 3 else reason == "ScaledToZero"):
            return f"{name} says {reason}: {condition(found).get('message')}"
        revisions = api.items(kinds.CONTROLLER_REVISION, namespace, f"{LABEL_MODEL}={name}")
        if len(revisions) > 2:
            return f"{name} has {len(revisions)} revisions"
    return None


def _converged(api: Api, namespace: str, *, timeout: float = 120.0) -> float:
    return wait_until(
        lambda: f"all to be right: {_problem(api, namespace)}",
        lambda: _problem(api, namespace) is None,
        timeout=timeout,
        interval=0.3,
    )


def _all_settled(api: Api, namespace: str) -> bool:
    found = api.items(kinds.VLLM_MODEL, namespace)
    return len(found) == MODELS and all(settled(each) for each in found)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("restarted_api_server")
def test_killed_api_server(api: Api, operators: Operators, namespace: str, product: str, say: Log) -> None:
    operator = operators(supervised=True)
    _create(api, namespace, product)
    wait_until("the models to settle", lambda: _all_settled(api, namespace), timeout=90, interval=0.3)
    cluster = operators.bench.cluster
    for number in range(MODELS):
        _edit(api, namespace, number)
    cluster.kill("kube-apiserver")
    cluster.start("kube-apiserver")
    down = wait_until("the API server to be back", lambda: cluster.healthy("kube-apiserver"), timeout=60)
    seconds = _converged(api, namespace)
    say(f"API server away for {down:.1f} s; right {seconds:.1f} s later; {operator.restarts} restarts of the operator")
    assert operator.restarts == 0, operator.tail()
    # Watches are alive again: an edit is seen at once, not only at the next resync.
    api.edit(namespace, "m1", {"engine": {"maxModelLen": 512}})
    wait_until(
        "an edit to be seen",
        lambda: "512" in str(api.deployment(namespace, "m1")["spec"]["template"]["spec"]["containers"]),
        timeout=30,
    )


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("restarted_api_server")
def test_api_server_away_for_longer_than_the_lease(
    api: Api, operators: Operators, namespace: str, product: str, say: Log
) -> None:
    """A leader that cannot renew has to stop working; a Deployment starts it again."""
    operator = operators(supervised=True)
    _create(api, namespace, product)
    wait_until("the models to settle", lambda: _all_settled(api, namespace), timeout=90, interval=0.3)
    cluster = operators.bench.cluster
    for number in range(MODELS):
        _edit(api, namespace, number)
    cluster.kill("kube-apiserver")
    try:
        wait_until("the operator to give the lease up", lambda: operator.restarts > 0, timeout=40)
    finally:
        cluster.start("kube-apiserver")
    wait_until("the API server to be back", lambda: cluster.healthy("kube-apiserver"), timeout=60)
    seconds = _converged(api, namespace)
    say(f"right {seconds:.1f} s after the API server is back; {operator.restarts} restarts of the operator")


@pytest.mark.timeout(300)
def test_stalled_api_server(api: Api, operators: Operators, namespace: str, product: str, say: Log) -> None:
    """SIGSTOP: connections stay open and nothing answers."""
    operator = operators(supervised=True)
    _create(api, namespace, product)
    wait_until("the models to settle", lambda: _all_settled(api, namespace), timeout=90, interval=0.3)
    cluster = operators.bench.cluster
    for number in range(MODELS):
        _edit(api, namespace, number)
    cluster.pause("kube-apiserver")
    try:
        measure_for(STALL)
    finally:
        cluster.resume("kube-apiserver")
    wait_until("the API server to be back", lambda: cluster.healthy("kube-apiserver"), timeout=60)
    seconds = _converged(api, namespace)
    say(f"right {seconds:.1f} s after it goes on; {operator.restarts} restarts of the operator")
    assert operator.restarts == 0, operator.tail()


@pytest.mark.timeout(300)
def test_slow_api_server(
    api: Api, operators: Operators, namespace: str, product: str, proxy: FaultProxy, say: Log
) -> None:
    """Every request takes a second more."""
    proxy.policy = lambda method, path, watching: Fault(delay=1.0)
    operator = operators(server=proxy.url, supervised=True)
    _create(api, namespace, product)
    seconds = wait_until("the models to settle", lambda: _all_settled(api, namespace), timeout=120, interval=0.3)
    for number in range(MODELS):
        _edit(api, namespace, number)
    again = _converged(api, namespace)
    say(f"settled after {seconds:.1f} s, edits right after {again:.1f} s; {operator.restarts} restarts")
    assert operator.restarts == 0, operator.tail()
    assert operator.healthy()


# A pass asks a dozen times and begins anew after a failure: with one fault in twelve, two passes in three fail.
CHAOS = {
    "409": Chaos(rate=0.08, statuses=(409,), seed=1),
    "429": Chaos(rate=0.08, statuses=(429,), seed=2),
    "500": Chaos(rate=0.08, statuses=(500,), seed=3),
    "cut connections": Chaos(rate=0.08, statuses=(0,), seed=4),
    "cut watches": Chaos(rate=0.0, statuses=(500,), seed=5, cut_watches=(0.1, 2.0)),
    "all together": Chaos(rate=0.08, statuses=(409, 429, 500, 503, 0), seed=6, cut_watches=(0.5, 5.0)),
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("chaos", CHAOS.values(), ids=CHAOS.keys())
def test_faults_on_any_call(
    api: Api, operators: Operators, namespace: str, product: str, proxy: FaultProxy, say: Log, chaos: Chaos
) -> None:
    """Before the API server has seen the request, or after it has carried it out."""
    proxy.policy = chaos
    operator = operators(server=proxy.url, supervised=True)
    _create(api, namespace, product)
    seconds = wait_until("the models to settle", lambda: _all_settled(api, namespace), timeout=150, interval=0.3)
    order = list(range(MODELS))
    random.Random(chaos.seed).shuffle(order)
    for number in order:
        _edit(api, namespace, number)
    again = _converged(api, namespace, timeout=150)
    faults = ", ".join(f"{count} {what}" for what, count in proxy.counts.most_common())
    say(f"settled after {seconds:.1f} s, edits right after {again:.1f} s; {faults}; {operator.restarts} restarts")
    # The faults over, nothing is left to mend.
    proxy.policy = lambda method, path, watching: Fault()
    operators.rest(quiet=10)
    assert _problem(api, namespace) is None
    assert operator.metric("vllm_operator_reconcile_seconds_count", result="bug") == 0
