"""Keys with a limit of requests at the same time: their requests are counted on a way of their own, and all else is as for others."""

import asyncio
import json
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.envoy import Gateway, Pod, error, gateway, serve, served_by
from tests.gateway.states import ALICE, TEAM_A, model, state
from vllm_operator.api.endpoint import Server
from vllm_operator.api.names import Key
from vllm_operator.gateway.bootstrap import Patience
from vllm_operator.gateway.state import ApiKey, External, GatewayState

pytestmark = pytest.mark.cluster  # Envoy is installed as the cluster's programs are.

CLIENT = "team-a/keys/counted"


def counted(limit: int | None, name: str = "counted") -> ApiKey:
    return ApiKey(TEAM_A, name, f"sk-{name}-secret", concurrent_requests=limit)


def alpha(pod: Pod, *keys: ApiKey) -> GatewayState:
    return state(model("a", pod.endpoint, served_model_names=("alpha",)), keys=tuple({ALICE, *keys}))


async def under_way(found: Gateway, limit: int | None = None) -> int:
    """Requests of the key; `limit`: when they are so many."""
    name = f"cluster.limit/{CLIENT}.upstream_rq_active"
    async with asyncio.timeout(10):
        while True:
            now = (await found.stats(f"^{name}$")).get(name, 0)
            if limit in (None, now):
                return now
            await asyncio.sleep(0.01)


async def come(pod: Pod, requests: int) -> None:
    """Wait until so many requests have come to a pod."""
    async with asyncio.timeout(10):
        while len(pod.requests) < requests:
            await asyncio.sleep(0.01)


def is_too_many(answer: httpx.Response) -> bool:
    if answer.status_code != 429:
        return False
    told = error(answer)
    assert (told["type"], told["code"], told["param"]) == ("requests", "rate_limit_exceeded", None)
    assert "at the same time" in told["message"]
    assert answer.headers["retry-after"] == "1"
    assert not [name for name in answer.headers if name.startswith("x-")]
    return True


@pytest.mark.parametrize("threads", [1, 2])
async def test_no_more_than_the_limit_at_the_same_time(tmp_path: Path, threads: int) -> None:
    key, other = counted(3), counted(1, "other")
    async with serve("a") as (a,), gateway(tmp_path, alpha(a, key, other), threads=threads) as found:
        expected: Counter[Any] = Counter()
        # The second time all places are free again.
        for round_ in (1, 2):
            a.hold = asyncio.Event()
            a.requests.clear()
            asked = []
            for number in range(1, 11):
                asked.append(asyncio.create_task(found.ask({"model": "alpha"}, key=key.value)))
                # Each thread looks at the count before it adds to it: the last place may be taken twice in the same instant.
                if threads > 1 and number <= 3:
                    await come(a, number)
            async with asyncio.timeout(10):
                while sum(task.done() for task in asked) < 7:
                    await asyncio.sleep(0.01)
            await come(a, 3)
            # What is under way is counted once where the agent looks before it ends.
            active = await found.stats(r"^http\.models\.downstream_rq_active$")
            assert active == {"http.models.downstream_rq_active": 3}
            # Others have places of their own; the list of models takes none.
            also = [
                asyncio.create_task(found.ask({"model": "alpha"}, key=each))
                for each in (other.value, ALICE.value, None)
            ]
            await come(a, 6)
            assert is_too_many(await found.ask({"model": "alpha"}, key=other.value))
            assert (await found.get("/v1/models", key=key.value)).status_code == 200
            assert (await found.ask({}, key=key.value, path="/metrics")).status_code == 404
            a.hold.set()
            answers = await asyncio.gather(*asked)
            assert sum(is_too_many(answer) for answer in answers) == 7
            assert [served_by(each) for each in answers if each.status_code != 429] == ["a"] * 3
            assert [served_by(each) for each in await asyncio.gather(*also)] == ["a"] * 3
            assert len(a.requests) == 6, round_
            await under_way(found, 0)
            expected.update({(CLIENT, 200, "models/a", True): 3, (CLIENT, 429, None, False): 7})
        logged = Counter(
            (line["client"], line["status"], line["model"], line["upstream"] == f"127.0.0.1:{a.endpoint.port}")
            for line in await found.end()
            if line["client"] == CLIENT and line["path"] == "/v1/chat/completions"
        )
        assert logged == expected


