"""Copies of objects that a watch keeps up to date: against the real API server, and against one that misbehaves."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.cluster_contract.objects import obj
from tests.cluster_contract.test_http_client import Server, api, cluster_at  # noqa: F401
from tests.cluster_contract.worlds import RealWorld
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds, reflector
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.kubernetes import KubernetesCluster
from vllm_operator.cluster.reflector import Reflector

DEADLINE = 20.0


@asynccontextmanager
async def copy_of(
    cluster: KubernetesCluster, *, namespace: str = "default", selector: str = "wanted"
) -> AsyncIterator[tuple[Reflector, Callable[[Callable[[], bool]], Any]]]:
    """The copy, and how to wait for something of it."""
    changed = asyncio.Event()
    made = Reflector(cluster, kinds.SECRET, namespace=namespace, selector=selector, on_change=changed.set)

    async def until(so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not so():
                await changed.wait()
                changed.clear()

    task = asyncio.create_task(made.run())
    try:
        yield made, until
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def names(made: Reflector) -> set[str]:
    return {key.name for key in made.objects}


def secret(namespace: str, name: str, *, labels: dict[str, str] | None = None, **data: str) -> Object:
    return obj(kinds.SECRET, namespace, name, labels={"wanted": "yes"} if labels is None else labels, data=data)


@pytest.mark.cluster
async def test_the_real_api_server(real: RealWorld) -> None:
    cluster, namespace = real.cluster, real.namespace
    await cluster.apply(kinds.SECRET, secret(namespace, "before"))
    await cluster.apply(kinds.SECRET, secret(namespace, "other", labels={}))
    async with copy_of(cluster, namespace=namespace) as (made, until):
        await until(lambda: names(made) == {"before"})
        assert made.synced.is_set()
        await cluster.apply(kinds.SECRET, secret(namespace, "later", key="YQ=="))
        await until(lambda: names(made) == {"before", "later"})
        await cluster.apply(kinds.SECRET, secret(namespace, "later", key="Yg=="))
        await until(lambda: made.objects[Key(namespace, "later")]["data"] == {"key": "Yg=="})
        # What loses its label is gone, as far as this copy goes.
        await cluster.apply(kinds.SECRET, secret(namespace, "before", labels={}))
        await until(lambda: names(made) == {"later"})
        await cluster.delete(kinds.SECRET, Key(namespace, "later"))
        await until(lambda: not names(made))


@pytest.mark.cluster
async def test_an_object_longer_than_what_is_read_at_once(real: RealWorld) -> None:
    cluster, namespace = real.cluster, real.namespace
    async with copy_of(cluster, namespace=namespace) as (made, until):
        await until(made.synced.is_set)
        await cluster.apply(kinds.SECRET, secret(namespace, "long", key="QUFB" * 200_000))
        await until(lambda: names(made) == {"long"})
        assert len(made.objects[Key(namespace, "long")]["data"]["key"]) == 800_000


class Script:
    """An API server that plays one act for each watch, and then goes on for ever."""

    def __init__(self, api: Server, *acts: list[Any]) -> None:  # noqa: F811
        self.listed: list[Object] = []
        self.lists = 0
        self.watched_from: list[str] = []
        self._acts = list(acts)
        self._end = asyncio.Event()
        api.handler = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": f"{self.lists}00"}, "items": self.listed})
        self.watched_from.append(request.query["resourceVersion"])
        act = self._acts.pop(0) if self._acts else ["wait"]
        if isinstance(act[0], int):
            return web.json_response({"kind": "Status", "code": act[0], "message": "no"}, status=act[0])
        response = web.StreamResponse()
        await response.prepare(request)
        for each in act:
            if each == "wait":
                await self._end.wait()
            elif each == "cut":
                assert request.transport is not None
                request.transport.abort()
            else:
                await response.write(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n")
        return response


def event(kind: str, name: str, version: str) -> Object:
    found = secret("default", name)
    found["metadata"]["resourceVersion"] = version
    return {"type": kind, "object": found}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "RETRY", 0.05)


async def test_it_goes_on_from_where_the_watch_was_cut(api: Server) -> None:  # noqa: F811
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "107"}}}
    script = Script(api, [event("ADDED", "a", "105"), "cut"], [503], [bookmark], [event("ADDED", "b", "108"), "wait"])
    async with cluster_at(api.url) as cluster, copy_of(cluster) as (made, until):
        await until(lambda: names(made) == {"a", "b"})
    assert script.lists == 1
    assert script.watched_from == ["100", "105", "105", "107"]


@pytest.mark.parametrize(
    "gone",
    [
        [410],
        [{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}],
    ],
    ids=["at once", "in the middle"],
)
async def test_what_was_missed_is_seen_in_a_new_list(api: Server, gone: list[Any]) -> None:  # noqa: F811
    script = Script(api, [event("ADDED", "a", "105"), "cut"], gone, ["wait"])
    async with cluster_at(api.url) as cluster, copy_of(cluster) as (made, until):
        await until(lambda: names(made) == {"a"})
        script.listed = [secret("default", "b")]
        await until(lambda: names(made) == {"b"})
    assert script.lists == 2


async def test_while_nobody_answers_all_stays_as_it_was(
    caplog: pytest.LogCaptureFixture,
    api: Server,  # noqa: F811
) -> None:
    script = Script(api, [event("ADDED", "a", "105"), "cut"], *[[503]] * 20, [event("ADDED", "b", "106"), "wait"])
    async with cluster_at(api.url) as cluster, copy_of(cluster) as (made, until):
        await until(lambda: names(made) == {"a", "b"})
    assert len(script.watched_from) == 22
    assert caplog.text.count("cannot be watched") == 1, "said once, not at each try"


async def test_a_line_in_pieces_and_one_that_is_no_json(api: Server) -> None:  # noqa: F811
    line = json.dumps(event("ADDED", "a", "105")).encode() + b"\n"
    script = Script(api, [line[:30], line[30:], b"{no json\n"], [event("ADDED", "b", "106"), "wait"])
    async with cluster_at(api.url) as cluster, copy_of(cluster) as (made, until):
        await until(lambda: names(made) == {"a", "b"})
    assert script.watched_from == ["100", "105"]
