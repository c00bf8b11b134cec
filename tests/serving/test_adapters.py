"""Loading and unloading adapters, against a server that answers as vLLM 0.32.0 did when it was asked (vllm_answers)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web

from vllm_operator.api.names import Key
from vllm_operator.serving.adapters import FIRST_RETRY, LONGEST_RETRY, AdapterLoader, Change, http_ask
from vllm_operator.serving.probe import ProbeState, Target, probe

KEY = Key("ns", "m")
TARGET = Target("pod", "uid", "10.0.0.1", 8000)
SQL = Change("load", "sql", "/adapters/sql")
virtual = pytest.mark.looptime(start=0, noop_cycles=0)


class VLLM:
    """What vLLM has loaded, and how it answers."""

    def __init__(self, *, replaces: bool = True) -> None:
        self.replaces = replaces
        self.adapters: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        self.requests.append((path, body))
        name, source = body.get("lora_name", ""), body.get("lora_path", "")
        if path == "/v1/unload_lora_adapter":
            if name not in self.adapters:
                return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
            del self.adapters[name]
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        if path != "/v1/load_lora_adapter":
            return 404, '{"detail":"Not Found"}'
        if name in self.adapters and not (body.get("load_inplace") and self.replaces):
            words = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True."
            )
            return _error(400, "InvalidUserInput", words)
        if source == "/adapters/large":
            words = (
                "Call to add_lora method failed: Worker failed with error 'LoRA rank 64 is greater than max_lora_rank "
                "16.', please check the stack trace above for the root cause"
            )
            return _error(500, "InternalServerError", words)
        if source == "org/missing":
            return _error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {source}")
        self.adapters[name] = source
        return 200, f"Success: LoRA adapter '{name}' added successfully."


def _error(status: int, kind: str, message: str) -> tuple[int, str]:
    return status, json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}})


class Bench:
    """A loader, and what it told."""

    def __init__(self, vllm: VLLM) -> None:
        self.vllm = vllm
        self.looked: list[tuple[Key, str]] = []
        self.woken: list[Key] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.loader = AdapterLoader(self._ask, look=self._look, wake=self.woken.append)

    async def _ask(self, target: Target, path: str, body: Any) -> tuple[int, str]:
        await self.gate.wait()
        return self.vllm.answer(path, dict(body))

    async def _look(self, key: Key, uid: str) -> None:
        self.looked.append((key, uid))

    async def make(self, *changes: Change) -> None:
        """Want changes, and wait until they are made or refused."""
        before = len(self.woken)
        self.loader.want(KEY, TARGET, changes)
        async with asyncio.timeout(5):
            while len(self.woken) == before:
                await asyncio.sleep(0)


@virtual
async def test_load_replace_and_unload() -> None:
    bench = Bench(VLLM())
    await bench.make(SQL, Change("load", "law", "org/law"))
    assert bench.vllm.adapters == {"sql": "/adapters/sql", "law": "org/law"}
    await bench.make(Change("replace", "sql", "/adapters/newer"), Change("unload", "law"))
    assert bench.vllm.adapters == {"sql": "/adapters/newer"}
    assert bench.looked == [(KEY, "uid")] * 2, "the pod is asked what it has before it is looked at again"
    assert bench.loader.failures(KEY, "uid") == {}
    assert bench.loader.again(KEY) is None


@virtual
async def test_a_version_that_cannot_replace_unloads_first() -> None:
    bench = Bench(VLLM(replaces=False))
    await bench.make(SQL)
    await bench.make(Change("replace", "sql", "/adapters/newer"))
    assert bench.vllm.adapters == {}
    await bench.make(Change("load", "sql", "/adapters/newer"))
    assert bench.vllm.adapters == {"sql": "/adapters/newer"}


@virtual
async def test_what_is_done_already_is_no_failure() -> None:
    bench = Bench(VLLM())
    bench.vllm.adapters["sql"] = "/adapters/sql"
    await bench.make(SQL, Change("unload", "gone"))
    assert bench.loader.failures(KEY, "uid") == {}


@virtual
async def test_a_pod_at_work_is_left_alone() -> None:
    bench = Bench(VLLM())
    bench.gate.clear()
    for _ in range(5):
        bench.loader.want(KEY, TARGET, [SQL])
        await asyncio.sleep(1)
    bench.gate.set()
    await asyncio.sleep(1)
    assert len(bench.vllm.requests) == 1


@virtual
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/adapters/large", "LoRA rank 64 is greater than max_lora_rank 16."),
        ("org/missing", "No adapter found for org/missing"),
    ],
)
async def test_what_is_refused_is_tried_less_and_less_often(source: str, message: str) -> None:
    bench = Bench(VLLM())
    wrong, now = Change("load", "sql", source), asyncio.get_running_loop().time
    for tries in range(1, 9):
        await bench.make(wrong)
        assert len(bench.vllm.requests) == tries
        (failure,) = bench.loader.failures(KEY, "uid").values()
        assert message in failure.message
        pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** (tries - 1))
        assert bench.loader.again(KEY) == pytest.approx(pause)
        bench.loader.want(KEY, TARGET, [wrong])
        await asyncio.sleep(failure.until - now())
        assert len(bench.vllm.requests) == tries, "not before its time"
    await bench.make(Change("load", "sql", "/adapters/right"))
    assert bench.loader.again(KEY) is None


@virtual
async def test_a_pod_that_is_gone_is_forgotten() -> None:
    bench = Bench(VLLM())
    await bench.make(Change("load", "sql", "org/missing"))
    bench.loader.keep(KEY, {"uid"})
    assert bench.loader.failures(KEY, "uid")
    bench.loader.keep(KEY, ())
    assert not bench.loader.failures(KEY, "uid")
    bench.gate.clear()
    bench.loader.want(KEY, TARGET, [SQL])
    await asyncio.sleep(1)
    bench.loader.keep(KEY, ())
    bench.gate.set()
    await asyncio.sleep(1)
    assert len(bench.vllm.requests) == 1


@contextlib.asynccontextmanager
async def served(vllm: VLLM, api_key: str) -> AsyncIterator[Target]:
    """vLLM by HTTP: under /v1 it asks for a key."""

    async def change(request: web.Request) -> web.Response:
        if request.headers.get("authorization") != f"Bearer {api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        status, text = vllm.answer(request.path, await request.json())
        return web.Response(status=status, text=text)

    async def models(request: web.Request) -> web.Response:
        base: list[dict[str, Any]] = [{"id": "base", "root": "/models/base", "parent": None, "max_model_len": 256}]
        listed = [
            {"id": name, "root": path, "parent": "base", "max_model_len": None} for name, path in vllm.adapters.items()
        ]
        return web.json_response({"object": "list", "data": base + listed})

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    application.add_routes([web.get("/health", health), web.get("/v1/models", models), web.post("/{path:.*}", change)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Target("pod", "uid", "127.0.0.1", runner.addresses[0][1], api_key)
    finally:
        await runner.cleanup()


async def test_by_http() -> None:
    vllm = VLLM()
    async with served(vllm, "sk-own") as target, httpx.AsyncClient(trust_env=False) as client:
        ask = http_ask(client)
        done = asyncio.Event()

        async def look(key: Key, uid: str) -> None:
            done.set()

        loader = AdapterLoader(ask, look=look, wake=lambda key: None)
        loader.want(KEY, target, [SQL])
        async with asyncio.timeout(10):
            await done.wait()
        assert vllm.requests == [("/v1/load_lora_adapter", {"lora_name": "sql", "lora_path": "/adapters/sql"})]
        found = await probe(client, target)
        assert (found.state, found.models) == (ProbeState.OK, ("base", "sql"))
        assert found.adapters == (("sql", "/adapters/sql"),)
        assert found.max_model_len == 256
        await loader.close()
