"""Requests that mean no good: none reaches a model that its sender may not use, and none makes the gateway tell a key.

VLLM_HOSTILE_REQUESTS says how many are made up, VLLM_HOSTILE_SEED which.
"""

import asyncio
import json
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.envoy import Gateway, Pod, gateway, serve
from tests.gateway.states import ALICE, BOB, TEAM_A, TEAM_B, model, state
from vllm_operator.api.endpoint import Server
from vllm_operator.api.names import Key
from vllm_operator.gateway.bootstrap import Patience
from vllm_operator.gateway.render import CHANGED_HEADER
from vllm_operator.gateway.scripts import PATHS
from vllm_operator.gateway.state import ApiKey, External

pytestmark = pytest.mark.cluster  # Envoy is installed as the cluster's programs are.

COUNT = int(os.environ.get("VLLM_HOSTILE_REQUESTS", "3000"))
SEED = int(os.environ.get("VLLM_HOSTILE_SEED", "20261121"))
AT_ONCE = 8

FOR_A, FOR_FAR = "upstream-secret-of-a", "upstream-secret-of-far"
LIMITED = ApiKey(TEAM_B, "limited", "sk-limited-secret", requests_per_minute=1_000_000)
COUNTED = ApiKey(TEAM_A, "counted", "sk-counted-secret", concurrent_requests=10_000)
KEYS = (ALICE, BOB, LIMITED, COUNTED)
SECRETS = (*(key.value for key in KEYS), FOR_A, FOR_FAR, "sk-wrong-secret")


CONTEXT = 200
"""Tokens that `small` takes."""
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")


def everything(a: Pod, b: Pod, far: Pod, small: Pod) -> Any:
    """A model of each kind: `a` and `far` are for team A alone."""
    only_a = frozenset({TEAM_A})
    a.names, b.names, far.names, small.names = (frozenset({name}) for name in ("alpha", "beta", "there", "eta"))
    for pod in (a, b, far, small):
        pod.told = {"x-vllm-changed": "told-by-a-pod", "x-vllm-fallback": "told-by-a-pod"}
    outside = External(
        server=Server("far.example.com", port=80, tls=False, path_prefix="/far"), model_names={"epsilon": "there"}
    )
    return state(
        model("a", a.endpoint, served_model_names=("alpha",), callers=only_a, upstream_key=FOR_A, balance="prefix"),
        model("b", b.endpoint, served_model_names=("beta",)),
        model("c", served_model_names=("gamma",), waiting="Starting"),
        model("d", served_model_names=("delta",), waiting="Starting", fallback=Key("models", "b")),
        model("e", served_model_names=("zeta",), waiting="Starting", fallback=Key("models", "a")),
        model(
            "far",
            far.endpoint,
            served_model_names=("epsilon",),
            callers=only_a,
            upstream_key=FOR_FAR,
            external=outside,
        ),
        model(
            "small",
            small.endpoint,
            served_model_names=("eta",),
            max_model_len=CONTEXT,
            clamp_max_tokens=True,
            drop_tools=True,
        ),
        keys=KEYS,
    )


LONG_ANSWERS = tuple(f"/v1/{each}" for each in ("chat/completions", "completions", "responses", "messages"))


