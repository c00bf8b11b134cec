"""Facts of many models, read in the background and kept: nobody waits long, and no hub is asked twice without need."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Protocol, TypeVar

import httpx

from vllm_operator.api.names import Key
from vllm_operator.hub.errors import HubError, HubUnavailableError
from vllm_operator.hub.hugging_face import AdapterFacts, HubFacts, HuggingFaceHub

log = logging.getLogger(__name__)

KEPT = 3600.0
"""Seconds that facts are kept: a branch may move."""
REFUSED_KEPT = 60.0
"""Seconds that an answer such as "no such model" is kept: somebody may accept a licence meanwhile."""
FIRST_RETRY, LONGEST_RETRY = 5.0, 300.0
"""Seconds after which a hub that does not answer is asked again; doubled each time."""
TIMEOUT = httpx.Timeout(15.0, connect=10.0)
READERS = 4
"""Models read at the same time."""
MOST_KEPT = 2000
PATIENCE = 2.0
"""Seconds that a pass waits for an answer before it says that it is waiting."""


class Facts(Protocol):
    """What is read of a repository."""

    @property
    def commit(self) -> str | None:
        """Commit that they are of."""


Of = TypeVar("Of", bound=Facts)

Read = Callable[["HubSource"], Awaitable[Of]]
"""Reads facts. Raises HubError."""


@dataclass(frozen=True)
class HubSource:
    """A repository as one may see it."""

    repository: str
    revision: str | None = None
    endpoint: str | None = None
    """None: the operator's own."""
    token: str | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> tuple[str, str, str, str]:
        """Tells sources apart without holding the token."""
        token = hashlib.sha256(self.token.encode()).hexdigest() if self.token else ""
        return self.repository, self.revision or "", self.endpoint or "", token


@dataclass
class _Entry(Generic[Of]):
    task: asyncio.Task[None] | None = None
    facts: Of | None = None
    error: HubError | None = None
    until: float = 0.0
    failures: int = 0
    waiting: set[Key] = field(default_factory=set)


class Library(Generic[Of]):
    """Answers at once with what is known, and reads the rest in the background."""

    def __init__(
        self,
        read: Read[Of],
        *,
        wake: Callable[[Key], None],
        clock: Callable[[], float] = monotonic,
        patience: float = PATIENCE,
    ) -> None:
        """`wake` is called with each model whose facts have come, or cannot."""
        self._read = read
        self._wake = wake
        self._clock = clock
        self._patience = patience
        self._entries: dict[tuple[str, str, str, str], _Entry[Of]] = {}
        self._readers = asyncio.Semaphore(READERS)

    async def look_up(self, source: HubSource, key: Key) -> Of | None:
        """Facts for a model, or None while they are being read: it is woken then. Raises HubError.

        Waits no longer than a moment. A hub that fails is asked again by a later call, after a pause that grows.
        """
        entry = self._entries.setdefault(source.fingerprint, _Entry())
        if entry.task is None and self._clock() >= entry.until:
            self._make_room()
            self._entries[source.fingerprint] = entry
            entry.task = asyncio.create_task(self._fill(entry, source), name=f"facts of {source.repository}")
        if entry.task is not None:
            if entry.facts is not None:
                return entry.facts  # Older than we like, and better than waiting.
            await asyncio.wait({entry.task}, timeout=self._patience)
        if entry.task is not None:
            entry.waiting.add(key)
        if entry.error is not None:
            raise entry.error
        return entry.facts

    async def close(self) -> None:
        """Give up what is being read."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self, entry: _Entry[Of], source: HubSource) -> None:
        try:
            async with self._readers:
                facts = await self._read(source)
        except HubError as error:
            self._failed(entry, source, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A config that nobody has seen yet must not keep the model from being served with sizes given by hand.
            log.exception("a bug in the operator while it read %s", source.repository)
            self._failed(
                entry, source, HubUnavailableError(f"{source.repository} cannot be read: {type(error).__name__}")
            )
        else:
            entry.facts, entry.error, entry.failures = facts, None, 0
            entry.until = self._clock() + KEPT
            log.info("read %s at %s from the hub", source.repository, facts.commit or source.revision or "main")
        finally:
            entry.task = None
            waiting, entry.waiting = entry.waiting, set()
            for key in waiting:
                self._wake(key)

    def _failed(self, entry: _Entry[Of], source: HubSource, error: HubError) -> None:
        entry.error = error
        entry.failures += 1
        pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(entry.failures - 1, 10)) if error.retry else REFUSED_KEPT
        entry.until = self._clock() + pause
        if error.retry and entry.facts is not None:
            entry.error = None  # What was known stays good while the hub is away.
        log.log(
            logging.WARNING if entry.failures == 1 else logging.INFO,
            "%s cannot be read, next try in %.0f s: %s", source.repository, pause, error,
        )  # fmt: skip

    def _make_room(self) -> None:
        while len(self._entries) > MOST_KEPT:
            oldest = next((key for key, entry in self._entries.items() if entry.task is None), None)
            if oldest is None:
                return
            del self._entries[oldest]


def hub_reader(endpoint: str) -> Read[HubFacts]:
    """Reads models from the Hugging Face hub, or from a source's own endpoint, as the environment says (HTTPS_PROXY, SSL_CERT_FILE)."""
    return _reader(endpoint, lambda hub, source: hub.read(source.repository, revision=source.revision))


def adapter_reader(endpoint: str) -> Read[AdapterFacts]:
    """Reads LoRA adapters in the same way."""
    return _reader(endpoint, lambda hub, source: hub.read_adapter(source.repository))


def _reader(endpoint: str, ask: Callable[[HuggingFaceHub, HubSource], Of]) -> Read[Of]:
    def read(source: HubSource) -> Of:
        with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
            return ask(HuggingFaceHub(client, endpoint=source.endpoint or endpoint, token=source.token), source)

    async def in_thread(source: HubSource) -> Of:
        return await asyncio.to_thread(read, source)

    return in_thread
