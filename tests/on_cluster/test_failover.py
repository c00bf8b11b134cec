"""Two replicas of the operator: one works, and when it goes the other takes over without touching a child."""

import pytest

from vllm_operator.cluster import kinds

from .api import Api, model, settled, wait_until
from .conftest import Log, Operators

MODELS = 10


def _settle(api: Api, namespace: str, count: int = MODELS) -> None:
    def done() -> bool:
        found = api.items(kinds.VLLM_MODEL, namespace)
        return len(found) == count and all(settled(each) for each in found)

    wait_until("the models to settle", done, timeout=90, interval=0.3)


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM"])
def test_takeover(api: Api, operators: Operators, namespace: str, product: str, say: Log, ending: str) -> None:
    first = operators(replica="first")
    first.wait_leading()
    second = operators(replica="second")
    api.create_models(namespace, [model(f"m{number}", product=product) for number in range(MODELS)])
    _settle(api, namespace)
    operators.rest()
    assert second.metric("vllm_operator_leader") == 0
    assert second.metric("vllm_operator_reconcile_seconds_count") == 0, "the second replica worked too"
    assert second.healthy()
    before = {
        each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in api.items(kinds.DEPLOYMENT, namespace)
    }
    mark = operators.bench.audit.mark()
    if ending == "SIGKILL":
        first.kill()
        seconds = second.wait_leading(timeout=40)
    else:
        assert first.stop() == 0
        seconds = second.wait_leading(timeout=10)
    say(f"{ending}: the other replica leads after {seconds:.1f} s")
    operators.rest(quiet=10)
    children = [request for request in operators.writes(mark) if request.resource not in ("vllmmodels", "events")]
    assert [str(request) for request in children] == []
    after = {
        each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in api.items(kinds.DEPLOYMENT, namespace)
    }
    assert after == before
    # It does work.
    api.edit(namespace, "m0", {"engine": {"maxModelLen": 4096}})
    wait_until("the new leader to roll m0 out", lambda: api.deployment(namespace, "m0")["metadata"]["generation"] > 1)
    if ending == "SIGTERM":
        assert seconds < 5


def test_leader_that_is_paused_stops_before_another_starts(
    api: Api, operators: Operators, namespace: str, product: str, say: Log
) -> None:
    """A leader that hung for longer than its lease must not write on waking up as if nothing had happened."""
    import os
    import signal

    first = operators(replica="first")
    first.wait_leading()
    second = operators(replica="second")
    api.create_model(namespace, model("m0", product=product))
    _settle(api, namespace, 1)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        seconds = second.wait_leading(timeout=40)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    say(f"the other replica leads after {seconds:.1f} s")
    wait_until("the first replica to end", lambda: not first.running, timeout=20)
    assert second.metric("vllm_operator_leader") == 1
    operators.rest()
