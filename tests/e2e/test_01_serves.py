"""A VLLMModel becomes a served model, and kubectl shows how it is."""

import json
import time
from collections.abc import Callable

from tests.demo.installation import SAMPLES

from .api import condition, eventually
from .conftest import Served
from .traffic import Traffic, complete
from .world import World

ALL_SAMPLES = sorted(SAMPLES.glob("*.yaml"))
Measured = Callable[[str], None]


def test_the_api_server_takes_every_sample(world: World, namespace: str) -> None:
    assert len(ALL_SAMPLES) >= 3
    for file in ALL_SAMPLES:
        said = world.cluster.kubectl("apply", "--dry-run=server", "--namespace", namespace, "-f", file)
        assert "created (server dry run)" in said, file.name


def test_serves_through_the_gateway(world: World, served: Served) -> None:
    model = world.api.get("models", served.namespace, served.name)
    assert model["status"]["url"] == f"{world.cluster.gateway_url}/{served.namespace}/{served.name}"
    reply = complete(served.url, served.name)
    assert reply.good, reply
    assert reply.json()["model"] == served.name
    assert reply.json()["choices"][0]["message"]["role"] == "assistant"


def test_the_printer_columns_say_what_matters(world: World, served: Served) -> None:
    def row(*words: str) -> dict[str, str]:
        text = world.cluster.kubectl("get", "vllm", "--namespace", served.namespace, *words)
        head, line = text.splitlines()
        starts = [head.index(name) for name in head.split()]
        ends = [*starts[1:], None]
        return {head[start:end].strip(): line[start:end].strip() for start, end in zip(starts, ends, strict=True)}

    shown = row("-o", "wide") if "URL" not in row() else row()
    assert shown["NAME"] == "tiny-cpu"
    assert shown["MODEL"] == "/models/tiny-qwen3"
    assert shown["READY"] == "True"
    assert shown["REPLICAS"] == "1/1"
    assert shown["CONTEXT"] == str(world.api.get("models", served.namespace, served.name)["status"]["maxModelLen"])
    assert shown["URL"] == served.url
    assert shown["REASON"] == "Ready"
    assert {"GPUS", "TP", "AGE"} <= shown.keys()


def test_kubectl_waits_describes_and_explains(world: World, served: Served) -> None:
    kubectl = world.cluster.kubectl
    said = kubectl("wait", "-n", served.namespace, "--for=condition=Ready", "vllm/tiny-cpu", "--timeout=10s")
    assert "condition met" in said
    described = kubectl("describe", "vllm", "-n", served.namespace, "tiny-cpu")
    events = described.partition("\nEvents:")[2]
    assert "Ready" in events, described
    assert "vllm-operator" in events, events
    explained = kubectl("explain", "vllm.spec.engine.maxModelLen")
    assert "FIELD: maxModelLen" in explained
    assert "token" in explained.lower(), explained
    assert "vllmmodel" in kubectl("get", "all", "-n", served.namespace)  # category `all`


def test_kstatus_is_current_when_ready(world: World, served: Served) -> None:
    model = world.api.get("models", served.namespace, served.name)
    assert model["status"]["observedGeneration"] == model["metadata"]["generation"]
    assert condition(model, "Ready")["status"] == "True"
    # kstatus: both are abnormal-true, so neither is there while all is well.
    assert not condition(model, "Reconciling")
    assert not condition(model, "Stalled")
    assert "finalizers" not in model["metadata"]


def test_an_edit_rolls_out_and_no_request_fails(world: World, served: Served, measured: Measured) -> None:
    before = world.pod(served.namespace, served.name)
    assert world.api.get("models", served.namespace, served.name)["status"]["maxModelLen"] == 512
    with Traffic(served.url, served.name) as traffic, world.recorder(served.namespace, served.name) as recorder:
        eventually("requests flow", lambda: len(traffic.replies) >= 10, seconds=60)
        began = time.monotonic()
        served.document["spec"]["engine"]["maxModelLen"] = 1024
        world.apply(served.namespace, served.document)
        world.wait_condition(served.namespace, served.name, "Reconciling", "True", "RollingOut", seconds=30)
        model = world.wait_ready(served.namespace, served.name)
        eventually(
            "the old pod is gone",
            lambda: world.api.find("pods", served.namespace, before["metadata"]["name"]) is None,
            seconds=180,
        )
        gone = time.monotonic()
        eventually(
            "requests flow after it",
            lambda: sum(reply.sent > gone for reply in traffic.replies) >= 20,
            seconds=60,
        )
    ready = recorder.turned("True", after=began + 1, seconds=1)
    measured(f"rolled out in {ready.at - began:.1f} s, old pod gone after {gone - began:.1f} s; {traffic.summary()}")
    assert not traffic.failures, traffic.failures[:5]
    assert model["status"]["maxModelLen"] == 1024
    after = world.pod(served.namespace, served.name)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert complete(served.url, served.name, max_tokens=600).status == 200  # more than 512 tokens in all fit now
    words = json.dumps(after["spec"]["containers"][0]["command"])
    assert '"--max-model-len", "1024"' in words or "--max-model-len=1024" in words, words
