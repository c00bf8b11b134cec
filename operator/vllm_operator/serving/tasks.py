"""Tasks that ask servers."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    ending = list(tasks)  # Those that end may take themselves out of what is gone through.
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
