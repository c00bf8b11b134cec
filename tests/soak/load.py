"""Steady load on the gateway: requests at fixed moments, whatever becomes of those before, each looked at to its last byte.

An open loop: when the gateway stalls, requests go on coming, and what they wait is counted from the moment at which each was due.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import aiohttp

from tests.e2e.traffic import Reply

from .stand_in import words

REQUEST_SECONDS = 60.0
"""Seconds that a request may take in all."""
TOKENS = (5, 20)
"""Shortest and longest stream of the stand-in: at its pace of 0.1 s, half a second to two."""
VLLM_TOKENS = (2, 4)
SENTENCE = "once upon a time there was a model that answered whatever it was asked by anybody at all"
"""Long enough: see tests/cluster/README.md on prompts of a few words."""


class Verdict(Enum):
    """What became of a request."""

    GOOD = "good"
    FAILED = "failed"
    """No answer, or an error."""
    CUT = "cut"
    """An answer that began and did not come whole."""


@dataclass(frozen=True)
class Rates:
    """How much is asked for."""

    requests: float
    """In a second, in all."""
    vllm: float
    """In a second, of vLLM; the stand-ins answer the rest."""
    streams: float
    """Share of the requests that have their answer streamed."""


@dataclass(frozen=True)
class Orders:
    """What is asked for from now on."""

    change: str
    """Under way meanwhile."""
    key: str
    stand_ins: tuple[str, ...]
    """Served names."""
    vllm: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """One request."""

    model: str
    path: str
    stream: bool
    tokens: int
    vllm: bool

    @property
    def body(self) -> bytes:
        """As it is sent; the prompt's length follows from the tokens, a few dozen bytes to a few hundred."""
        prompt = ", ".join([SENTENCE] * (1 + self.tokens // 4))
        said: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        if self.path == "/v1/completions":
            said = {"prompt": prompt}
        document = {"model": self.model, **said, "max_tokens": self.tokens, "ignore_eos": True}
        if self.stream:
            document |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(document).encode()


@dataclass(frozen=True, slots=True)
class Sample:
    """What is kept of a request that has ended."""

    change: str
    """That was under way when it was due."""
    vllm: bool
    stream: bool
    verdict: Verdict
    late: float
    """Seconds from when it was due until it was sent: the load's own fault."""
    seconds: float
    """From when it was due until its answer was whole."""
    first: float | None
    """From when it was due until the first byte of its answer; None: there was none."""


@dataclass(frozen=True)
class Failure:
    """A request that did not end well."""

    at: float
    """Seconds since 1970, when it ended."""
    sample: Sample
    model: str
    status: int
    problem: str

    def __str__(self) -> str:
        kind = "stream" if self.sample.stream else "request"
        after = f"{self.sample.seconds:.3f} s after it was due"
        return f"{self.sample.verdict.value}: {kind} to {self.model}, {after}, HTTP {self.status}: {self.problem}"


@dataclass(frozen=True)
class Counts:
    """How it stands."""

    sent: int
    under_way: int
    streams: int
    """Of those that have ended, as in what follows."""
    failed: int
    cut: int
    failures: tuple[Failure, ...]
    """That were not told before."""


@dataclass(frozen=True)
class Result:
    """All of it."""

    samples: Sequence[Sample]
    seconds: float
    """In which requests were sent."""
    cpu_seconds: float
    """Of the load itself."""

    @property
    def rate(self) -> float:
        """Requests a second that were sent."""
        return len(self.samples) / self.seconds


def judge(asked: Asked, reply: Reply, problem: str = "") -> tuple[Verdict, str]:
    """What became of a request, and why it is not good. `problem`: what broke off connection or answer."""
    if reply.status != 200:
        return Verdict.FAILED, problem or reply.text[:300]
    if problem:
        return Verdict.CUT, problem
    try:
        if not reply.good:
            return Verdict.CUT, f"it does not end as it should: …{reply.text[-200:]!r}"
        said, tokens = _read(asked, reply.text)
    except (ValueError, KeyError, IndexError) as error:
        return Verdict.CUT, f"{type(error).__name__} ({error}): …{reply.text[-200:]!r}"
    if tokens != asked.tokens:
        return Verdict.CUT, f"{tokens} tokens instead of {asked.tokens}"
    if not asked.vllm and said != "".join(words(asked.tokens)):
        return Verdict.CUT, f"pieces are missing: {said!r} of {asked.tokens}"
    return Verdict.GOOD, ""


def _read(asked: Asked, text: str) -> tuple[str, int]:
    """Text of an answer, and how many tokens it says that it has."""
    if not asked.stream:
        document = json.loads(text)
        choice = document["choices"][0]
        said = choice["text"] if "text" in choice else choice["message"]["content"]
        return said, document["usage"]["completion_tokens"]
    said, tokens = "", 0
    for event in text.split("\n\n"):
        data = event.removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        document = json.loads(data)
        for choice in document["choices"]:
            said += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
        if document.get("usage"):
            tokens = document["usage"]["completion_tokens"]
    return said, tokens


@dataclass
class Load:
    """Sends requests by its orders until it is told to stop."""

    url: str
    orders: Orders
    rates: Rates
    samples: list[Sample] = field(default_factory=list)
    _untold: list[Failure] = field(default_factory=list)
    _verdicts: Counter[Verdict] = field(default_factory=Counter)
    _streams: int = 0
    _sent: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(1))

    async def run(self, stop: asyncio.Event) -> Result:
        """Send until `stop`, then wait for what is under way."""
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            began = loop.time()
            while not stop.is_set():
                due = began + self._sent / self.rates.requests
                await asyncio.sleep(max(0.0, due - loop.time()))
                task = asyncio.create_task(self._ask(session, self._next(), due, self.orders))
                self._sent += 1
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            seconds = loop.time() - began
            await asyncio.gather(*tasks)
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Result(self.samples, seconds, used.ru_utime + used.ru_stime)

    def counts(self) -> Counts:
        """How it stands now; a failure is told once."""
        untold, self._untold = tuple(self._untold), []
        failed, cut = self._verdicts[Verdict.FAILED], self._verdicts[Verdict.CUT]
        return Counts(self._sent, self._sent - len(self.samples), self._streams, failed, cut, untold)

    def _next(self) -> Asked:
        draw = self._random
        # Evenly spread: vLLM is slow here, and two requests at once would wait for each other.
        share = self.rates.vllm / self.rates.requests
        vllm = bool(self.orders.vllm) and int((self._sent + 1) * share) > int(self._sent * share)
        stream = draw.random() < self.rates.streams
        lengths = VLLM_TOKENS if vllm else TOKENS if stream else (1, 1)
        return Asked(
            model=draw.choice(self.orders.vllm if vllm else self.orders.stand_ins),
            path=draw.choice(("/v1/completions", "/v1/chat/completions")),
            stream=stream,
            tokens=draw.randint(*lengths),
            vllm=vllm,
        )

    async def _ask(self, session: aiohttp.ClientSession, asked: Asked, due: float, orders: Orders) -> None:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        status, problem = 0, ""
        first: float | None = None
        parts: list[bytes] = []
        headers = {"authorization": f"Bearer {orders.key}", "content-type": "application/json"}
        try:
            async with session.post(f"{self.url}{asked.path}", data=asked.body, headers=headers) as answer:
                status = answer.status
                async for part in answer.content.iter_any():
                    first = first or loop.time() - due
                    parts.append(part)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
        ended = loop.time()
        reply = Reply(sent, ended - sent, status, b"".join(parts).decode(errors="replace"), asked.stream)
        verdict, problem = judge(asked, reply, problem)
        sample = Sample(orders.change, asked.vllm, asked.stream, verdict, sent - due, ended - due, first)
        self.samples.append(sample)
        self._verdicts[verdict] += 1
        self._streams += asked.stream
        if verdict is not Verdict.GOOD:
            self._untold.append(Failure(time.time(), sample, asked.model, status, problem))


class LoadProcess:
    """The load in a process of its own, so that nothing of what changes the cluster makes it late. For a `with`."""

    def __init__(self, url: str, orders: Orders, rates: Rates) -> None:
        self.orders = orders
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, Load(url, orders, rates)), daemon=True)
        self._theirs = theirs
        self._lock = threading.Lock()

    def __enter__(self) -> "LoadProcess":
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # Without anybody to tell, it ends.
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def order(self, **changes: Any) -> None:
        """Change what is asked for; when it returns, no request by the orders before is sent any more."""
        self.orders = replace(self.orders, **changes)
        self._ask(self.orders)

    def counts(self) -> Counts:
        """How it stands now."""
        found = self._ask("counts")
        assert isinstance(found, Counts)
        return found

    def finish(self) -> Result:
        """Send no more, wait for what is under way."""
        found = self._ask("finish")
        assert isinstance(found, Result)
        return found

    def _ask(self, message: object) -> object:
        with self._lock:
            self._pipe.send(message)
            return self._pipe.recv()


def _serve(pipe: Connection, load: Load) -> None:
    """What the process does: send, and heed the other end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who has started it.
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # Clients have processors of their own elsewhere: a busy machine must not make them late.
    asyncio.run(_heed(pipe, load))


async def _heed(pipe: Connection, load: Load) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    left = asyncio.Event()

    def read() -> None:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            running.cancel()
            left.set()
            return
        if isinstance(message, Orders):
            load.orders = message
            pipe.send(None)
        elif message == "counts":
            pipe.send(load.counts())
        else:
            stop.set()

    asyncio.get_running_loop().add_reader(pipe.fileno(), read)
    with contextlib.suppress(asyncio.CancelledError):
        pipe.send(await running)
        await left.wait()
