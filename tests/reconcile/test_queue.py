"""The work queue: each key once, never two workers on one key, delays and backoff. In virtual time."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import looptime
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_operator.api.names import Key
from vllm_operator.reconcile.queue import BACKOFF_FIRST, BACKOFF_MOST, WorkQueue

pytestmark = pytest.mark.looptime(start=100, noop_cycles=0)

T = TypeVar("T")

A, B, C = Key("ns", "a"), Key("ns", "b"), Key("ns", "c")


def now() -> float:
    return asyncio.get_running_loop().time()


async def idle(queue: WorkQueue) -> bool:
    """Whether nothing is to be had now."""
    try:
        async with asyncio.timeout(0.001):
            await queue.get()
    except TimeoutError:
        return True
    return False


async def test_a_key_that_is_added_often_is_given_once() -> None:
    queue = WorkQueue()
    for _ in range(5):
        queue.add(A)
    assert len(queue) == 1
    assert await queue.get() == A
    assert len(queue) == 0
    assert await idle(queue)


async def test_a_key_being_worked_on_is_given_again_only_when_it_is_done() -> None:
    queue = WorkQueue()
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    queue.add(B)
    assert await queue.get() == B, "a key that is worked on holds no other up"
    assert await idle(queue)
    assert queue.processing == 2
    queue.done(A)
    assert await queue.get() == A


async def test_done_wakes_the_worker_that_waits_for_the_key() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(50)
    assert not waiting.done()
    started = now()
    queue.done(A)
    assert await waiting == A
    assert now() == started


async def test_a_delay_is_kept_to() -> None:
    queue = WorkQueue()
    started = now()
    queue.add(A, delay=5)
    queue.add(B, delay=2)
    assert [await queue.get(), now() - started] == [B, pytest.approx(2)]
    assert [await queue.get(), now() - started] == [A, pytest.approx(5)]


async def test_what_is_urgent_goes_first() -> None:
    queue = WorkQueue()
    queue.add(A)
    queue.add(B)
    queue.add(C, urgent=True)
    queue.add(B, urgent=True)
    assert [await queue.get() for _ in range(3)] == [C, B, A]
    assert await idle(queue)


async def test_an_urgent_wish_for_later_makes_an_earlier_one_urgent_and_no_later() -> None:
    queue = WorkQueue()
    started = now()
    queue.add(A, delay=1)
    queue.add(B, delay=1)
    queue.add(B, delay=50, urgent=True)
    assert [await queue.get(), await queue.get()] == [B, A]
    assert now() - started == pytest.approx(1)


async def test_an_earlier_wish_wins_whichever_comes_first() -> None:
    queue = WorkQueue()
    started = now()
    queue.add(A, delay=10)
    queue.add(A, delay=3)
    queue.add(A, delay=7)
    assert await queue.get() == A
    assert now() - started == pytest.approx(3)
    queue.done(A)
    await asyncio.sleep(30)
    assert await idle(queue), "the later wishes are gone"


async def test_a_worker_that_waits_for_a_later_key_is_woken_for_an_earlier_one() -> None:
    queue = WorkQueue()
    queue.add(A, delay=100)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(1)
    queue.add(B, delay=1)
    assert await waiting == B


async def test_a_negative_delay_is_now() -> None:
    queue = WorkQueue()
    queue.add(A, delay=-5)
    assert await queue.get() == A


async def test_backoff_grows_to_its_most_and_done_ends_it() -> None:
    queue = WorkQueue(jitter=lambda: 1.0)
    delays = []
    for _ in range(12):
        queue.add(A)
        assert await queue.get() == A
        delays.append(queue.retry(A))
    assert delays[:4] == [BACKOFF_FIRST, 2 * BACKOFF_FIRST, 4 * BACKOFF_FIRST, 8 * BACKOFF_FIRST]
    assert delays == sorted(delays)
    assert delays[-1] == BACKOFF_MOST
    assert queue.failures(A) == 12
    queue.add(A)
    await queue.get()
    queue.done(A)
    assert queue.failures(A) == 0
    queue.add(A)
    await queue.get()
    assert queue.retry(A) == BACKOFF_FIRST


async def test_thousands_of_failures_do_not_overflow() -> None:
    queue = WorkQueue(jitter=lambda: 1.0)
    for _ in range(3000):
        delay = queue.retry(A)
    assert delay == BACKOFF_MOST


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
async def test_jitter_takes_at_most_half(jitter: float, share: float) -> None:
    assert WorkQueue(jitter=lambda: jitter).retry(A) == pytest.approx(BACKOFF_FIRST * share)


async def test_what_the_server_asks_for_is_the_least() -> None:
    queue = WorkQueue()
    assert queue.retry(A, at_least=90) == 90
    started = now()
    assert await queue.get() == A
    assert now() - started == pytest.approx(90)


async def test_a_retry_is_given_after_its_backoff() -> None:
    queue = WorkQueue(jitter=lambda: 1.0)
    queue.add(A)
    await queue.get()
    started = now()
    delay = queue.retry(A)
    assert await queue.get() == A
    assert now() - started == pytest.approx(delay)


async def test_done_may_want_the_key_again() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    started = now()
    queue.done(A, again_after=300)
    assert await queue.get() == A
    assert now() - started == pytest.approx(300)


async def test_close_tells_every_waiting_worker() -> None:
    queue = WorkQueue()
    queue.add(A, delay=1000)
    waiting = [asyncio.create_task(queue.get()) for _ in range(5)]
    await asyncio.sleep(1)
    started = now()
    queue.close()
    assert await asyncio.gather(*waiting) == [None] * 5
    assert now() == started
    queue.add(B)
    assert await queue.get() is None


async def test_many_workers_share_the_keys() -> None:
    queue = WorkQueue()
    keys = [Key("ns", str(number)) for number in range(20)]
    waiting = [asyncio.create_task(queue.get()) for _ in keys]
    await asyncio.sleep(1)
    for key in keys:
        queue.add(key)
    assert sorted(filter(None, await asyncio.gather(*waiting))) == sorted(keys)


async def test_a_worker_that_is_cancelled_takes_no_key_along() -> None:
    queue = WorkQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(1)
    waiting.cancel()
    queue.add(A)
    assert await queue.get() == A


async def test_stuck_for() -> None:
    queue = WorkQueue()
    assert queue.stuck_for() == 0
    queue.add(A, delay=50)
    assert queue.stuck_for() == 0, "what is wanted later is no work now"
    await asyncio.sleep(60)
    assert queue.stuck_for() == pytest.approx(10), "nobody takes it"
    queue.begin()
    assert queue.stuck_for() == 0, "workers have just begun"
    assert await queue.get() == A
    await asyncio.sleep(7)
    assert queue.stuck_for() == pytest.approx(7), "it does not come to an end"
    queue.add(B)
    await queue.get()
    await asyncio.sleep(3)
    queue.done(B)
    assert queue.stuck_for() == 0, "something was finished"
    queue.done(A)
    await asyncio.sleep(1000)
    assert queue.stuck_for() == 0, "there is no work"


class QueueMachine(RuleBasedStateMachine):
    """The queue beside a model of it: a dictionary of wishes."""

    def __init__(self) -> None:
        super().__init__()
        self.wishes: dict[Key, float] = {}
        self.working: set[Key] = set()
        self.loop = looptime.new_event_loop(start=0, noop_cycles=0)
        self.queue = self._run(self._make())

    def teardown(self) -> None:
        self.loop.close()

    def _run(self, action: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(action)

    @property
    def time(self) -> float:
        return self.loop.time()

    @staticmethod
    async def _make() -> WorkQueue:
        return WorkQueue(jitter=lambda: 1.0)

    async def _get(self) -> Key | None:
        """What a worker is given without waiting."""
        worker = asyncio.create_task(self.queue.get())
        for _ in range(5):
            await asyncio.sleep(0)
        if worker.done():
            return worker.result()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        return None

    async def _add(self, key: Key, delay: float) -> None:
        self.queue.add(key, delay=delay)

    async def _done(self, key: Key, again: float | None) -> None:
        self.queue.done(key, again_after=again)

    async def _retry(self, key: Key) -> float:
        return self.queue.retry(key)

    def _due(self) -> set[Key]:
        return {key for key, when in self.wishes.items() if when <= self.time and key not in self.working}

    @rule(key=st.sampled_from([A, B, C]), delay=st.sampled_from([0.0, 1.0, 5.0]))
    def add(self, key: Key, delay: float) -> None:
        self._run(self._add(key, delay))
        self.wishes[key] = min(self.wishes.get(key, float("inf")), self.time + delay)

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    @rule()
    def get(self) -> None:
        key = self._run(self._get())
        due = self._due()
        if key is None:
            assert not due
            return
        assert key in due
        assert self.wishes[key] == min(self.wishes[each] for each in due), "the longest due comes first"
        del self.wishes[key]
        self.working.add(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), again=st.sampled_from([None, 3.0]))
    def done(self, data: st.DataObject, again: float | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self._run(self._done(key, again))
        self.working.remove(key)
        if again is not None:
            self.wishes[key] = min(self.wishes.get(key, float("inf")), self.time + again)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        delay = self._run(self._retry(key))
        self.working.remove(key)
        self.wishes[key] = min(self.wishes.get(key, float("inf")), self.time + delay)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queue) == len(self.wishes)
        assert self.queue.processing == len(self.working)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
