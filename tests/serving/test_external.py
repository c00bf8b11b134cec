"""The look at servers outside of the cluster, against real ones with real certificates."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.certificates import Authority
from vllm_operator.api.endpoint import Server, read_networks
from vllm_operator.api.names import Key
from vllm_operator.serving import external as serving
from vllm_operator.serving.external import (
    ExternalProber,
    ExternalResult,
    ExternalState,
    ExternalTarget,
    LookupFailed,
    ToolsFinding,
    look_up,
)

KEY = Key("ns", "m")
LOOPBACK = read_networks("127.0.0.0/8,::1/128")
TOKEN = "sk-of-the-server-outside"
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass
class Outside:
    """A server that speaks as OpenAI's does."""

    models: Any = field(default_factory=lambda: {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b"}]})
    status: int = 200
    chat: tuple[int, Any] = (200, {"choices": []})
    key: str | None = None
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    port: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.requests.append((f"{request.method} {request.path}", request.headers["host"], body))
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "no"}, status=401)
        if request.path.endswith("/v1/models"):
            text = self.models if isinstance(self.models, str) else json.dumps(self.models)
            return web.Response(text=text, status=self.status)
        if body is not None and "max_tokens" in body and self.chat[0] == 421:
            return web.json_response({"error": "use max_completion_tokens instead"}, status=400)
        status, said = self.chat if self.chat[0] != 421 else (200, {})
        return web.json_response(said, status=status)

    @property
    def asked_for_tools(self) -> int:
        return sum(what == "POST /v1/chat/completions" for what, _, _ in self.requests)


@contextlib.asynccontextmanager
async def running(outside: Outside, tls: ssl.SSLContext | None = None) -> AsyncIterator[Outside]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", outside.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        outside.port = runner.addresses[0][1]
        yield outside
    finally:
        await runner.cleanup()


def target(port: int, *names: str, tls: bool = False, host: str = "127.0.0.1", **fields: Any) -> ExternalTarget:
    return ExternalTarget(server=Server(host, port, tls), names=names or ("a",), asked="1", **fields)


async def found(wanted: ExternalTarget, **options: Any) -> ExternalResult:
    """The first answer that says all."""
    changed = asyncio.Event()
    prober = ExternalProber(lambda key: changed.set(), clock=lambda: NOW, **{"networks": LOOPBACK, **options})
    prober.watch(KEY, wanted)
    try:
        async with asyncio.timeout(20):
            while True:
                await changed.wait()
                changed.clear()
                result = prober.result(KEY)
                assert result is not None
                done = result.tools is not None or not wanted.ask_tools
                if done or result.state is not ExternalState.OK:
                    return result
    finally:
        await prober.close()


async def test_all_is_well() -> None:
    async with running(Outside(key=TOKEN)) as outside:
        result = await found(target(outside.port, api_key=TOKEN))
    assert result.state is ExternalState.OK
    assert (result.models, result.max_model_len) == (("a", "b"), 4096)
    assert result.tools == ToolsFinding(True, "1", NOW)
    assert outside.requests[0][:2] == ("GET /v1/models", f"127.0.0.1:{outside.port}")
    (asked,) = [body for what, _, body in outside.requests if what.startswith("POST")]
    assert (asked["model"], asked["tool_choice"], len(asked["tools"])) == ("a", "auto", 1)


