"""The probe against a real HTTP server on loopback; timing against a transport that answers as that server does."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import web

from vllm_operator.api.names import Key
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.serving import probe as probing
from vllm_operator.serving.probe import (
    CONFIRM_AFTER,
    LONGEST_PAUSE,
    TIMEOUT,
    Prober,
    ProbeResult,
    ProbeState,
    Target,
    missing_names,
    probe,
    read_kv_cache_tokens,
)
from vllm_operator.serving.startup import StartUp

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
virtual = pytest.mark.looptime(start=0, noop_cycles=0)
KEY = Key("ns", "m")
MODELS = {
    "object": "list",
    "data": [{"id": "b", "max_model_len": 4096}, {"id": "a", "max_model_len": 2048}, {"id": "c"}],
}


async def good_health(_: web.Request) -> web.StreamResponse:
    return web.Response()


async def good_models(_: web.Request) -> web.StreamResponse:
    return web.json_response(MODELS)


@contextlib.asynccontextmanager
async def server(
    health: Handler = good_health, models: Handler = good_models, metrics: Handler | None = None
) -> AsyncIterator[Target]:
    application = web.Application()
    application.add_routes([web.get("/health", health), web.get("/v1/models", models)])
    if metrics is not None:
        application.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Target("pod", "uid", "127.0.0.1", runner.addresses[0][1], None)
    finally:
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as made:
        yield made


def answering(status: int, body: bytes | str = b"", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return handler


async def hanging(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def trickling(request: web.Request) -> web.StreamResponse:
    """A byte now and then: each read comes in time, the answer never."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(10000):
        await response.write(b" ")
        await asyncio.sleep(0.02)
    return response


async def breaking_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"x")
    assert request.transport is not None
    request.transport.abort()
    return response


