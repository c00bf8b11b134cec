"""The real Envoy does with requests what is meant."""

import asyncio
import json
import random
import string
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.certificates import Authority
from tests.gateway.envoy import Gateway, Pod, error, gateway, serve, served_by
from tests.gateway.states import ALICE, BOB, TEAM_A, TEAM_B, model, state
from vllm_operator.api.endpoint import Server
from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import adapter_of
from vllm_operator.gateway.render import CLUSTER, render
from vllm_operator.gateway.scripts import PARTS, part_of
from vllm_operator.gateway.state import ApiKey, Endpoint, External, GatewayState
from vllm_operator.gateway.status import describe_rejected, describe_status

pytestmark = pytest.mark.cluster  # Envoy is installed as the cluster's programs are.

UPSTREAM = "upstream-secret-of-%REQ(:path)%-a"
"""It looks like what Envoy formats, and must reach the pod as it is."""


def usual(a: Pod, b: Pod) -> Any:
    """`a` for team A only, `b` for everybody, `c` that still loads."""
    return state(
        model("a", a.endpoint, served_model_names=("alpha",), callers=frozenset({TEAM_A}), upstream_key=UPSTREAM),
        model("b", b.endpoint, served_model_names=("beta",)),
        model("c", served_model_names=("gamma",), waiting="Starting: 0 of 1 pods are ready", retry_after=7),
    )


