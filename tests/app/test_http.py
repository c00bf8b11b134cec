"""/healthz, /readyz and /metrics, and what the metrics are."""

from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllm_operator.api.names import Key
from vllm_operator.app.http import HealthServer
from vllm_operator.app.metrics import Metrics


class State:
    def __init__(self) -> None:
        self.sick: str | None = None
        self.ready = False
        self.models: dict[Key, tuple[str, str]] = {}
        self.depth = 0
        self.metrics = Metrics(lambda: self.models, lambda: self.depth)


@pytest.fixture
async def state() -> State:
    return State()


@pytest.fixture
async def client(state: State) -> AsyncIterator[httpx.AsyncClient]:
    server = HealthServer(
        state.metrics.registry, sick=lambda: state.sick, ready=lambda: state.ready, host="127.0.0.1", port=0
    )
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as made:
        yield made
    await server.stop()


async def test_healthz(state: State, client: httpx.AsyncClient) -> None:
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    state.sick = "no progress for 200 s"
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (503, "no progress for 200 s\n")


async def test_readyz(state: State, client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).status_code == 503
    state.ready = True
    assert (await client.get("/readyz")).status_code == 200


async def test_unknown_paths(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).status_code == 404


async def test_a_server_that_never_started_stops() -> None:
    metrics = Metrics(dict, lambda: 0)
    await HealthServer(metrics.registry, sick=lambda: None, ready=lambda: True, host="127.0.0.1", port=0).stop()


async def test_metrics(state: State, client: httpx.AsyncClient) -> None:
    state.models = {
        Key("a", "x"): ("True", "Ready"),
        Key("a", "y"): ("True", "Ready"),
        Key("b", "x"): ("False", "Starting"),
    }
    state.depth = 7
    state.metrics.observe_pass("ok", 0.02)
    state.metrics.observe_request("GET", "Deployment", 200, 0.01)
    state.metrics.observe_write("apply", "Deployment")
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["vllm_operator_models", (("ready", "True"), ("reason", "Ready"))] == 2
    assert samples["vllm_operator_models", (("ready", "False"), ("reason", "Starting"))] == 1
    assert samples["vllm_operator_queue_depth", ()] == 7
    assert samples["vllm_operator_leader", ()] == 0
    assert samples["vllm_operator_writes_total", (("kind", "Deployment"), ("verb", "apply"))] == 1
    assert samples["vllm_operator_reconcile_seconds_count", (("result", "ok"),)] == 1


async def test_no_label_grows_with_the_number_of_models(state: State, client: httpx.AsyncClient) -> None:
    async def series() -> int:
        return len([line for line in (await client.get("/metrics")).text.splitlines() if not line.startswith("#")])

    def one_more(number: int) -> None:
        key = Key(f"namespace-{number}", f"model-{number}")
        state.models[key] = ("True", "Ready")
        state.metrics.observe_pass("ok", number / 10)
        state.metrics.observe_request("GET", "Deployment", 200, number / 10)
        state.metrics.observe_write("apply", "Deployment")

    one_more(0)
    before = await series()
    for number in range(1, 300):
        one_more(number)
    assert await series() == before
    text = (await client.get("/metrics")).text
    assert "model-" not in text
    assert "namespace" not in text


async def test_labels_are_a_known_few(state: State) -> None:
    allowed = {"result", "verb", "kind", "code", "ready", "reason", "version", "le"}
    state.models = {Key("a", "b"): ("True", "Ready")}
    state.metrics.observe_pass("ok", 1)
    state.metrics.observe_request("GET", "Pod", 0, 1)
    state.metrics.observe_write("delete", "Pod")
    found = {
        label for family in state.metrics.registry.collect() for sample in family.samples for label in sample.labels
    }
    assert found <= allowed
    for family in state.metrics.registry.collect():
        assert family.name.startswith("vllm_operator_")
        assert family.documentation.endswith(".")
