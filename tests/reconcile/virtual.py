"""Virtual time: an event loop whose clock jumps to the next timer, so that hours take milliseconds."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import looptime

T = TypeVar("T")

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def run_virtual(main: Callable[[], Awaitable[T]]) -> T:
    """Run on a fresh loop that starts at 0 s. A test that only waits for what never comes fails after 5 real seconds."""

    async def started() -> T:
        return await main()

    def loop_factory() -> asyncio.AbstractEventLoop:
        return looptime.new_event_loop(start=0, noop_cycles=0, idle_step=1.0, idle_timeout=5.0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(started())


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Have an asynchronous test run in virtual time."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        run_virtual(lambda: test(**arguments))

    return run


def loop_clock() -> datetime:
    """The wall clock of the loop."""
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


async def eventually(condition: Callable[[], object], *, within: float, step: float = 0.05) -> float:
    """Wait for a condition; returns the loop's seconds that it took. Fails when it does not come in time."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():
        assert loop.time() - started <= within, f"not within {within} s: {condition}"
        await asyncio.sleep(step)
    return loop.time() - started
