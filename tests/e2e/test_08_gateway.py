"""One endpoint for all models: names, keys, and no request lost while everything behind it changes."""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import openai
import pytest

from tests.apiserver import Object
from tests.cluster import LocalCluster

from . import node
from .api import eventually
from .gateway import MODEL, PROMPT, Gateway
from .traffic import Traffic, complete
from .world import GATEWAY_PODS, LOAD_SECONDS, World, key_secret, sample

Measured = Callable[[str], None]


def test_the_models_pods_let_the_gateway_and_the_operator_in(world: World, gateway: Gateway) -> None:
    (rule,) = world.api.get("networkpolicies", gateway.namespace, MODEL)["spec"]["ingress"]
    assert {each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for each in rule["from"]} == {
        world.operator.namespace
    }
    let_in = [each["podSelector"]["matchLabels"].items() for each in rule["from"]]
    for pod in (*world.gateway_pods(), *world.operator_pods()):
        assert any(labels <= pod["metadata"]["labels"].items() for labels in let_in), pod["metadata"]["name"]


def test_the_openai_client(gateway: Gateway) -> None:
    client = gateway.client()
    listed = client.models.list()
    assert [each.id for each in listed] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == gateway.namespace
    assert (client.models.retrieve(MODEL).model_extra or {})["max_model_len"] == 512
    for name in (MODEL, f"{gateway.namespace}/{MODEL}"):
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=8
        )
        assert answer.choices[0].message.role == "assistant"
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 8
    pieces = list(
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=8, stream=True
        )
    )
    assert pieces[-1].choices[0].finish_reason is not None
    assert len(pieces) > 3
    assert client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=4).choices[0].text


def test_curl(gateway: Gateway) -> None:
    body = json.dumps({"model": MODEL, "prompt": PROMPT, "max_tokens": 4, "stream": True})
    words = ["-sS", "--no-buffer", f"{gateway.url}/v1/completions", "-H", "content-type: application/json", "-d", body]
    said = subprocess.run(
        ["curl", *words, "-H", f"x-api-key: {gateway.key}"], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.strip().endswith("data: [DONE]"), said


def test_what_goes_wrong_is_said_as_openai_says_it(gateway: Gateway) -> None:
    with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
        gateway.client("sk-this-is-nobodys-key").models.list()
    with pytest.raises(openai.NotFoundError, match=f"`no-such-model` does not exist.*`{MODEL}`") as caught:
        gateway.client().completions.create(model="no-such-model", prompt=PROMPT)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        gateway.client().models.retrieve("no-such-model")
    with pytest.raises(openai.BadRequestError):
        gateway.client().completions.create(model=MODEL, prompt=PROMPT, max_tokens=100_000)

    def too_large() -> httpx.Response | None:
        # A client that sends on may find the connection closed before it reads the answer.
        found = gateway.ask("/v1/completions", {"model": MODEL, "prompt": "x" * 70 * 1024**2})
        return found if found.status_code == 413 else None

    large: httpx.Response = eventually("a body that is too large is refused", too_large, seconds=60)
    assert large.json()["error"]["code"] == "request_too_large"
    assert gateway.ask("/v1/models", key="").status_code == 401
    assert gateway.ask("/metrics").status_code == 404, "vLLM's own pages stay inside"


def test_kubectl_vllm_shows_it(world: World, gateway: Gateway) -> None:
    words = [sys.executable, "-m", "vllm_operator.cli.main", "gateway", "-n", world.operator.namespace]
    environment = {**os.environ, **world.cluster.environment()}

    def shown() -> str | None:
        said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, env=environment).stdout
        return said if re.search(rf"{gateway.namespace}/{MODEL} +{MODEL} +1/1 +serves", said) else None

    assert eventually("it shows the model", shown, seconds=30)


def test_who_goes_round_the_gateway_needs_a_key_that_callers_have_not(world: World, gateway: Gateway) -> None:
    address = world.pod(gateway.namespace, MODEL)["status"]["podIP"]
    body = {"model": MODEL, "prompt": PROMPT}
    for key in ("", gateway.key):
        sent = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.post(f"http://{address}:8000/v1/completions", json=body, headers=sent, trust_env=False)
        assert answer.status_code == 401