async def test_the_model_in_the_body_decides(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, usual(a, b)) as found:
        for name, pod in (("alpha", "a"), ("models/a", "a"), ("beta", "b"), ("models/b", "b")):
            assert served_by(await found.ask({"model": name}, key=ALICE.value)) == pod
            # vLLM does not know the long name.
            asked = json.loads((a if pod == "a" else b).requests[-1]["body"])
            assert asked == {"model": "alpha" if pod == "a" else "beta"}
        bodies: list[tuple[Any, str]] = [
            ({"metadata": {"model": "beta"}, "model": "alpha"}, "a"),
            (b'{"model": "beta", "model": "alpha"}', "a"),
            (b'{"model": "\\u0061lpha"}', "a"),
            (b'\xef\xbb\xbf\n{"x":{"model":"beta"},"mod\\u0065l":"alpha"}\n', "a"),
            # What Python's parser takes, the gateway does.
            (b'{"x":[NaN,18446744073709551615,1e999,"\\ud83d"],"model":"alpha"}', "a"),
            (b'{"model":1,"model":"alpha"}', "a"),
            ({"model": "alpha", "messages": [{"role": "user", "content": '"model": "beta"'}]}, "a"),
        ]
        for body, pod in bodies:
            assert served_by(await found.ask(body, key=ALICE.value)) == pod, body
        for path in ("/v1/embeddings", "/v1/responses", "/v1/messages", "/tokenize", "/v2/rerank", "/v1/score?x=1"):
            assert served_by(await found.ask({"model": "beta"}, path=path)) == "b", path
        form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nbeta\r\n--x--\r\n'
        answer = await found.ask(
            form, path="/v1/audio/transcriptions", headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert served_by(answer) == "b"


async def test_what_cannot_be_answered_is_told_as_openai_does(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, usual(a, b)) as found:
        answer = await found.ask({"model": "gamma"}, key=ALICE.value)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
        assert error(answer)["message"] == "The model `gamma` does not answer now: Starting: 0 of 1 pods are ready"
        cases: list[tuple[Any, str | None, int, str, str]] = [
            ({"model": "zeta"}, ALICE.value, 404, "model_not_found", "You may use: `alpha`, `beta`, `gamma`."),
            ({"model": "alpha"}, BOB.value, 404, "model_not_found", "You may use: `beta`, `gamma`."),
            ({"model": 'x"\n%PATH%'}, ALICE.value, 404, "model_not_found", "does not exist"),
            ({}, ALICE.value, 400, "missing_model", "names no `model`"),
            ({"model": None}, ALICE.value, 400, "missing_model", "names no `model`"),
            ({"model": "x" * 2000}, ALICE.value, 404, "model_not_found", "The model `(a name of 2000 bytes)` does"),
            ({"model": "alpha\0"}, ALICE.value, 404, "model_not_found", "The model `alpha\ufffd` does not exist"),
            ({"model": "\U0001f600é\\"}, ALICE.value, 404, "model_not_found", "The model `\U0001f600é\\` does"),
            (b'{"model":"\\ud83d\\ude00\\n"}', ALICE.value, 404, "model_not_found", "The model `\U0001f600\n` does"),
            (b'{"model":"\\ud83d"}', ALICE.value, 404, "model_not_found", "The model `\ufffd` does not exist"),
            (b'{"model":"alpha\xff"}', ALICE.value, 400, "invalid_json", "no JSON"),
            (b'{"model":"\\x61lpha"}', ALICE.value, 400, "invalid_json", "no JSON"),
            (b'{"model":"alpha",}', ALICE.value, 400, "invalid_json", "no JSON"),
            (b'{"model":"alpha"}{"model":"beta"}', ALICE.value, 400, "invalid_json", "no JSON"),
            (b'[{"model":"alpha"}]', ALICE.value, 400, "invalid_json", "no JSON"),
            (b"{nope", ALICE.value, 400, "invalid_json", "no JSON"),
            ({"model": "alpha"}, None, 401, "invalid_api_key", "Authorization: Bearer"),
            ({"model": "beta"}, "wrong", 401, "invalid_api_key", "Authorization: Bearer"),
        ]
        for body, key, status, code, part in cases:
            answer = await found.ask(body, key=key)
            assert (answer.status_code, error(answer)["code"]) == (status, code), (body, answer.text)
            assert part in error(answer)["message"]
        for path in ("/metrics", "/v1/../metrics", "/sleep"):
            assert (await found.ask({"model": "beta"}, path=path)).status_code == 404, path
        large = await found.ask(b'{"model": "beta", "x": "' + b"x" * 65 * 1024**2 + b'"}')
        assert (large.status_code, error(large)["code"]) == (413, "request_too_large")


async def test_models_are_listed_for_those_who_may_use_them(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, usual(a, b)) as found:

        async def listed(key: str | None) -> list[str]:
            return [each["id"] for each in (await found.get("/v1/models", key=key)).json()["data"]]

        assert await listed(ALICE.value) == ["alpha", "beta", "gamma"]
        assert await listed(BOB.value) == await listed(None) == ["beta", "gamma"]
        one = (await found.get("/v1/models/alpha", key=ALICE.value)).json()
        assert (one["id"], one["ready"]) == ("alpha", True)
        assert (await found.get("/v1/models/models/a", key=ALICE.value)).json()["id"] == "models/a"
        assert (await found.get("/v1/models/alpha", key=BOB.value)).status_code == 404


async def test_each_caller_finds_the_models_of_all_that_it_belongs_to(tmp_path: Path) -> None:
    """Envoy looks among those of each set of callers in turn, and goes on where there is no such name."""
    async with serve("a", "ab", "b", "all") as (a, ab, b, everybody):
        models = (
            model("only-a", a.endpoint, callers=frozenset({TEAM_A})),
            model("both", ab.endpoint, callers=frozenset({TEAM_A, TEAM_B})),
            model("only-b", b.endpoint, callers=frozenset({TEAM_B}), served_model_names=("only-b", "x:y@1.0/z_2-3")),
            model("all", everybody.endpoint),
            model("nobody", everybody.endpoint, callers=frozenset()),
        )
        names = {
            **{name: each.key.name for each in models for name in (*each.served_model_names, str(each.key))},
            **dict.fromkeys(("only-A", "only-a ", "models/", "ask/all", "counted", "\u00e9"), None),
        }
        may = {ALICE.value: {"only-a", "both", "all"}, BOB.value: {"only-b", "both", "all"}, None: {"all"}}
        pods = {"only-a": "a", "both": "ab", "only-b": "b", "all": "all"}
        async with gateway(tmp_path, state(*models)) as found:
            for key, theirs in may.items():
                unknown = 401 if key is None else 404
                for name, which in names.items():
                    answer = await found.ask({"model": name}, key=key)
                    shown = await found.get(f"/v1/models/{name}?model=all", key=key)
                    if which in theirs:
                        assert served_by(answer) == pods[which], (name, key)
                        assert (shown.status_code, shown.json()["id"]) == (200, name)
                        head = await found.client.head(f"/v1/models/{name}", headers={"x-api-key": key} if key else {})
                        assert head.status_code == 404, "nothing but GET shows a model"
                    else:
                        assert answer.status_code == shown.status_code == unknown, (name, key)
            for path, name in (("/v1/models", "all"), ("/v1/models/models/nobody", "only-a")):
                answer = await found.client.post(path, json={"model": name})
                assert (answer.status_code, error(answer)["code"]) == (404, "not_found")


async def test_names_of_all_kinds_are_found(tmp_path: Path) -> None:
    """Script and renderer count alike in which part of the routes a name stands."""
    dice = random.Random(1)
    letters = string.ascii_letters + string.digits
    names = tuple(
        dice.choice(letters) + "".join(dice.choices(letters + "-._/:@", k=dice.randrange(63))) for _ in range(100)
    )
    assert {part_of(name) for name in names} == set(PARTS)
    async with (
        serve("a") as (a,),
        gateway(tmp_path, state(model("a", a.endpoint, served_model_names=("z", *names)))) as found,
    ):
        for name in ("z", *names):
            assert served_by(await found.ask({"model": name})) == "a", name
            assert (await found.ask({"model": f"{name}-"})).status_code == 401, name


@pytest.mark.parametrize("header", ["x-vllm-route", "x-vllm-part"])
@pytest.mark.parametrize("name", ["ask/alpha", "show/alpha", "counted", "names/0", "others"])
async def test_nobody_names_a_route(tmp_path: Path, name: str, header: str) -> None:
    counted = ApiKey(Key("team-b", "counted"), "counted", "sk-counted-secret", concurrent_requests=8)
    async with serve("a", "b") as (a, b):
        wanted = replace(usual(a, b), keys=(ALICE, BOB, counted))
        async with gateway(tmp_path, wanted) as found:
            for key in (BOB.value, counted.value):
                for written in (header, header.upper()):
                    sent = {written: name}
                    assert served_by(await found.ask({"model": "beta"}, key=key, headers=sent)) == "b"
                    assert (await found.ask({"model": "alpha"}, key=key, headers=sent)).status_code == 404
                    assert (await found.ask({"model": "alpha"}, key=key, headers=sent, path="/x")).status_code == 404
                    shown = {**sent, "authorization": f"Bearer {key}"}
                    assert (await found.client.get("/v1/models/alpha", headers=shown)).status_code == 404
            assert not a.requests
            assert len(b.requests) == 4
            for request in b.requests:
                assert not [each for each in request["headers"] if each.lower().startswith("x-vllm")]


async def test_requests_are_counted_by_model_and_key(tmp_path: Path) -> None:
    """By the key's name, and by nothing that a client can make up."""
    limited = ApiKey(Key("team-b", "limited"), "eve", "sk-limited-secret", concurrent_requests=8)
    async with serve("a", "b") as (a, b), gateway(tmp_path, replace(usual(a, b), keys=(ALICE, limited))) as found:
        for model_name, key in (
            ("alpha", ALICE.value),
            ("models/a", ALICE.value),
            ("beta", None),
            ("beta", limited.value),
            ("made-up", ALICE.value),
            ("beta", "sk-mistyped-secret"),
            ("gamma", None),
        ):
            await found.ask({"model": model_name}, key=key, headers={"x-vllm-client": "me"})

        async def counted() -> dict[tuple[str, str, str], int]:
            async with httpx.AsyncClient() as client:
                text = (await client.get(f"{found.admin}/stats/prometheus", params={"usedonly": ""})).text
            return {
                (sample.labels["model"], sample.labels["client"], sample.labels["status"]): int(sample.value)
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name.startswith("envoy_gateway_requests")
                # The list of models is what the test's gateway is asked for until it is there.
                and (sample.labels["model"] or sample.labels["status"] != "200")
            }

        expected = {
            ("models/a", "team-a/keys/alice", "200"): 2,
            ("models/b", "", "200"): 1,
            ("models/b", "team-b/limited/eve", "200"): 1,
            ("models/c", "", "503"): 1,
            ("", "team-a/keys/alice", "404"): 1,
            ("", "", "401"): 1,
        }
        async with asyncio.timeout(10):
            while (said := await counted()) != expected:
                assert len(said) <= len(expected), said
                await asyncio.sleep(0.05)


async def test_no_key_is_seen_where_it_does_not_belong(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, usual(a, b)) as found:
        await found.ask({"model": "alpha"}, key=ALICE.value)
        await found.ask({"model": "beta"}, headers={"x-api-key": BOB.value}, path=f"/v1/completions?key={BOB.value}")
        await found.ask({"model": "alpha"}, key="sk-mistyped-secret")
        spoofed = {"x-vllm-client": "team-a/keys/alice", "x-vllm-keyless": "open"}
        assert (await found.ask({"model": "alpha"}, headers=spoofed)).status_code == 401
        (to_a,) = a.requests
        assert to_a["headers"]["Authorization"] == f"Bearer {UPSTREAM}"
        (to_b,) = b.requests
        assert "Authorization" not in to_b["headers"]
        for request in (to_a, to_b):
            told = {name.lower() for name in request["headers"]}
            assert not told & {"x-api-key", "x-vllm-client", "x-vllm-keyless"}
            assert ALICE.value not in str(request["headers"])
        async with httpx.AsyncClient() as client:
            for method, path in (("GET", "/config_dump"), ("GET", "/stats/../config_dump"), ("POST", "/quitquitquit")):
                answer = await client.request(method, f"{found.admin}{path}")
                assert answer.status_code == 403, path
        await asyncio.to_thread(_wait_for_lines, found.access_log, 4)
        written = found.access_log.read_text() + found.log.read_text()
        assert "team-a/keys/alice" in written
        for value in (ALICE.value, BOB.value, UPSTREAM, "sk-mistyped-secret"):
            assert value not in written


def _wait_for_lines(path: Path, count: int) -> None:
    from tests.cluster.commands import wait_until

    wait_until("the access log", lambda: len(path.read_text().splitlines()) >= count, timeout=30)


async def test_keys_change_without_a_lost_request(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, usual(a, b)) as found:
        before = usual(a, b)
        fresh = ApiKey(TEAM_A, "alice-2", "sk-alice-next")
        both = state(*before.models, keys=(ALICE, BOB, fresh))
        only = state(*before.models, keys=(BOB, fresh))

        async def until(key: str, status: int) -> None:
            async with asyncio.timeout(10):
                while (await found.ask({"model": "alpha"}, key=key)).status_code != status:
                    await asyncio.sleep(0.01)

        await found.publish(both)
        await until(fresh.value, 200)
        assert served_by(await found.ask({"model": "alpha"}, key=ALICE.value)) == "a"
        await found.publish(only)
        await until(ALICE.value, 401)
        assert served_by(await found.ask({"model": "alpha"}, key=fresh.value)) == "a"


async def test_models_come_and_go_and_no_request_fails(tmp_path: Path) -> None:
    """Only 200 and 404: never an answer that there is a route but no cluster."""
    async with serve("a", "b") as (a, b), gateway(tmp_path, usual(a, b)) as found:
        seen: dict[tuple[str, int], int] = {}
        going = True

        async def hammer(name: str) -> None:
            while going:
                answer = await found.ask({"model": name}, key=ALICE.value)
                seen[name, answer.status_code] = seen.get((name, answer.status_code), 0) + 1

        tasks = [asyncio.create_task(hammer(name)) for name in ("alpha", "extra")]
        extra = model("extra", b.endpoint)
        for _ in range(15):
            await found.publish(state(*usual(a, b).models, extra))
            await found.publish(usual(a, b))
        going = False
        await asyncio.gather(*tasks)
        assert {status for name, status in seen if name == "alpha"} == {200}, seen
        assert {status for name, status in seen if name == "extra"} == {200, 404}, seen


async def test_a_pod_that_leaves(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, state(model("chat", a.endpoint, b.endpoint))) as found:
        async with asyncio.timeout(10):
            while {served_by(await found.ask({"model": "chat"})) for _ in range(10)} != {"a", "b"}:
                await asyncio.sleep(0.05)
        await found.publish(state(model("chat", a.endpoint)))
        async with asyncio.timeout(10):
            while {served_by(await found.ask({"model": "chat"})) for _ in range(10)} != {"a"}:
                await asyncio.sleep(0.05)


async def test_what_is_under_way_ends_well_when_its_pods_change(tmp_path: Path) -> None:
    """Envoy makes the cluster anew for each change of its pods."""
    async with serve("a", "b") as (a, b), gateway(tmp_path, state(model("chat", a.endpoint))) as found:
        a.hold = asyncio.Event()
        asking = asyncio.create_task(found.ask({"model": "chat"}))
        async with asyncio.timeout(10):
            while not a.requests:
                await asyncio.sleep(0.01)
            for changes, pods in enumerate(((a, b), (b,)), 1):
                await found.publish(state(model("chat", *(pod.endpoint for pod in pods))))
                while await _changes(found) != (changes, 0):
                    await asyncio.sleep(0.01)
            assert served_by(await found.ask({"model": "chat"})) == "b"
            await found.publish(state(model("other", b.endpoint), keys=()))
            while (await found.ask({"model": "chat"})).status_code != 404:
                await asyncio.sleep(0.01)
            a.hold.set()
            assert served_by(await asking) == "a"


async def _changes(found: Gateway) -> tuple[int, int]:
    """How often clusters were made anew, and how many are not in use yet."""
    names = "cluster_manager.cluster_modified", "cluster_manager.warming_clusters"
    stats = await found.stats("^cluster_manager")
    return stats[names[0]], stats[names[1]]


async def test_pods_come_and_go_and_no_request_fails(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, state(model("chat", a.endpoint))) as found:
        seen: list[int] = []
        going = True

        async def hammer() -> None:
            while going:
                seen.append((await found.ask({"model": "chat"})).status_code)

        tasks = [asyncio.create_task(hammer()) for _ in range(4)]
        for pods in ([a, b], [b], [b, a], [a]) * 4:
            await found.publish(state(model("chat", *(pod.endpoint for pod in pods))))
            count = len(pods[0].requests)
            async with asyncio.timeout(10):
                while len(pods[0].requests) < count + 5:
                    await asyncio.sleep(0.01)
        going = False
        await asyncio.gather(*tasks)
        assert set(seen) == {200}


async def test_pods_that_die(tmp_path: Path) -> None:
    async with serve("a") as (a,), gateway(tmp_path, state(model("chat", a.endpoint))) as found:
        assert served_by(await found.ask({"model": "chat"})) == "a"
        await a.stop()
        answer = await found.ask({"model": "chat"})
        assert (answer.status_code, error(answer)["code"]) == (503, "model_not_ready")
        assert answer.headers["retry-after"] == "5"


async def test_weights_are_kept(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b):
        old = model("old", a.endpoint, served_model_names=("chat",), created="1", weight=3)
        new = model("new", b.endpoint, served_model_names=("chat",), created="2", weight=1)
        async with gateway(tmp_path, state(old, new)) as found:
            answers = [served_by(await found.ask({"model": "chat"})) for _ in range(200)]
            assert 20 < answers.count("b") < 90


async def test_what_envoy_refuses_is_known_and_hides_nothing(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, usual(a, b)) as found:
        broken = model("broken", b.endpoint, weight=-1)
        await _publish_broken(found, broken, usual(a, b))
        assert served_by(await found.ask({"model": "alpha"}, key=ALICE.value)) == "a"
        async with asyncio.timeout(10):
            while not found.server.rejections():
                await asyncio.sleep(0.05)
        (refused,) = {each.type.rpartition(".")[2] for each in found.server.rejections()}
        assert refused == "Cluster"
        assert (await found.stats("cluster_manager.cds.update_rejected"))["cluster_manager.cds.update_rejected"] < 10
        await found.publish(usual(a, b))
        assert found.server.rejections() == []


async def _publish_broken(found: Gateway, broken: Any, before: Any) -> None:
    """A cluster that Envoy does not take; rendering makes none, so it is made by hand."""
    from vllm_operator.gateway.render import CLUSTER, render

    resources = render(state(*before.models, broken))
    resources.by_type[CLUSTER]["model/models/broken"]["connect_timeout"] = "no duration"
    await found.server.publish(resources)


async def test_a_name_of_another_namespace_is_its_own(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b):
        one = model("chat", a.endpoint, namespace="one", created="1")
        two = model("chat", b.endpoint, namespace="two", created="2")
        async with gateway(tmp_path, state(one, two)) as found:
            assert served_by(await found.ask({"model": "chat"})) == "a"
            assert served_by(await found.ask({"model": "two/chat"})) == "b"
            assert json.loads((await found.get("/v1/models")).text)["data"][1]["id"] == "two/chat"
            assert Key("two", "chat") == two.key


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n%s\r\n--x--\r\n'
)
FORM_TYPE = {"content-type": "multipart/form-data; boundary=x"}


