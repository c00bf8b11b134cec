"""The workers: take a key, reconcile it, decide when it is wanted again."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import perf_counter

from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import Key
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.reconcile.queue import WorkQueue
from vllm_operator.reconcile.reconciler import Reconciler

log = logging.getLogger(__name__)

PASS_TIMEOUT = 120.0
"""Seconds that one pass may take before it is given up and tried again."""
SHOWN_AFTER = 6
"""Failures in a row (about 12 s with the queue's backoff) after which a failure is shown on the model."""
TERMINATING_AFTER = 30.0
"""Seconds after which a model in a terminating namespace is looked at again."""

PassObserver = Callable[[str, float], None]
"""Called after each pass with its result and its seconds."""


class Engine:
    """Runs reconcile passes, never two at a time for one key."""

    def __init__(
        self,
        reconciler: Reconciler,
        queue: WorkQueue,
        *,
        workers: int = 16,
        observer: PassObserver = lambda result, seconds: None,
    ) -> None:
        self._reconciler = reconciler
        self._queue = queue
        self._workers = workers
        self._observer = observer
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work."""
        if not self._tasks:
            self._queue.begin()
            self._tasks = [asyncio.create_task(self._work(), name=f"worker {n}") for n in range(self._workers)]

    @property
    def running(self) -> bool:
        """Whether the workers work."""
        return bool(self._tasks)

    async def stop(self, *, grace: float = 15.0) -> None:
        """Finish the passes under way, but wait no longer than `grace` seconds."""
        self._queue.close()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=grace)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        self._tasks = []

    def want(self, keys: Iterable[Key], *, delay: float = 0.0) -> None:
        """Have these models looked at."""
        for key in keys:
            self._queue.add(key, delay=delay)

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            await self._pass(key)

    async def _pass(self, key: Key) -> None:
        started = perf_counter()
        result = "ok"
        try:
            async with asyncio.timeout(PASS_TIMEOUT):
                again = await self._reconciler.reconcile(key)
            self._queue.done(key, again_after=again)
        except ApiError as error:
            result = error.category.name.lower()
            await self._failed(key, error)
        except TimeoutError:
            result = "timeout"
            await self._retry(key, Reason.API_ERROR, f"a pass took longer than {PASS_TIMEOUT:g} s")
        except asyncio.CancelledError:
            self._queue.retry(key)
            raise
        except Exception as error:
            result = "bug"
            log.exception("%s: a bug in the operator", key)
            await self._retry(
                key, Reason.INTERNAL_ERROR, f"{type(error).__name__}; the operator's log has more", at_once=True
            )
        finally:
            self._observer(result, perf_counter() - started)

    async def _failed(self, key: Key, error: ApiError) -> None:
        if error.category is Category.TERMINATING:
            log.info("%s: the namespace is going: %s", key, error.message)
            await self._show(key, Reason.TERMINATING, error.message)
            self._queue.done(key, again_after=TERMINATING_AFTER)
            return
        # What the operator may not do lasts until somebody changes it, so it is shown at once.
        denied = error.category is Category.DENIED
        reason = Reason.PERMISSION_DENIED if denied else Reason.API_ERROR
        await self._retry(key, reason, error.message, at_least=error.retry_after or 0.0, at_once=denied)

    async def _retry(
        self, key: Key, reason: Reason, message: str, *, at_least: float = 0.0, at_once: bool = False
    ) -> None:
        failures = self._queue.failures(key) + 1
        if at_once or failures >= SHOWN_AFTER:
            await self._show(key, reason, message)
        delay = self._queue.retry(key, at_least=at_least)
        level = logging.WARNING if failures >= 3 else logging.INFO
        log.log(level, "%s: try %d failed, next in %.1f s: %s", key, failures, delay, message)

    async def _show(self, key: Key, reason: Reason, message: str) -> None:
        """Say it on the model, if that can be done."""
        try:
            async with asyncio.timeout(PASS_TIMEOUT):
                await self._reconciler.report_failure(key, reason, message)
        except (ApiError, TimeoutError) as error:
            log.debug("%s: the failure cannot be shown: %s", key, error)
        except Exception:
            # A worker that ends would leave its key in the queue for ever, and the other models with a worker less.
            log.exception("%s: a bug in the operator while it shows a failure", key)
