"""The soak's own parts: what it counts as good, its load, and what stands in for vLLM."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web

from tests.e2e.api import eventually
from tests.e2e.traffic import Reply
from tests.gateway.envoy import free_port

from .__main__ import parse
from .changes import CHANGES, STAND_IN, stand_in
from .gateway_log import bad_lines
from .load import Asked, Load, LoadProcess, Orders, Rates, Result, Sample, Verdict, judge
from .report import Report
from .stand_in import StandIn

KEY = "Bearer engine-key"
ORDERS = Orders("nothing", "engine-key", ("steady",), ())
RATES = Rates(requests=200, vllm=1, streams=0.5)


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def after(load: Load, count: int) -> Result:
    """What a load has found when so many of its requests have ended."""
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    async with asyncio.timeout(30):
        while len(load.samples) < count:
            await asyncio.sleep(0.01)
        stop.set()
        return await running


def asked(*, stream: bool, vllm: bool = False, tokens: int = 3, chat: bool = False) -> Asked:
    return Asked("steady", "/v1/chat/completions" if chat else "/v1/completions", stream, tokens, vllm)


async def said(one: Asked, *, key: str = KEY) -> httpx.Response:
    """What the stand-in answers."""
    application = StandIn(["steady"], key=KEY, pace=0).application()
    async with serving(application) as url, httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{url}{one.path}", content=one.body, headers={"authorization": key})


def judged(one: Asked, text: str, *, status: int = 200, problem: str = "") -> tuple[Verdict, str]:
    return judge(one, Reply(0, 0, status, text, one.stream), problem)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chat", [False, True])
async def test_a_whole_answer_is_good(stream: bool, chat: bool) -> None:
    one = asked(stream=stream, chat=chat)
    assert judged(one, (await said(one)).text) == (Verdict.GOOD, "")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda text: text.replace("data: [DONE]\n\n", ""), "does not end as it should"),
        (lambda text: text.replace('"text":"1 "', '"text":""'), "pieces are missing"),
        (lambda text: text.replace('"completion_tokens":3', '"completion_tokens":2'), "2 tokens instead of 3"),
        (lambda text: text.replace('"finish_reason":"length"', '"finish_reason":"abort"'), "does not end as it should"),
        (lambda text: text[:40] + text[80:], "Error"),
    ],
)
async def test_a_stream_that_lacks_something_is_cut(spoil: Callable[[str], str], why: str) -> None:
    one = asked(stream=True)
    whole = (await said(one)).text
    spoilt = spoil(whole)
    assert spoilt != whole
    verdict, problem = judged(one, spoilt)
    assert verdict is Verdict.CUT
    assert why in problem


async def test_an_answer_that_lacks_something_is_cut() -> None:
    one = asked(stream=False)
    whole = (await said(one)).text
    assert judged(one, whole.replace("0 1 2", "0 2"))[0] is Verdict.CUT
    assert judged(one, "{}")[0] is Verdict.CUT
    assert judged(one, whole, problem="ClientPayloadError: …") == (Verdict.CUT, "ClientPayloadError: …")


async def test_an_error_is_a_failure() -> None:
    one = asked(stream=True)
    answer = await said(one, key="Bearer another")
    assert judged(one, answer.text, status=answer.status_code)[0] is Verdict.FAILED
    assert judged(one, "", status=0, problem="refused") == (Verdict.FAILED, "refused")


def test_vllm_says_words_of_its_own() -> None:
    text = json.dumps({"choices": [{"text": "what ever"}], "usage": {"completion_tokens": 3}})
    assert judged(asked(stream=False, vllm=True), text)[0] is Verdict.GOOD
    assert judged(asked(stream=False, vllm=True, tokens=4), text)[0] is Verdict.CUT


async def test_the_load_finds_no_fault_with_the_stand_in() -> None:
    application = StandIn(["steady", "real"], key=KEY, pace=0).application()
    async with serving(application) as url:
        orders = Orders("nothing", "engine-key", ("steady",), ())
        result = await after(Load(url, orders, RATES), 60)
    assert {each.verdict for each in result.samples} == {Verdict.GOOD}
    assert {each.stream for each in result.samples} == {True, False}
    assert all(each.first is not None and each.first <= each.seconds for each in result.samples)


async def test_the_load_tells_of_what_is_cut_and_refused() -> None:
    @web.middleware
    async def spoil(request: web.Request, handler: Any) -> web.StreamResponse:
        if json.loads(await request.read()).get("stream"):
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            await answer.write(b'data: {"choices":[{"text":"0 "}]}\n\n')
            assert request.transport is not None
            request.transport.close()
            return answer
        return web.Response(status=503, text="no replica")

    application = StandIn(["steady"], key=None, pace=0).application()
    application.middlewares.append(spoil)
    async with serving(application) as url:
        load = Load(url, ORDERS, RATES)
        result = await after(load, 40)
    streams = [each.verdict for each in result.samples if each.stream]
    assert set(streams) == {Verdict.CUT}
    assert {each.verdict for each in result.samples if not each.stream} == {Verdict.FAILED}
    told = load.counts()
    assert told.cut == len(streams)
    assert told.failed == len(result.samples) - len(streams)
    assert len(told.failures) == len(result.samples)
    assert {each.status for each in told.failures} == {200, 503}
    assert load.counts().failures == (), "each is told once"


async def test_nobody_there_is_a_failure() -> None:
    result = await after(Load(f"http://127.0.0.1:{free_port()}", ORDERS, RATES), 3)
    assert {each.verdict for each in result.samples} == {Verdict.FAILED}


async def test_vllm_gets_its_share_and_no_more() -> None:
    load = Load("", Orders("nothing", "", ("steady",), ("real",)), Rates(requests=200, vllm=2, streams=0.3))
    drawn = []
    for load._sent in range(1000):
        drawn.append(load._next())
    assert sum(each.vllm for each in drawn) == 10
    assert {each.model for each in drawn if each.vllm} == {"real"}
    assert 200 < sum(each.stream for each in drawn) < 400


async def test_after_an_order_nothing_is_sent_by_the_one_before() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(json.loads(await request.read())["model"])
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    async with serving(application) as url:
        with LoadProcess(url, ORDERS, RATES) as load:
            async with asyncio.timeout(30):
                while "steady" not in seen:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(load.order, stand_ins=("other",), change="another")
                sent = (await asyncio.to_thread(load.counts)).sent
                while seen.count("other") < 20:
                    await asyncio.sleep(0.01)
                result = await asyncio.to_thread(load.finish)
    assert seen.count("steady") <= sent
    assert len(result.samples) == len(seen)
    assert {each.change for each in result.samples} == {"nothing", "another"}


@contextmanager
def stand_in_process(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    command = [sys.executable, str(STAND_IN), "--served-model-name", "steady", "--port", str(port), *words]
    process = subprocess.Popen(command, env={"VLLM_API_KEY": "engine-key"})
    url = f"http://127.0.0.1:{port}"
    try:
        eventually("it serves", lambda: httpx.get(f"{url}/health", trust_env=False).status_code == 200, seconds=30)
        yield process, url
    finally:
        process.kill()
        process.wait()


async def test_the_stand_in_finishes_what_is_under_way_when_it_is_told_to_end() -> None:
    one = asked(stream=True, tokens=5)
    with stand_in_process("--pace", "0.1") as (process, url):
        async with aiohttp.ClientSession() as session:
            headers = {"authorization": KEY}
            async with session.post(f"{url}{one.path}", data=one.body, headers=headers) as answer:
                text = await answer.content.readuntil(b"\n\n")
                process.send_signal(signal.SIGTERM)
                text += await answer.read()
        assert process.wait(timeout=30) == 0
    assert judged(one, text.decode()) == (Verdict.GOOD, "")


def test_the_stand_in_asks_for_the_key_as_vllm_does() -> None:
    with stand_in_process() as (_, url):
        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
        answer = httpx.get(f"{url}/v1/models", headers={"authorization": KEY}, trust_env=False)
        assert [each["id"] for each in answer.json()["data"]] == ["steady"]


def test_its_pods_run_the_stand_in() -> None:
    spec = stand_in("guest")["spec"]["podTemplate"]["spec"]
    (container,) = spec["containers"]
    assert container["command"][-1] == "guest"
    assert container["volumeMounts"][0]["name"] == spec["volumes"][0]["name"]


def sample(verdict: Verdict = Verdict.GOOD, **others: Any) -> Sample:
    fields = {"change": "a", "vllm": False, "stream": False, "late": 0.0, "seconds": 0.01, "first": 0.01, **others}
    return Sample(verdict=verdict, **fields)


def report(*samples: Sample, trouble: tuple[str, ...] = ()) -> Report:
    return Report(RATES, Result(samples, 10.0, 1.0), {"a": [2.0, 3.0], "b": [1.0]}, trouble=trouble)


def test_the_report_counts_by_change() -> None:
    samples = [
        sample(),
        sample(Verdict.FAILED, seconds=9.0),
        sample(change="b", stream=True),
        sample(vllm=True, seconds=5),
    ]
    found = json.loads(report(*samples).json())
    assert (found["requests"], found["streams"], found["failed"], found["cut"]) == (4, 1, 1, 0)
    assert found["changes"]["a"]["times"] == 2
    assert (found["changes"]["a"]["requests"], found["changes"]["a"]["failed"]) == (3, 1)
    assert found["changes"]["a"]["answer_p99"] == 10.0, "of the stand-in's good answers only"
    assert found["changes"]["b"]["first_byte_p50"] == 10.0
    assert found["by_vllm"]["answer_p50"] == 5000.0
    assert found["good"] is False
    assert "| a | 2 | 5 | 3 | 0 | 1 | 0 | 10 | 10 |  |  |" in report(*samples).text()


def test_the_report_is_good_only_when_nothing_failed() -> None:
    assert report(sample()).good
    assert not report(sample(), sample(Verdict.CUT)).good
    assert not report(sample(), trouble=("it did not come about",)).good


def test_the_access_log_shows_what_failed() -> None:
    good = json.dumps({"status": 200, "flags": "-"})
    error, broken = json.dumps({"status": 503, "flags": "UF"}), json.dumps({"status": 200, "flags": "UC"})
    assert list(bad_lines("\n".join((good, "[warning] …", error, broken, '{"status": 2')))) == [error, broken]


@pytest.mark.parametrize(
    "words",
    [["--minutes", "0"], ["--rate", "1"], ["--streams", "2"], ["--only", "add,nothing-like-it"]],
)
def test_arguments_that_make_no_sense_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_help_names_every_change(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {each.name} " in shown for each in CHANGES)
