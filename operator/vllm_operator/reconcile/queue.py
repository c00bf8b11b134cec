"""A queue of keys: each at most once, never two workers on one key, with delays and backoff.

Time is the event loop's, so tests run it on virtual time.
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable

from vllm_operator.api.names import Key

BACKOFF_FIRST = 0.2
BACKOFF_MOST = 60.0
"""Seconds before the first retry, and at most before any; doubled in between."""


class WorkQueue:
    """Keys that want work. Not thread-safe: it belongs to one event loop."""

    def __init__(self, *, jitter: Callable[[], float] = random.random) -> None:
        self._due: dict[Key, tuple[float, bool]] = {}
        self._heaps: dict[bool, list[tuple[float, int, Key]]] = {True: [], False: []}
        """By urgency: what a user has changed does not wait behind what the cluster reports."""
        self._sequence = itertools.count()
        self._processing: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self._jitter = jitter
        self._last_done = 0.0

    def begin(self) -> None:
        """Workers start now: what was due before does not count as being stuck."""
        self._last_done = _now()

    def add(self, key: Key, *, delay: float = 0.0, urgent: bool = False) -> None:
        """Want work on this key in `delay` seconds; an earlier or more urgent wish stands.

        Of the keys that are due, urgent ones are given first.
        """
        when = _now() + max(0.0, delay)
        known = self._due.get(key)
        if known is not None:
            if known[0] <= when and known[1] >= urgent:
                return
            when, urgent = min(known[0], when), urgent or known[1]
        self._due[key] = (when, urgent)
        heapq.heappush(self._heaps[urgent], (when, next(self._sequence), key))
        self._wake.set()

    async def get(self) -> Key | None:
        """The next key that is due and that nobody works on; None once the queue is closed."""
        while not self._closed:
            self._wake.clear()
            key, wait = self._pop()
            if key is not None:
                self._processing[key] = _now()
                return key
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass
        return None

    def _pop(self) -> tuple[Key | None, float | None]:
        """The next key, or else the seconds to wait for one (None: until something is added)."""
        waits: list[float] = []
        for urgent, heap in self._heaps.items():
            key, wait = self._pop_from(heap, urgent=urgent)
            if key is not None:
                return key, None
            if wait is not None:
                waits.append(wait)
        return None, min(waits, default=None)

    def _pop_from(self, heap: list[tuple[float, int, Key]], *, urgent: bool) -> tuple[Key | None, float | None]:
        held: list[tuple[float, int, Key]] = []
        try:
            while heap:
                when, _, key = heap[0]
                if self._due.get(key) != (when, urgent):
                    heapq.heappop(heap)  # An entry that another wish has overtaken.
                    continue
                if when > _now():
                    return None, when - _now()
                entry = heapq.heappop(heap)
                if key in self._processing:
                    held.append(entry)  # Becomes available when its worker is done, which wakes us.
                    continue
                del self._due[key]
                return key, None
            return None, None
        finally:
            for entry in held:
                heapq.heappush(heap, entry)

    def done(self, key: Key, *, again_after: float | None = None) -> None:
        """The work went well; want it again after that many seconds, if given."""
        self._failures.pop(key, None)
        self._finish(key)
        if again_after is not None:
            self.add(key, delay=again_after)

    def retry(self, key: Key, *, at_least: float = 0.0) -> float:
        """The work failed: want it again after a backoff, which is returned, in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures, 16))
        delay = max(at_least, delay * (0.5 + self._jitter() / 2))
        self._finish(key)
        self.add(key, delay=delay)
        return delay

    def _finish(self, key: Key) -> None:
        self._processing.pop(key, None)
        self._last_done = _now()
        self._wake.set()

    def failures(self, key: Key) -> int:
        """Failures of this key in a row."""
        return self._failures.get(key, 0)

    def close(self) -> None:
        """Give no more keys; those who wait in get() are told None."""
        self._closed = True
        self._wake.set()

    def __len__(self) -> int:
        """Keys that are due now or later, without those being worked on."""
        return len(self._due)

    @property
    def processing(self) -> int:
        """Keys being worked on."""
        return len(self._processing)

    def stuck_for(self) -> float:
        """Seconds for which a key has been due, or worked on, without any key having been finished; 0 when all is well."""
        now = _now()
        waiting = [when for when, _ in self._due.values() if when <= now]
        oldest = min([*waiting, *self._processing.values()], default=now)
        return max(0.0, now - max(oldest, self._last_done))


def _now() -> float:
    return asyncio.get_running_loop().time()
