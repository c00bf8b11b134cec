"""The server that tells Envoy: what it holds, in which order it tells, and how it bears a refusal."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.gateway.states import ALICE, TEAM_A, model, state
from vllm_operator.gateway import xds
from vllm_operator.gateway.render import CLUSTER, render
from vllm_operator.gateway.state import ApiKey, Endpoint

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
    return [each.get("name") or each["cluster_name"] for each in answer["resources"]]


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
    await server.publish(render(state(model("a", POD), model("b", POD))))
    _, before = await ask(client, "endpoints", "model/models/a")
    await server.publish(render(state(model("a", POD), model("b", Endpoint("10.0.0.2", 8000)))))
    assert (await ask(client, "endpoints", "model/models/a", has=before["version_info"]))[0] == 304


class Envoy:
    """Asks as Envoy does, and notes in which order it is told."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.told: list[tuple[str, list[str]]] = []
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._watch("clusters")
        self._watch("routes", "models")

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
                routes = found["virtual_hosts"][0]["routes"]
                self.told.append(
                    (kind, sorted({each["route"]["cluster"] for each in routes if "cluster" in each.get("route", {})}))
                )
                continue
            self.told.append((kind, names(answer)))
            asked = [each["name"] for each in answer["resources"] if each.get("type") == "EDS"]
            for name in asked:
                if ("endpoints", name) not in self._tasks:
                    self._watch("endpoints", name)

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
    asking = []
    for name in names(clusters):
        _, found = await ask(client, "endpoints", name)
        asking.append(asyncio.create_task(ask(client, "endpoints", name, has=found["version_info"])))
    await publishing
    publishing = asyncio.create_task(server.publish(render(state(a))))
    _, routes = await ask(client, "routes", "models")
    for _ in range(3):
        _, newer = await ask(client, "routes", "models", has=routes["version_info"])
        routes = newer or routes
    _, without = await held
    assert names(without) == ["model/models/a"]
    await publishing
    # A question about what is gone, from before Envoy knows it.
    asking.append(asyncio.create_task(ask(client, "endpoints", "model/models/b", has=found["version_info"])))
    await asyncio.sleep(0.1)
    again = asyncio.create_task(server.publish(both))
    done, _ = await asyncio.wait([again], timeout=0.5)
    assert not done, "the routes are told before Envoy has said what has become of its clusters"
    for task in (again, *asking):
        task.cancel()


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
    _, first = await ask(client, "routes", "models")
    began = asyncio.get_running_loop().time()
    assert (await ask(client, "routes", "models"))[1] == first
    assert server.rejections() == [], "it may have been started anew"
    for _ in range(3):
        assert (await ask(client, "routes", "models"))[1] == first
    assert asyncio.get_running_loop().time() - began > 0.8
    (refused,) = server.rejections()
    assert (refused.names, refused.version) == (("models",), first["version_info"])
    # Others are told without delay, and what is put right is taken at once.
    assert (await ask(client, "clusters"))[0] == 200
    again = asyncio.create_task(ask(client, "routes", "models"))
    await asyncio.sleep(0.05)
    await server.publish(render(state(model("a", POD, waiting="Starting"))))
    _, second = await again
    assert second["version_info"] != first["version_info"]
    held = asyncio.create_task(ask(client, "routes", "models", has=second["version_info"]))
    await asyncio.sleep(0.05)
    assert server.rejections() == []
    held.cancel()


async def test_a_cluster_that_is_refused_delays_no_route(
    server: xds.XdsServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy takes those that are right and asks again with the version that it had."""
    await server.publish(render(state(model("a", POD))))
    _, clusters = await ask(client, "clusters")
    _, routes = await ask(client, "routes", "models")
    monkeypatch.setattr(xds, "TAKEN_WITHIN", 60.0)
    publishing = asyncio.create_task(server.publish(render(state(model("a", POD, weight=1), model("b", POD)))))
    had = clusters["version_info"]
    assert names((await ask(client, "clusters", has=had))[1]) == ["model/models/a", "model/models/b"]
    again = asyncio.create_task(ask(client, "clusters", has=had))
    _, pods = await ask(client, "endpoints", "model/models/b")
    having = asyncio.create_task(ask(client, "endpoints", "model/models/b", has=pods["version_info"]))
    async with asyncio.timeout(10):
        await publishing
    (refused,) = server.rejections()
    assert (refused.type, refused.names) == (CLUSTER, ())
    assert (await ask(client, "routes", "models", has=routes["version_info"]))[0] == 200
    for task in (again, having):
        task.cancel()


async def test_what_is_no_kind(client: Client) -> None:
    assert (await ask(client, "listeners"))[0] == 404
