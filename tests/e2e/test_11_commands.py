"""A `vllm serve` command becomes a model that real vLLM serves; what the operator chooses for a model is what vLLM takes."""

import json
import os
import subprocess
import sys
from typing import Any

import yaml

from .gateway import PROMPT, Gateway
from .world import LOAD_SECONDS, World, sample

KEY = "sk-of-the-command-line"
COMMAND = f"""
# How it runs on a laptop
export HF_HUB_OFFLINE=1
VLLM_CPU_KVCACHE_SPACE=1 vllm serve /models/tiny-qwen3 \\
    --served-model-name imported other-name \\
    -tp 1 --max_model_len 512 --enforce-eager \\
    --max-num-seqs=4 --no-enable-prefix-caching \\
    --override-generation-config '{{"temperature": 0.0}}' \\
    --api-key {KEY} --port 9000
"""
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


def kubectl_vllm(world: World, *words: str, stdin: str = "") -> str:
    """What kubectl-vllm prints."""
    command = [sys.executable, "-m", "vllm_operator.cli.main", *words]
    environment = {**os.environ, **world.cluster.environment()}
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stderr
    return done.stdout


def test_a_command_is_imported_and_served(world: World, gateway: Gateway) -> None:
    printed = kubectl_vllm(world, "import", "--file", "-", stdin=COMMAND)
    by_kind = {each["kind"]: each for each in yaml.safe_load_all(printed) if each}
    model, secret = by_kind["VLLMModel"], by_kind["Secret"]
    assert KEY in secret["stringData"].values()
    assert KEY not in json.dumps(model)
    # Where it runs is no part of a command.
    here = sample()["spec"]
    model["spec"] |= {name: here[name] for name in ("accelerator", "scheduling")}
    model["spec"]["engine"]["image"] = here["engine"]["image"]
    name = model["metadata"]["name"]
    world.apply(gateway.namespace, secret, model)
    world.wait_ready(gateway.namespace, name, seconds=LOAD_SECONDS)

    (container,) = world.pod(gateway.namespace, name)["spec"]["containers"]
    runs = [*container.get("command", ()), *container.get("args", ())]
    for words in (
        ["--served-model-name", "imported", "other-name"],
        ["--max-model-len", "512"],
        ["--max-num-seqs", "4"],
        ["--no-enable-prefix-caching"],
        ["--override-generation-config", '{"temperature":0}'],
    ):
        at = runs.index(words[0])
        assert runs[at : at + len(words)] == words, runs
    assert KEY not in json.dumps(container)
    assert "9000" not in runs
    assert json.loads(kubectl_vllm(world, "command", name, "-n", gateway.namespace, "-o", "json")) == runs
    said = []
    for asked in ("imported", "other-name"):
        body = {"model": asked, "prompt": PROMPT, "max_tokens": 8}
        answer = gateway.ask("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "imported", "vLLM answers by the first of its names"
        said.append(answer.json()["choices"][0]["text"])
    assert said[0] == said[1], "the temperature of the command is 0"

    line = kubectl_vllm(world, "command", name, "-n", gateway.namespace)
    (again,) = (each for each in yaml.safe_load_all(kubectl_vllm(world, "import", line)) if each["kind"] == "VLLMModel")
    assert again["spec"]["engine"]["maxModelLen"] == 512
    assert again["spec"]["servedModelNames"] == ["imported", "other-name"]
    world.api.delete("models", gateway.namespace, name)


def test_tools_are_answered_with_the_parser_that_was_chosen_and_refused_without(world: World, gateway: Gateway) -> None:
    document = sample()
    document["metadata"]["name"] = name = "chosen"
    # Of an image of one's own it is not known which parsers its vLLM has.
    document["spec"]["engine"]["version"] = "0.32.0"
    world.apply(gateway.namespace, document)
    world.wait_ready(gateway.namespace, name, seconds=LOAD_SECONDS)
    engine = world.api.get("models", gateway.namespace, name)["status"]["engine"]
    assert engine["toolCallParser"] == "hermes", engine
    assert any("qwen3" in reason for reason in engine["reasons"]), engine

    def ask() -> tuple[int, str]:
        messages = [{"role": "user", "content": PROMPT}]
        body = {"model": name, "messages": messages, "max_tokens": 8, "tools": [TOOL], "tool_choice": "auto"}
        answer = gateway.ask("/v1/chat/completions", body)
        return answer.status_code, answer.text

    status, text = ask()
    assert status == 200, text
    before = world.pod(gateway.namespace, name)["metadata"]["uid"]
    world.edit(gateway.namespace, name, {"engine": {"toolCallParser": "none"}})
    world.wait_ready(gateway.namespace, name, seconds=LOAD_SECONDS)
    assert world.pod(gateway.namespace, name)["metadata"]["uid"] != before
    status, text = ask()
    assert status == 400, text
    assert "tool" in text
    world.api.delete("models", gateway.namespace, name)
