"""What the gateway costs: time added to a request, time until a change is in effect, memory. The real Envoy, told by the real renderer.

In the place of vLLM stands another Envoy, which answers at once, so that all that is measured is the way.
"""

import asyncio
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.cluster import envoy
from tests.cluster.progress import Progress
from tests.cluster.settings import ENVOY_REQUIREMENT
from tests.gateway.envoy import Gateway, free_port, gateway
from vllm_operator.api.names import Key
from vllm_operator.gateway.render import CLUSTER, render
from vllm_operator.gateway.state import ApiKey, Endpoint, GatewayModel, GatewayState

from .figures import percentile

Emit = Callable[..., None]

ROUNDS = 6
"""Direct and through the gateway in turn, so that a busy moment of the machine meets both."""
SHARES = (("p50", 0.5), ("p99", 0.99))
KEYS = tuple(ApiKey(Key("team", f"keys-{number}"), "key", f"sk-bench-{number:032d}") for number in range(10))
BODY = json.dumps({"model": "MODEL", "messages": [{"role": "user", "content": "x" * 300}], "max_tokens": 16})
ANSWER = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"message": {"content": "y" * 300}}]})


def state(models: int, backend: Endpoint, *, last: Endpoint | None = None) -> GatewayState:
    """So many models behind one backend; `last`: where the last of them is instead."""
    made = [
        GatewayModel(
            key=Key("bench", f"model-{number:04d}"),
            created="2026-01-01T00:00:00Z",
            served_model_names=(f"model-{number:04d}",),
            endpoints=(backend,),
            max_model_len=4096,
            callers=frozenset(key.secret for key in KEYS[:2]),
            upstream_key=f"engine-key-{number:032d}",
        )
        for number in range(models)
    ]
    if last is not None:
        made[-1] = replace(made[-1], endpoints=(last,))
    return GatewayState(models=tuple(made), keys=KEYS)


@asynccontextmanager
async def backend(folder: Path) -> AsyncIterator[Endpoint]:
    """Answers every request at once."""
    port = free_port()
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "backend",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200, "body": {"inline_string": ANSWER}},
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "buffer",  # An answer before the body's end would close the connection.
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                    "max_request_bytes": 1024 * 1024,
                },
            },
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    document = {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ]
        }
    }
    path = folder / "backend.json"
    path.write_text(json.dumps(document))
    words = ("-c", str(path), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart", "--base-id", "7")
    process = await asyncio.create_subprocess_exec(envoy.program(Progress()), *words)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield Endpoint("127.0.0.1", port)
    finally:
        process.terminate()
        await process.wait()


def request(model: str, key: str) -> bytes:
    body = BODY.replace("MODEL", model)
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def ask_for_a_while(port: int, sent: Sequence[bytes], *, clients: int, count: int) -> list[float]:
    """Milliseconds of each of `count` requests in all, over one kept connection for each client."""
    numbers = iter(range(count))
    taken: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            began = time.perf_counter()
            writer.write(sent[number % len(sent)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert head.startswith(b"HTTP/1.1 200"), head
            assert length is not None
            await reader.readexactly(int(length[1]))
            taken.append(1000 * (time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return taken


async def latency(emit: Emit, found: Gateway, where: Endpoint, models: int, *, quick: bool) -> None:
    """Direct and through the gateway, at 1 and 64 requests at a time."""
    names = [f"model-{number:04d}" for number in range(0, models, max(1, models // 50))]
    sent = [request(name, KEYS[0].value) for name in names]
    port = int(found.url.rpartition(":")[2])
    for clients, count in ((1, 300 if quick else 1500), (64, 1000 if quick else 4000)):
        direct: list[float] = []
        through: list[float] = []
        await ask_for_a_while(port, sent, clients=clients, count=200)  # Connections and caches are there.
        for _ in range(ROUNDS):
            direct += await ask_for_a_while(where.port, sent, clients=clients, count=count)
            through += await ask_for_a_while(port, sent, clients=clients, count=count)
        added = {
            f"added_{name}": round(percentile(through, share) - percentile(direct, share), 3) for name, share in SHARES
        }
        more = {"models": models, "at_once": clients, "envoy": ENVOY_REQUIREMENT.partition("==")[2]}
        emit("gateway: a request, direct", "ms", direct, **more)
        emit("gateway: a request, through it", "ms", through, **more, **added)


async def effect(emit: Emit, found: Gateway, where: Endpoint, models: int) -> None:
    """Seconds from a change of the state until a request is answered by it."""
    rendering: list[float] = []
    adding: list[float] = []
    removing: list[float] = []

    async def until(status: int) -> None:
        async with asyncio.timeout(60):
            while (await found.ask({"model": "model-new"}, key=KEYS[0].value)).status_code != status:
                await asyncio.sleep(0.005)

    before = state(models, where)
    new = replace(before.models[0], key=Key("bench", "model-new"), served_model_names=("model-new",))
    after = replace(before, models=(*before.models, new))
    for _ in range(5):
        for wanted, status, values in ((after, 200, adding), (before, 404, removing)):
            began = time.perf_counter()
            resources = render(wanted)
            rendering.append(time.perf_counter() - began)
            publishing = asyncio.create_task(found.server.publish(resources))
            await until(status)
            values.append(time.perf_counter() - began)
            await publishing
            # The next is a change of a gateway at rest.
            await found.server.wait_taken((CLUSTER, ()))
    emit("gateway: rendering", "s", rendering, models=models)
    emit("gateway: a model is added, until it is answered for", "s", adding, models=models)
    emit("gateway: a model is removed, until it is not", "s", removing, models=models)


def resident(pid: int) -> float:
    """MiB that a process has in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert match is not None
    return int(match[1]) / 1024


async def measure(emit: Emit, say: Callable[[str], None], *, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="vllm-operator-bench-") as name:
        folder = Path(name)
        async with backend(folder) as where:
            for models in (1, 100) if quick else (1, 100, 1000):
                say(f"gateway with {models} models")
                async with gateway(folder, state(models, where)) as found:
                    await found.wait_healthy(models)
                    await latency(emit, found, where, models, quick=quick)
                    await effect(emit, found, where, models)
                    emit("gateway: memory of Envoy", "MiB", [resident(found.process.pid)], models=models)
                    emit("gateway: memory of the one that tells it", "MiB", [resident(os.getpid())], models=models)


def run(emit: Emit, say: Callable[[str], None], *, quick: bool) -> None:
    """All measurements of the gateway."""
    asyncio.run(measure(emit, say, quick=quick))
