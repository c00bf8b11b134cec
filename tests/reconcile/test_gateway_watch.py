"""What the operator knows of the gateway's pods, and what it believes of that."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.reconcile.harness import KEY, Operator, make_cluster, make_model, settle
from tests.reconcile.test_gateway import WITH
from tests.reconcile.virtual import run_virtual
from tests.reconcile.world import World, condition, is_so
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import AGENT_PORT, Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.memory import Fault, MemoryCluster, http_error
from vllm_operator.reconcile import gateway_watch
from vllm_operator.reconcile.gateway_watch import (
    LARGEST_ANSWER,
    LONGEST_TEXT,
    Answer,
    GatewayPods,
    GatewayWatch,
    Look,
    Opinion,
    Trouble,
    judge,
    read_answer,
    said_before,
)

OTHER = Key("other", "llama")
NOT_READY = Trouble(Reason.GATEWAY_NOT_READY, "no pod of the gateway is ready")


def rejected(text: str) -> Trouble:
    return Trouble(Reason.REJECTED_BY_GATEWAY, text)


# -- pure --------------------------------------------------------------------------------------------------------------


def test_an_agents_answer() -> None:
    assert read_answer({"all": None, "models": {}}) == Answer()
    found = read_answer({"all": "x", "models": {"default/qwen": "a\n  b", "other/llama": "y" * 1000}, "more": 1})
    assert found == Answer("x", {KEY: "a b", OTHER: "y" * (LONGEST_TEXT - 1) + "…"})


NO_ANSWERS: list[Any] = [
    [], None, "x", {}, {"all": None}, {"models": {}}, {"all": 1, "models": {}}, {"all": None, "models": []},
    {"all": None, "models": {"qwen": "x"}}, {"all": None, "models": {"a/b/c": "x"}}, {"all": None, "models": {"a/b": None}},
]  # fmt: skip


@pytest.mark.parametrize("document", NO_ANSWERS, ids=json.dumps)
def test_what_is_no_answer(document: Any) -> None:
    with pytest.raises(ValueError, match="no answer of an agent"):
        read_answer(document)


@pytest.mark.parametrize(
    ("look", "found"),
    [
        (Look(0), NOT_READY),
        (Look(0, (Answer("x", {KEY: "y"}),)), NOT_READY),
        (Look(1), None),
        (Look(2, (Answer(), Answer(None, {OTHER: "x"}))), None),
        (Look(2, (Answer(), Answer(None, {KEY: "x"}))), rejected("x")),
        (Look(2, (Answer(None, {KEY: "x"}), Answer(None, {KEY: "x"}))), rejected("x")),
        (Look(2, (Answer("z"), Answer("y", {KEY: "x", OTHER: "w"}))), rejected("x; y; z")),
    ],
)
def test_what_all_pods_together_show(look: Look, found: Trouble | None) -> None:
    assert look.trouble(KEY) == found


WELL, GONE, BAD, WORSE = Look(1), Look(0), Look(1, (Answer("x"),)), Look(1, (Answer("y"),))


@pytest.mark.parametrize(
    ("before", "now", "opinion"),
    [
        (None, None, "unknown"),
        (None, WELL, "well"),
        (None, GONE, "unknown"),
        (None, BAD, "unknown"),
        (WELL, WELL, "well"),
        (WELL, GONE, "unknown"),
        (GONE, GONE, NOT_READY),
        (GONE, WELL, "well"),
        (WELL, BAD, "unknown"),
        (BAD, BAD, rejected("x")),
        (BAD, WORSE, rejected("y")),
        (BAD, WELL, "unknown"),
        (BAD, GONE, NOT_READY),
        (GONE, BAD, rejected("x")),
    ],
)
def test_two_looks_in_a_row_are_believed(before: Look | None, now: Look | None, opinion: Opinion) -> None:
    assert judge(before, now, KEY) == opinion


@pytest.mark.parametrize("reason", Reason)
def test_what_a_status_said_before(reason: Reason) -> None:
    status = {
        "conditions": [{"type": "Ready", "reason": reason}, {"type": "RouteReady", "reason": reason, "message": "x"}]
    }
    ours = reason in (Reason.GATEWAY_NOT_READY, Reason.REJECTED_BY_GATEWAY)
    assert said_before(status) == (Trouble(reason, "x") if ours else None)
    assert said_before({}) is None


# -- looking -----------------------------------------------------------------------------------------------------------

LABELS = {"app": "gateway"}


def put_pod(cluster: MemoryCluster, name: str, *, ready: bool = True, labels: dict[str, str] = LABELS) -> None:
    key = Key("system", name)
    metadata = {"name": name, "namespace": key.namespace, "labels": labels}
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    if cluster.peek(kinds.POD, key) is None:
        # With a node: it is none of the pods that World schedules.
        spec = {"nodeName": "node", "containers": [{"name": "agent", "image": "a:1"}]}
        cluster.put(kinds.POD, {**pod, "spec": spec})
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    cluster.set_status(kinds.POD, key, {"podIP": f"{name}.test", "conditions": conditions})


class Agents:
    """The agents of the gateway's pods: what they say, by pod; a pod that is not here does not answer."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host.removesuffix(".test")
        self.asked.append(name)
        assert (request.url.port, request.url.path) == (AGENT_PORT, "/rejected")
        answer = self.said.get(name)
        if answer is None:
            raise httpx.ConnectError("no agent", request=request)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


