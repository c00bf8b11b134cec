"""Progress on the terminal: what is being done, N of M, seconds so far, and a result line.

Several tasks run at the same time (Go builds beside downloads), so lines are appended, never overwritten: the
output is as readable in a CI log as on a terminal.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Sink = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Write a line to standard error, where progress belongs: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Numbers tasks and reports how long each takes."""

    def __init__(self, sink: Sink = to_stderr, *, heartbeat_seconds: float = 15.0) -> None:
        """Report through ``sink``; a task that takes long says so every ``heartbeat_seconds``."""
        self._sink = sink
        self._heartbeat_seconds = heartbeat_seconds
        self._lock = threading.Lock()
        self._started = 0
        self._expected = 0
        self._begin = time.monotonic()

    def expect(self, count: int) -> None:
        """Announce ``count`` more tasks, so that "3 of 12" is true."""
        with self._lock:
            self._expected += count

    def say(self, line: str) -> None:
        """Print one line with the seconds since the start."""
        with self._lock:
            self._sink(f"{time.monotonic() - self._begin:6.1f} s  {line}")

    @contextmanager
    def task(self, title: str) -> Iterator[None]:
        """Report the start, a sign of life now and then, and the end of a task."""
        with self._lock:
            self._started += 1
            number = f"[{self._started}/{max(self._expected, self._started)}]"
        begin = time.monotonic()
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._heartbeat_seconds):
                self.say(f"{number} {title}: {time.monotonic() - begin:.0f} s so far")

        self.say(f"{number} {title} …")
        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        except BaseException:
            self.say(f"{number} {title}: FAILED after {time.monotonic() - begin:.1f} s")
            raise
        else:
            self.say(f"{number} {title}: done in {time.monotonic() - begin:.1f} s")
        finally:
            done.set()