def test_a_model_that_loads_says_so(world: World, gateway: Gateway) -> None:
    other = sample()
    other["metadata"]["name"] = "second"
    other["spec"]["servedModelNames"] = ["second", "chat"]
    world.apply(gateway.namespace, other)

    def told() -> httpx.Response | None:
        found = gateway.ask("/v1/completions", {"model": "chat", "prompt": PROMPT})
        return found if found.status_code == 503 else None

    answer: httpx.Response = eventually("the gateway knows the second model", told, seconds=30)
    assert int(answer.headers["retry-after"]) > 0
    error = answer.json()["error"]
    assert error["code"] == "model_not_ready"
    assert "does not answer now: " in error["message"]
    listed = {each["id"]: each for each in gateway.ask("/v1/models").json()["data"]}
    assert listed["chat"]["ready"] is False
    assert listed[MODEL]["ready"] is True
    world.wait_ready(gateway.namespace, "second", seconds=LOAD_SECONDS)
    assert complete(gateway.url, "chat", key=gateway.key).good
    assert complete(gateway.url, MODEL, key=gateway.key).good
    world.api.delete("models", gateway.namespace, "second")
    eventually(
        "the second model is forgotten",
        lambda: gateway.ask("/v1/completions", {"model": "chat", "prompt": PROMPT}).status_code == 404,
        seconds=30,
    )


def test_teams_see_what_is_theirs(world: World, gateway: Gateway) -> None:
    namespace = world.make_namespace()
    key = f"sk-{secrets.token_urlsafe(24)}"
    try:
        world.apply(namespace, key_secret("team", bob=key))
        eventually("the key is known", lambda: gateway.ask("/v1/models", key=key).status_code == 200, seconds=30)
        assert gateway.ask("/v1/models", key=key).json()["data"] == []
        body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 4}
        assert gateway.ask("/v1/completions", body, key=key).status_code == 404
        world.edit(gateway.namespace, MODEL, {"auth": {"callers": [{}, {"namespace": namespace}]}})
        eventually(
            "the other team may use it",
            lambda: gateway.ask("/v1/completions", body, key=key).status_code == 200,
            seconds=30,
        )
        assert gateway.ask("/v1/completions", body).status_code == 200
        world.edit(gateway.namespace, MODEL, {"auth": None})
        eventually(
            "the other team may not",
            lambda: gateway.ask("/v1/completions", body, key=key).status_code == 404,
            seconds=30,
        )
    finally:
        world.delete_namespace(namespace)
    eventually("its key is nobody's", lambda: gateway.ask("/v1/models", key=key).status_code == 401, seconds=60)


def test_no_request_fails_while_everything_changes(world: World, gateway: Gateway, measured: Measured) -> None:
    """A new key; the agents killed; the gateway's pods replaced; no operator; no API server; the model rolled out."""
    namespace = world.operator.namespace
    before = world.pod(gateway.namespace, MODEL)
    with Traffic(gateway.url, MODEL, key=gateway.key, clients=3, streams=2) as traffic:

        def go_on(what: str) -> None:
            count = len(traffic.replies)
            eventually(f"requests flow after: {what}", lambda: len(traffic.replies) >= count + 10, seconds=90)
            assert not traffic.failures, (what, traffic.failures[:3])

        go_on("nothing")
        new = f"sk-{secrets.token_urlsafe(24)}"
        world.apply(gateway.namespace, key_secret("team", alice=gateway.key, carol=new))
        eventually("a new key", lambda: gateway.ask("/v1/models", key=new).status_code == 200, seconds=30)
        go_on("a new key")
        for pod in world.gateway_pods():
            killed = node.processes(pod, command="-m vllm_operator gateway")
            assert len(killed) == 1
            node.kill(killed)
        go_on("the agents were killed")
        newer = f"sk-{secrets.token_urlsafe(24)}"
        world.apply(gateway.namespace, key_secret("team", alice=gateway.key, dave=newer))
        eventually("the agents are back", lambda: gateway.ask("/v1/models", key=newer).status_code == 200, seconds=60)
        assert all(_ready(pod) for pod in world.gateway_pods())
        world.cluster.kubectl("-n", namespace, "rollout", "restart", f"deployment/{world.operator.release}-gateway")
        world.operator.gateway_url()
        eventually(
            "the old pods are gone",
            lambda: len(world.api.list("pods", namespace, labels=GATEWAY_PODS)) == 2,
            seconds=120,
        )
        go_on("the gateway's pods were replaced")
        gateway_pods = world.gateway_pods()
        world.cluster.kubectl("-n", namespace, "scale", f"deployment/{world.operator.release}", "--replicas=0")
        eventually("no operator", lambda: not world.operator_pods(), seconds=60)
        go_on("the operator is down")
        world.cluster.kubectl("-n", namespace, "scale", f"deployment/{world.operator.release}", "--replicas=1")
        world.wait_for_leader()
        if type(world.cluster) is LocalCluster:  # Nobody else's API server is killed.
            _without_api_server(world, gateway, gateway_pods, go_on)
        world.edit(gateway.namespace, MODEL, {"engine": {"maxModelLen": 1024}})
        world.wait_condition(gateway.namespace, MODEL, "Reconciling", "True", "RollingOut", seconds=60)
        world.wait_ready(gateway.namespace, MODEL)
        eventually(
            "the old pod is gone",
            lambda: world.api.find("pods", gateway.namespace, before["metadata"]["name"]) is None,
            seconds=180,
        )
        go_on("the model rolled out")
    measured(traffic.summary())
    assert not traffic.failures, traffic.failures[:3]