@pytest.mark.parametrize(
    ("chat", "tools", "requests"),
    [
        ((200, {}), True, 1),
        ((421, {}), True, 2),
        ((400, {"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'}), False, 1),
        ((422, {"detail": "extra field: tools"}), False, 1),
        ((404, {}), False, 1),
        ((400, {"message": "messages are too long"}), None, 1),
        ((500, {"message": "tool"}), None, 1),
        ((429, {}), None, 1),
    ],
)
async def test_tools(chat: tuple[int, Any], tools: bool | None, requests: int) -> None:
    async with running(Outside(chat=chat)) as outside:
        result = await found(target(outside.port))
    assert result.tools is not None
    assert (result.tools.tools, outside.asked_for_tools) == (tools, requests)


async def test_what_is_known_of_tools_is_not_asked_again() -> None:
    known = ToolsFinding(False, "1", NOW - timedelta(hours=23))
    async with running(Outside()) as outside:
        assert (await found(target(outside.port, known=known))).tools == known
        assert (await found(target(outside.port, ask_tools=False))).tools is None
        assert outside.asked_for_tools == 0
        for other in (replace(known, asked="2"), replace(known, at=NOW - timedelta(hours=25))):
            assert (await found(target(outside.port, known=other))).tools in (other, ToolsFinding(True, "1", NOW))
        assert (await found(target(outside.port, known=replace(known, asked="2")))).tools == ToolsFinding(
            True, "1", NOW
        )


@pytest.mark.parametrize(
    ("outside", "state", "detail"),
    [
        (Outside(key=TOKEN), ExternalState.KEY_REJECTED, "asks for a key: set external.apiKeySecretRef"),
        (Outside(status=403), ExternalState.KEY_REJECTED, "asks for a key"),
        (Outside(status=503), ExternalState.UNHEALTHY, "GET /v1/models is answered with 503"),
        (Outside(status=429), ExternalState.UNHEALTHY, "GET /v1/models is answered with 429"),
        (Outside(status=404), ExternalState.NOT_OPENAI, "is answered with 404: is the path right?"),
        (Outside(status=302), ExternalState.NOT_OPENAI, "is answered with 302"),
        (Outside(models="<html>"), ExternalState.NOT_OPENAI, "does not answer as the OpenAI API does"),
        (Outside(models={"data": [1]}), ExternalState.NOT_OPENAI, "does not answer as the OpenAI API does"),
        (Outside(models={"data": [{"id": "x"}]}), ExternalState.MODEL_NOT_LISTED, "/v1/models lacks a; it lists x"),
        (Outside(models={"data": []}), ExternalState.MODEL_NOT_LISTED, "/v1/models lacks a; it lists nothing"),
    ],
)
async def test_what_is_not_well(outside: Outside, state: ExternalState, detail: str) -> None:
    async with running(outside):
        result = await found(target(outside.port))
    assert result.state is state
    assert detail in result.detail


async def test_a_wrong_key() -> None:
    async with running(Outside(key=TOKEN)) as outside:
        result = await found(target(outside.port, api_key="sk-wrong"))
    assert result.state is ExternalState.KEY_REJECTED
    assert "refuses the key of external.apiKeySecretRef" in result.detail
    assert "sk-wrong" not in repr((result, target(1, api_key="sk-wrong")))


async def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def here(host: str, networks: Any) -> tuple[str, ...]:
        return ("127.0.0.1",)

    monkeypatch.setattr(serving, "look_up", here)
    authority, other = Authority(tmp_path), Authority(tmp_path, "another")
    async with running(Outside(), authority.server("DNS:models.example.com")) as outside:

        async def asked(host: str, ca: str | None) -> ExternalResult:
            return await found(target(outside.port, tls=True, host=host, ca=ca, ask_tools=False))

        assert (await asked("models.example.com", authority.certificate)).state is ExternalState.OK
        assert outside.requests[-1][1] == f"models.example.com:{outside.port}"
        reached = len(outside.requests)
        for host, ca, why in (
            ("models.example.org", authority.certificate, "Hostname mismatch"),
            ("models.example.com", other.certificate, "certificate"),
            ("models.example.com", None, "certificate"),
            ("models.example.com", "no certificate", "the value of caSecretRef is no certificate (PEM)"),
        ):
            result = await asked(host, ca)
            assert result.state is ExternalState.TLS_FAILED, (host, result)
            assert why in result.detail
        assert len(outside.requests) == reached
    async with running(Outside()) as plain:
        result = await found(target(plain.port, tls=True, host="models.example.com", ask_tools=False))
        assert result.state is ExternalState.TLS_FAILED
        assert f"no TLS with models.example.com:{plain.port}" in result.detail


async def test_nobody_there() -> None:
    async with running(Outside()) as outside:
        port = outside.port
    result = await found(target(port))
    assert result.state is ExternalState.UNREACHABLE
    assert f"cannot connect to 127.0.0.1:{port}" in result.detail


async def test_what_only_the_cluster_sees_is_not_asked() -> None:
    async with running(Outside()) as outside:
        for host in ("127.0.0.1", "localhost"):
            result = await found(target(outside.port, host=host), networks=())
            assert result.state is ExternalState.NOT_ALLOWED
            assert "gateway.externalNetworks" in result.detail
        assert not outside.requests
        assert await look_up("localhost", LOOPBACK)
        with pytest.raises(LookupFailed, match=r"nowhere\.invalid cannot be looked up") as caught:
            await look_up("nowhere.invalid", ())
        assert caught.value.state is ExternalState.UNREACHABLE


async def test_changes_are_told_and_a_blink_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CONFIRM_AFTER", 0.01)
    monkeypatch.setattr(serving, "FIRST_PAUSE", 0.01)
    told: list[ExternalState] = []
    prober = ExternalProber(
        lambda key: told.append(prober.result(key).state),  # type: ignore[union-attr]
        clock=lambda: NOW,
        networks=LOOPBACK,
        interval=0.02,
    )

    async def until(*states: ExternalState) -> None:
        async with asyncio.timeout(20):
            while told != list(states):
                await asyncio.sleep(0.005)

    async with running(Outside()) as outside:
        prober.watch(KEY, target(outside.port, ask_tools=False))
        try:
            await until(ExternalState.OK)
            outside.status = 429
            count = len(outside.requests)
            async with asyncio.timeout(20):
                while len(outside.requests) < count + 4:
                    await asyncio.sleep(0.005)
            assert told == [ExternalState.OK], "asked too often says nothing of the model"
            outside.status = 500
            await until(ExternalState.OK, ExternalState.UNHEALTHY)
            outside.status = 200
            await until(ExternalState.OK, ExternalState.UNHEALTHY, ExternalState.OK)
            prober.watch(KEY, target(outside.port, ask_tools=False, known=ToolsFinding(True, "1", NOW)))
            assert prober.result(KEY) is not None, "what is known is no other question"
            prober.forget(KEY)
            assert prober.result(KEY) is None
        finally:
            await prober.close()
