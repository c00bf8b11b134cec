"""The server that tells Envoy: what it holds, in which order it tells, and how it bears a refusal."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.gateway.matching import list_routes
from tests.gateway.states import ALICE, TEAM_A, model, state
from vllm_operator.gateway import xds
from vllm_operator.gateway.render import CLUSTER, render
from vllm_operator.gateway.scripts import OTHERS, PARTS
from vllm_operator.gateway.state import ApiKey, Endpoint, GatewayModel

POD = Endpoint("10.0.0.1", 8000)
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> xds.XdsServer:
    monkeypatch.setattr(xds, "TAKEN_WITHIN", 0.2)
    monkeypatch.setattr(xds, "HOLD", 2.0)
    monkeypatch.setattr(xds, "REJECTED_HOLD", 0.3)
    return xds.XdsServer()


@pytest.fixture
async def client(server: xds.XdsServer) -> AsyncIterator[Client]:
    async with TestClient(TestServer(server.application())) as made:
        yield made


async def ask(client: Client, kind: str, *names: str, has: str = "") -> tuple[int, dict[str, Any]]:
    body = {"node": {"id": "n"}, "resource_names": list(names), "version_info": has}
    async with client.post(f"/v3/discovery:{kind}", json=body) as answer:
        return answer.status, await answer.json() if answer.status == 200 else {}


def names(answer: dict[str, Any]) -> list[str]:
    return [each["name"] for each in answer["resources"]]


async def test_what_is_known_is_told_at_once_and_no_news_is_held(server: xds.XdsServer, client: Client) -> None:
    await server.publish(render(state(model("a", POD))))
    _, answer = await ask(client, "clusters")
    assert names(answer) == ["model/models/a"]
    held = asyncio.create_task(ask(client, "clusters", has=answer["version_info"]))
    done, _ = await asyncio.wait([held], timeout=0.2)
    assert not done
    await server.publish(render(state(model("a", POD), model("b", POD))))
    _, changed = await held
    assert names(changed) == ["model/models/a", "model/models/b"]
    assert (await ask(client, "clusters", has=changed["version_info"]))[0] == 304


async def test_nothing_is_told_before_anything_is_known(server: xds.XdsServer, client: Client) -> None:
    """An Envoy that starts with its agent must not take an empty configuration for the truth."""
    held = asyncio.create_task(ask(client, "clusters"))
    done, _ = await asyncio.wait([held], timeout=0.2)
    assert not done
    await server.publish(render(state(model("a", POD))))
    assert (await held)[0] == 200


async def test_only_what_was_asked_for_has_a_part_in_the_version(server: xds.XdsServer, client: Client) -> None:
    await server.publish(render(state(model("a", POD))))
    _, before = await ask(client, "extension_configs", "limits")
    await server.publish(render(state(model("a", POD, callers=frozenset({TEAM_A})), keys=(ALICE,))))
    assert (await ask(client, "extension_configs", "limits", has=before["version_info"]))[0] == 304


async def test_a_thousand_models_are_no_more_questions(server: xds.XdsServer, client: Client) -> None:
    """Each question is 80 kB that Envoy writes and the agent reads and keeps: one for each model was 800 MB."""
    await server.publish(render(state(*(model(f"m{number}", POD, upstream_key="key") for number in range(1000)))))
    _, clusters = await ask(client, "clusters")
    assert len(names(clusters)) == 1000
    assert "api_config_source" not in json.dumps(clusters), "nothing of a cluster is asked for by itself"


class Envoy:
    """Asks as Envoy does, and notes in which order it is told."""

    def __init__(self, client: Client, *, clusters: bool = True) -> None:
        self._client = client
        self.told: list[tuple[str, list[str]]] = []
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        if clusters:
            self._watch("clusters")
        self._ways: dict[str, set[str]] = {}
        """Part of the routes → clusters that its routes lead to."""
        for part in (OTHERS, *PARTS):
            self._watch("routes", part)

    def _watch(self, kind: str, *about: str) -> None:
        self._tasks[kind, "".join(about)] = asyncio.create_task(self._follow(kind, *about))

    async def _follow(self, kind: str, *about: str) -> None:
        has = ""
        while True:
            status, answer = await ask(self._client, kind, *about, has=has)
            if status != 200:
                continue
            has = answer["version_info"]
            if kind == "routes":
                (found,) = answer["resources"]
                ways = [each.get("route", {}) for each in list_routes(found).values()]
                self._ways[found["name"]] = {each["cluster"] for each in ways if "cluster" in each}
                self.told.append((kind, sorted(set().union(*self._ways.values()))))
                continue
            self.told.append((kind, names(answer)))

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def test_no_route_leads_to_a_cluster_that_is_not_there(server: xds.XdsServer, client: Client) -> None:
    a, b = model("a", POD), model("b", POD)
    await server.publish(render(state(a)))
    envoy = Envoy(client)
    for models in ((a, b), (b,), (a,), (a, b)):
        await server.publish(render(state(*models)))
    async with asyncio.timeout(10):
        while envoy.told[-1] != ("routes", ["model/models/a", "model/models/b"]):
            await asyncio.sleep(0.01)
    await envoy.close()
    there: set[str] = set()
    for kind, what in envoy.told:
        if kind == "clusters":
            there = set(what)
        elif kind == "routes":
            assert set(what) <= there, envoy.told


async def test_what_envoy_is_about_to_leave_is_not_what_it_has(
    server: xds.XdsServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that goes and comes back at once: Envoy said that it had it, and is taking the answer without it."""
    monkeypatch.setattr(xds, "TAKEN_WITHIN", 5.0)
    a, b = model("a", POD), model("b", POD)
    both = render(state(a, b))
    publishing = asyncio.create_task(server.publish(both))
    _, clusters = await ask(client, "clusters")
    held = asyncio.create_task(ask(client, "clusters", has=clusters["version_info"]))
    await publishing
    publishing = asyncio.create_task(server.publish(render(state(a))))
    envoy = Envoy(client, clusters=False)
    _, without = await held
    assert names(without) == ["model/models/a"]
    await publishing
    again = asyncio.create_task(server.publish(both))
    done, _ = await asyncio.wait([again], timeout=0.5)
    assert not done, "the routes are told before Envoy has said what has become of its clusters"
    again.cancel()
    await envoy.close()


