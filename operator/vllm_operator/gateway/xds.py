"""The server that tells Envoy its configuration: REST discovery by long-polling, on loopback.

Envoy asks for each type, naming the version that it has; the answer is held until there is another one. Resources are published in the
order that leaves no request without a cluster: clusters and endpoints, then routes; what is to go, only when no route leads to it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from vllm_operator.api.names import content_hash
from vllm_operator.gateway.render import CLUSTER, ENDPOINTS, EXTENSION, ROUTES, SECRET, Resources

log = logging.getLogger(__name__)

HOLD = 60.0
"""Seconds for which a question is held at most; Envoy gives up after 70."""
REJECTED_HOLD = 1.0
"""Seconds after which a question is answered again with what has just been rejected: Envoy asks again at once."""
TAKEN_WITHIN = 5.0
"""Seconds that Envoy has to take in one step before the next is published anyway: it may not be there."""

WARMING_LOOK = 0.02
"""Seconds between looks at whether Envoy uses its clusters."""

PATHS = {
    "clusters": CLUSTER,
    "endpoints": ENDPOINTS,
    "routes": ROUTES,
    "secrets": SECRET,
    "extension_configs": EXTENSION,
}

JSONObject = dict[str, Any]
_Question = tuple[str, str, tuple[str, ...]]


@dataclass
class Rejection:
    """Something that Envoy did not take."""

    type: str
    names: tuple[str, ...]
    version: str
    """Of what it did not take."""


@dataclass
class XdsServer:
    """Tells what was published last."""

    warming: Callable[[], Awaitable[int]] | None = None
    """Clusters that Envoy has taken and does not use yet, since their first health check is under way; None: nobody can be asked."""
    published: dict[str, dict[str, JSONObject]] = field(default_factory=dict)
    _rejected: dict[_Question, Rejection] = field(default_factory=dict)
    _sent: dict[_Question, str] = field(default_factory=dict)
    _taken: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    """(type, names) → the version that Envoy says it has."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _publishing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def publish(self, resources: Resources) -> None:
        """Make these resources Envoy's, step by step."""
        async with self._publishing:
            wanted = resources.by_type
            before = self.published.get(CLUSTER, {})
            going = {name: each for name, each in before.items() if name not in wanted[CLUSTER]}
            await self._set(
                {
                    SECRET: {**self._kept(SECRET, going), **wanted[SECRET]},
                    ENDPOINTS: {**self._kept(ENDPOINTS, going), **wanted[ENDPOINTS]},
                    CLUSTER: {**going, **wanted[CLUSTER]},
                    EXTENSION: wanted[EXTENSION],
                }
            )
            if self.published.get(ROUTES) != wanted[ROUTES]:
                new = wanted[CLUSTER].keys() - before.keys()
                await self._wait_taken([(CLUSTER, ()), *((ENDPOINTS, (name,)) for name in sorted(new))])
                await self._wait_warm()
                await self._set({ROUTES: wanted[ROUTES]})
            if going:
                await self._wait_taken([(ROUTES, tuple(sorted(wanted[ROUTES])))])
                await self._set({kind: wanted[kind] for kind in (CLUSTER, ENDPOINTS, SECRET)})

    def _kept(self, kind: str, going: Mapping[str, JSONObject]) -> dict[str, JSONObject]:
        return {name: each for name, each in self.published.get(kind, {}).items() if name in going}

    async def _set(self, parts: Mapping[str, Mapping[str, JSONObject]]) -> None:
        async with self._changed:
            self.published |= {kind: dict(found) for kind, found in parts.items()}
            self._changed.notify_all()

    async def _wait_taken(self, questions: list[tuple[str, tuple[str, ...]]]) -> None:
        """Wait until Envoy has what was published, or has not said so for a while."""

        def taken() -> bool:
            return all(self._taken.get(each) == self._answer(*each)[0] for each in questions)

        try:
            async with asyncio.timeout(TAKEN_WITHIN), self._changed:
                await self._changed.wait_for(taken)
        except TimeoutError:
            log.debug("nobody has taken the configuration within %g s", TAKEN_WITHIN)

    async def _wait_warm(self) -> None:
        """Wait until Envoy uses what it has taken: a route to a cluster that it does not use yet is an error to callers."""
        if self.warming is None:
            return
        try:
            async with asyncio.timeout(TAKEN_WITHIN):
                while await self.warming():
                    await asyncio.sleep(WARMING_LOOK)
        except TimeoutError:
            log.debug("clusters are still warming after %g s", TAKEN_WITHIN)

    def _answer(self, kind: str, names: tuple[str, ...]) -> tuple[str, list[JSONObject]]:
        """Version and resources of a question. No names: all."""
        found = self.published.get(kind, {})
        chosen = [found[name] for name in names if name in found] if names else list(found.values())
        return content_hash({"resources": chosen}), chosen

    def rejections(self) -> list[Rejection]:
        """What Envoy has not taken of what is published now."""
        return [each for each in self._rejected.values() if self._answer(each.type, each.names)[0] == each.version]

    def application(self) -> web.Application:
        """What answers on loopback."""
        app = web.Application(client_max_size=1024 * 1024)
        app.router.add_post("/v3/discovery:{kind}", self._discover)
        return app

    async def _discover(self, request: web.Request) -> web.Response:
        kind = PATHS.get(request.match_info["kind"])
        if kind is None:
            return web.Response(status=404)
        asked = await request.json()
        names = tuple(sorted(asked.get("resource_names") or ()))
        has = asked.get("version_info") or ""
        question = ((asked.get("node") or {}).get("id", ""), kind, names)
        async with self._changed:
            self._taken[kind, names] = has
            self._changed.notify_all()
        if not self.published:
            return await self._hold(kind, names, has, HOLD)
        version, _ = self._answer(kind, names)
        if self._sent.get(question) == version != has:
            # It was told and did not take it (or has been started anew): asked again at once, it would do nothing else.
            self._rejected[question] = Rejection(kind, names, version)
            await self._wait_other(kind, names, version, REJECTED_HOLD)
        else:
            self._rejected.pop(question, None)
        response = await self._hold(kind, names, has, HOLD)
        if response.status == 200:
            self._sent[question] = self._answer(kind, names)[0]
        return response

    async def _wait_other(self, kind: str, names: tuple[str, ...], version: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._answer(kind, names)[0] != version)
        except TimeoutError:
            return

    async def _hold(self, kind: str, names: tuple[str, ...], has: str, seconds: float) -> web.Response:
        """Answer when there is something else than the asker has."""

        def news() -> bool:
            return kind in self.published and self._answer(kind, names)[0] != has

        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(news)
        except TimeoutError:
            return web.Response(status=304)
        version, resources = self._answer(kind, names)
        return web.json_response({"version_info": version, "resources": resources, "type_url": kind})
