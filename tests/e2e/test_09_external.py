"""A model that runs elsewhere, beside those of the cluster: a second real vLLM, outside, with TLS and a key of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.apiserver import Object
from tests.certificates import Authority
from tests.cluster import LocalCluster

from .api import eventually
from .gateway import MODEL, PROMPT, Gateway
from .outside import NAME, Outside
from .world import LOAD_SECONDS, World, sample, unavailable

ELSEWHERE = "elsewhere"
ADDRESS = "10.244.0.1"
"""This machine, as pods see it."""
TOOL: Any = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def second(world: World, gateway: Gateway) -> Iterator[str]:
    """Another model of the cluster. It loads while the server outside starts."""
    document = sample()
    document["metadata"]["name"] = name = "second"
    world.apply(gateway.namespace, document)
    yield name
    world.api.delete("models", gateway.namespace, name)


@pytest.fixture(scope="module")
def outside(world: World, second: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    if type(world.cluster) is not LocalCluster:
        unavailable("only the pods of the local cluster reach this machine at a known address")
    found = Outside(tmp_path_factory.mktemp("outside"), ADDRESS)
    try:
        found.start(seconds=LOAD_SECONDS)
        yield found
    finally:
        found.stop()


def external(outside: Outside, **fields: Any) -> Object:
    return {
        "url": outside.url,
        "apiKeySecretRef": {"name": "there", "key": "token"},
        "caSecretRef": {"name": "there", "key": "ca.crt"},
        **fields,
    }


@pytest.fixture(scope="module")
def elsewhere(
    world: World, gateway: Gateway, outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outside]:
    wrong = Authority(tmp_path_factory.mktemp("wrong"), "another")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "there"},
        "stringData": {
            "token": outside.key,
            "wrong": "sk-that-opens-nothing",
            "ca.crt": outside.authority.certificate,
            "wrong.crt": wrong.certificate,
        },
    }
    document = {
        "apiVersion": "vllm-operator.io/v1alpha1",
        "kind": "VLLMModel",
        "metadata": {"name": ELSEWHERE},
        "spec": {"model": NAME, "servedModelNames": ["gpt"], "external": external(outside)},
    }
    world.apply(gateway.namespace, secret, document)
    world.wait_condition(gateway.namespace, ELSEWHERE, "Ready", "True", seconds=90)
    eventually(
        "the gateway asks it",
        lambda: gateway.ask("/v1/completions", {"model": "gpt", "prompt": PROMPT}).status_code == 200,
        seconds=30,
    )
    yield outside
    world.api.delete("models", gateway.namespace, ELSEWHERE)


def status(world: World, gateway: Gateway) -> Object:
    return dict(world.api.get("models", gateway.namespace, ELSEWHERE)["status"])


def test_it_is_asked_like_any_other(world: World, gateway: Gateway, elsewhere: Outside, second: str) -> None:
    world.wait_ready(gateway.namespace, second, seconds=LOAD_SECONDS)
    client = gateway.client()
    assert {each.id for each in client.models.list()} == {MODEL, second, "gpt"}
    found = client.models.retrieve("gpt")
    assert (found.model_extra or {})["max_model_len"] == 256
    assert (found.model_extra or {})["ready"] is True
    for name in ("gpt", f"{gateway.namespace}/{ELSEWHERE}"):
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=8
        )
        assert answer.model == NAME, "the other server answered"
    pieces = list(
        client.chat.completions.create(
            model="gpt", messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=8, stream=True
        )
    )
    assert pieces[-1].choices[0].finish_reason is not None
    assert client.completions.create(model="gpt", prompt=PROMPT, max_tokens=4).model == NAME
    for name in (MODEL, second):
        assert client.completions.create(model=name, prompt=PROMPT, max_tokens=4).model == name
    with pytest.raises(openai.NotFoundError, match=r"`gpt-5` does not exist.*`gpt`"):
        client.completions.create(model="gpt-5", prompt=PROMPT)
    with pytest.raises(openai.AuthenticationError):
        gateway.client(elsewhere.key).models.list()
    assert world.owned(gateway.namespace, ELSEWHERE) == []
    said = status(world, gateway)
    assert said["external"]["models"] == [NAME]
    assert (said["maxModelLen"], said["capabilities"]) == (256, {"tools": False}), "it was started without a parser"
    shown = world.cluster.kubectl("-n", gateway.namespace, "get", "vllmmodel", ELSEWHERE)
    assert "external" in shown


def test_tools_where_the_model_takes_them(gateway: Gateway, elsewhere: Outside) -> None:
    answer = gateway.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=8, tools=[TOOL]
    )
    assert answer.model == MODEL
    with pytest.raises(openai.BadRequestError, match="tool"):
        gateway.client().chat.completions.create(
            model="gpt", messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=8, tools=[TOOL]
        )


def test_what_the_model_cannot_is_taken_out(world: World, gateway: Gateway, elsewhere: Outside) -> None:
    body = {
        "model": "gpt",
        "messages": [{"role": "user", "content": PROMPT}],
        "tools": [TOOL],
        "tool_choice": "auto",
        "max_tokens": 100_000,
    }
    assert gateway.ask("/v1/chat/completions", body).status_code == 400
    world.edit(gateway.namespace, ELSEWHERE, {"route": {"clampMaxTokens": True, "dropUnsupportedTools": True}})
    eventually(
        "an answer instead of an error",
        lambda: gateway.ask("/v1/chat/completions", body).status_code == 200,
        seconds=30,
    )
    changed = gateway.ask("/v1/chat/completions", body).headers["x-vllm-changed"]
    assert "max_tokens=" in changed
    assert "tools=dropped" in changed
    plain = gateway.ask("/v1/chat/completions", {**body, "tools": None, "tool_choice": None, "max_tokens": 8})
    assert plain.status_code == 200
    answer = gateway.ask("/v1/completions", {"model": "gpt", "prompt": PROMPT, "max_tokens": 100_000})
    assert answer.status_code == 200
    assert answer.headers["x-vllm-changed"].startswith("max_tokens=")
    world.edit(gateway.namespace, ELSEWHERE, {"route": None})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda outside: {"apiKeySecretRef": {"name": "there", "key": "wrong"}}, "ApiKeyRejected"),
        (lambda outside: {"caSecretRef": {"name": "there", "key": "wrong.crt"}}, "TLSFailed"),
        (lambda outside: {"url": outside.url.replace("/v1", "/elsewhere")}, "NotOpenAI"),
        (lambda outside: {"url": f"https://{ADDRESS}:1"}, "Unreachable"),
        (lambda outside: {"url": outside.url.replace("https", "http")}, "Unreachable"),
        (lambda outside: {"url": "https://10.0.0.1"}, "AddressNotAllowed"),
        (lambda outside: {"modelNames": {"gpt": "gpt-unknown"}}, "ModelNotListed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told_apart(
    world: World, gateway: Gateway, elsewhere: Outside, change: Callable[[Outside], Object], reason: str
) -> None:
    wanted = external(elsewhere, **change(elsewhere))
    world.edit(gateway.namespace, ELSEWHERE, {"external": wanted})
    try:
        world.wait_condition(gateway.namespace, ELSEWHERE, "Ready", "False", reason, seconds=60)

        def told() -> str | None:
            answer = gateway.ask("/v1/completions", {"model": "gpt", "prompt": PROMPT})
            return answer.text if answer.status_code == 503 and f"{reason}: " in answer.text else None

        assert elsewhere.key not in eventually("callers are told why", told, seconds=30)
    finally:
        world.edit(gateway.namespace, ELSEWHERE, {"external": {"modelNames": None, **external(elsewhere)}})
    world.wait_condition(gateway.namespace, ELSEWHERE, "Ready", "True", seconds=60)


def test_another_answers_while_it_is_away(world: World, gateway: Gateway, elsewhere: Outside) -> None:
    """And when it is back with a parser of tools, a refresh finds that."""
    body = {"model": "gpt", "prompt": PROMPT, "max_tokens": 4}
    world.edit(gateway.namespace, ELSEWHERE, {"route": {"fallback": MODEL}})
    elsewhere.stop()
    world.wait_condition(gateway.namespace, ELSEWHERE, "Ready", "False", "Unreachable", seconds=90)

    def other() -> bool:
        answer = gateway.ask("/v1/completions", body)
        return answer.status_code == 200 and answer.headers.get("x-vllm-fallback") == f"{gateway.namespace}/{MODEL}"

    eventually("another answers", other, seconds=30)
    elsewhere.start("--enable-auto-tool-choice", "--tool-call-parser", "hermes", seconds=LOAD_SECONDS)
    world.wait_condition(gateway.namespace, ELSEWHERE, "Ready", "True", seconds=90)
    eventually("it answers itself", lambda: gateway.ask("/v1/completions", body).json()["model"] == NAME, seconds=30)
    assert status(world, gateway)["capabilities"] == {"tools": False}, "what was found holds for a day"
    world.cluster.kubectl(
        "-n", gateway.namespace, "annotate", "vllmmodel", ELSEWHERE, "vllm-operator.io/refresh=1", "--overwrite"
    )
    eventually("it takes tools now", lambda: status(world, gateway).get("capabilities") == {"tools": True}, seconds=60)


def test_its_key_is_shown_nowhere(world: World, gateway: Gateway, elsewhere: Outside) -> None:
    everything = world.operator.logs(tail=-1)
    for container in ("envoy", "agent"):
        everything += world.cluster.kubectl(
            *("-n", world.operator.namespace, "logs", "-l", "app.kubernetes.io/name=vllm-operator-gateway"),
            *("-c", container, "--tail=-1"),
        )
    for kind in ("vllmmodels", "events"):
        everything += world.cluster.kubectl("-n", gateway.namespace, "get", kind, "-o", "json")
    assert f"{gateway.namespace}/{ELSEWHERE}" in everything
    assert elsewhere.key not in everything
    assert gateway.key not in elsewhere.log.read_text()
