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
_Names = tuple[str, ...]
_Subject = tuple[str, _Names]
"""What a question is about: a type, and names of resources (none: all)."""
_Question = tuple[str, str, _Names]
"""Who asks, and about what."""


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
    _versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Type → name → version. Made once for each change: a thousand questions may be held at the same time."""
    _whole: dict[str, str] = field(default_factory=dict)
    """Type → version of all of it."""
    _held: dict[_Subject, set[asyncio.Future[None]]] = field(default_factory=dict)
    _rejected: dict[_Question, Rejection] = field(default_factory=dict)
    _anew: set[_Question] = field(default_factory=set)
    """Asked again from nothing, once."""
    _sent: dict[_Question, str] = field(default_factory=dict)
    _taken: dict[_Subject, str] = field(default_factory=dict)
    """What a question is about → the version that Envoy says it has."""
    _heard: asyncio.Event = field(default_factory=asyncio.Event)
    _publishing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def publish(self, resources: Resources) -> None:
        """Make these resources Envoy's, step by step."""
        async with self._publishing:
            wanted = resources.by_type
            before = self.published.get(CLUSTER, {})
            going = {name: each for name, each in before.items() if name not in wanted[CLUSTER]}
            self._set(
                {
                    SECRET: {**self._kept(SECRET, going), **wanted[SECRET]},
                    ENDPOINTS: {**self._kept(ENDPOINTS, going), **wanted[ENDPOINTS]},
                    CLUSTER: {**going, **wanted[CLUSTER]},
                    EXTENSION: wanted[EXTENSION],
                }
            )
            if self.published.get(ROUTES) != wanted[ROUTES]:
                new = wanted[ENDPOINTS].keys() - before.keys()
                await self._wait_taken([(CLUSTER, ()), *((ENDPOINTS, (name,)) for name in sorted(new))])
                await self._wait_warm()
                self._set({ROUTES: wanted[ROUTES]})
            if going:
                await self._wait_taken([(ROUTES, tuple(sorted(wanted[ROUTES])))])
                self._set({kind: wanted[kind] for kind in (CLUSTER, ENDPOINTS, SECRET)})

    def _kept(self, kind: str, going: Mapping[str, JSONObject]) -> dict[str, JSONObject]:
        return {name: each for name, each in self.published.get(kind, {}).items() if name in going}

    def _set(self, parts: Mapping[str, Mapping[str, JSONObject]]) -> None:
        for kind, found in parts.items():
            before, versions = self.published.get(kind, {}), self._versions.get(kind, {})
            self.published[kind] = dict(found)
            self._versions[kind] = {
                name: versions[name] if before.get(name) == each else content_hash(each) for name, each in found.items()
            }
            self._whole[kind] = content_hash(sorted(self._versions[kind].items()))
        for subject, futures in self._held.items():
            if subject[0] in parts:
                for future in futures:
                    if not future.done():
                        future.set_result(None)
        for kind in parts:
            self._forget_others(kind)

    def _forget_others(self, kind: str) -> None:
        """Forget what was asked of resources of this type that are no more."""
        there = self._versions[kind]
        # A question that is held says what Envoy has: it may come back before Envoy is told that it is gone.
        for subject in [
            each for each in self._taken.keys() - self._held if each[0] == kind and not there.keys() >= set(each[1])
        ]:
            del self._taken[subject]
        for question in [each for each in self._sent if each[1] == kind and not there.keys() >= set(each[2])]:
            self._sent.pop(question)
            self._rejected.pop(question, None)
            self._anew.discard(question)

    async def _wait_taken(self, subjects: list[_Subject]) -> None:
        """Wait until Envoy has what was published, or has not said so for a while."""
        waiting = set(subjects)
        try:
            async with asyncio.timeout(TAKEN_WITHIN):
                while waiting := {each for each in waiting if not self._is_settled(each)}:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            log.debug("nobody has taken the configuration within %g s", TAKEN_WITHIN)

    def _is_settled(self, subject: _Subject) -> bool:
        """Whether Envoy has what is published. Of clusters it takes those that are right: when it has refused some there is nothing
        more to wait for, and one bad model delays no other.
        """
        version = self._version(*subject)
        if self._taken.get(subject) == version:
            return True
        return subject[0] == CLUSTER and any(
            each.type == CLUSTER and each.version == version for each in self._rejected.values()
        )

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

    def _version(self, kind: str, names: _Names) -> str:
        """Version of what a question is about. No names: all."""
        if not names:
            return self._whole.get(kind, "")
        known = self._versions.get(kind, {})
        return "+".join(known.get(name, "none") for name in names)

    def rejections(self) -> list[Rejection]:
        """What Envoy has not taken of what is published now."""
        return [each for each in self._rejected.values() if self._version(each.type, each.names) == each.version]

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
        self._taken[kind, names] = has
        self._heard.set()
        if kind in self.published:
            version = self._version(kind, names)
            again = self._sent.get(question) == version != has
            if again and (has or question in self._anew):
                # It was told and did not take it: asked again at once, it would do nothing else.
                self._rejected[question] = Rejection(kind, names, version)
                await self._wait_other(kind, names, version, REJECTED_HOLD)
            elif again:
                # With nothing at all it may have been started anew, or have made the cluster anew: once is no refusal.
                self._anew.add(question)
            else:
                self._rejected.pop(question, None)
                self._anew.discard(question)
        await self._wait_other(kind, names, has, HOLD)
        version = self._version(kind, names)
        if kind not in self.published or version == has:
            return web.Response(status=304)
        self._sent[question] = version
        # From here on it is on its way to this, whatever it said that it had: what is told next may be what it has left.
        self._taken.pop((kind, names), None)
        found = self.published[kind]
        resources = [found[name] for name in names if name in found] if names else list(found.values())
        return web.json_response({"version_info": version, "resources": resources, "type_url": kind})

    async def _wait_other(self, kind: str, names: _Names, version: str, seconds: float) -> None:
        """Wait until there is something else than this version of it, or the time is over."""
        subject = (kind, names)
        try:
            async with asyncio.timeout(seconds):
                while kind not in self.published or self._version(kind, names) == version:
                    future = asyncio.get_running_loop().create_future()
                    self._held.setdefault(subject, set()).add(future)
                    try:
                        await future
                    finally:
                        futures = self._held[subject]
                        futures.discard(future)
                        if not futures:
                            del self._held[subject]
        except TimeoutError:
            return
