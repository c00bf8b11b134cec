"""A reverse proxy before the API server that delays, refuses, loses answers and cuts watches.

Plain HTTP to the operator, TLS to the API server; the operator's token passes through. Runs in a thread with its own loop.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from tests.apiserver import Access

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host", "te", "upgrade"}
)


@dataclass(frozen=True)
class Fault:
    """What is done to one request."""

    delay: float = 0.0
    """Seconds before it is forwarded."""
    status: int | None = None
    """Answered instead of the API server; 0: the connection is cut without an answer."""
    forward: bool = False
    """With `status`: the API server carries the request out all the same, only its answer is lost."""
    cut_after: float | None = None
    """A watch is cut after so many seconds."""


NONE = Fault()
Policy = Callable[[str, str, bool], Fault]
"""(method, path, whether it is a watch) → fault."""

_REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


@dataclass
class Chaos:
    """Faults at random, the same for the same seed."""

    rate: float
    statuses: tuple[int, ...]
    seed: int = 0
    forward: float = 0.5
    """Share of the faults on writes that come after the API server has done what was asked."""
    cut_watches: tuple[float, float] | None = None
    """Watches are cut after a time between these, in seconds."""
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def __call__(self, method: str, path: str, watching: bool) -> Fault:
        if watching:
            return NONE if self.cut_watches is None else Fault(cut_after=self.dice.uniform(*self.cut_watches))
        rate = self.rate / 4 if "/leases" in path else self.rate
        if self.dice.random() >= rate:
            return NONE
        status = self.dice.choice(self.statuses)
        if method == "GET" and status == 409:
            return NONE  # No API server answers a read so.
        return Fault(status=status, forward=method != "GET" and self.dice.random() < self.forward)


class FaultProxy:
    """The proxy. Use as a context manager; `policy` may be changed while it runs."""

    def __init__(self, access: Access, policy: Policy | None = None) -> None:
        self.policy: Policy = policy or (lambda method, path, watching: NONE)
        self.counts: Counter[str] = Counter()
        """What was done, by status (`cut` for connections, `watch` for watches cut, `ok`)."""
        self._access = access
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        assert self._started.wait(10), "the proxy does not start"
        return self

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=15)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._port = int(runner.addresses[0][1])
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        connector = aiohttp.TCPConnector(ssl=self._access.tls, limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as self._session:
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") in ("true", "1", "True")
        fault = self.policy(request.method, request.path, watching)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.status is None or fault.forward:
            answer = await self._forward(request, fault, lost=fault.status is not None)
            if answer is not None:
                return answer
        return self._refuse(request, fault.status or 0)

    async def _forward(self, request: web.Request, fault: Fault, *, lost: bool) -> web.StreamResponse | None:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = self._access.host + request.raw_path
        body = await request.read()
        try:
            async with self._session.request(request.method, url, headers=headers, data=body or None) as upstream:
                if lost:
                    await upstream.read()
                    return None
                kept = {name: value for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP}
                if "Content-Encoding" in upstream.headers:
                    kept["Content-Encoding"] = upstream.headers["Content-Encoding"]
                answer = web.StreamResponse(status=upstream.status, headers=kept)
                await answer.prepare(request)
                self.counts["ok"] += 1
                try:
                    async with asyncio.timeout(fault.cut_after):
                        async for chunk in upstream.content.iter_any():
                            await answer.write(chunk)
                except TimeoutError:
                    self.counts["watch"] += 1
                    _cut(request)
                    return answer
                await answer.write_eof()
                return answer
        except (aiohttp.ClientError, ConnectionError, OSError):
            _cut(request)
            return web.Response(status=502)

    def _refuse(self, request: web.Request, status: int) -> web.Response:
        self.counts[str(status) if status else "cut"] += 1
        if status == 0:
            _cut(request)
            return web.Response(status=502)
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": status,
            "reason": _REASONS[status],
            "message": f"a fault on purpose: {status}",
        }
        return web.json_response(body, status=status, headers={"Retry-After": "1"} if status == 429 else {})


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