async def test_a_fallback_answers_and_gets_the_body_as_it_was(tmp_path: Path) -> None:
    async with serve("b") as (b,):
        waiting = model("a", served_model_names=("alpha",), waiting="Starting", fallback=Key("models", "b"))
        stand_in = model("b", b.endpoint, served_model_names=('be"t\\a é', "beta"))
        bodies: list[tuple[bytes, bytes]] = [
            # Numbers that are no floats, escapes, order and space are kept; only the outermost model is another.
            (
                b'{"seed": 9223372036854775807, "n":123456789012345678901, "e":1e-7,"f":1.0 ,"model" :"alpha","u":"\xc3\xa9\\u00e9\\ud83d'
                b'\\ude00\\"","l":[{"model":"alpha"},"]}",{}],"z":-0.0}',
                b'{"seed": 9223372036854775807, "n":123456789012345678901, "e":1e-7,"f":1.0 ,"model" :%s,"u":"\xc3\xa9\\u00e9\\ud83d'
                b'\\ude00\\"","l":[{"model":"alpha"},"]}",{}],"z":-0.0}',
            ),
            (b' {"model":"\\u0061lpha"}\n', b' {"model":%s}\n'),
            (b'{"mod\\u0065l":"alpha"}', b'{"mod\\u0065l":%s}'),
            (b'{"model":1,"x":{},"model":"alpha","y":[]}', b'{"model":%s,"x":{},"model":%s,"y":[]}'),
            (b'{"metadata":{"model":"alpha"},"model":"models/a"}', b'{"metadata":{"model":"alpha"},"model":%s}'),
            (
                b'{"x":"' + b"x\\n" * 1_700_000 + b'","model":"alpha"}',
                b'{"x":"' + b"x\\n" * 1_700_000 + b'","model":%s}',
            ),
        ]
        new = '"be\\u0022t\\u005ca é"'.encode()
        async with gateway(tmp_path, state(waiting, stand_in)) as found:
            for sent, wanted in bodies:
                answer = await found.ask(sent)
                assert (served_by(answer), answer.headers["x-vllm-fallback"]) == ("b", "models/b")
                assert b.requests[-1]["body"] == wanted.replace(b"%s", new), sent[:300]
                assert json.loads(b.requests[-1]["body"])["model"] == 'be"t\\a é'
            for size in (10, 3_000_000):
                answer = await found.ask(
                    FORM % (b"alpha", b"x" * size), path="/v1/audio/transcriptions", headers=FORM_TYPE
                )
                assert served_by(answer) == "b"
                assert b.requests[-1]["body"] == FORM % ('be"t\\a é'.encode(), b"x" * size)

            # The length is that of the new body, also where the caller has told none.
            async def in_pieces() -> AsyncIterator[bytes]:
                yield b'{"mod'
                yield b'el":"alpha"}'

            kind = {"content-type": "application/json"}
            assert served_by(await found.client.post("/v1/completions", content=in_pieces(), headers=kind)) == "b"
            assert b.requests[-1]["body"] == b'{"model":' + new + b"}"
            assert {"Transfer-Encoding", "Content-Length"} & set(b.requests[-1]["headers"]) == {"Content-Length"}
            # Those who ask for it itself get it as ever.
            answer = await found.ask({"model": "beta"})
            assert (served_by(answer), "x-vllm-fallback" in answer.headers) == ("b", False)
            assert json.loads(b.requests[-1]["body"]) == {"model": "beta"}
            await found.publish(state(waiting))
            assert (await found.ask({"model": "alpha"})).status_code == 503


