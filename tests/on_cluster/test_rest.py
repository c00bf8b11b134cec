"""Zero writes: at rest, after a restart, after an upgrade. Counted by the API server's own audit log."""

from collections import Counter
from typing import Any

import pytest

from vllm_operator.cluster import kinds

from .api import Api, Request, model, settled, wait_until
from .conftest import Log, Operators
from .operator_process import measure_for
from .workbench import Workbench

MODELS = 50
REST = 120.0
"""Seconds."""

# The three tests follow each other on the same 50 models, since each begins where the other ends.


@pytest.fixture(scope="module")
def crowd(bench: Workbench, product: str) -> str:
    """A namespace with 50 models of several kinds."""
    namespace = bench.namespace("crowd")
    gateway: dict[str, Any] = {"parentRefs": [{"name": "no-such-gateway"}]}
    kinds_of_model: list[dict[str, Any]] = [
        {},
        {"replicas": 2},
        {"suspend": True},
        {"route": gateway},
        {"engine": {"maxModelLen": 4096, "args": {"seed": 7}}, "startup": {"budget": "1h"}},
    ]
    api = bench.api
    api.create(kinds.SECRET, namespace, {"metadata": {"name": "hub"}, "stringData": {"token": "hf_x"}})
    kinds_of_model.append({"hub": {"tokenSecretRef": {"name": "hub", "key": "token"}}})
    api.create_models(
        namespace,
        [
            model(f"m{number}", product=product, **kinds_of_model[number % len(kinds_of_model)])
            for number in range(MODELS)
        ],
    )
    return namespace


@pytest.fixture
def operators(bench: Workbench, crowd: str, request: pytest.FixtureRequest) -> Any:
    from .conftest import _judged

    found = Operators(bench, [crowd])
    yield from _judged(found, request)


def _all_settled(api: Api, namespace: str) -> bool:
    models = api.items(kinds.VLLM_MODEL, namespace)
    done = [
        each
        for each in models
        if settled(each)
        or (
            each["spec"].get("suspend")
            and (each.get("status") or {}).get("observedGeneration") == each["metadata"]["generation"]
        )
    ]
    return len(models) == MODELS and len(done) == MODELS


def _tally(requests: list[Request]) -> str:
    counts = Counter(f"{request.verb} {request.resource}" for request in requests)
    return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "none"


def _generations(api: Api, namespace: str) -> dict[str, tuple[str, int]]:
    return {
        each["metadata"]["name"]: (each["metadata"]["uid"], each["metadata"]["generation"])
        for each in api.items(kinds.DEPLOYMENT, namespace)
    }


def _pods(api: Api, namespace: str) -> set[str]:
    return {each["metadata"]["uid"] for each in api.items(kinds.POD, namespace)}


@pytest.mark.timeout(420)
def test_zero_writes_at_rest_with_50_models(api: Api, operators: Operators, crowd: str, say: Log) -> None:
    operator = operators()
    seconds = wait_until("50 models to settle", lambda: _all_settled(api, crowd), timeout=120, interval=0.3)
    operators.rest()
    say(f"50 models settled after {seconds:.1f} s: {_tally(operators.writes())}")
    mark = operators.bench.audit.mark()
    cpu = operator.cpu_seconds()
    measure_for(REST)
    requests = operators.requests(mark)
    writes = [request for request in requests if request.is_write]
    reads = [request for request in requests if not request.is_write]
    say(
        f"in {REST:.0f} s at rest: {len(writes)} writes, {len(reads)} reads ({_tally(reads)}), "
        f"{operator.cpu_seconds() - cpu:.1f} s of CPU, {operator.rss_mib():.0f} MiB"
    )
    assert writes == [], [str(request) for request in writes[:20]]


def test_restart_writes_nothing(api: Api, operators: Operators, crowd: str, say: Log) -> None:
    _settle_first(api, operators, crowd)
    before, pods = _generations(api, crowd), _pods(api, crowd)
    mark = operators.bench.audit.mark()
    operators()
    operators.rest(quiet=15)
    requests = operators.requests(mark)
    say(f"restart: {_tally(requests)}")
    assert [str(request) for request in requests if request.is_write] == []
    assert _generations(api, crowd) == before
    assert _pods(api, crowd) == pods


def test_upgrade_restarts_no_pod(api: Api, operators: Operators, crowd: str, product: str, say: Log) -> None:
    """A new operator version is one with other defaults: what was decided for a spec stands."""
    _settle_first(api, operators, crowd)
    before, pods = _generations(api, crowd), _pods(api, crowd)
    mark = operators.bench.audit.mark()
    operators("--vllm-version", "9.9.9", "--image-nvidia", "other/image:{version}")
    operators.rest(quiet=15)
    writes = operators.writes(mark)
    say(f"upgrade: {_tally(operators.requests(mark))}")
    assert [str(request) for request in writes] == []
    assert _generations(api, crowd) == before
    assert _pods(api, crowd) == pods
    # The new defaults are for what is decided from now on.
    api.create_model(crowd, model("newcomer", product=product))
    wait_until("the newcomer's Deployment", lambda: api.find(kinds.DEPLOYMENT, crowd, "newcomer") is not None)
    (container,) = api.deployment(crowd, "newcomer")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "other/image:9.9.9"
    api.delete(kinds.VLLM_MODEL, crowd, "newcomer")


def _settle_first(api: Api, operators: Operators, crowd: str) -> None:
    """Let an operator with the usual settings settle all, and end it."""
    operator = operators()
    wait_until("50 models to settle", lambda: _all_settled(api, crowd), timeout=120, interval=0.3)
    operators.rest()
    assert operator.stop() == 0
