"""The server that tells Envoy its configuration: REST discovery by long-polling, on loopback.

Envoy asks for each type, naming the version that it has; the answer is held until there is another one. Resources are published in the
order that leaves no request without a cluster: clusters, then routes; what is to go, only when no route leads to it.

All models' clusters are one question. Each question carries 80 kB, in which Envoy lists what it is made of: one for each model, held, made
a thousand models need 800 MB and 45 s.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from vllm_operator.api.names import content_hash, text_hash
from vllm_operator.gateway.render import CLUSTER, EXTENSION, ROUTES, SCOPES, Resources

log = logging.getLogger(__name__)

HOLD = 60.0
"""Seconds for which a question is held at most; Envoy gives up after 70."""
REJECTED_HOLD = 1.0
"""Seconds after which a question is answered again with what has just been rejected, which Envoy asks for at once; each time twice as
long, up to HOLD."""
TAKEN_WITHIN = 5.0
"""Seconds that Envoy has to take in one step before the next is published anyway: it may not be there."""

WARMING_LOOK = 0.02
"""Seconds between looks at whether Envoy uses its clusters."""

PATHS = {"clusters": CLUSTER, "scoped-routes": SCOPES, "routes": ROUTES, "extension_configs": EXTENSION}

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
    changed: frozenset[str] = frozenset()
    """What of it was another when Envoy last had all: of clusters it takes those that are right, and does not say which are not."""
    times: int = 1
    """How often it was told."""


@dataclass(frozen=True)
class _Encoded:
    """Resources of a type as they are sent: by name."""

    kind: str
    found: dict[str, JSONObject]
    texts: dict[str, str]
    versions: dict[str, str]


@dataclass
class XdsServer:
    """Tells what was published last."""

    warming: Callable[[], Awaitable[int]] | None = None
    """Clusters that Envoy has taken and does not use yet, since their first health check is under way; None: nobody can be asked."""
    published: dict[str, dict[str, JSONObject]] = field(default_factory=dict)
    _texts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Type → name → JSON: most of it is sent again when something else changes."""
    _versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Type → name → version."""
    _whole: dict[str, str] = field(default_factory=dict)
    """Type → version of all of it."""
    _held: dict[_Subject, set[asyncio.Future[None]]] = field(default_factory=dict)
    _rejected: dict[_Question, Rejection] = field(default_factory=dict)
    _anew: set[_Question] = field(default_factory=set)
    """Asked again from nothing, once."""
    _sent: dict[_Question, str] = field(default_factory=dict)
    _taken: dict[_Subject, str] = field(default_factory=dict)
    """What a question is about → the version that Envoy says it has."""
    _had: dict[str, dict[str, str]] = field(default_factory=dict)
    """Type → name → version, when Envoy had all of it."""
    _heard: asyncio.Event = field(default_factory=asyncio.Event)
    _publishing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def publish(self, resources: Resources) -> None:
        """Make these resources Envoy's, step by step."""
        async with self._publishing:
            wanted = resources.by_type
            before = self.published.get(CLUSTER, {})
            going = {name: each for name, each in before.items() if name not in wanted[CLUSTER]}
            self._set(
                self._encode(CLUSTER, {**going, **wanted[CLUSTER]}),
                *(self._encode(kind, wanted[kind]) for kind in (EXTENSION, SCOPES)),
            )
            if self.published.get(ROUTES) != wanted[ROUTES]:
                # Routes of a thousand models take a while to write down: meanwhile Envoy takes the clusters.
                routes, _ = await asyncio.gather(
                    asyncio.to_thread(self._encode, ROUTES, wanted[ROUTES]), self.wait_taken((CLUSTER, ()))
                )
                # A cluster that was there before serves until what it has become is warm.
                if not wanted[CLUSTER].keys() <= before.keys():
                    await self._wait_warm()
                self._set(routes)
            if going:
                await self.wait_taken(*((ROUTES, (name,)) for name in wanted[ROUTES]))
                self._set(self._encode(CLUSTER, wanted[CLUSTER]))

    def _encode(self, kind: str, found: Mapping[str, JSONObject]) -> _Encoded:
        """What is to be published of a type. What is the same as before is not written down again."""
        before, texts, versions = (
            self.published.get(kind, {}),
            self._texts.get(kind, {}),
            self._versions.get(kind, {}),
        )
        same = {name for name, each in found.items() if before.get(name) == each}
        new = {name: texts[name] if name in same else json.dumps(each) for name, each in found.items()}
        return _Encoded(
            kind,
            dict(found),
            new,
            {name: versions[name] if name in same else text_hash(text) for name, text in new.items()},
        )

    def _set(self, *parts: _Encoded) -> None:
        for each in parts:
            self.published[each.kind], self._texts[each.kind] = each.found, each.texts
            self._versions[each.kind] = each.versions
            self._whole[each.kind] = content_hash(sorted(each.versions.items()))
        kinds = {each.kind for each in parts}
        for subject, futures in self._held.items():
            if subject[0] in kinds:
                for future in futures:
                    if not future.done():
                        future.set_result(None)

    async def wait_taken(self, *subjects: _Subject) -> None:
        """Wait until Envoy has what was published, or has not said so for a while."""
        try:
            async with asyncio.timeout(TAKEN_WITHIN):
                while not all(map(self._is_settled, subjects)):
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
            if version == has and not names:
                self._had[kind] = dict(self._versions[kind])
            if again and (has or question in self._anew):
                # It was told and did not take it: asked again at once, it would do nothing else.
                hold = self._note_rejection(question, version)
                await self._wait_other(kind, names, version, hold)
            elif again:
                # With nothing at all it may have been started anew, or have made the cluster anew: once is no refusal.
                self._anew.add(question)
            else:
                if version == has:
                    self._rejected.pop(question, None)
                self._anew.discard(question)
        await self._wait_other(kind, names, has, HOLD)
        version = self._version(kind, names)
        if kind not in self.published or version == has:
            return web.Response(status=304)
        self._sent[question] = version
        # From here on it is on its way to this, whatever it said that it had: what is told next may be what it has left.
        self._taken.pop((kind, names), None)
        texts = self._texts[kind]
        resources = ",".join(texts[name] for name in names or texts if name in texts)
        head = json.dumps({"version_info": version, "type_url": kind})
        return web.Response(text=f'{head[:-1]}, "resources": [{resources}]}}', content_type="application/json")

    def _note_rejection(self, question: _Question, version: str) -> float:
        """Note what Envoy did not take; seconds until it is told again."""
        _, kind, names = question
        known = self._rejected.get(question)
        if known is not None and known.version == version:
            self._rejected[question] = replace(known, times=known.times + 1)
        else:
            had, there = self._had.get(kind, {}), self._versions[kind]
            changed = frozenset(name for name, each in there.items() if had.get(name, each) != each)
            # What was refused before and is still the same is the one to blame, not what has changed since.
            kept = frozenset(name for name in (known.changed if known is not None else ()) if name in changed)
            self._rejected[question] = Rejection(kind, names, version, kept or changed)
        return min(REJECTED_HOLD * 2.0 ** min(self._rejected[question].times - 1, 10), HOLD)

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