async def with_key(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Authorization") != "Bearer sesame":
        return web.json_response({"error": "Unauthorized"}, status=401)
    return web.json_response(MODELS)


def cache_info(**labels: str) -> str:
    """/metrics as vLLM writes it: much else, then the info of its cache."""
    words = ",".join(f'{name}="{value}"' for name, value in {"block_size": "16", "engine": "0", **labels}.items())
    return (
        "# HELP vllm:num_requests_running Number of requests.\n# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{engine="0",model_name="m"} 0.0\n'
        "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n# TYPE vllm:cache_config_info gauge\n"
        f"vllm:cache_config_info{{{words}}} 1.0\n"
    )


METRICS: list[tuple[str, Handler, int | None]] = [
    ("tokens", answering(200, cache_info(kv_cache_size_tokens="81920", num_gpu_blocks="1")), 81920),
    ("older vLLM", answering(200, cache_info(num_gpu_blocks="100")), 1600),
    ("not known", answering(200, cache_info(kv_cache_size_tokens="None", num_gpu_blocks="None")), None),
    ("no such metric", answering(200, "up 1\n"), None),
    ("odd", answering(200, 'vllm:cache_config_info{kv_cache_size_tokens="\n'), None),
    ("404", answering(404, cache_info(kv_cache_size_tokens="1")), None),
    ("endless", answering(200, ("x" * 1000 + " 1\n") * 12_000), None),
]


@pytest.mark.parametrize(("metrics", "tokens"), [row[1:] for row in METRICS], ids=[row[0] for row in METRICS])
async def test_kv_cache_tokens(client: httpx.AsyncClient, metrics: Handler, tokens: int | None) -> None:
    async with server(metrics=metrics) as target:
        assert await read_kv_cache_tokens(client, target) == tokens


async def test_the_cache_is_asked_for_once(client: httpx.AsyncClient) -> None:
    asked = 0

    async def metrics(_: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(text=cache_info(kv_cache_size_tokens="4096"))

    changes: list[Key] = []
    async with server(metrics=metrics) as target:
        prober = Prober(client, changes.append, interval=0.05)
        prober.watch(KEY, [target])
        async with asyncio.timeout(10):
            rounds = 0
            while rounds < 5:
                before = len(changes)
                await asyncio.sleep(0.05)
                rounds += bool(prober.results(KEY)) and len(changes) == before
        await prober.close()
    (result,) = prober.results(KEY).values()
    assert result.kv_cache_tokens == 4096
    assert asked == 1
    assert changes == [KEY]


@pytest.mark.parametrize(
    ("errors", "asked", "start_up"),
    [
        ([], 1, StartUp(weights=15.27, load_seconds=4.5)),
        ([ApiError("forbidden", category=Category.DENIED, status=403)], 1, StartUp()),
        ([ApiError("busy", category=Category.TRANSIENT, status=500)], 2, StartUp(weights=15.27, load_seconds=4.5)),
    ],
)
@virtual
async def test_the_log_is_read_once(errors: list[ApiError], asked: int, start_up: StartUp) -> None:
    pods, read = Pods(), list[Key]()

    async def log(pod: Key) -> str:
        read.append(pod)
        if errors:
            raise errors.pop()
        return "(Worker_TP0 pid=1) INFO Model loading took 15.27 GiB memory and 4.5 seconds\n"

    async with prober(pods, read_log=log) as (made, _):
        made.watch(KEY, [target()])
        await asyncio.sleep(1000)
        (result,) = made.results(KEY).values()
    assert (result.state, result.start_up) == (ProbeState.OK, start_up)
    assert read == [Key(KEY.namespace, "pod1")] * asked


@virtual
async def test_a_log_that_does_not_come_keeps_no_probe_waiting() -> None:
    pods = Pods()
    never = asyncio.Event()
    reading = most = 0

    async def log(_: Key) -> str:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        try:
            await never.wait()
        finally:
            reading -= 1
        return ""

    async with prober(pods, read_log=log) as (made, _):
        made.watch(KEY, [target(number) for number in range(1, 6)])
        await asyncio.sleep(60)
        assert {result.state for result in made.results(KEY).values()} == {ProbeState.OK}
        asked = len(pods.asked)
        await asyncio.sleep(30)
        assert len(pods.asked) - asked >= 5 * 2 * 8, "each pod every three seconds, by /health and /v1/models"
        assert most == probing.LOGS_AT_ONCE
    assert reading == 0, "nothing is left behind"


@virtual
async def test_a_log_that_breaks_the_reader_is_done_without() -> None:
    async def log(_: Key) -> str:
        raise RuntimeError("a bug")

    async with prober(Pods(), read_log=log) as (made, _):
        made.watch(KEY, [target()])
        await asyncio.sleep(60)
        (result,) = made.results(KEY).values()
    assert (result.state, result.start_up) == (ProbeState.OK, StartUp())


async def test_a_pod_without_metrics_is_no_less_healthy(client: httpx.AsyncClient) -> None:
    async with server() as target:
        prober = Prober(client, lambda key: None, interval=0.05)
        prober.watch(KEY, [target])
        async with asyncio.timeout(10):
            while not prober.results(KEY):
                await asyncio.sleep(0.01)
        await prober.close()
    (result,) = prober.results(KEY).values()
    assert (result.state, result.kv_cache_tokens) == (ProbeState.OK, None)


async def test_all_is_well(client: httpx.AsyncClient) -> None:
    async with server() as target:
        assert await probe(client, target) == ProbeResult(ProbeState.OK, "", ("a", "b", "c"), 2048)


CASES: list[tuple[str, Handler, Handler, ProbeState, str]] = [
    ("500", answering(500), good_models, ProbeState.UNHEALTHY, "/health answers 500"),
    ("503", answering(503), good_models, ProbeState.UNHEALTHY, "/health answers 503"),
    ("redirect", answering(307, Location="/other"), good_models, ProbeState.UNHEALTHY, "/health answers 307"),
    ("broken off", breaking_off, good_models, ProbeState.UNHEALTHY, "broke off"),
    ("404", good_health, answering(404), ProbeState.NO_MODELS, "/v1/models answers 404"),
    ("no JSON", good_health, answering(200, "<html>"), ProbeState.NO_MODELS, "OpenAI"),
    ("empty", good_health, answering(200), ProbeState.NO_MODELS, "OpenAI"),
    ("not UTF-8", good_health, answering(200, b'{"data": "\xff"}'), ProbeState.NO_MODELS, "OpenAI"),
    ("a list", good_health, answering(200, "[]"), ProbeState.NO_MODELS, "OpenAI"),
    ("no data", good_health, answering(200, "{}"), ProbeState.NO_MODELS, "OpenAI"),
    ("data of another kind", good_health, answering(200, '{"data": [1]}'), ProbeState.NO_MODELS, "OpenAI"),
    ("null", good_health, answering(200, '{"data": null}'), ProbeState.NO_MODELS, "OpenAI"),
    ("no id", good_health, answering(200, '{"data": [{}]}'), ProbeState.NO_MODELS, "OpenAI"),
    ("no models", good_health, answering(200, '{"data": []}'), ProbeState.OK, ""),
    ("401", good_health, with_key, ProbeState.KEY_REJECTED, "401"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("health", "models", "state", "words"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
async def test_what_may_be_wrong(
    client: httpx.AsyncClient, health: Handler, models: Handler, state: ProbeState, words: str
) -> None:
    async with server(health, models) as target:
        result = await probe(client, target)
        assert result.state is state
        assert words in result.detail
        assert await probe(client, target) == result, "the same again is said in the same words"


async def test_the_key_is_sent_and_never_shown(client: httpx.AsyncClient) -> None:
    asked: list[str | None] = []

    async def health(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Authorization"))
        return web.Response()

    async with server(health, with_key) as open_target:
        target = Target("pod", "uid", open_target.address, open_target.port, "sesame")
        assert (await probe(client, target)).state is ProbeState.OK
        assert asked == [None], "/health needs no key"
        assert "sesame" not in repr(target)
        wrong = Target("pod", "uid", open_target.address, open_target.port, "wrong-key")
        assert "wrong-key" not in str(await probe(client, wrong))


async def test_nobody_listens(client: httpx.AsyncClient) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # Bound but not listening: connections are refused, and nobody else takes the port.
        result = await probe(client, Target("pod", "uid", "127.0.0.1", held.getsockname()[1], None))
    assert result.state is ProbeState.UNREACHABLE
    assert "cannot connect to port" in result.detail


@pytest.mark.parametrize("slow", [hanging, trickling], ids=["hangs", "trickles"])
@pytest.mark.parametrize("where", ["health", "models"])
async def test_an_answer_takes_too_long(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, slow: Handler, where: str
) -> None:
    monkeypatch.setattr(probing, "TIMEOUT", 0.3)
    health, models = (slow, good_models) if where == "health" else (good_health, slow)
    async with server(health, models) as target:
        async with asyncio.timeout(10):
            result = await probe(client, target)
    assert result == ProbeResult(ProbeState.UNHEALTHY, "no answer within 0.3 s")


def test_base_url() -> None:
    assert Target("p", "u", "10.0.0.1", 8000).base_url == "http://10.0.0.1:8000"
    assert Target("p", "u", "fd00::1", 8000).base_url == "http://[fd00::1]:8000"


def test_missing_names() -> None:
    result = ProbeResult(ProbeState.OK, models=("a", "b"))
    assert missing_names(result, ["b", "c", "d"]) == ["c", "d"]
    assert missing_names(result, ["a"]) == []


# -- timing, on virtual time -------------------------------------------------------------------------------------------


class Pods:
    """httpx's side of pods: address → how it answers. Held to a real server by test_the_stand_in_is_true."""

    def __init__(self) -> None:
        self.mode: dict[str, str] = {}
        self.models = ["m"]
        self.asked: list[tuple[float, str]] = []
        self.under_way = 0
        self.most_under_way = 0

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            self.asked.append((asyncio.get_running_loop().time(), request.url.host))
            return await self._respond(request, self.mode.get(request.url.host, "good"))
        finally:
            self.under_way -= 1

    async def _respond(self, request: httpx.Request, mode: str) -> httpx.Response:
        await asyncio.sleep(0.01)
        if mode == "refused":
            raise httpx.ConnectError("All connection attempts failed", request=request)
        if mode == "hanging":
            await asyncio.sleep(1e6)
        if mode == "500":
            return httpx.Response(500)
        if mode == "broken":
            raise RuntimeError("no httpx error")
        return httpx.Response(200, json={"data": [{"id": name} for name in self.models]})


@pytest.mark.parametrize("mode", ["good", "500", "refused", "hanging"])
async def test_the_stand_in_is_true(monkeypatch: pytest.MonkeyPatch, client: httpx.AsyncClient, mode: str) -> None:
    """The stand-in and a real server give the same result."""
    monkeypatch.setattr(probing, "TIMEOUT", 0.3)
    pods = Pods()
    pods.mode["127.0.0.1"] = mode
    health = {"good": good_health, "500": answering(500), "refused": good_health, "hanging": hanging}[mode]
    async with server(health, answering(200, '{"data": [{"id": "m"}]}')) as target:
        port = target.port
        if mode != "refused":
            real = await probe(client, target)
    if mode == "refused":
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            real = await probe(client, Target("pod", "uid", "127.0.0.1", port))
    async with pods.client() as mocked:
        assert await probe(mocked, Target("pod", "uid", "127.0.0.1", port)) == real


INTERVAL = 3.0


def target(number: int = 1, *, key: str | None = None) -> Target:
    return Target(f"pod{number}", f"uid{number}", f"10.0.0.{number}", 8000, key)


@contextlib.asynccontextmanager
async def prober(pods: Pods, **options: Any) -> AsyncIterator[tuple[Prober, list[float]]]:
    """A prober and the times at which it told of a change."""
    changes: list[float] = []
    async with pods.client() as client:
        made = Prober(
            client,
            lambda key: changes.append(asyncio.get_running_loop().time()),
            **{"interval": INTERVAL, **options},
        )
        yield made, changes
        await made.close()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("probe")] == []


@virtual
async def test_the_first_answer_is_a_change_and_the_same_again_is_none() -> None:
    pods = Pods()
    async with prober(pods) as (made, changes):
        made.watch(KEY, [target()])
        assert made.results(KEY) == {}
        await asyncio.sleep(600)
        assert len(changes) == 1
        assert made.results(KEY)["uid1"].state is ProbeState.OK
        assert 150 < len(pods.asked) / 2 < 210, "and yet it asks again and again"


@virtual
@pytest.mark.parametrize("mode", ["500", "refused", "hanging", "broken"])
async def test_a_change_is_noticed_in_time_and_once(mode: str) -> None:
    pods = Pods()
    async with prober(pods) as (made, changes):
        made.watch(KEY, [target()])
        await asyncio.sleep(100.7)
        changes.clear()
        pods.mode["10.0.0.1"] = mode
        changed = asyncio.get_running_loop().time()
        await asyncio.sleep(100)
        assert len(changes) == 1
        assert changes[0] - changed <= INTERVAL + 2 * TIMEOUT + CONFIRM_AFTER + 0.1
        assert made.results(KEY)["uid1"].state is not ProbeState.OK
        pods.mode["10.0.0.1"] = "good"
        changed = asyncio.get_running_loop().time()
        await asyncio.sleep(100)
        assert len(changes) == 2
        assert changes[1] - changed <= INTERVAL * LONGEST_PAUSE + TIMEOUT + 0.1, "good news needs no second look"


@virtual
async def test_a_pod_that_stays_silent_is_asked_less_often_and_a_short_failure_changes_nothing() -> None:
    pods = Pods()
    async with prober(pods) as (made, changes):
        made.watch(KEY, [target()])
        await asyncio.sleep(10)
        pods.mode["10.0.0.1"] = "500"
        await asyncio.sleep(6)
        pods.mode["10.0.0.1"] = "good"
        changed = asyncio.get_running_loop().time()
        await asyncio.sleep(100)
        assert changes[-1] - changed <= 1.5 * INTERVAL + TIMEOUT, "it has only just begun to slow down"
        pods.mode["10.0.0.1"] = "500"
        await asyncio.sleep(1000)
        pods.asked.clear()
        await asyncio.sleep(1200)
        assert 90 <= len(pods.asked) <= 101


@virtual
async def test_another_name_is_a_change() -> None:
    pods = Pods()
    async with prober(pods) as (made, changes):
        made.watch(KEY, [target()])
        await asyncio.sleep(10)
        pods.models = ["other"]
        await asyncio.sleep(10)
        assert len(changes) == 2
        assert made.results(KEY)["uid1"].models == ("other",)


@virtual
async def test_a_single_bad_answer_is_not_believed() -> None:
    pods = Pods()
    async with prober(pods) as (made, changes):
        made.watch(KEY, [target()])
        await asyncio.sleep(10)
        before = len(pods.asked)
        pods.mode["10.0.0.1"] = "500"
        while len(pods.asked) == before:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        pods.mode["10.0.0.1"] = "good"
        await asyncio.sleep(60)
        assert len(changes) == 1
        assert made.results(KEY)["uid1"].state is ProbeState.OK


@virtual
async def test_watch_replaces_the_targets() -> None:
    pods = Pods()
    async with prober(pods) as (made, _):
        made.watch(KEY, [target(1), target(2)])
        await asyncio.sleep(10)
        assert made.results(KEY).keys() == {"uid1", "uid2"}
        made.watch(KEY, [target(2), target(3)])
        assert made.results(KEY).keys() == {"uid2"}, "what was known of the second pod stays"
        pods.asked.clear()
        await asyncio.sleep(10)
        assert {host for _, host in pods.asked} == {"10.0.0.2", "10.0.0.3"}
        assert made.results(KEY).keys() == {"uid2", "uid3"}
        made.forget(KEY)
        pods.asked.clear()
        await asyncio.sleep(10)
        assert pods.asked == []
        assert made.results(KEY) == {}
        made.forget(Key("ns", "unknown"))


@virtual
async def test_a_new_key_is_used_from_the_next_look_on() -> None:
    pods = Pods()
    async with prober(pods) as (made, _):
        made.watch(KEY, [target(key="old")])
        await asyncio.sleep(10)
        made.watch(KEY, [target(key="new")])
        assert len([task for task in asyncio.all_tasks() if task.get_name().startswith("probe")]) == 1
        assert made._targets[KEY]["uid1"].api_key == "new"


@virtual
async def test_models_do_not_disturb_each_other() -> None:
    pods = Pods()
    pods.mode["10.0.0.1"] = "hanging"
    other = Key("ns", "other")
    async with prober(pods) as (made, _):
        made.watch(KEY, [target(1)])
        made.watch(other, [target(2)])
        await asyncio.sleep(1)
        assert made.results(other)["uid2"].state is ProbeState.OK
        made.forget(KEY)
        await asyncio.sleep(10)
        assert made.results(other)["uid2"].state is ProbeState.OK


@virtual
async def test_no_more_than_so_many_at_a_time() -> None:
    pods = Pods()
    async with prober(pods, concurrency=5) as (made, _):
        for number in range(1, 40):
            pods.mode[f"10.0.0.{number}"] = "hanging"
            made.watch(Key("ns", str(number)), [target(number)])
        await asyncio.sleep(60)
        assert pods.most_under_way == 5


@virtual
async def test_close_ends_a_look_under_way() -> None:
    pods = Pods()
    pods.mode["10.0.0.1"] = "hanging"
    async with prober(pods) as (made, changes):
        made.watch(KEY, [target()])
        await asyncio.sleep(0.5)
        started = asyncio.get_running_loop().time()
        await made.close()
        assert asyncio.get_running_loop().time() - started < 0.1
        assert changes == []