FINE: Any = {"all": None, "models": {}}


def said_of(text: str, *keys: Key) -> Any:
    return {"all": None if keys else text, "models": {str(key): text for key in keys}}


class Watched:
    """A watch on a cluster, and the models that it has woken."""

    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        self.cluster = cluster or make_cluster()
        self.cluster.add_namespace("system")
        self.agents = Agents()
        self.woken: list[Key] = []
        self.watch = GatewayWatch(
            self.cluster,
            httpx.AsyncClient(transport=httpx.MockTransport(self.agents)),
            GatewayPods("system", LABELS),
            models=lambda: [KEY, OTHER],
            wake=self.woken.append,
            jitter=lambda: 0.5,
        )

    async def look(self) -> tuple[Opinion, Opinion]:
        """Look once; what is known of both models then."""
        self.woken.clear()
        self.agents.asked.clear()
        await self.watch.look()
        return self.watch.opinion(KEY), self.watch.opinion(OTHER)


async def test_models_are_woken_when_something_else_is_to_be_said_of_them() -> None:
    watched = Watched()
    put_pod(watched.cluster, "one")
    put_pod(watched.cluster, "else", labels={"app": "other"})
    watched.agents.said = {"one": FINE}
    assert await watched.look() == ("well", "well")
    assert watched.agents.asked == ["one"]
    assert await watched.look() == ("well", "well")
    assert watched.woken == []
    watched.agents.said = {"one": said_of("x", KEY)}
    assert await watched.look() == ("unknown", "well")
    assert watched.woken == [], "once may be the moment in which Envoy is told something else"
    assert await watched.look() == (rejected("x"), "well")
    assert watched.woken == [KEY]
    assert await watched.look() == (rejected("x"), "well")
    assert watched.woken == []
    watched.agents.said = {"one": said_of("y", KEY)}
    assert await watched.look() == (rejected("y"), "well")
    assert watched.woken == [KEY]
    watched.agents.said = {"one": said_of("z")}
    await watched.look()
    assert await watched.look() == (rejected("z"), rejected("z"))
    assert watched.woken == [OTHER], "that of the other had been known before"
    put_pod(watched.cluster, "one", ready=False)
    assert await watched.look() == (NOT_READY, NOT_READY)
    assert watched.agents.asked == [], "it has nothing to say of requests"
    put_pod(watched.cluster, "one")
    watched.agents.said = {"one": FINE}
    assert await watched.look() == ("well", "well")
    assert watched.woken == [KEY, OTHER]


async def test_no_pod_at_all_is_none_that_is_ready() -> None:
    watched = Watched()
    assert await watched.look() == ("unknown", "unknown")
    assert await watched.look() == (NOT_READY, NOT_READY)
    assert watched.woken == [KEY, OTHER]


