"""The real Envoy with what the gateway renders, and small servers in the place of pods."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from tests.cluster import envoy
from tests.cluster.progress import Progress
from vllm_operator.gateway.bootstrap import Patience, build_bootstrap
from vllm_operator.gateway.render import render
from vllm_operator.gateway.state import Endpoint, GatewayState
from vllm_operator.gateway.xds import XdsServer


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@dataclass
class Pod:
    """What stands in the place of a vLLM: it notes what reaches it, and says who it is."""

    name: str
    endpoint: Endpoint
    requests: list[dict[str, Any]] = field(default_factory=list)
    checks: int = 0
    """Times that its /health was asked."""
    names: frozenset[str] | None = None
    """Models that it knows, as vLLM knows its served names; None: any."""
    hold: asyncio.Event | None = None
    """It answers when this is set; of a streamed answer it keeps the end back till then."""
    pieces: asyncio.Queue[bytes] | None = None
    """It answers with these, as they come; an empty one is the end."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Headers of its answers."""
    runner: web.AppRunner | None = None

    async def stop(self) -> None:
        """Die."""
        if self.runner is not None:
            await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            self.checks += 1
            return web.Response()
        body = await request.read()
        self.requests.append({"path": request.path_qs, "headers": dict(request.headers), "body": body})
        if b'"stream":true' in body and self.pieces is None:
            return await self._stream(request)
        if self.hold is not None:
            await self.hold.wait()
        if self.pieces is not None:
            return await self._stream_pieces(request, self.pieces)
        if "json" in request.headers.get("content-type", "").lower():
            try:
                asked = json.loads(body)["model"]
            except (ValueError, KeyError, TypeError, RecursionError):
                return _refuse(400)
            if self.names is not None and not (isinstance(asked, str) and asked in self.names):
                return _refuse(404)
            return web.json_response({"served_by": self.name, "model": asked}, headers=self.told)
        return web.json_response({"served_by": self.name}, headers=self.told)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream", **self.told})
        await answer.prepare(request)
        await answer.write(b"data: {}\n\n")
        if self.hold is not None:
            await self.hold.wait()
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def _stream_pieces(self, request: web.Request, pieces: asyncio.Queue[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **self.told})
        await response.prepare(request)
        while piece := await pieces.get():
            await response.write(piece)
        return response


def _refuse(status: int) -> web.Response:
    body = {"error": {"message": "from the pod", "type": "pod", "param": None, "code": "by_the_pod"}}
    return web.json_response(body, status=status)


def served_by(answer: httpx.Response) -> str:
    """Name of the pod that answered."""
    assert answer.status_code == 200, answer.text
    return str(answer.json()["served_by"])


def error(answer: httpx.Response) -> dict[str, Any]:
    """What an answer that is an error says."""
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


@dataclass
class Gateway:
    """Envoy, and the server that tells it what to do."""

    url: str
    admin: str
    server: XdsServer
    client: httpx.AsyncClient
    process: asyncio.subprocess.Process
    log: Path
    access_log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def publish(self, state: GatewayState) -> None:
        await self.server.publish(render(state))

    async def ask(
        self,
        body: Any,
        *,
        key: str | None = None,
        path: str = "/v1/chat/completions",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """POST JSON, or bytes as they are."""
        sent = {"authorization": f"Bearer {key}"} if key else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(
            path, content=content, headers={"content-type": "application/json", **sent, **(headers or {})}
        )

    async def get(self, path: str, *, key: str | None = None) -> httpx.Response:
        return await self.client.get(path, headers={"authorization": f"Bearer {key}"} if key else {})

    async def stats(self, pattern: str) -> dict[str, int]:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self.admin}/stats", params={"filter": pattern, "format": "json"})
        return {each["name"]: each["value"] for each in answer.json()["stats"] if "value" in each}

    async def wait_healthy(self, hosts: int) -> None:
        """Wait until this many pods, of all models together, have answered their health checks."""
        async with asyncio.timeout(10):
            while sum((await self.stats(r"^cluster\.model/.*membership_healthy")).values()) != hosts:
                await asyncio.sleep(0.05)

    def peak_memory(self) -> int:
        """Bytes that Envoy has had at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
        return peak * 1024

    async def end(self) -> list[dict[str, Any]]:
        """End Envoy; its whole access log."""
        self.process.terminate()
        await self.process.wait()
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]


@asynccontextmanager
async def serve(*pods: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[list[Pod]]:
    """Pods of these names."""
    async with AsyncExitStack() as stack:
        made = []
        for name in pods:
            pod = Pod(name, Endpoint("127.0.0.1", free_port()))
            app = web.Application(client_max_size=1024**3)
            app.router.add_route("*", "/{path:.*}", pod.answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            pod.runner = runner
            stack.push_async_callback(pod.stop)
            await web.TCPSite(runner, "127.0.0.1", pod.endpoint.port, ssl_context=tls).start()
            made.append(pod)
        yield made


@asynccontextmanager
async def gateway(
    folder: Path, state: GatewayState, patience: Patience | None = None, *, threads: int = 1
) -> AsyncIterator[Gateway]:
    """An Envoy that has this state."""
    program = envoy.program(Progress())
    port, admin, agent = free_port(), free_port(), free_port()

    async def warming() -> int:
        """As Envoy's administration interface says; it may not have been started yet."""
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{admin}/stats", params={"filter": "warming_clusters"})
        except httpx.TransportError:
            return 1
        return sum(int(line.rpartition(":")[2]) for line in answer.text.splitlines())

    server = XdsServer(warming=warming)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", agent).start()
    bootstrap = build_bootstrap(
        port=port,
        admin_port=admin,
        agent_port=agent,
        largest_body=state.largest_body,
        node="test",
        address="127.0.0.1",
        patience=patience or Patience(),
    )
    configuration, log, access_log = folder / "envoy.json", folder / "envoy.log", folder / "access.log"
    configuration.write_text(json.dumps(bootstrap))
    with log.open("wb") as errors, access_log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program,
            *(
                "-c",
                str(configuration),
                "--concurrency",
                str(threads),
                "--log-level",
                "warning",
                "--disable-hot-restart",
                "--file-flush-interval-msec",
                "100",
            ),
            stdout=output,
            stderr=errors,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            found = Gateway(
                f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", server, client, process, log, access_log
            )
            await server.publish(render(state))
            async with asyncio.timeout(30):
                while not await _ready(client):
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.05)
            yield found
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            await process.wait()
        await runner.cleanup()


async def _ready(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/v1/models")
    except httpx.TransportError:
        return False
    return answer.status_code in (200, 401)
