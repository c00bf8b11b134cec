"""A copy of some objects of the cluster, kept up to date by a watch: for what is read all the time and never written.

kopf watches for the operator, but chooses objects only after they have come; a gateway that needs some Secrets has no
business with all the others.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from vllm_operator.api.names import Key
from vllm_operator.cluster.base import Object, key_of
from vllm_operator.cluster.errors import ApiError
from vllm_operator.cluster.kinds import Kind

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds, more or less, between tries while the API server does not answer."""
GONE = 410


class Watchable(Protocol):
    """What a reflector asks of the API server."""

    async def list_at(
        self, kind: Kind, *, namespace: str | None = None, selector: str = ""
    ) -> tuple[Sequence[Object], str]:
        """All objects, and the resourceVersion from which a watch goes on."""
        ...

    def watch(
        self, kind: Kind, *, namespace: str | None = None, selector: str = "", version: str
    ) -> AsyncIterator[tuple[str, Object]]:
        """What happens after that version."""
        ...


class Reflector:
    """Objects of one kind, by a label selector, in one namespace or in all.

    While the API server is away they stay as they were last. `keep` takes out of an object what is kept.
    """

    def __init__(
        self,
        cluster: Watchable,
        kind: Kind,
        *,
        on_change: Callable[[], None],
        namespace: str | None = None,
        selector: str = "",
        keep: Callable[[Object], Object] = lambda obj: obj,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._kind = kind
        self._namespace = namespace
        self._selector = selector
        self._on_change = on_change
        self._keep = keep
        self._jitter = jitter
        self.objects: dict[Key, Object] = {}
        self.synced = asyncio.Event()
        """Set when all objects have been listed once."""

    async def run(self) -> None:
        """Keep the copy, for ever."""
        version = ""
        told = False
        while True:
            try:
                if not version:
                    version = await self._list()
                began = asyncio.get_running_loop().time()
                async for event, obj in self._cluster.watch(
                    self._kind, namespace=self._namespace, selector=self._selector, version=version
                ):
                    version = str(obj["metadata"].get("resourceVersion") or version)
                    self._take(event, obj)
                    told = False
                if asyncio.get_running_loop().time() - began < RETRY:
                    # An API server that is about to stop ends watches at once.
                    await asyncio.sleep(RETRY * self._jitter())
            except ApiError as error:
                if error.status == GONE:
                    version = ""
                    continue
                if not told:
                    log.warning("%s cannot be watched, tried again: %s", self._kind.plural, error)
                    told = True
                await asyncio.sleep(RETRY * (0.5 + self._jitter()))

    async def _list(self) -> str:
        items, version = await self._cluster.list_at(self._kind, namespace=self._namespace, selector=self._selector)
        objects = {key_of(each): self._keep(each) for each in items}
        if objects != self.objects or not self.synced.is_set():
            self.objects = objects
            self.synced.set()
            self._on_change()
        return version

    def _take(self, event: str, obj: Object) -> None:
        if event == "BOOKMARK":
            return
        key = key_of(obj)
        before = self.objects.get(key)
        if event == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = self._keep(obj)
        if self.objects.get(key) != before:
            self._on_change()
