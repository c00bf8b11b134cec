"""What servers outside of the cluster answer: whether they can be reached, take the key, list the model, and take tools.

Asked by address: a name is looked up, its addresses are checked, and one of these is asked, so that no name can lead a request
to what only the cluster sees.
"""

import asyncio
import json
import logging
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import httpx

from vllm_operator.api.endpoint import Network, Server, is_address, may_be_asked
from vllm_operator.api.names import Key
from vllm_operator.serving.tasks import cancel

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds that connecting, and the list of models, may take."""
TOOLS_TIMEOUT = 60.0
"""Seconds that the one request with a tool may take."""
LOOKUP_TIMEOUT = 5.0
INTERVAL = 30.0
"""Seconds between two looks at the list of models."""
FIRST_PAUSE = 5.0
"""Seconds until a server that does not answer is asked again; each time longer, up to INTERVAL."""
CONFIRM_AFTER = 1.0
"""Seconds after which a failure is looked at again before it is believed."""
TOOLS_AGAIN = timedelta(hours=24)
"""How long a finding about tools holds."""
TOOLS_RETRY = timedelta(hours=1)
"""When a server that did not say whether it takes tools is asked again."""
LARGEST_ANSWER = 4 * 1024 * 1024
"""Bytes that are read at most."""
MOST_ADDRESSES = 4
"""Addresses of one name that are tried."""
PROMPT = "Please answer with one word only: which city is the capital of France?"


class ExternalState(Enum):
    """What was found."""

    OK = "ok"
    NOT_ALLOWED = "not allowed"
    UNREACHABLE = "unreachable"
    TLS_FAILED = "TLS failed"
    KEY_REJECTED = "key rejected"
    UNHEALTHY = "unhealthy"
    NOT_OPENAI = "not OpenAI"
    MODEL_NOT_LISTED = "model not listed"


@dataclass(frozen=True)
class ToolsFinding:
    """Whether requests with tools are answered."""

    tools: bool | None
    """None: it did not say."""
    asked: str
    """Hash of what was asked about: another server, model, key or wish for a new look is another question."""
    at: datetime


@dataclass(frozen=True)
class ExternalTarget:
    """A server to be asked, for one model."""

    server: Server
    names: tuple[str, ...]
    """What the model is called there."""
    asked: str
    """Hash of all that an answer is about."""
    api_key: str | None = field(default=None, repr=False)
    ca: str | None = field(default=None, repr=False)
    """Certificates (PEM) that its own must be signed by; None: those of the public authorities."""
    ask_tools: bool = True
    """Whether to find out if it takes tools."""
    known: ToolsFinding | None = None
    """What was found before."""


@dataclass(frozen=True)
class ExternalResult:
    """What a server answered."""

    state: ExternalState
    detail: str = ""
    """For people; empty when all is well."""
    models: tuple[str, ...] = ()
    """Names in /v1/models, sorted."""
    max_model_len: int | None = None
    """Context in tokens, the least of the model's names; None: it is not said."""
    tools: ToolsFinding | None = None


class LookupFailed(Exception):
    """A name has no address that may be asked."""

    def __init__(self, state: ExternalState, message: str) -> None:
        super().__init__(message)
        self.state = state


async def look_up(host: str, networks: Sequence[Network]) -> tuple[str, ...]:
    """The host's addresses that may be asked, in the order in which the system gives them. Raises LookupFailed."""
    if is_address(host):
        found = [host]
    else:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                answers = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise LookupFailed(
                ExternalState.UNREACHABLE, f"{host} could not be looked up within {LOOKUP_TIMEOUT:g} s"
            ) from None
        except OSError as error:
            raise LookupFailed(ExternalState.UNREACHABLE, f"{host} cannot be looked up: {error.strerror}") from None
        found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    allowed = tuple(each for each in found if may_be_asked(each, networks))
    if not allowed:
        raise LookupFailed(
            ExternalState.NOT_ALLOWED,
            f"{host} is {', '.join(found[:MOST_ADDRESSES])}: no public address, and in none of the networks that the "
            "operator's settings allow (gateway.externalNetworks in the chart's values)",
        )
    return allowed


def make_context(ca: str | None) -> ssl.SSLContext | bool:
    """How certificates are checked. Raises ValueError when `ca` holds no certificate."""
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError("the value of caSecretRef is no certificate (PEM)") from error