CHAT, COMPLETIONS, MESSAGES, RESPONSES = (
    f"/v1/{each}" for each in ("chat/completions", "completions", "messages", "responses")
)
LONG = b'"x":"' + b"y" * 4000 + b'"'
"""More than 2000 tokens, as the gateway guesses."""


FITTED: list[tuple[str, bytes, bytes | None, str | None]] = [
    # 1000 tokens, 64 of them for what is around the prompt: a body of 51 or 52 bytes leaves 910.
    (CHAT, b'{"model":"m", "max_tokens": 910  , "n":0.10, "a":1}', None, None),
    (
        CHAT,
        b'{"model":"m", "max_tokens": 911 , "n":0.10, "a":12}',
        b'{"model":"m", "max_tokens": 910 , "n":0.10, "a":12}',
        "max_tokens=910",
    ),
    (CHAT, b'{"model":"m","max_tokens":999}', b'{"model":"m","max_tokens":921}', "max_tokens=921"),
    (CHAT, b'{"model":"m","max_tokens":1000}', b'{"model":"m"}', "max_tokens=dropped"),
    (COMPLETIONS, b'{"model":"m","max_tokens":1000}', b'{"model":"m","max_tokens":920}', "max_tokens=920"),
    (MESSAGES, b'{"max_tokens":1000,"model":"m"}', b'{"max_tokens":920,"model":"m"}', "max_tokens=920"),
    (RESPONSES, b'{"max_output_tokens":1000,"model":"m"}', b'{"model":"m"}', "max_output_tokens=dropped"),
    (
        RESPONSES,
        b'{"max_output_tokens":999,"model":"m"}',
        b'{"max_output_tokens":917,"model":"m"}',
        "max_output_tokens=917",
    ),
    (RESPONSES, b'{"max_tokens":9999,"model":"m"}', None, None),
    (CHAT, b'{"max_output_tokens":9999,"model":"m"}', None, None),
    (
        CHAT,
        b'{"max_completion_tokens":5000,"max_tokens":999,"model":"m"}',
        b'{"max_tokens":906,"model":"m"}',
        "max_tokens=906, max_completion_tokens=dropped",
    ),
    ("/tokenize", b'{"model":"m","max_tokens":5000,"tools":[]}', None, None),
    (CHAT + "?x=/v1/tokenize", b'{"model":"m","max_tokens":1000}', b'{"model":"m"}', "max_tokens=dropped"),
    # No room beside the guess: what would be refused in any case is changed, nothing that may be right.
    (CHAT, b'{"model":"m","max_tokens":999,' + LONG + b"}", None, None),
    (CHAT, b'{"model":"m","max_tokens":1,' + LONG + b"}", None, None),
    (CHAT, b'{"model":"m","max_tokens":1000,' + LONG + b"}", b'{"model":"m",' + LONG + b"}", "max_tokens=dropped"),
    (MESSAGES, b'{"model":"m","max_tokens":999,' + LONG + b"}", None, None),
    (MESSAGES, b'{"model":"m","max_tokens":1000,' + LONG + b"}", None, None),
    (
        MESSAGES,
        b'{"model":"m","max_tokens":32000,' + LONG + b"}",
        b'{"model":"m","max_tokens":1000,' + LONG + b"}",
        "max_tokens=1000",
    ),
    # What is no whole number is vLLM's business.
    *(
        (CHAT, b'{"model":"m","max_tokens":%s}' % value, None, None)
        for value in (b"null", b"0", b"-5000", b"5000.0", b"5e3", b'"5000"', b"[5000]", b"05000", b"true", b"5000x")
    ),
    (CHAT, b'{"model":"m","max_tokens":1%s}' % (b"0" * 400), b'{"model":"m"}', "max_tokens=dropped"),
    (
        COMPLETIONS,
        b'{"max_tokens":9999999999999999,"model":"m"}',
        b'{"max_tokens":914,"model":"m"}',
        "max_tokens=914",
    ),
    # As other parsers read keys, each of doubled ones, and only of the outermost object.
    (CHAT, b'{"m\\u0061x\\u005Ftokens":1000,"model":"m"}', b'{"model":"m"}', "max_tokens=dropped"),
    (CHAT, b'{"Max_tokens":1000,"max_tokens ":1000,"a":{"max_tokens":1000,"tools":[]},"model":"m"}', None, None),
    (
        COMPLETIONS,
        b'{"max_tokens":2000,"model":"m","max_tokens":999}',
        b'{"max_tokens":912,"model":"m","max_tokens":912}',
        "max_tokens=912",
    ),
    # Tools: taken away with one comma each, wherever they stand.
    (CHAT, b'{"tools":[{}],"model":"m"}', b'{"model":"m"}', "tools=dropped"),
    (CHAT, b' {\n"tools" : [{}] ,\n"model" : "m" , "a":1 }\n', b' {\n"model" : "m" , "a":1 }\n', "tools=dropped"),
    (CHAT, b'{"model":"m" , "tool_choice":"auto" }', b'{"model":"m" }', "tools=dropped"),
    (
        MESSAGES,
        b'{"functions":[],"function_call":"a","model":"m","tools":["]}\\""],"tools":2,"a":[{"tools":1}],"parallel_tool_calls":true}',
        b'{"model":"m","a":[{"tools":1}]}',
        "tools=dropped",
    ),
    (RESPONSES, b'{"model":"m","t\\u006fols":[]}', b'{"model":"m"}', "tools=dropped"),
    (CHAT, b'{"parallel_tool_calls":false,"function_call":"none","model":"m"}', None, None),
    (COMPLETIONS, b'{"model":"m","tools":[],"functions":[],"tool_choice":"none"}', None, None),
    # Both, and another name: what is left out is no part of the prompt.
    (
        CHAT,
        b'{"tools":[' + b"{" + LONG + b"}" + b'],"max_tokens":999,"model":"models/a","tool_choice":"auto"}',
        b'{"max_tokens":916,"model":"m"}',
        "max_tokens=916, tools=dropped",
    ),
]
"""Path, what is sent, what is passed on (None: the same), what the answer says of it."""


