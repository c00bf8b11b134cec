"""Plain requests through the gateway, as clients send them."""

import http.client
import itertools
import json
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.bench.figures import percentile


@dataclass(frozen=True)
class Reply:
    """What came back."""

    sent: float
    """Of the monotonic clock."""
    seconds: float
    status: int
    """0: no answer, and `text` says why."""
    text: str
    stream: bool = False

    @property
    def good(self) -> bool:
        """Whether it is a completion: of a stream, one that came to its own end. vLLM ends one that it is stopped in politely, too."""
        if self.stream:
            ended = self.text.rstrip().endswith("data: [DONE]")
            return self.status == 200 and ended and '"finish_reason":"abort"' not in self.text
        return self.status == 200 and bool(self.json()["choices"])

    def json(self) -> dict[str, Any]:
        """Return the body."""
        body: dict[str, Any] = json.loads(self.text)
        return body


def complete(
    url: str, model: str, *, key: str | None = None, max_tokens: int = 8, stream: bool = False, timeout: float = 60.0
) -> Reply:
    """Ask for a chat completion over a connection of its own."""
    parts = urlsplit(url)
    messages = [{"role": "user", "content": "Hello!"}]
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": max_tokens, "stream": stream}
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    sent = time.monotonic()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    try:
        connection.request("POST", f"{parts.path}/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        status, text = 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return Reply(sent, time.monotonic() - sent, status, text, stream)


class Traffic:
    """A steady stream of completions from several clients, from beginning to end of a `with`."""

    def __init__(
        self, url: str, model: str, *, key: str | None = None, clients: int = 3, pause: float = 0.1, streams: int = 0
    ) -> None:
        """`streams`: clients, besides the others, that have long answers streamed."""
        self._ask = [lambda: complete(url, model, key=key)] * clients
        self._ask += [lambda: complete(url, model, key=key, stream=True, max_tokens=200)] * streams
        clients += streams
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        self._replies: list[list[Reply]] = [[] for _ in range(clients)]
        self._numbers = itertools.count()

    def _run(self) -> None:
        number = next(self._numbers)
        while not self._stop.is_set():
            self._replies[number].append(self._ask[number]())
            self._stop.wait(self._pause)

    @property
    def replies(self) -> list[Reply]:
        """Return every reply so far, in the order of sending."""
        return sorted(itertools.chain.from_iterable(self._replies), key=lambda reply: reply.sent)

    @property
    def failures(self) -> list[Reply]:
        """Return the replies that are no completion."""
        return [reply for reply in self.replies if not reply.good]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=90)

    def summary(self) -> str:
        """Say how many, how fast and how many failed."""
        replies = self.replies
        if not replies:
            return "no requests"
        slow = [reply.seconds for reply in replies]
        p50, p99 = percentile(slow, 0.5), percentile(slow, 0.99)
        streams = [reply for reply in replies if reply.stream]
        of_these = f" (of these {len(streams)} streams)" if streams else ""
        took = f"p50 {p50:.2f} s, p99 {p99:.2f} s, longest {max(slow):.2f} s"
        return f"{len(replies)} requests{of_these}, {len(self.failures)} failed, {took}"