class _Asker:
    """Asks one server."""

    def __init__(self, target: ExternalTarget, client: httpx.AsyncClient, networks: Sequence[Network]) -> None:
        self._target = target
        self._client = client
        self._networks = networks

    async def look(self) -> ExternalResult:
        """What it says of itself. Raises nothing for what it does."""
        target = self._target
        try:
            status, body = await self._ask("GET", "/v1/models", within=TIMEOUT)
        except LookupFailed as failure:
            return ExternalResult(failure.state, str(failure))
        except TimeoutError:
            return ExternalResult(
                ExternalState.UNREACHABLE, f"{target.server.authority} gives no answer in {TIMEOUT:g} s"
            )
        except httpx.HTTPError as error:
            return _failed(target.server, error)
        if status in (401, 403):
            ground = "refuses the key of external.apiKeySecretRef"
            if target.api_key is None:
                ground = "asks for a key: set external.apiKeySecretRef"
            return ExternalResult(
                ExternalState.KEY_REJECTED, f"{target.server.authority} {ground} (GET /v1/models: {status})"
            )
        if status == 429 or status >= 500:
            return ExternalResult(ExternalState.UNHEALTHY, f"GET /v1/models is answered with {status}")
        if status != 200:
            where = target.server.url("/v1/models")
            return ExternalResult(
                ExternalState.NOT_OPENAI, f"GET {where} is answered with {status}: is the path right?"
            )
        return self._read_models(body)

    def _read_models(self, body: bytes) -> ExternalResult:
        try:
            data: Any = json.loads(body)["data"]
            listed = {str(model["id"]): model.get("max_model_len") for model in data}
        except (ValueError, KeyError, TypeError, AttributeError):
            return ExternalResult(ExternalState.NOT_OPENAI, "/v1/models does not answer as the OpenAI API does")
        names = tuple(sorted(listed))
        lengths = [listed[name] for name in self._target.names if isinstance(listed.get(name), int)]
        result = ExternalResult(ExternalState.OK, models=names, max_model_len=min(lengths, default=None))
        if missing := [name for name in self._target.names if name not in listed]:
            said = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            detail = f"/v1/models lacks {', '.join(missing)}; it lists {said or 'nothing'}"
            return replace(result, state=ExternalState.MODEL_NOT_LISTED, detail=detail)
        return result

    async def try_tools(self) -> bool | None:
        """Whether one small request with a tool is answered; None: that cannot be told."""
        body: dict[str, Any] = {
            "model": self._target.names[0],
            "messages": [{"role": "user", "content": PROMPT}],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "look_up",
                        "description": "Looks something up.",
                        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
                    },
                }
            ],
            "tool_choice": "auto",
            "max_tokens": 8,
        }
        try:
            status, text = await self._ask("POST", "/v1/chat/completions", body, within=TOOLS_TIMEOUT)
            if status == 400 and b"max_completion_tokens" in text:
                # Newer models of OpenAI's know the one name only, most servers the other.
                body["max_completion_tokens"] = body.pop("max_tokens")
                status, text = await self._ask("POST", "/v1/chat/completions", body, within=TOOLS_TIMEOUT)
        except (LookupFailed, TimeoutError, httpx.HTTPError):
            return None
        if status == 200:
            return True
        if status in (404, 405) or (status in (400, 422, 501) and b"tool" in text.lower()):
            return False
        return None

    async def _ask(self, method: str, path: str, body: Any = None, *, within: float) -> tuple[int, bytes]:
        """Status and body. Raises LookupFailed, TimeoutError and httpx.HTTPError."""
        server, target = self._target.server, self._target
        headers = {"host": server.authority, "accept": "application/json"}
        if target.api_key:
            headers["authorization"] = f"Bearer {target.api_key}"
        # An address stands in the URL: TLS has to be for the name all the same.
        extensions = {} if server.is_address else {"sni_hostname": server.host}
        async with asyncio.timeout(within):
            addresses = (await look_up(server.host, self._networks))[:MOST_ADDRESSES]
            for place, address in enumerate(addresses, 1):
                request = self._client.build_request(
                    method, server.url(path, address=address), headers=headers, json=body, extensions=extensions
                )
                try:
                    answer = await self._client.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    if place == len(addresses) or _tls_error(error) is not None:
                        raise
                    continue
                try:
                    text = b""
                    async for chunk in answer.aiter_bytes():
                        text += chunk
                        if len(text) > LARGEST_ANSWER:
                            break
                finally:
                    await answer.aclose()
                return answer.status_code, text
        raise AssertionError("a name has an address")


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that an error comes from."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _failed(server: Server, error: httpx.HTTPError) -> ExternalResult:
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return ExternalResult(
            ExternalState.TLS_FAILED, f"the certificate of {server.authority} is not accepted: {tls.verify_message}"
        )
    if tls is not None:
        return ExternalResult(
            ExternalState.TLS_FAILED, f"no TLS with {server.authority}: {tls.reason or 'it broke off'}"
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ExternalResult(
            ExternalState.UNREACHABLE, f"cannot connect to {server.authority}: {str(error) or 'no answer in time'}"
        )
    return ExternalResult(
        ExternalState.UNREACHABLE, f"the answer of {server.authority} broke off: {type(error).__name__}"
    )


class ExternalProber:
    """Asks the servers of external models again and again, and calls `on_change(key)` when an answer changes."""

    def __init__(
        self,
        on_change: Callable[[Key], None],
        *,
        clock: Callable[[], datetime],
        networks: Sequence[Network] = (),
        interval: float = INTERVAL,
    ) -> None:
        self._on_change = on_change
        self._clock = clock
        self._networks = tuple(networks)
        self._interval = interval
        self._targets: dict[Key, ExternalTarget] = {}
        self._results: dict[Key, ExternalResult] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def watch(self, key: Key, target: ExternalTarget) -> None:
        """From now on ask this server for the model."""
        known = self._targets.get(key)
        if known is not None and replace(known, known=None) == replace(target, known=None):
            return
        self.forget(key)
        self._targets[key] = target
        self._tasks[key] = asyncio.create_task(self._ask_for_ever(key, target), name=f"external {key}")

    def forget(self, key: Key) -> None:
        """The model is gone, or no external one any more."""
        self._targets.pop(key, None)
        self._results.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    def result(self, key: Key) -> ExternalResult | None:
        """What its server answered last; None: it was not asked yet."""
        return self._results.get(key)

    async def close(self) -> None:
        """Stop asking."""
        await cancel(self._tasks.values())
        self._tasks.clear()

    async def _ask_for_ever(self, key: Key, target: ExternalTarget) -> None:
        try:
            context = make_context(target.ca)
        except ValueError as error:
            self._note(key, ExternalResult(ExternalState.TLS_FAILED, str(error)))
            return
        tools = target.known if target.known is not None and target.known.asked == target.asked else None
        limits = httpx.Limits(max_connections=4, max_keepalive_connections=0)
        pause = FIRST_PAUSE
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=TOOLS_TIMEOUT, limits=limits) as client:
            asker = _Asker(target, client, self._networks)
            while True:
                result = await self._look(key, asker)
                if result.state is ExternalState.OK and target.ask_tools and self._is_due(tools):
                    if self._results.get(key) is None:
                        self._note(key, replace(result, tools=tools))  # A request takes longer than the list of models.
                    tools = ToolsFinding(await asker.try_tools(), target.asked, self._clock())
                self._note(key, replace(result, tools=tools))
                good = result.state is ExternalState.OK
                pause = self._interval if good else min(max(pause, FIRST_PAUSE) * 1.5, self._interval)
                await asyncio.sleep(pause * (0.9 + 0.2 * random.random()))
                pause = FIRST_PAUSE if good else pause

    async def _look(self, key: Key, asker: _Asker) -> ExternalResult:
        try:
            result = await asker.look()
            before = self._results.get(key)
            if result.state is not ExternalState.OK and before is not None and before.state is ExternalState.OK:
                await asyncio.sleep(CONFIRM_AFTER)
                result = await asker.look()
                if result.state is ExternalState.UNHEALTHY and result.detail.endswith("429"):
                    return before  # Asked too often: that says nothing of the model.
        except Exception as error:
            log.exception("%s: its server could not be asked", key)
            result = ExternalResult(ExternalState.UNREACHABLE, f"it could not be asked: {type(error).__name__}")
        return result

    def _is_due(self, tools: ToolsFinding | None) -> bool:
        if tools is None:
            return True
        return self._clock() - tools.at > (TOOLS_RETRY if tools.tools is None else TOOLS_AGAIN)

    def _note(self, key: Key, result: ExternalResult) -> None:
        before = self._results.get(key)
        self._results[key] = result
        if before != result:
            self._on_change(key)