async def test_a_model_is_asked_for_what_it_takes(tmp_path: Path) -> None:
    async with serve("a") as (a,):
        a.told = {"x-vllm-changed": "by the pod"}
        asked = model(
            "a", a.endpoint, served_model_names=("m",), max_model_len=1000, clamp_max_tokens=True, drop_tools=True
        )
        async with gateway(tmp_path, state(asked)) as found:
            for path, sent, wanted, changed in FITTED:
                answer = await found.ask(sent, path=path)
                assert a.requests[-1]["body"] == (sent if wanted is None else wanted), sent[:300]
                assert answer.headers.get_list("x-vllm-changed") == ([] if changed is None else [changed]), sent[:300]
            form = FORM % (b"m", b'{"max_tokens":1000,"tools":[]}')
            answer = await found.ask(form, path="/v1/audio/transcriptions", headers=FORM_TYPE)
            assert (served_by(answer), a.requests[-1]["body"]) == ("a", form)
            # Each of the options by itself.
            body = b'{"model":"m","max_tokens":1000,"tools":[]}'
            for one, left in (
                (replace(asked, drop_tools=False), b'{"model":"m","tools":[]}'),
                (replace(asked, clamp_max_tokens=False), b'{"model":"m","max_tokens":1000}'),
            ):
                await found.publish(state(one))
                async with asyncio.timeout(10):
                    while (await found.ask(body)).status_code != 200 or a.requests[-1]["body"] != left:
                        await asyncio.sleep(0.05)