def send(found: Gateway, key: ApiKey, body: bytes = b'{"model":"alpha"}', length: int = 17) -> socket.socket:
    """A request whose answer nobody waits for yet."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key.value}\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", found.port))
    connection.sendall((head + kind).encode() + body)
    return connection


async def test_who_goes_away_frees_the_place(tmp_path: Path) -> None:
    key = counted(1)
    async with serve("a") as (a,), gateway(tmp_path, alpha(a, key)) as found:
        a.hold = asyncio.Event()
        for body, model_ in ((b'{"model":"alpha"}', "models/a"), (b'{"mod', None)):
            connection = send(found, key, body)
            await under_way(found, 1)
            if model_ is not None:
                await come(a, 1)
            assert is_too_many(await found.ask({"model": "alpha"}, key=key.value))
            connection.close()
            await under_way(found, 0)
        # Gone before Envoy has looked at it.
        for _ in range(20):
            connection = send(found, key)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        await under_way(found, 0)
        a.hold.set()
        assert served_by(await found.ask({"model": "alpha"}, key=key.value)) == "a"
        total = await found.stats(r"^http\.models\.downstream_rq_total$")
        lines = await found.end()
        assert len(lines) == total["http.models.downstream_rq_total"]
        gone = [line["model"] for line in lines if line["flags"] == "DC"]
        assert gone[:2] == ["models/a", None]


async def test_streams(tmp_path: Path) -> None:
    key = counted(1)
    async with serve("a") as (a,), gateway(tmp_path, alpha(a, key)) as found:
        a.pieces = asyncio.Queue()
        headers = {"authorization": f"Bearer {key.value}", "content-type": "application/json"}
        for gone in (True, False):
            async with found.client.stream(
                "POST", "/v1/completions", json={"model": "alpha"}, headers=headers
            ) as answer:
                received = answer.aiter_raw()
                for piece in (b"data: 1\n\n", b"data: 2\n\n"):
                    # Each piece has come before the next is there.
                    a.pieces.put_nowait(piece)
                    assert await anext(received) == piece
                assert is_too_many(await found.ask({"model": "alpha"}, key=key.value))
                if not gone:
                    a.pieces.put_nowait(b"")
                    assert [each async for each in received] == []
            await under_way(found, 0)
            # What the pod still does is nobody's any more.
            a.pieces.put_nowait(b"")
            a.pieces = asyncio.Queue()


async def outcome(folder: Path, key: ApiKey) -> list[Any]:
    """What is answered to requests of all kinds, what comes to pods, and what is logged."""
    async with serve("a", "b", "far", "gone") as (a, b, far, gone):
        await gone.stop()
        only_a = frozenset({TEAM_A})
        outside = External(
            server=Server("x.example.com", 80, tls=False, path_prefix="/y"), model_names={"far": "there"}
        )
        models = (
            model("a", a.endpoint, served_model_names=("alpha",), upstream_key="sk-upstream", callers=only_a),
            model("b", b.endpoint, gone.endpoint, served_model_names=("beta",), callers=only_a),
            model("far", far.endpoint, external=outside, upstream_key="sk-far"),
            model("gone", gone.endpoint),
            model("hidden", b.endpoint, callers=frozenset({Key("team-b", "keys")})),
            model("late", waiting="Starting", fallback=Key("models", "a"), callers=only_a),
            model("waits", waiting="Starting", retry_after=7),
        )
        async with gateway(folder, state(*models, keys=(ALICE, counted(100)))) as found:
            told: list[Any] = []

            async def ask(body: Any, path: str = "/v1/completions?x=%2F", **headers: str) -> None:
                answer = await found.ask(
                    body, key=key.value, path=path, headers={each.replace("_", "-"): headers[each] for each in headers}
                )
                given = {name: answer.headers[name] for name in answer.headers if name not in ("date", "connection")}
                told.append((answer.status_code, answer.text, given))

            names = ("alpha", "models/a", "far", "gone", "hidden", "late", "waits", "zeta", 'x"%PATH%')
            for name in names:
                await ask({"model": name, "prompt": "x"})
            # One of its pods is away.
            for _ in range(5):
                await ask({"model": "beta"})
            for body in (b"", b"{", b"{}", b'{"model":"alpha"}' + b" " * 3_000_000):
                await ask(body)
            await ask(b'{"model":"alpha","x":"' + b"x" * 65 * 1024**2 + b'"}')
            form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nlate\r\n--x--\r\n'
            await ask(form, path="/v1/audio/translations", content_type="multipart/form-data; boundary=x")
            for path in ("/metrics", "//v1/../v1/completions", "/v1/models/alpha", "/tokenize"):
                await ask({"model": "alpha"}, path=path)
            trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            await ask({"model": "alpha"}, traceparent=trace, x_forwarded_for="192.0.2.7", x_request_id="mine")
            await ask({"model": "far"}, cookie="a=b", x_forwarded_for="192.0.2.7", te="trailers", expect="100-continue")
            # As many headers, and as large ones, as Envoy takes.
            await ask({"model": "alpha"}, **{f"x_{number}": "y" for number in range(90)})
            for size in range(60_800, 61_500, 50):
                await ask({"model": "alpha"}, x_large="y" * size)
            ports = {str(pod.endpoint.port): pod.name for pod in (a, b, far, gone)}
            came = [
                (
                    pod.name,
                    each["path"],
                    each["body"],
                    {
                        name: each["headers"][name]
                        for name in each["headers"]
                        if name.lower() not in ("x-request-id", "host")
                    },
                )
                for pod in (a, b, far)
                for each in pod.requests
            ]
            ids = {each["headers"]["X-Request-ID"] for pod in (a, b, far) for each in pod.requests}
            lines = [line for line in await found.end() if line["path"] != "/v1/models"]
            logged = {line["request_id"] for line in lines if line["upstream"] is not None}
            assert ids <= logged
            own = ("time", "milliseconds", "first_byte_milliseconds", "request_id", "bytes_received")
            shown = [
                {
                    **{name: line[name] for name in line if name not in own},
                    "client": (line["client"] or "").replace("counted", "alice"),
                    "upstream": ports.get((line["upstream"] or "").rpartition(":")[2]),
                    "first byte": line["first_byte_milliseconds"] is not None,
                }
                for line in lines
            ]
            return [told, came, sorted(map(json.dumps, shown))]


async def test_all_else_is_as_for_others(tmp_path: Path) -> None:
    seen = []
    for key in (ALICE, counted(100)):
        folder = tmp_path / key.name
        folder.mkdir()
        seen.append(await outcome(folder, key))
    as_ever, here = seen
    for one, other in zip(as_ever, here, strict=True):
        for before, now in zip(one, other, strict=True):
            assert now == before
    statuses = {status for status, _, _ in here[0]}
    assert statuses == {200, 400, 404, 413, 431, 503}


async def test_a_body_is_read_once(tmp_path: Path) -> None:
    size = 40_000_000
    body = b'{"model":"models/a","x":"' + b"x" * size + b'"}'
    peaks, executions = [], []
    for key in (ALICE, counted(1)):
        folder = tmp_path / key.name
        folder.mkdir()
        async with serve("a") as (a,), gateway(folder, alpha(a, key)) as found:
            before = await found.stats(r"^http\.(models|counted)\.lua\.executions$")
            assert served_by(await found.ask(body, key=key.value)) == "a"
            after = await found.stats(r"^http\.(models|counted)\.lua\.executions$")
            executions.append({name.split(".")[1]: after[name] - before[name] for name in after})
            peaks.append(found.peak_memory())
    # Before the key and behind it; then for the model, and for its other name.
    assert executions == [{"models": 4, "counted": 0}, {"models": 2, "counted": 2}]
    assert peaks[1] < peaks[0] + size / 2


async def test_nobody_can_say_that_he_has_been_counted(tmp_path: Path) -> None:
    key = counted(1)
    only_a = model("a", served_model_names=("alpha",), callers=frozenset({TEAM_A}), waiting="Starting")
    async with serve("b") as (b,), gateway(tmp_path, state(only_a, model("b", b.endpoint), keys=(ALICE, key))) as found:
        spoofed = {"x-vllm-cluster": f"limit/{CLIENT}", "x-vllm-caller": CLIENT, "x-vllm-client": CLIENT}
        for each, statuses in ((None, [401, 200]), ("sk-wrong", [401, 401]), (ALICE.value, [503, 200])):
            answers = [await found.ask({"model": name}, key=each, headers=spoofed) for name in ("alpha", "b")]
            assert [answer.status_code for answer in answers] == statuses, each
        for name in ("x-vllm-cluster", "x-vllm-caller"):
            assert served_by(await found.ask({"model": "b"}, headers={"connection": name, name: CLIENT})) == "b"
        assert await found.stats(r"^http\.counted\.downstream_rq_total$") == {"http.counted.downstream_rq_total": 0}
        # The same from one who is counted is stripped, too, and counted once.
        spoofed["x-vllm-cluster"] = "model/models/b"
        assert served_by(await found.ask({"model": "b"}, key=key.value, headers=spoofed)) == "b"
        assert await found.stats(r"^http\.counted\.downstream_rq_total$") == {"http.counted.downstream_rq_total": 1}
        told = {name.lower() for each in b.requests for name in each["headers"]}
        assert not [name for name in told if name.startswith("x-vllm")]


async def test_pods_are_chosen_by_who_is_counted(tmp_path: Path) -> None:
    async with serve("a", "b", "c") as pods:
        endpoints = [pod.endpoint for pod in pods]
        keys = tuple(counted(5, f"user-{number}") for number in range(12))
        wanted = state(*(model(balance, *endpoints, balance=balance) for balance in ("user", "prefix")), keys=keys)
        async with gateway(tmp_path, wanted) as found:
            await found.wait_healthy(6)

            async def chosen(balance: str, round_: int) -> list[str]:
                answers = []
                for number, key in enumerate(keys):
                    body = {"seed": round_, "prompt": f"{number} " * 300, "model": balance}
                    answers.append(served_by(await found.ask(body, key=key.value)))
                return answers

            for balance in ("user", "prefix"):
                first = await chosen(balance, 0)
                assert len(set(first)) > 1, balance
                assert await chosen(balance, 1) == await chosen(balance, 2) == first, balance


async def test_limits_change_under_requests(tmp_path: Path) -> None:
    def with_limit(limit: int | None) -> GatewayState:
        return alpha(a, counted(limit))

    key = counted(2)
    async with serve("a") as (a,), gateway(tmp_path, with_limit(None)) as found:
        a.hold = asyncio.Event()
        asked: list[asyncio.Task[httpx.Response]] = []

        async def fill(places: int) -> None:
            """Take so many places; then there is none any more."""
            for _ in range(places):
                asked.append(asyncio.create_task(found.ask({"model": "alpha"}, key=key.value)))
                await come(a, len(asked))
            assert is_too_many(await found.ask({"model": "alpha"}, key=key.value))

        async def until_limit(limit: int | None) -> None:
            """Publish it, and wait until Envoy has it."""
            await found.publish(with_limit(limit))
            async with httpx.AsyncClient() as client, asyncio.timeout(10):
                while True:
                    shown = (await client.get(f"{found.admin}/clusters", params={"format": "json"})).json()
                    now = [
                        each["circuit_breakers"]["thresholds"][0]["max_requests"]
                        for each in shown["cluster_statuses"]
                        if each["name"] == f"limit/{CLIENT}"
                    ]
                    if now == ([] if limit is None else [limit]):
                        return
                    await asyncio.sleep(0.01)

        await until_limit(2)
        await fill(2)
        # Other news change nothing of the counts.
        await found.publish(state(*with_limit(2).models, model("b", waiting="Starting"), keys=with_limit(2).keys))
        async with asyncio.timeout(10):
            while (await found.ask({"model": "b"}, key=ALICE.value)).status_code != 503:
                await asyncio.sleep(0.05)
        assert is_too_many(await found.ask({"model": "alpha"}, key=key.value))
        # A limit that is another counts anew.
        await until_limit(3)
        await fill(3)
        await until_limit(None)
        await until_limit(1)
        await fill(1)
        a.hold.set()
        assert [served_by(each) for each in await asyncio.gather(*asked)] == ["a"] * 6


async def test_a_request_that_never_comes(tmp_path: Path) -> None:
    key = counted(1)
    async with (
        serve("a") as (a,),
        gateway(tmp_path, alpha(a, key), Patience(headers=1, whole=2)) as found,
    ):
        with send(found, key, b'{"model"') as connection:
            connection.settimeout(30)
            answer = await asyncio.to_thread(connection.recv, 65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer
        await under_way(found, 0)
        (line,) = [each for each in await found.end() if each["method"] == "POST"]
        assert line["status"] == 408


async def test_a_gateway_that_leaves_finishes_what_is_counted(tmp_path: Path) -> None:
    key = counted(2)
    async with serve("a") as (a,), gateway(tmp_path, alpha(a, key)) as found:
        a.hold = asyncio.Event()
        asked = [asyncio.create_task(found.ask({"model": "alpha"}, key=key.value)) for _ in range(2)]
        await come(a, 2)
        async with httpx.AsyncClient() as client:
            assert (await client.post(f"{found.admin}/healthcheck/fail")).status_code == 200
        a.hold.set()
        answers = await asyncio.gather(*asked)
        assert [served_by(each) for each in answers] == ["a"] * 2
        assert [each.headers["connection"] for each in answers] == ["close"] * 2
        for _ in range(3):
            assert served_by(await found.ask({"model": "alpha"}, key=key.value)) == "a"