class Maker:
    """Makes up requests."""

    NAMES = (
        *("alpha", "beta", "epsilon", "eta", "eta") * 20,
        *("models/a", "models/b", "models/far", "models/small", "delta", "gamma", "zeta") * 3,
        *("", "there", "Alpha", "alpha ", "alpha\0", "al\u0440ha", "é\U0001f600", "x" * 300, "y" * 5000),
        *("__none__", "__error__", '"', "\\", "%PATH%", "%DYNAMIC_METADATA(vllm:model)%", "a\r\nb", ".*", "nil"),
    )
    KEYS = (
        *("model",) * 6,
        *("Model", "model ", "models", "metadata", "messages", "prompt", "input", "x", ""),
        *(*LENGTHS, *TOOLS, "Max_tokens", "tools "),
    )
    NUMBERS = (
        *("1", "50", "199", "200", "1000", "1" + "0" * 30) * 2,
        *("0", "-1000", "1e3", "1000.0", "01000", "1000x"),
    )

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def quoted(self, text: str) -> str:
        """As a string of JSON, in one of the ways in which it can be written."""
        way = self.rng.randrange(6)
        if way == 0:
            return json.dumps(text)
        if way == 1:
            escaped = (f"\\u{ord(each):04x}" if ord(each) < 0x10000 else each for each in text)
            return '"' + "".join(escaped) + '"'
        if way == 2 and text.isalpha():
            at = self.rng.randrange(len(text))
            return f'"{text[:at]}\\u{ord(text[at]):04X}{text[at + 1 :]}"' if ord(text[at]) < 0x10000 else f'"{text}"'
        return json.dumps(text, ensure_ascii=False)

    def space(self) -> str:
        return self.rng.choice(["", "", "", " ", "\n", "\t\r\n"])

    def pair(self, depth: int, key: str | None = None) -> str:
        key = self.rng.choice(self.KEYS) if key is None else key
        number = key in LENGTHS and self.rng.random() < 0.8
        value = self.rng.choice(self.NUMBERS) if number else self.value(depth)
        return f"{self.space()}{self.quoted(key)}{self.space()}:{self.space()}{value}{self.space()}"

    def value(self, depth: int) -> str:
        kind = self.rng.randrange(12) if depth < 4 else self.rng.randrange(7)
        if kind < 6:
            return self.quoted(self.rng.choice(self.NAMES))
        if kind == 6:
            odd = (
                "1",
                "null",
                "true",
                "1e999",
                "-0",
                "NaN",
                "-Infinity",
                "-",
                "01",
                "tru",
                "1/*",
                "'alpha'",
                "18446744073709551615",
            )
            strange = ('"{\\"model\\": \\"alpha\\"}"', '"\\ud83d"', '"\\x"', '"\t"', '"\0"')
            return self.rng.choice(odd + strange)
        if kind == 7 and self.rng.random() < 0.05:
            depths = self.rng.choice([50, 900, 5000])
            return "[" * depths + "]" * depths
        several = range(self.rng.randrange(4))
        if kind < 10:
            return "{" + ",".join(self.pair(depth + 1) for _ in several) + "}"
        return "[" + ",".join(self.value(depth + 1) for _ in several) + "]"

    def json(self) -> bytes:
        pairs = [self.pair(0) for _ in range(self.rng.randrange(6))]
        if self.rng.random() < 0.8:
            name = self.quoted(self.rng.choice(self.NAMES))
            pairs.insert(self.rng.randrange(len(pairs) + 1), f"{self.quoted('model')}:{name}")
        body = ("{" + ",".join(pairs) + "}").encode(errors="replace")
        if self.rng.random() < 0.15:
            body = self.broken(body)
        before = self.rng.choice([b""] * 60 + [b" \n", b"\xef\xbb\xbf", b"/**/", b"\0"])
        after = self.rng.choice([b""] * 60 + [b"\n ", b"\0", b" x", b'{"model":"alpha"}', b",", b"//"])
        body = before + body + after
        if self.rng.random() < 0.02:
            body = body.decode(errors="replace").encode(self.rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32"]))
        return body

    def broken(self, body: bytes) -> bytes:
        """With a piece of it cut out, doubled or replaced."""
        at = self.rng.randrange(len(body))
        end = min(len(body), at + self.rng.randrange(6))
        piece = self.rng.choice(
            [
                b"",
                body[at:end] * 2,
                b"}",
                b"{",
                b'"',
                b"\\",
                b"\0",
                b"\xff",
                b"\xed\xa0\x80",
                b",",
                b":",
                b"/*",
                b"\r\n",
            ]
        )
        return body[:at] + piece + body[end:]

    def form(self) -> tuple[bytes, str]:
        """A form, and its content type."""
        boundary = self.rng.choice(["x", "----y", "a b"])
        end = self.rng.choice([b"\r\n"] * 8 + [b"\n", b"\r"])
        parts = []
        for _ in range(self.rng.randrange(4)):
            heads = ['name="model"'] * 4 + ["name=model", "name='model'", 'name="Model"', 'Name="model"', 'name="file"']
            heads += ['name="file"; filename="model"', 'name="file"; filename="name=\\"model\\""', "name*=utf-8''model"]
            content = self.rng.choice(self.NAMES).encode()
            if self.rng.random() < 0.2:
                content = b'name="model"\r\n\r\nalpha\r\n' + content
            if self.rng.random() < 0.1:
                content += bytes(self.rng.randrange(256) for _ in range(50)) + b"x" * self.rng.choice(
                    [0, 70_000, 200_000]
                )
            head = b"Content-Disposition: form-data; " + self.rng.choice(heads).encode()
            parts.append(b"--" + boundary.encode() + end + head + end + end + content + end)
        body = b"".join(parts) + (b"" if self.rng.random() < 0.1 else b"--" + boundary.encode() + b"--" + end)
        if body and self.rng.random() < 0.25:
            body = self.broken(body)
        told = self.rng.choice([boundary] * 6 + ["other", '"', ""])
        return body, f"multipart/form-data; boundary={told}"

    def headers(self, kind: str) -> tuple[list[tuple[str, str]], set[str]]:
        """Headers, and the keys among them."""
        types = ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/problem+json"]
        kinds = [kind] * 80 if kind else types * 20
        odd = [
            "text/plain",
            "",
            "application/x-www-form-urlencoded",
            "application/json;multipart/form-data; boundary=x",
        ]
        odd += [
            "multipart/form-data; boundary=x; application/json",
            "application/jsonx",
            " application/json",
            "text/json",
        ]
        headers = [("content-type", self.rng.choice([*kinds, *odd]))]
        shown = set()
        for name in ("authorization", "x-api-key"):
            if self.rng.random() < (0.6 if name == "authorization" else 0.15):
                right = [ALICE.value] * 6 + [COUNTED.value] * 6 + [BOB.value] * 4 + [LIMITED.value] * 2
                key = self.rng.choice([*right, "sk-wrong-secret", ""])
                how = ["Bearer {}"] * 40 + [
                    "{}",
                    "bearer {}",
                    "Basic {}",
                    "Bearer  {}",
                    "Bearer {},Bearer sk-wrong-secret",
                ]
                shown.add(key)
                headers.append((name, (self.rng.choice(how) if name == "authorization" else "{}").format(key)))
        for name, values in (
            ("x-vllm-client", ["team-a/keys/alice", "team-a/keys/x", ""]),
            ("X-VLLM-Keyless", ["open", "never"]),
            ("x-vllm-cluster", ["limit/team-a/keys/counted", "model/models/a"]),
            ("x-vllm-caller", ["team-a/keys/alice"]),
            ("x-vllm-route", ["ask/alpha", "ask/epsilon", "show/alpha", "counted"]),
            ("x-vllm-fallback", ["models/a"]),
            ("x-model", ["alpha"]),
            ("x-envoy-original-path", ["/metrics"]),
            ("x-envoy-upstream-rq-timeout-ms", ["1"]),
            ("x-envoy-retry-on", ["5xx"]),
            ("x-envoy-max-retries", ["1000"]),
            ("x-forwarded-for", ["127.0.0.1", "a, b"]),
            ("x-forwarded-host", ["far.example.com"]),
            ("x-http-method-override", ["GET"]),
            ("x-original-url", ["/metrics"]),
            ("x-rewrite-url", ["/metrics"]),
            ("x-request-id", ["\x7f" * 3, "x" * 500]),
            ("authorization", ["Bearer sk-wrong-secret"]),
            ("api-key", ["sk-wrong-secret"]),
            ("proxy-authorization", ["Bearer sk-wrong-secret"]),
            ("connection", ["x-vllm-client, x-vllm-cluster", "authorization, x-vllm-keyless, x-vllm-caller", "close"]),
            ("te", ["trailers", "x"]),
            ("content-type", ["text/plain", "application/json"]),
            ("content-encoding", ["identity"]),
            ("cookie", ["x-vllm-client=team-a/keys/alice"]),
        ):
            if self.rng.random() < 0.03:
                headers.append((name, self.rng.choice(values)))
        return headers, shown

    def path(self) -> str:
        if self.rng.random() < 0.8:
            return self.rng.choice((*PATHS, *LONG_ANSWERS * 3))
        odd = ("/v1/completions/", "/v1/completions?model=alpha", "//v1/completions", "/V1/completions", "/metrics")
        return self.rng.choice((*odd, "/v1/models/alpha", "/v1/load_lora_adapter", "/v1/completions;x", "/health"))


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str


async def post(found: Gateway, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
    """As bytes: a client that is any good would send none of this."""
    reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
    try:
        lines = [f"POST {path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        async with asyncio.timeout(30):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().splitlines()
            told = dict(line.split(": ", 1) for line in head[1:-1])
            text = await reader.readexactly(int(told["content-length"]))
        return Answer(int(head[0].split()[1]), told, text.decode())
    finally:
        writer.close()


@dataclass
class Asked:
    """A request, and the keys that it showed."""

    what: str
    body: bytes
    shown: set[str]
    changed: str | None = None
    """What its answer says of it."""


async def ask(found: Gateway, number: int, instead: Mapping[str, str] | None = None) -> tuple[Answer, Asked]:
    """One request, by its own random numbers. `instead`: keys that are shown in the place of others."""
    made = Maker(SEED * 1_000_003 + number)
    body, kind = made.form() if made.rng.random() < 0.2 else (made.json(), "")
    headers, shown = made.headers(kind)
    path = made.path()
    for key, other in (instead or {}).items():
        headers = [(name, value.replace(key, other)) for name, value in headers]
    answer = await post(found, path, [*headers, ("x-case", str(number))], body)
    what = f"seed {SEED}, number {number}: {path} {headers} {body[:2000]!r}"
    return answer, Asked(what, body, shown, answer.headers.get(CHANGED_HEADER))


def is_json(headers: dict[str, str]) -> bool:
    return "json" in headers.get("Content-Type", "").lower()


def check_answer(answer: Answer, what: str) -> None:
    """It is one of the errors that there are, as OpenAI writes them, or a pod's."""
    told = answer.text + str(answer.headers)
    assert not any(secret in told for secret in SECRETS), what
    assert "told-by-a-pod" not in told, what
    if answer.status == 200:
        return
    problem = (answer.status, answer.text, what)
    assert answer.status in (400, 401, 404, 503), problem
    if answer.headers["content-length"] == "0" or answer.headers["content-type"] == "text/plain":
        assert answer.status == 400, problem  # No HTTP in Envoy's eyes: it answers before anything can shape it.
        return
    error = json.loads(answer.text)["error"]
    assert set(error) == {"message", "type", "param", "code"}, problem
    assert answer.status != 503 or error["code"] == "model_not_ready", problem


async def test_made_up_requests_reach_nothing_that_they_may_not(tmp_path: Path) -> None:
    async with (
        serve("a", "b", "far", "small") as pods,
        gateway(tmp_path, everything(*pods)) as found,
    ):
        asked: dict[str, Asked] = {}
        statuses: dict[int, int] = {}
        numbers = iter(range(COUNT))

        async def work() -> None:
            for number in numbers:
                answer, request = await ask(found, number)
                asked[str(number)] = request
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                check_answer(answer, request.what)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        print(f"{COUNT} requests, seed {SEED}: {dict(sorted(statuses.items()))}")
        compared, changed = 0, 0
        for pod in pods:
            for request in pod.requests:
                sent = asked[request["headers"]["x-case"]]
                check_request(pod, request, sent.shown, sent.what)
                if is_json(request["headers"]):
                    compared += check_meaning(pod, request, sent)
                changed += sent.changed is not None
            assert len(pod.requests) > COUNT / 100, pod.name
        print(f"{compared} bodies mean the same, {changed} but for what was asked too much")
        assert compared > COUNT / 10
        assert changed > COUNT / 200
        assert found.process.returncode is None
        assert (await found.ask({"model": "alpha"}, key=ALICE.value)).json()["served_by"] == "a"
        await check_silence(found)


OWN_TO_EACH = {"date", "connection", "x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset"}
"""Headers that are never the same. A connection ends with a request that Envoy calls a bad one, if nobody was asked in between."""


async def outcome(folder: Path, instead: Mapping[str, str], count: int) -> tuple[dict[int, Any], dict[Any, Any], Any]:
    """Answers, what has come to pods, and what is logged, if some keys are shown in the place of others."""
    answers: dict[int, Any] = {}
    numbers = iter(range(count))

    def others(headers: Mapping[str, str]) -> list[tuple[str, str]]:
        return sorted(each for each in headers.items() if each[0].lower() not in OWN_TO_EACH)

    async with serve("a", "b", "far", "small") as pods, gateway(folder, everything(*pods)) as found:

        async def work() -> None:
            for number in numbers:
                answer, _ = await ask(found, number, instead)
                answers[number] = (answer.status, answer.text, others(answer.headers))

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        lines = await found.end()
    told = {
        (pod.name, request["headers"]["x-case"]): (request["path"], request["body"], others(request["headers"]))
        for pod in pods
        for request in pod.requests
    }
    names = {str(pod.endpoint.port): pod.name for pod in pods}
    same = ("method", "path", "status", "flags", "model", "fallback", "bytes_sent")
    logged = Counter(
        (
            *(line[name] for name in same),
            (line["client"] or "").replace("counted", "alice"),
            names.get((line["upstream"] or "").rpartition(":")[2]),
        )
        for line in lines
        if line["method"] == "POST"
    )
    return answers, told, logged


async def test_made_up_requests_are_answered_alike_whether_they_are_counted_or_not(tmp_path: Path) -> None:
    count = COUNT // 6
    folders = tmp_path / "as-ever", tmp_path / "counted"
    for folder in folders:
        folder.mkdir()
    as_ever = await outcome(folders[0], {COUNTED.value: ALICE.value}, count)
    counted = await outcome(folders[1], {ALICE.value: COUNTED.value}, count)
    for number in range(count):
        assert counted[0][number] == as_ever[0][number], f"seed {SEED}, number {number}"
    assert counted[1] == as_ever[1]
    assert counted[2] == as_ever[2]
    assert len(counted[1]) > count / 10


def check_request(pod: Pod, request: dict[str, Any], shown: set[str], what: str) -> None:
    """A request that has come to a pod was allowed to, and says no more than it may."""
    headers = request["headers"]
    assert pod.name in ("b", "small") or {ALICE.value, COUNTED.value} & shown, what
    prefix = "/far" if pod.name == "far" else ""
    path = request["path"].partition("?")[0]
    assert path.startswith(prefix) and path.removeprefix(prefix) in PATHS, what  # noqa: PT018
    own = {"a": FOR_A, "far": FOR_FAR}.get(pod.name)
    given = {name.lower(): value for name, value in headers.items()}
    assert given.pop("authorization", None) == (f"Bearer {own}" if own else None), what
    assert not any(secret in str(given) for secret in SECRETS), what
    assert not {name for name in given if name.startswith("x-vllm")}, what
    assert given["host"] == "far.example.com" or pod.name != "far", what
    if is_json(headers):
        # What the pod's parser makes of it is what counts: the gateway must have seen the same model in it.
        try:
            asked = json.loads(request["body"])["model"]
        except (ValueError, RecursionError):
            return
        assert isinstance(asked, str), what
        assert asked in (pod.names or ()), what


def members(body: bytes) -> list[tuple[str, str]] | None:
    """Those of the outermost object, as Python's parser finds them, doubled ones too; None: there is no such object."""
    try:
        found = json.loads(body, object_pairs_hook=tuple)
        return [(key, json.dumps(value)) for key, value in found] if isinstance(found, tuple) else None
    except (ValueError, RecursionError):
        return None


def check_meaning(pod: Pod, request: dict[str, Any], sent: Asked) -> bool:
    """What reaches a pod says what was sent, but for the model's name and what its model is not to be asked. Returns whether
    it is JSON at all.
    """
    before, after = members(sent.body), members(request["body"])
    if before is None:
        return False
    assert after is not None, sent.what
    path = request["path"].partition("?")[0]
    answers = pod.name == "small" and path in LONG_ANSWERS
    ways: dict[str, str] = {}
    if answers and path != "/v1/completions" and {"tools", "tool_choice", "functions"} & {key for key, _ in before}:
        ways["tools"] = "dropped"
    lengths = LENGTHS[2:] if path == "/v1/responses" else LENGTHS[:2]
    rest = iter(after)
    for key, value in before:
        if key in TOOLS and ways.get("tools"):
            continue
        if not (answers and key in lengths and value.isdecimal() and int(value) > 0):
            found = next(rest)
            assert found == (key, value) or key == found[0] == "model", sent.what
            continue
        if int(value) >= CONTEXT and path in ("/v1/chat/completions", "/v1/responses"):
            ways[key] = "dropped"
            continue
        found = next(rest)
        assert found[0] == key, sent.what
        assert found[1] == value or 1 <= int(found[1]) <= min(CONTEXT, int(value) - 1), sent.what
        if found[1] != value:
            ways[key] = found[1]
    assert next(rest, None) is None, sent.what
    said = [f"{key}={ways[key]}" for key in (*LENGTHS, "tools") if key in ways]
    assert (sent.changed or "") == ", ".join(said), sent.what
    return True


async def check_silence(found: Gateway) -> None:
    """No key is in anything that Envoy has written or shows."""
    async with httpx.AsyncClient() as client:
        shown = [
            (await client.get(f"{found.admin}/{page}")).text
            for page in ("config_dump?include_eds", "stats?usedonly", "clusters", "server_info", "stats/prometheus")
        ]
    lines = await found.end()
    clients = [line["client"] for line in lines]
    assert clients.count("team-a/keys/alice") > COUNT / 100
    assert clients.count("team-a/keys/counted") > COUNT / 100
    for text in (*shown, json.dumps(lines), found.log.read_text()):
        assert not [secret for secret in SECRETS if secret in text]
    # A script that fails lets its request pass as it was.
    assert "script log" not in found.log.read_text()


# ---- no HTTP, or too much of it

BODY = b'{"model":"beta"}'
SMUGGLED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-smuggled: 1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 17\r\nConnection: close\r\n\r\n{"model":"alpha"}'
)
CHUNKS = b"10\r\n" + BODY + b"\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"


def raw(
    *headers: bytes,
    body: bytes = BODY,
    start: bytes = b"POST /v1/chat/completions HTTP/1.1",
    length: bool = True,
    close: bool = True,
    end: bytes = b"\r\n",
) -> bytes:
    """A request, byte by byte."""
    lines = [start, b"Host: x", b"Content-Type: application/json", *headers]
    lines += [b"Content-Length: %d" % len(body)] * length + [b"Connection: close"] * close
    return end.join(lines) + end * 2 + body


def chunked(body: bytes, *headers: bytes) -> bytes:
    return raw(*headers, CHUNKED, length=False, body=body)


def at(path: bytes) -> bytes:
    return raw(start=b"POST " + path + b" HTTP/1.1")


# What Envoy answers to each. Of the statuses none is sacred, but that a request is taken for one and not for two.
RAW: dict[str, tuple[bytes, list[int]]] = {
    "as it should be": (raw(), [200]),
    "in chunks": (chunked(CHUNKS), [200]),
    "length and chunks": (raw(CHUNKED, body=CHUNKS + SMUGGLED), [400]),
    "short length and chunks": (chunked(CHUNKS + SMUGGLED, b"Content-Length: 5"), [400]),
    "two lengths": (raw(b"Content-Length: 5"), [400]),
    "the same length twice": (raw(b"Content-Length: 16"), [400]),
    "a list of lengths": (raw(b"Content-Length: 16, 16", length=False), [400]),
    **{
        f"length {value!r}": (raw(b"Content-Length: " + value, length=False), [400])
        for value in (b"+16", b"-1", b"0x10", b"1 6", b"9" * 30, b"16\x0b", b"")
    },
    **{
        f"encoding {value!r}": (raw(b"Transfer-Encoding: " + value, length=False, body=CHUNKS + SMUGGLED), [501])
        for value in (b"identity", b"xchunked", b"chunked, identity", b"gzip, chunked", b"chunked, chunked")
    },
    "encoding twice": (chunked(CHUNKS, CHUNKED), [501]),
    "encoding, space before the colon": (raw(b"Transfer-Encoding : chunked", body=CHUNKS + SMUGGLED), [400]),
    "encoding behind a tab": (raw(b"Transfer-Encoding:\tchunked", length=False, body=CHUNKS), [200]),
    "encoding behind an odd space": (raw(b"Transfer-Encoding:\x0bchunked", body=CHUNKS + SMUGGLED), [400]),
    "encoding in capitals": (raw(b"tRANSFER-eNCODING: CHUNKED", length=False, body=CHUNKS), [200]),
    "folded header": (raw(b"X-A: b\r\n c: d"), [200]),
    "folded encoding": (raw(b"X-A: b\r\n Transfer-Encoding: chunked", body=BODY + SMUGGLED), [400]),
    "folded start": (raw(start=b"POST /v1/chat/completions HTTP/1.1\r\n X: y"), [400]),
    "bare line feeds": (raw(end=b"\n"), [200]),
    "encoding behind a bare line feed": (raw(b"X-A: b\nTransfer-Encoding: chunked", body=BODY + SMUGGLED), [400]),
    "encoding behind a bare carriage return": (
        raw(b"X-A: b\rTransfer-Encoding: chunked", body=BODY + SMUGGLED),
        [400],
    ),
    "a zero byte": (raw(b"X-A: b\0c"), [400]),
    "a zero byte in a name": (raw(b"X\0A: b"), [400]),
    "a header without a colon": (raw(b"XA"), [400]),
    "a header without a name": (raw(b": x"), [400]),
    "a space in a name": (raw(b"X A: b"), [400]),
    "an underscore in a name": (raw(b"x_vllm_client: team-a/keys/alice"), [400]),
    "chunk of a size too large": (chunked(b"f" * 17 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), [400]),
    "chunk of a negative size": (chunked(b"-1\r\n" + BODY), [400]),
    "chunk of a prefixed size": (chunked(b"0x10\r\n" + BODY + b"\r\n0\r\n\r\n"), [400]),
    "chunk with an extension": (chunked(b"10;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"), [200]),
    "chunk with a line feed in its extension": (chunked(b"10;a\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED), [400]),
    "chunks with bare line feeds": (chunked(b"10\n" + BODY + b"\n0\n\n" + SMUGGLED), [400]),
    "chunk with more than its size": (chunked(b"10\r\n" + BODY + b"XX0\r\n\r\n"), [400]),
    "chunks without an end": (chunked(b"10\r\n" + BODY + b"\r\n"), [408]),
    "trailers": (
        chunked(b"10\r\n" + BODY + b"\r\n0\r\nx-vllm-client: team-a/keys/alice\r\nauthorization: x\r\n\r\n"),
        [200],
    ),
    "less than its length": (raw(b"Content-Length: 100", length=False), [408]),
    "headers without an end": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n", [408]),
    "more than its length": (raw(b"Content-Length: 16", length=False, body=BODY + SMUGGLED), [200]),
    # Two requests in one connection are two requests: the second is looked at as the first is.
    "another one behind": (raw(close=False) + SMUGGLED, [200, 401]),
    "another path behind": (
        raw(close=False) + b"GET /metrics HTTP/1.1\r\nHost: x\r\nx-smuggled: 1\r\nConnection: close\r\n\r\n",
        [200, 404],
    ),
    "whole address": (at(b"http://evil/v1/chat/completions"), [200]),
    "whole address of another path": (at(b"http://evil/metrics"), [404]),
    "HTTP 0.9": (b"GET /metrics\r\n", [426]),
    "HTTP 1.0": (raw(start=b"POST /v1/chat/completions HTTP/1.0"), [426]),
    "HTTP 2 that is none": (raw(start=b"POST /v1/chat/completions HTTP/2.0"), [426]),
    "broken HTTP 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, []),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), [400]),
    "CONNECT": (b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", [401]),
    "upgrade": (raw(b"Upgrade: websocket", b"Connection: Upgrade", length=False, body=b"", close=False), [403]),
    "upgrade to HTTP 2": (raw(b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__", b"Connection: upgrade"), [200]),
    "no host": (raw().replace(b"Host: x\r\n", b""), [400]),
    "two hosts": (raw(b"Host: y"), [200]),
    "PUT": (raw(start=b"PUT /v1/chat/completions HTTP/1.1"), [404]),
    "TRACE": (raw(start=b"TRACE /v1/chat/completions HTTP/1.1"), [404]),
    "no method": (raw(start=b"P@ST /v1/chat/completions HTTP/1.1"), [400]),
    "a large header": (raw(b"X-A: " + b"x" * 100_000), [431]),
    "many headers": (raw(*(b"X-%d: x" % number for number in range(200))), [431]),
    "slash in disguise": (at(b"/v1%2fchat%2fcompletions"), [400]),
    "letter in disguise": (at(b"/v1/%63hat/completions"), [200]),
    "zero in a path": (at(b"/v1/chat/completions%00"), [400]),
    "parameter of a path": (at(b"/v1/chat/completions;x"), [404]),
    "doubled slashes": (at(b"//v1//chat/completions"), [200]),
    "up and down": (at(b"/metrics/../v1/chat/completions"), [200]),
    "up": (at(b"/v1/chat/completions/../../../metrics"), [404]),
    "up in disguise": (at(b"/v1/chat/completions/%2e%2e/%2e%2e/load_lora_adapter"), [404]),
    "fragment": (at(b"/v1/chat/completions#/../metrics"), [400]),
    "up in a query": (at(b"/v1/chat/completions?/../metrics"), [200]),
    "no path": (at(b"v1/chat/completions"), [400]),
    "a path with a space": (at(b"/v1/chat/completions /x"), [400]),
    "a path with an odd byte": (at(b"/v1/chat/completions\xff"), [400]),
}


async def exchange(found: Gateway, data: bytes) -> bytes:
    """Send bytes, and read until Envoy closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
    received = b""
    try:
        writer.write(data)
        async with asyncio.timeout(30):
            while part := await reader.read(65536):
                received += part
    except ConnectionResetError:
        pass  # Envoy has not read all of it: what it has said before is here.
    finally:
        writer.close()
    return received


async def test_one_request_is_not_taken_for_two(tmp_path: Path) -> None:
    async with (
        serve("a", "b", "far", "small") as (a, b, far, small),
        gateway(tmp_path, everything(a, b, far, small), Patience(headers=1, whole=2)) as found,
    ):
        answers = await asyncio.gather(*(exchange(found, data) for data, _ in RAW.values()))
        told = {
            name: [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]
            for name, answer in zip(RAW, answers, strict=True)
        }
        assert told == {name: statuses for name, (_, statuses) in RAW.items()}
        assert not a.requests
        assert not far.requests
        assert len(b.requests) == sum(statuses.count(200) for statuses in told.values())
        for request in b.requests:
            assert request["path"].partition("?")[0] == "/v1/chat/completions"
            assert request["body"] == BODY
            assert not {"x-smuggled", "x-vllm-client", "authorization"} & {name.lower() for name in request["headers"]}
        assert b"request_timeout" in answers[list(RAW).index("less than its length")]
        assert (await found.ask({"model": "beta"})).status_code == 200


async def test_slow_and_large_requests_do_not_keep_others_waiting(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"model": "beta", "x": "'
        for _ in range(70):
            yield b"x" * 1024**2
        yield b'"}'

    async with (
        serve("a", "b", "far", "small") as (a, b, far, small),
        gateway(tmp_path, everything(a, b, far, small), Patience(headers=5, whole=5)) as found,
    ):
        begun = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        length = b"Content-Type: application/json\r\nContent-Length: 1000\r\n"
        wrong = b"Authorization: Bearer sk-wrong-secret\r\n"
        slow = [
            asyncio.create_task(exchange(found, data))
            for data in (begun, begun + length + b"\r\n", begun + length + b'\r\n{"model":') * 20
        ]
        # Who shows a wrong key is not listened to.
        refused = await exchange(found, begun + wrong + length + b"\r\n")
        assert refused.startswith(b"HTTP/1.1 401 ")
        for _ in range(20):
            assert (await found.ask({"model": "beta"})).status_code == 200
        assert not any(task.done() for task in slow)
        for answer in await asyncio.gather(*slow):
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"request_timeout" in answer
        for content in (b'{"model": "beta", "x": "' + b"x" * 70 * 1024**2 + b'"}', endless()):
            headers = {"content-type": "application/json"}
            try:
                large = await found.client.post("/v1/chat/completions", content=content, headers=headers)
            except httpx.NetworkError:
                continue  # It was refused before all of it was sent, and the answer lost.
            assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
        assert len(b.requests) == 20
        assert (await found.ask({"model": "beta"})).status_code == 200