async def test_answers_say_what_was_changed(tmp_path: Path) -> None:
    """Also those of models that share a name, of one that stands in for another, and streams before they end."""
    async with serve("a", "b") as (a, b):
        a.told = b.told = {"x-vllm-changed": "by the pod", "x-vllm-fallback": "by the pod"}
        wanted = state(
            model(
                "a",
                a.endpoint,
                served_model_names=("chat",),
                created="1",
                weight=1,
                max_model_len=1000,
                clamp_max_tokens=True,
            ),
            model("b", b.endpoint, served_model_names=("chat",), created="2", weight=1, drop_tools=True),
            model("c", waiting="Starting", fallback=Key("models", "b"), max_model_len=1000, clamp_max_tokens=True),
        )
        body = {"model": "chat", "max_tokens": 1000, "tools": [], "x": 1}
        spoofed = {"x-vllm-changed": "by the client"}
        async with gateway(tmp_path, wanted) as found:
            said = set()
            for _ in range(30):
                answer = await found.ask(body, headers=spoofed)
                said.add((served_by(answer), *answer.headers.get_list("x-vllm-changed")))
                assert "x-vllm-fallback" not in answer.headers
            assert said == {("a", "max_tokens=dropped"), ("b", "tools=dropped")}
            assert {tuple(json.loads(each["body"])) for each in a.requests} == {("model", "tools", "x")}
            assert {tuple(json.loads(each["body"])) for each in b.requests} == {("model", "max_tokens", "x")}
            answer = await found.ask({**body, "model": "c"}, headers=spoofed)
            assert answer.headers.get_list("x-vllm-changed") == ["tools=dropped"]
            assert answer.headers.get_list("x-vllm-fallback") == ["models/b"]
            assert json.loads(b.requests[-1]["body"]) == {"model": "chat", "max_tokens": 1000, "x": 1}
            told = {name.lower() for pod in (a, b) for each in pod.requests for name in each["headers"]}
            assert not {name for name in told if name.startswith("x-vllm")}

            b.hold = asyncio.Event()
            content = b'{"model":"models/b","tools":[],"stream":true}'
            kind = {"content-type": "application/json"}
            async with found.client.stream("POST", CHAT, content=content, headers=kind) as stream:
                assert stream.headers.get_list("x-vllm-changed") == ["tools=dropped"]
                b.hold.set()
                assert "[DONE]" in (await stream.aread()).decode()
            for name in ("nobody", "models/b"):
                assert "x-vllm-changed" not in (await found.ask({"model": name})).headers
            await asyncio.to_thread(_wait_for_lines, found.access_log, 34)
            lines = [json.loads(line) for line in found.access_log.read_text().splitlines()]
            assert [line["changed"] for line in lines[-4:]] == ["tools=dropped", "tools=dropped", None, None]