def _without_api_server(
    world: World, gateway: Gateway, gateway_pods: list[Object], go_on: Callable[[str], None]
) -> None:
    """Envoy goes on with what it was told, though the agents that told it can no longer ask anybody."""
    world.cluster.kill("kube-apiserver")
    try:
        for pod in gateway_pods:
            node.kill(node.processes(pod, command="-m vllm_operator gateway"))
        go_on("the API server is away, and the agents were killed")
    finally:
        world.cluster.start("kube-apiserver")
    eventually("the API server is back", world.cluster.answers, seconds=120)
    world.wait_for_leader(seconds=120)
    last = f"sk-{secrets.token_urlsafe(24)}"
    world.apply(gateway.namespace, key_secret("team", alice=gateway.key, erin=last))
    eventually("the agents are back", lambda: gateway.ask("/v1/models", key=last).status_code == 200, seconds=90)
    go_on("the API server is back")


def _ready(pod: Object) -> bool:
    statuses = pod["status"]["containerStatuses"]
    return all(each["ready"] and each["restartCount"] == 0 for each in statuses)


def test_keys_are_shown_nowhere(world: World, gateway: Gateway) -> None:
    secret = world.api.get("secrets", gateway.namespace, f"{MODEL}-engine-key")
    engine_key = base64.b64decode(secret["data"]["api-key"]).decode()
    wrong = "sk-a-key-that-is-nobodys-0123456789"
    gateway.ask("/v1/models", key=wrong)
    gateway.ask(f"/v1/models?api_key={wrong}")
    everything = ""
    for pod in world.gateway_pods():
        name = pod["metadata"]["name"]
        for container in ("envoy", "agent"):
            log = world.cluster.kubectl("-n", world.operator.namespace, "logs", name, "-c", container, "--tail=-1")
            everything += log
    assert f'"client":"{gateway.namespace}/team/alice"' in everything
    everything += world.cluster.kubectl("-n", gateway.namespace, "logs", "-l", "vllm-operator.io/model", "--tail=-1")
    everything += world.operator.logs(tail=-1)
    for kind in ("vllmmodels", "events", "pods", "deployments", "controllerrevisions"):
        everything += world.cluster.kubectl("-n", gateway.namespace, "get", kind, "-o", "json")
    for key in (gateway.key, engine_key, wrong):
        assert key not in everything


def test_a_model_says_that_no_pod_of_the_gateway_is_ready(world: World, gateway: Gateway, measured: Measured) -> None:
    name, path = f"deployment/{world.operator.release}-gateway", "jsonpath={.spec.replicas}"
    replicas = world.cluster.kubectl("-n", world.operator.namespace, "get", name, "-o", path)
    world.cluster.kubectl("-n", world.operator.namespace, "scale", name, "--replicas=0")
    try:
        began = time.monotonic()
        world.wait_condition(gateway.namespace, MODEL, "RouteReady", "False", "GatewayNotReady", seconds=120)
        world.wait_condition(gateway.namespace, MODEL, "Ready", "False", "GatewayNotReady", seconds=10)
        measured(f"said {time.monotonic() - began:.1f} s after the gateway was scaled to nothing")
    finally:
        world.cluster.kubectl("-n", world.operator.namespace, "scale", name, f"--replicas={replicas}")
        world.operator.gateway_url()
    world.wait_condition(gateway.namespace, MODEL, "RouteReady", "True", "ByGateway", seconds=60)
    world.wait_condition(gateway.namespace, MODEL, "Ready", "True", seconds=60)
