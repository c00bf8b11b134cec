"""Parsers and options that nobody has chosen: decided with a revision, kept with it, shown in the status."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.families import HERMES3, LLAMA3, QWEN3, markers
from tests.reconcile.harness import (
    KEY,
    Operator,
    World,
    change_spec,
    children,
    make_cluster,
    make_model,
    secret,
    settle,
)
from tests.reconcile.test_sizing import H100, MODELS, QWEN, library, pod_spec, status
from tests.reconcile.virtual import eventually, virtual
from tests.sizing.published import configs, published
from vllm_operator.api.names import Key
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.memory import MemoryCluster
from vllm_operator.hub.errors import HubError, HubUnavailableError
from vllm_operator.hub.hugging_face import HubFacts
from vllm_operator.hub.library import HubSource, Library
from vllm_operator.reconcile.revisions import inputs_hash
from vllm_operator.sizing.decide import Decided
from vllm_operator.workload.children import revision_inputs

TOOLS, REASONING, AUTO = "--tool-call-parser", "--reasoning-parser", "--enable-auto-tool-choice"


class Shelf:
    """Answers for the hub with a model's config and this chat template."""

    def __init__(self, template: str = QWEN3) -> None:
        self.template = template
        self.error: HubError | None = None
        self.asked = 0

    async def __call__(self, source: HubSource) -> HubFacts:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return HubFacts(replace(published(source.repository), template=markers(self.template)), "c0ffee")


def shelved(shelf: Shelf) -> Callable[[Callable[[Key], None]], Library]:
    return library(shelf)  # type: ignore[arg-type]  # it only has to be called


def command(cluster: MemoryCluster) -> list[str]:
    words: list[str] = pod_spec(cluster)["containers"][0]["command"]
    return words


def after(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


def config_map(template: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "templates", "namespace": "default"},
        "data": {"x.jinja": template},
    }


def start(spec: Mapping[str, Any]) -> MemoryCluster:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN, **spec}))
    return cluster


@virtual
async def test_they_are_on_the_command_line_and_in_the_status() -> None:
    cluster = start({})
    async with Operator(cluster, library=shelved(Shelf())) as operator:
        await operator.until("Ready", "True")
        words = command(cluster)
        assert (after(words, TOOLS), after(words, REASONING), AUTO in words) == ("hermes", "qwen3", True)
        engine = status(cluster)["engine"]
        assert engine == {
            "image": "vllm/vllm-openai:v0.32.0",
            "version": "0.32.0",
            "optionsChecked": True,
            "task": "generate",
            "toolCallParser": "hermes",
            "reasoningParser": "qwen3",
            "reasons": [
                "tool-call-parser hermes: Qwen3ForCausalLM, chat template has <tool_call>{…}",
                "reasoning-parser qwen3: Qwen3ForCausalLM, chat template has <tool_call>{…}, enable_thinking",
            ],
        }
        assert status(cluster)["capabilities"] == {"tools": True}
        change_spec(cluster, engine={"toolCallParser": "none", "reasoningParser": "step3"})
        await eventually(lambda: after(command(cluster), REASONING) == "step3", within=60)
        await operator.until("Ready", "True")
        assert not {TOOLS, AUTO} & set(command(cluster))
        engine = status(cluster)["engine"]
        assert "toolCallParser" not in engine
        assert (engine["reasoningParser"], engine["reasons"][0]) == ("step3", "tool-call-parser none: the spec's own")
        assert status(cluster)["capabilities"] == {"tools": False}