async def test_a_server_outside_is_asked_as_it_wants_to_be(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    outside = External(
        server=Server("models.example.com", path_prefix="/openai"),
        ca=authority.certificate,
        model_names={"alpha": "vendor/alpha-large"},
    )
    tls = authority.server("DNS:models.example.com")
    async with serve("far", tls=tls) as (far,), serve("b") as (b,):
        wanted = state(
            model(
                "a",
                far.endpoint,
                served_model_names=("alpha", "as-it-is"),
                callers=frozenset({TEAM_A}),
                upstream_key=UPSTREAM,
                external=outside,
            ),
            model("b", b.endpoint, served_model_names=("beta",)),
        )
        async with gateway(tmp_path, wanted) as found:
            private = {"x-api-key": ALICE.value, "cookie": "session=1"}
            for name, there in (
                ("alpha", "vendor/alpha-large"),
                ("models/a", "vendor/alpha-large"),
                ("as-it-is", "as-it-is"),
            ):
                body = {"model": name, "seed": 2**63 - 1}
                answer = await found.ask(body, key=ALICE.value, path="/v1/completions?x=%2F", headers=private)
                assert served_by(answer) == "far"
                assert far.requests[-1]["path"] == "/openai/v1/completions?x=%2F"
                assert json.loads(far.requests[-1]["body"]) == {**body, "model": there}
                told = {name.lower(): value for name, value in far.requests[-1]["headers"].items()}
                assert (told["host"], told["authorization"]) == ("models.example.com", f"Bearer {UPSTREAM}")
                assert not told.keys() & {"cookie", "x-api-key", "x-forwarded-for", "x-vllm-client"}
            form = FORM % (b"alpha", b"x")
            answer = await found.ask(form, path="/v1/audio/translations", key=ALICE.value, headers=FORM_TYPE)
            assert served_by(answer) == "far"
            assert far.requests[-1]["body"] == FORM % (b"vendor/alpha-large", b"x")
            assert (await found.ask({"model": "alpha"}, key=BOB.value)).status_code == 404
            assert served_by(await found.ask({"model": "beta"}, key=ALICE.value)) == "b"
            assert "authorization" not in {name.lower() for name in b.requests[-1]["headers"]}
            seen = str([each["headers"] for each in (*far.requests, *b.requests)])
            assert ALICE.value not in seen
            await asyncio.to_thread(_wait_for_lines, found.access_log, 6)
            lines = [json.loads(line) for line in found.access_log.read_text().splitlines()]
            assert "/v1/completions" in {line["path"] for line in lines if line["model"] == "models/a"}


async def test_a_server_outside_must_be_who_it_says(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another")
    tls = authority.server("DNS:*.example.com", "IP:127.0.0.1")
    async with serve("far", tls=tls) as (far,):

        def asked(host: str, ca: str | None = authority.certificate) -> Any:
            outside = External(server=Server(host), ca=ca)
            return state(model("a", far.endpoint, external=outside, upstream_key=UPSTREAM), keys=())

        async with gateway(tmp_path, asked("models.example.com")) as found:
            assert served_by(await found.ask({"model": "a"})) == "far"
            await found.publish(asked("127.0.0.1"))
            assert served_by(await found.ask({"model": "a"})) == "far"
            reached = len(far.requests)
            # Each with another host than the one before: publishing waits for clusters only where routes change.
            for host, ca in (
                ("models.example.com", other.certificate),
                ("models.example.org", authority.certificate),
                ("models.example.com", None),
                ("deep.models.example.com", authority.certificate),
                ("127.0.0.2", authority.certificate),
            ):
                await found.publish(asked(host, ca))
                answer = await found.ask({"model": "a"})
                assert (answer.status_code, error(answer)["code"]) == (503, "model_not_ready"), (host, ca)
                assert answer.headers["retry-after"] == "5"
            assert len(far.requests) == reached
            await found.publish(asked("models.example.com"))
            assert served_by(await found.ask({"model": "a"})) == "far"


async def test_a_model_that_cannot_be_told_or_is_refused_concerns_no_other(tmp_path: Path) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    async with serve("a", "b") as (a, b):
        good = model("good", a.endpoint, served_model_names=("alpha",))
        untold = [
            model("nowhere", Endpoint("evil.example.com", 80)),
            model("key", b.endpoint, upstream_key="line\nbreak"),
        ]
        refused = model("ca", b.endpoint, external=External(server=Server("models.example.com"), ca=broken))
        async with gateway(tmp_path, state(*untold, keys=())) as found:

            async def rejected(now: Any) -> dict[str, Any]:
                async with httpx.AsyncClient() as client:
                    answer = await client.get(f"{found.admin}/clusters", params={"format": "json"})
                return describe_rejected(
                    found.server.rejections(),
                    render(now).problems,
                    published=found.server.published[CLUSTER],
                    used=[each["name"] for each in answer.json()["cluster_statuses"]],
                )

            async def told_of(name: str, before: int) -> Any:
                """The first answer by the routes that have just been published, which Envoy takes a moment later."""
                async with asyncio.timeout(5):
                    while (answer := await found.ask({"model": name})).status_code == before:
                        await asyncio.sleep(0.01)
                return answer

            now = state(*untold, good, refused, keys=())
            await found.publish(now)
            assert served_by(await told_of("alpha", 404)) == "a"
            said = await rejected(now)
            assert said["all"] is None
            assert set(said["models"]) == {"models/nowhere", "models/key", "models/ca"}
            assert said["models"]["models/ca"] == "Envoy has not taken it"
            for each in untold:
                answer = await found.ask({"model": each.key.name})
                assert answer.status_code == 503
                reason = said["models"][str(each.key)]
                assert error(answer)["message"] == f"The model `{each.key.name}` does not answer now: {reason}"
            assert (await found.ask({"model": "ca"})).status_code == 503
            # What comes after it is told as ever, and is there as soon as it is said to be.
            now = state(*untold, good, refused, model("late", b.endpoint), keys=())
            await found.publish(now)
            assert served_by(await told_of("late", 404)) == "b"
            assert set((await rejected(now))["models"]) == {"models/nowhere", "models/key", "models/ca"}
            assert b.requests[-1]["headers"].get("Authorization") is None
            # Put right.
            now = state(good, *(model(name, b.endpoint) for name in ("nowhere", "key", "ca", "late")), keys=())
            await found.publish(now)
            assert served_by(await told_of("nowhere", 503)) == "b"
            for name in ("nowhere", "key", "ca", "late"):
                assert served_by(await found.ask({"model": name})) == "b"
            assert await rejected(now) == {"all": None, "models": {}}


async def test_servers_outside_without_tls_and_beside_pods(tmp_path: Path) -> None:
    async with serve("far", "near") as (far, near):
        outside = External(
            server=Server("models.internal", port=8000, tls=False, path_prefix="/x"), model_names={"chat": "large"}
        )
        models = [
            model("a", far.endpoint, served_model_names=("chat",), created="1", weight=1, external=outside),
            model("b", near.endpoint, served_model_names=("chat",), created="2", weight=1),
            model("c", served_model_names=("gamma",), waiting="Starting", fallback=Key("models", "a")),
        ]
        async with gateway(tmp_path, state(*models)) as found:
            answers = [served_by(await found.ask({"model": "chat"})) for _ in range(40)]
            assert set(answers) == {"far", "near"}
            assert {each["headers"]["Host"] for each in far.requests} == {"models.internal:8000"}
            assert {each["path"] for each in far.requests} == {"/x/v1/chat/completions"}
            assert {json.loads(each["body"])["model"] for each in far.requests} == {"large"}
            assert {each["path"] for each in near.requests} == {"/v1/chat/completions"}
            assert {json.loads(each["body"])["model"] for each in near.requests} == {"chat"}
            answer = await found.ask({"model": "gamma"})
            assert (served_by(answer), answer.headers["x-vllm-fallback"]) == ("far", "models/a")
            assert json.loads(far.requests[-1]["body"])["model"] == "large"
            assert far.requests[-1]["path"] == "/x/v1/chat/completions"
            assert far.checks == 0 < near.checks


async def test_pods_are_chosen_by_who_asks_and_what(tmp_path: Path) -> None:
    async with serve("a", "b", "c") as pods:
        endpoints = [pod.endpoint for pod in pods]
        balances = ("session", "user", "prefix")
        keys = tuple(ApiKey(TEAM_A, f"user-{number}", f"sk-user-{number}") for number in range(12))
        wanted = state(*(model(balance, *endpoints, balance=balance) for balance in balances), keys=keys)
        text = "é" * 400

        async def ask(balance: str, number: int, round_: int) -> str:
            messages = [{"role": "user", "content": f"{number} {text}"}, {"role": "user", "content": str(round_)}]
            body = {"seed": round_, "messages": messages, "model": balance}
            answer = await found.ask(body, key=keys[number].value, headers={"x-session-id": f"session {number}"})
            return served_by(answer)

        async with gateway(tmp_path, wanted) as found:
            await found.wait_healthy(len(balances) * len(pods))
            for balance in balances:
                chosen = [await ask(balance, number, 0) for number in range(len(keys))]
                assert len(set(chosen)) > 1, balance
                for round_ in range(1, 4):
                    assert [await ask(balance, number, round_) for number in range(len(keys))] == chosen, balance
            # What has no prompt, or none that is JSON, is answered all the same.
            for body in (
                b'{"model": "prefix"}',
                b'{"model": "prefix", "prompt": 1}',
                b'{"model":"prefix","input":"\\u00e9"}',
            ):
                assert (await found.ask(body, key=keys[0].value)).status_code == 200
            answer = await found.ask(FORM % (b"prefix", b"x"), key=keys[0].value, headers=FORM_TYPE)
            assert answer.status_code == 200
            told = {name.lower() for pod in pods for each in pod.requests for name in each["headers"]}
            assert not {name for name in told if name.startswith("x-vllm")}


async def test_no_pod_has_much_more_than_its_share_of_one_prompt(tmp_path: Path) -> None:
    async with serve("a", "b", "c") as pods:
        wanted = state(model("chat", *(pod.endpoint for pod in pods), balance="prefix"), keys=())
        async with gateway(tmp_path, wanted) as found:
            await found.wait_healthy(len(pods))
            for pod in pods:
                pod.hold = asyncio.Event()
            asked = []
            for number in range(1, 31):
                asked.append(asyncio.create_task(found.ask({"model": "chat", "prompt": "x" * 600})))
                # One by one: a request counts from when its pod has it.
                async with asyncio.timeout(10):
                    while sum(len(pod.requests) for pod in pods) < number:
                        await asyncio.sleep(0.002)
            counts = sorted(len(pod.requests) for pod in pods)
            for pod in pods:
                assert pod.hold is not None
                pod.hold.set()
            assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * len(asked)
            # One and a half times the average, and one more.
            assert counts[-1] <= 16, counts
            assert counts[-1] > counts[0], counts


async def test_a_key_that_is_used_too_often(tmp_path: Path) -> None:
    demo = ApiKey(TEAM_A, "demo", "sk-demo", requests_per_minute=3)
    slow = ApiKey(TEAM_A, "slow", "sk-slow", requests_per_minute=1)
    async with serve("a") as (a,):
        wanted = state(model("a", a.endpoint, served_model_names=("alpha",)), keys=(ALICE, demo, slow))
        async with gateway(tmp_path, wanted) as found:

            async def ask(key: ApiKey | None) -> Any:
                return await found.ask({"model": "alpha"}, key=key.value if key else None)

            # What asks no model is not counted.
            for _ in range(5):
                assert (await found.get("/v1/models", key=demo.value)).status_code == 200
                assert (await found.ask({}, key=demo.value, path="/metrics")).status_code == 404
            answers = [await ask(demo) for _ in range(4)]
            assert [each.status_code for each in answers] == [200, 200, 200, 429]
            refused = answers[-1]
            assert (error(refused)["type"], error(refused)["code"]) == ("requests", "rate_limit_exceeded")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-ratelimit-limit"] == "3"
            # Others are not bound by it, each key is counted by itself, and no body is waited for.
            assert [(await ask(key)).status_code for key in (ALICE, None, slow, slow)] == [200, 200, 200, 429]
            assert len(a.requests) == 6
            # Other news about models change nothing of the counts.
            await found.publish(state(*wanted.models, model("b", waiting="Starting"), keys=wanted.keys))
            async with asyncio.timeout(10):
                while (await found.ask({"model": "b"}, key=ALICE.value)).status_code != 503:
                    await asyncio.sleep(0.05)
            assert (await ask(demo)).status_code == 429


async def test_a_body_costs_no_more_memory_than_a_few_times_its_size(tmp_path: Path) -> None:
    """Short numbers are the worst: as objects of a parser they would be a hundred times as large."""
    async with serve("b") as (b,):
        waiting = model("a", served_model_names=("alpha",), waiting="Starting", fallback=Key("models", "b"))
        fitted: Any = {"clamp_max_tokens": True, "max_model_len": 1000, "drop_tools": True}
        stand_in = model("b", b.endpoint, served_model_names=("beta",), balance="prefix", **fitted)
        async with gateway(tmp_path, state(waiting, stand_in)) as found:
            size = 30_000_000
            many = (b'"a":1,', b'"tools":1,"max_tokens":1001,')
            for filling in (
                b'{"x":[' + b"1," * (size // 2) + b"1]",
                *(b"{" + each * (size // len(each)) + b'"a":1' for each in many),
            ):
                for name in (b"beta", b"alpha"):
                    assert served_by(await found.ask(filling + b',"model":"' + name + b'"}')) == "b"
            assert found.peak_memory() < 30 * size


async def test_what_people_are_shown_of_it(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b):
        both = model("a", a.endpoint, b.endpoint, served_model_names=("alpha",), upstream_key=UPSTREAM)
        shown = state(both, model("late", served_model_names=("alpha",), waiting="Starting", created="9"))
        async with gateway(tmp_path, shown) as found:
            await found.wait_healthy(2)

            async def status() -> dict[str, Any]:
                async with httpx.AsyncClient() as client:
                    answer = await client.get(f"{found.admin}/clusters", params={"format": "json"})
                return describe_status(shown, answer.json()["cluster_statuses"], found.server.rejections(), {})

            said = await status()
            assert [each["healthy"] for each in said["models"][0]["pods"]] == [True, True]
            assert said["names_taken"] == ["models/late: alpha is models/a's, which is older"]
            assert (said["keys"], said["rejected"]) == (2, [])
            assert [each["names"] for each in said["models"]] == [["alpha"], []]
            await b.stop()
            async with asyncio.timeout(20):
                while all(each["healthy"] for each in said["models"][0]["pods"]):
                    await asyncio.sleep(0.1)
                    said = await status()
            healthy = {each["address"]: each["healthy"] for each in said["models"][0]["pods"]}
            assert healthy == {f"127.0.0.1:{a.endpoint.port}": True, f"127.0.0.1:{b.endpoint.port}": False}
            for key in (ALICE.value, BOB.value, UPSTREAM):
                assert key not in json.dumps(said)


def with_adapters(a: Pod, b: Pod) -> GatewayState:
    """A model on both pods, with an adapter on both, one on `b` only, and one that no pod has."""
    base = model("base", a.endpoint, b.endpoint, served_model_names=("chat",), callers=frozenset({TEAM_A}))
    both = replace(adapter_of(base, "both"), shares_pods=True)
    some = replace(adapter_of(base, "some"), endpoints=(b.endpoint,))
    none = replace(adapter_of(base, "none"), endpoints=(), shares_pods=True, waiting="AdapterLoading: 0/2 pods")
    return state(base, both, some, none)


async def test_adapters_are_asked_where_they_are(tmp_path: Path) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, with_adapters(a, b)) as found:
        for name in ("some", "base/some"):
            for _ in range(8):
                asked = name if name == "some" else f"models/{name}"
                assert served_by(await found.ask({"model": asked}, key=ALICE.value)) == "b"
                assert json.loads(b.requests[-1]["body"]) == {"model": "some"}, "the name that vLLM knows"
        assert {served_by(await found.ask({"model": "both"}, key=ALICE.value)) for _ in range(32)} == {"a", "b"}
        waiting = await found.ask({"model": "none"}, key=ALICE.value)
        assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "10")
        assert error(waiting)["message"] == "The model `none` does not answer now: AdapterLoading: 0/2 pods"
        assert (await found.ask({"model": "both"}, key=BOB.value)).status_code == 404, "who may use the model, only"
        listed = {each["id"]: each for each in (await found.get("/v1/models", key=ALICE.value)).json()["data"]}
        assert list(listed) == ["both", "chat", "none", "some"]
        assert (listed["some"]["parent"], listed["some"]["root"]) == ("models/base", "models/base/some")
        assert [each["ready"] for each in listed.values()] == [True, True, False, True]
        assert "parent" not in listed["chat"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        # What vLLM takes for other hosts' sake, without a key.
        "/adapters",
        "/adapters/sql",
        "/v1/completions/../load_lora_adapter",
        "/v1/completions/%2e%2e/load_lora_adapter",
        "/v1//load_lora_adapter",
        "//adapters",
        "/v1/load_lora_adapter/",
    ],
)
async def test_callers_change_no_adapters(tmp_path: Path, path: str) -> None:
    async with serve("a", "b") as (a, b), gateway(tmp_path, with_adapters(a, b)) as found:
        assert served_by(await found.ask({"model": "chat"}, key=ALICE.value)) in ("a", "b")
        before = len(a.requests) + len(b.requests)
        body = {"model": "chat", "lora_name": "own", "lora_path": "evil/adapter", "name": "own", "src": "evil/adapter"}
        assert (await found.ask(body, path=path, key=ALICE.value)).status_code in (400, 404)
        assert len(a.requests) + len(b.requests) == before