async def test_all_pods_are_asked_and_one_that_is_ready_is_enough() -> None:
    watched = Watched()
    for name, ready in (("one", True), ("two", True), ("three", False)):
        put_pod(watched.cluster, name, ready=ready)
    watched.agents.said = {"one": said_of("x", KEY), "two": said_of("y", OTHER), "three": said_of("z")}
    await watched.look()
    assert sorted(watched.agents.asked) == ["one", "two"]
    assert await watched.look() == (rejected("x"), rejected("y"))
    put_pod(watched.cluster, "two", ready=False)
    await watched.look()
    assert await watched.look() == (rejected("x"), "well")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        httpx.Response(503, text="told nothing yet"),
        httpx.Response(302, headers={"location": "http://elsewhere/"}),
        httpx.Response(200, text="hello"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b" " * LARGEST_ANSWER + b'{"all":null,"models":{}}'),
        {"all": None},
    ],
    ids=["away", "not yet", "elsewhere", "no JSON", "deep JSON", "too much", "no answer"],
)
async def test_an_agent_that_says_nothing_is_remembered_by_what_it_said(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is started again, Envoy goes on as it was."""
    watched = Watched()
    put_pod(watched.cluster, "one")
    watched.agents.said = {"one": said_of("x", KEY)}
    for _ in range(2):
        await watched.look()
    watched.agents.said = {"one": answer}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await watched.look() == (rejected("x"), "well")
    (record,) = [each for each in caplog.records if each.name == gateway_watch.__name__]
    assert "gateway pod one: its agent does not say" in record.getMessage()
    # Another pod has its own Envoy.
    watched.cluster.remove(kinds.POD, Key("system", "one"))
    put_pod(watched.cluster, "one")
    for _ in range(2):
        await watched.look()
    assert await watched.look() == ("well", "well")


async def test_an_agent_that_answers_in_a_trickle_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_watch, "TIMEOUT", 0.05)
    never = asyncio.Event()

    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield b'{"all":'
            await never.wait()

    watched = Watched()
    put_pod(watched.cluster, "one")
    watched.agents.said = {"one": httpx.Response(200, stream=Trickle())}
    assert await watched.look() == ("well", "well"), "the pod is ready, and nothing is known against it"


@pytest.mark.parametrize("status", [403, 500])
async def test_pods_that_cannot_be_listed_leave_everything_as_it_was(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched()
    fault: Callable[[Any], Fault | None] = lambda call: Fault(http_error(status))  # noqa: E731
    watched.cluster.faults = fault
    for _ in range(3):
        assert await watched.look() == ("unknown", "unknown")
    assert len([each for each in caplog.records if "cannot be listed" in each.getMessage()]) == 1
    watched.cluster.faults = None
    for _ in range(2):
        await watched.look()
    watched.cluster.faults = fault
    for _ in range(3):
        assert await watched.look() == (NOT_READY, NOT_READY)
    assert watched.woken == []


# -- on the models -----------------------------------------------------------------------------------------------------


def test_a_model_says_what_becomes_of_the_gateway_and_rests() -> None:
    async def main() -> None:
        watched = Watched()
        cluster, agents = watched.cluster, watched.agents
        World(cluster)
        put_pod(cluster, "one", ready=False)
        agents.said = {"one": FINE}
        async with Operator(cluster, settings=WITH, gateway=watched.watch.opinion) as operator:
            watched.watch._models = lambda: operator.reconciler.states
            watched.watch._wake = operator.queue.add
            running = asyncio.create_task(watched.watch.run())
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("RouteReady", "False", Reason.GATEWAY_NOT_READY, within=21)
            await operator.until("Ready", "False", Reason.GATEWAY_NOT_READY, within=21)
            await settle(cluster, quiet=30)
            put_pod(cluster, "one")
            await operator.until("Ready", "True", within=12)
            assert is_so(cluster, KEY, "RouteReady", "True", Reason.BY_GATEWAY)
            agents.said = {"one": said_of("its certificate is broken", KEY)}
            await operator.until("RouteReady", "False", Reason.REJECTED_BY_GATEWAY, within=21)
            assert condition(cluster, KEY, "RouteReady")["message"] == "its certificate is broken"
            assert condition(cluster, KEY, "Ready")["reason"] == Reason.REJECTED_BY_GATEWAY
            agents.said = {}
            before = len(cluster.writes)
            await asyncio.sleep(600)
            assert cluster.writes[before:] == []
            agents.said = {"one": FINE}
            await operator.until("Ready", "True", within=21)
            running.cancel()

    run_virtual(main)


@pytest.mark.parametrize("trouble", [NOT_READY, rejected("x")], ids=lambda trouble: trouble.reason)
def test_an_operator_that_has_just_started_says_what_was_said(trouble: Trouble) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        opinion: Opinion = trouble
        async with Operator(cluster, settings=WITH, gateway=lambda key: opinion) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("Ready", "False", trouble.reason)
            await settle(cluster)
        before, opinion = len(cluster.writes), "unknown"
        async with Operator(cluster, settings=WITH, gateway=lambda key: opinion) as operator:
            await asyncio.sleep(600)
            assert cluster.writes[before:] == []
            cluster.put(kinds.VLLM_MODEL, make_model(key=Key("default", "another")))
            await operator.until("Ready", "True", key=Key("default", "another"))
            opinion = "well"
            operator.queue.add(KEY)
            await operator.until("Ready", "True", within=5)

    run_virtual(main)


@pytest.mark.parametrize(
    "spec", [{"route": {"parentRefs": [{"name": "gateway"}]}}, {"route": {"enabled": False}}], ids=["own", "none"]
)
def test_models_that_are_reached_in_another_way_do_not_care(spec: Object) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=WITH, gateway=lambda key: NOT_READY) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model({"model": "a/b", **spec}))
            await operator.until("Ready", "True")
            await settle(cluster)
            assert is_so(cluster, KEY, "RouteReady", "True")

    run_virtual(main)