@pytest.mark.parametrize("edit", [{"sharedMemory": {"sizeLimit": "1Gi"}}, {"engine": {"seed": 1}}])
@virtual
async def test_what_an_operator_without_recipes_has_decided_stays(
    edit: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first operator keeps no traits and chooses nothing, as all did before there were recipes."""
    cluster = start({})
    with monkeypatch.context() as before:
        kept = Decided.as_json
        before.setattr(Decided, "as_json", lambda self: {name: v for name, v in kept(self).items() if name != "traits"})
        before.setattr("vllm_operator.reconcile.reconciler._traits", lambda *_: None)
        async with Operator(cluster, library=shelved(Shelf())) as first:
            await first.until("Ready", "True")
            await settle(cluster)
    found, writes = children(cluster), len(cluster.writes)
    [revision] = cluster.objects(kinds.CONTROLLER_REVISION)
    assert "traits" not in revision["data"]["decided"]
    assert TOOLS not in command(cluster)
    shelf = Shelf()
    async with Operator(cluster, library=shelved(shelf)) as second:
        await settle(cluster)
        assert cluster.writes[writes:] == [], "an upgrade writes nothing"
        assert shelf.asked == 0
        cluster.remove(kinds.DEPLOYMENT, KEY)
        await settle(cluster)
        assert children(cluster) == found
        change_spec(cluster, replicas=2)
        await second.until("Ready", "True")
        assert TOOLS not in command(cluster)
        # A new revision. What decides about GPUs is the same in the first edit: then the older decision holds, traits and all.
        change_spec(cluster, **edit)
        await eventually(lambda: len(cluster.objects(kinds.CONTROLLER_REVISION)) == 2, within=60)
        await second.until("Ready", "True")
        assert (after(command(cluster), TOOLS) == "hermes") is ("engine" in edit)
        assert status(cluster)["sizing"]["pool"] == "NVIDIA-H100-80GB-HBM3"


@virtual
async def test_a_rotated_key_changes_no_parser_though_the_hub_is_away() -> None:
    cluster = start({"auth": {"apiKeySecretRef": {"name": "api", "key": "key"}}})
    cluster.put(kinds.SECRET, secret("api", key="b25l"))
    shelf = Shelf()
    async with Operator(cluster, library=shelved(shelf)) as operator:
        await operator.until("Ready", "True")
        words, first = command(cluster), status(cluster)["revision"]
        shelf.template, shelf.error = HERMES3, HubUnavailableError("cannot reach it")
        cluster.put(kinds.SECRET, secret("api", key="dHdv"))
        await eventually(lambda: status(cluster)["revision"] != first, within=60)
        await operator.until("Ready", "True")
        assert command(cluster) == words
    assert shelf.asked == 1


@virtual
async def test_the_users_template_decides_and_an_edit_of_it_decides_anew() -> None:
    reference = {"configMapKeyRef": {"name": "templates", "key": "x.jinja"}}
    cluster = start({"engine": {"chatTemplate": reference}})
    cluster.put(kinds.CONFIG_MAP, config_map(LLAMA3))
    shelf = Shelf()
    async with Operator(cluster, library=shelved(shelf)) as operator:
        await operator.until("Ready", "True")
        assert (after(command(cluster), TOOLS), after(command(cluster), REASONING)) == ("llama3_json", None)
        cluster.put(kinds.CONFIG_MAP, config_map(QWEN3))
        await eventually(lambda: after(command(cluster), TOOLS) == "hermes", within=60)
        assert after(command(cluster), REASONING) == "qwen3"
        await operator.until("Ready", "True")
    assert shelf.asked == 1


@virtual
async def test_defaults_reach_the_command_line_and_use_the_templates_variable() -> None:
    cluster = start({"defaults": {"temperature": 0.2, "enableThinking": False}})
    async with Operator(cluster, library=shelved(Shelf())) as operator:
        await operator.until("Ready", "True")
        words = command(cluster)
        assert json.loads(after(words, "--override-generation-config") or "") == {"temperature": 0.2}
        assert json.loads(after(words, "--default-chat-template-kwargs") or "") == {"enable_thinking": False}
        # Other defaults are other pods, and move no model to other GPUs.
        change_spec(cluster, defaults={"temperature": 0.3})
        await eventually(
            lambda: json.loads(after(command(cluster), "--override-generation-config") or "{}") == {"temperature": 0.3},
            within=60,
        )
        assert after(command(cluster), TOOLS) == "hermes"
        await operator.until("Ready", "True")


@virtual
async def test_facts_by_hand_decide_with_the_name() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    spec = {"model": QWEN, "modelFacts": {"config": configs()[QWEN]}}
    cluster.put(MODELS, make_model(spec))
    async with Operator(cluster) as operator:
        await operator.until("Ready", "True")
        assert status(cluster)["engine"]["reasons"][0] == "tool-call-parser hermes: the name Qwen3-8B"


def test_hashes_of_inputs_are_what_they_were_before_there_were_recipes() -> None:
    """Another hash is another revision: every model would be rolled out by the upgrade. The text is that of an older operator."""
    spec = VLLMModelSpec.model_validate({"model": QWEN, "engine": {"maxModelLen": 4096}, "defaults": {}})
    assert inputs_hash("qwen", revision_inputs(spec), {"Secret/a/b": "c"}) == "76bf94aceab4e23aabf0f11c6e6ef92d"