async def test_what_goes_and_comes_back_at_once_is_still_there(
    server: xds.XdsServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy is never told of it, so that it has nothing to say either."""
    monkeypatch.setattr(xds, "TAKEN_WITHIN", 5.0)
    monkeypatch.setattr(xds, "HOLD", 20.0)
    a, b = model("a", POD), model("b", POD)
    envoy = Envoy(client)
    await server.publish(render(state(a, b)))
    async with asyncio.timeout(2):
        for _ in range(3):
            await server.publish(render(state(a)))
            await server.publish(render(state(a, b)))
    await envoy.close()


async def test_nobody_waits_for_endpoints_of_what_has_none(
    server: xds.XdsServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters that count requests lead to Envoy itself, which does not ask where that is."""
    monkeypatch.setattr(xds, "TAKEN_WITHIN", 5.0)
    key = ApiKey(TEAM_A, "counted", "sk-counted", concurrent_requests=8)
    await server.publish(render(state(model("a", POD))))
    envoy = Envoy(client)
    async with asyncio.timeout(2):
        for keys in ((ALICE, key), (ALICE,), (ALICE, key)):
            await server.publish(render(state(model("a", POD), keys=keys)))
    async with asyncio.timeout(10):
        while ("clusters", ["model/models/a", "limit/team-a/keys/counted"]) not in envoy.told:
            await asyncio.sleep(0.01)
    await envoy.close()


async def test_a_refusal_is_noted_and_asked_again_slowly(server: xds.XdsServer, client: Client) -> None:
    await server.publish(render(state(model("a", POD))))
    _, first = await ask(client, "routes", OTHERS)
    began = asyncio.get_running_loop().time()
    assert (await ask(client, "routes", OTHERS))[1] == first
    assert server.rejections() == [], "it may have been started anew"
    for _ in range(3):
        assert (await ask(client, "routes", OTHERS))[1] == first
    assert asyncio.get_running_loop().time() - began > 0.8
    (refused,) = server.rejections()
    assert (refused.names, refused.version) == ((OTHERS,), first["version_info"])
    # Others are told without delay, and what is put right is taken at once.
    assert (await ask(client, "clusters"))[0] == 200
    again = asyncio.create_task(ask(client, "routes", OTHERS))
    await asyncio.sleep(0.05)
    await server.publish(render(state(model("a", POD, waiting="Starting"))))
    _, second = await again
    assert second["version_info"] != first["version_info"]
    held = asyncio.create_task(ask(client, "routes", OTHERS, has=second["version_info"]))
    await asyncio.sleep(0.05)
    assert server.rejections() == []
    held.cancel()


async def test_a_cluster_that_is_refused_delays_no_route(
    server: xds.XdsServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy takes those that are right and asks again with the version that it had."""
    await server.publish(render(state(model("a", POD))))
    _, clusters = await ask(client, "clusters")
    _, routes = await ask(client, "routes", OTHERS)
    had = clusters["version_info"]
    taken = asyncio.create_task(ask(client, "clusters", has=had))
    async with asyncio.timeout(10):
        while CLUSTER not in server._had:
            await asyncio.sleep(0.01)
    monkeypatch.setattr(xds, "TAKEN_WITHIN", 60.0)

    async def publish(*models: GatewayModel) -> None:
        """Publish, and be an Envoy that takes nothing of it."""
        publishing = asyncio.create_task(server.publish(render(state(*models))))
        asking: set[asyncio.Task[Any]] = set()
        async with asyncio.timeout(10):
            while not publishing.done():
                asking |= {asyncio.create_task(ask(client, "clusters", has=had))}
                await asyncio.wait({publishing}, timeout=0.05)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    a = model("a", POD, balance="session", weight=1)
    await publish(a, model("b", POD))
    assert names((await taken)[1]) == ["model/models/a", "model/models/b"]
    (refused,) = server.rejections()
    assert (refused.type, refused.names, refused.changed) == (CLUSTER, (), frozenset({"model/models/a"}))
    assert (await ask(client, "routes", OTHERS, has=routes["version_info"]))[0] == 200
    # What changes later is not blamed for it.
    await publish(a, model("b", POD, balance="prefix"), model("c", POD))
    (refused,) = server.rejections()
    assert refused.changed == {"model/models/a"}


async def test_what_is_no_kind(client: Client) -> None:
    assert (await ask(client, "listeners"))[0] == 404
