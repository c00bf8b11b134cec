"""The real vLLM as the oracle: what it allocates for tiny models of many architectures, and which sizes it accepts.

The environment is the one of the real node (tests/cluster/vllm_env.py): without it these tests are skipped. They load some
fifteen models in one go, which takes several minutes.
"""

import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.vllm_env import environment_path, model_path
from tests.sizing.tiny_models import POOLING, TINY
from vllm_operator.hub.config import read_config
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.serving.startup import StartUp, read_start_up
from vllm_operator.sizing.kv_cache import build_layout, state_bytes
from vllm_operator.sizing.legality import verification_accepts, why_illegal
from vllm_operator.sizing.memory import EngineOptions, ModelMemory

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "vllm_oracle.py"
SIZES = list(range(1, 33))
KINDS = {
    "FullAttentionSpec": "full",
    "SlidingWindowSpec": "sliding",
    "ChunkedLocalAttentionSpec": "chunked",
    "MLAAttentionSpec": "mla",
    "MambaSpec": "state",
}


def ask(question: dict[str, Any]) -> dict[str, Any]:
    python = environment_path() / "bin" / "python"
    if not python.exists():
        pytest.skip(f"vLLM is not installed in {environment_path()}: make cluster-up installs it")
    answer = subprocess.run(
        ["nice", "-n", "10", python, SCRIPT],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    result: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def allocated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Name → what vLLM allocated."""
    jobs = []
    for name, config in TINY.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(json.dumps(config))
        if name in POOLING:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                if model_path().exists():
                    shutil.copy(model_path() / file, folder)
        jobs.append({"folder": str(folder), "runner": "pooling" if name in POOLING else "auto"})
    return dict(zip(TINY, ask({"allocate": jobs})["allocate"], strict=True))


def facts(name: str) -> ModelFacts:
    return on_cpu(read_config(TINY[name]))


def on_cpu(model: ModelFacts) -> ModelFacts:
    """Facts as on vLLM's CPU platform, which keeps recurrent states in float32 (platforms/cpu.py)."""
    caches = tuple(
        tuple(
            cache if cache.state is None else replace(cache, state=replace(cache.state, state_dtype_bytes=4))
            for cache in layer
        )
        for layer in model.caches
    )
    return replace(model, caches=caches)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TINY)
def test_kv_cache_to_the_byte(allocated: dict[str, dict[str, Any]], name: str) -> None:
    real = allocated[name]
    assert "error" not in real, real["error"]
    model = facts(name)
    groups = real["groups"]
    block = min((group["block_size"] for group in groups if group["type"] != "MambaSpec"), default=None)
    layout = build_layout(model, tensor_parallel_size=1, block_size=block)
    expected = sum(
        group["page_size_bytes"] // group["block_size"] * group["layers"]
        for group in groups
        if group["type"] != "MambaSpec"
    )
    assert layout.bytes_per_token == expected
    assert layout.bytes_per_block == max((group["page_size_bytes"] * group["layers"] for group in groups), default=0)
    ours = sorted(
        (group.kind, len(group.parts[0][1]), group.parts[0][0], group.blocks(512, real["in_flight"]))
        for group in layout.groups
    )
    theirs = sorted(
        (KINDS[group["type"]], group["layers"], group["page_size_bytes"], group["blocks_per_request"])
        for group in groups
    )
    assert ours == theirs
    states = [cache.state for layer in model.caches for cache in layer if cache.state is not None]
    if states:
        assert {state_bytes(state, 1, model.dtype_bytes) for state in states} == {
            group["state_bytes"] for group in groups if group["type"] == "MambaSpec"
        }


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TINY)
def test_weights(allocated: dict[str, dict[str, Any]], name: str) -> None:
    assert facts(name).weights.total == pytest.approx(allocated[name]["weights"], rel=0.02)


@pytest.mark.timeout(1800)
def test_sizes_that_verification_accepts(tmp_path: Path) -> None:
    """200 random configurations of several architectures: the same set of tensor-parallel sizes."""
    random_numbers = random.Random(4)
    configs: dict[str, dict[str, Any]] = {}
    for number in range(200):
        name = random_numbers.choice(
            ["llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gemma3", "gpt_oss", "deepseek_v3", "qwen3_next"]
        )
        kv = random_numbers.choice([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16])
        heads = kv * random_numbers.choice([1, 2, 3, 4, 5, 6, 7, 8])
        config = {
            **TINY[name],
            "num_attention_heads": heads,
            "num_key_value_heads": heads if name == "deepseek_v3" else kv,
            "head_dim": 64,
            "hidden_size": 64 * heads,
            "intermediate_size": random_numbers.choice([256, 384, 1000, 1536]),
            "vocab_size": random_numbers.choice([512, 1000, 32001]),
        }
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        configs[str(folder)] = config
    answers = ask({"verify": dict.fromkeys(configs, SIZES)})["verify"]
    for path, config in configs.items():
        assert "error" not in answers[path], answers[path]
        ours = [size for size in SIZES if verification_accepts(read_config(config), size)]
        assert ours == answers[path]["legal"], config
        for size, heads in answers[path]["kv_heads"].items():
            cache = next(cache for layer in read_config(config).caches for cache in layer if cache.kind != "state")
            assert max(1, cache.kv_heads // int(size)) == heads
        assert read_config(config).default_max_model_len == answers[path]["max_model_len"]


BUILDS = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mixtral",
    "gemma3",
    "gpt_oss",
    "deepseek_v3",
    "qwen3_next",
    "falcon_h1",
    "lfm2",
)


FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
_FOUR_BITS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
GROUPS_OF_128 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": _FOUR_BITS}},
    "ignore": ["lm_head"],
}
QUANTIZABLE = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64, "hidden_size": 1024}


@pytest.mark.timeout(1800)
def test_sizes_and_weights_of_what_vllm_builds(tmp_path: Path) -> None:
    """One rank of random models, made by vLLM's own layers without memory: sizes they take, weights, and the cache to the byte."""
    random_numbers = random.Random(5)
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16]
    configs: dict[str, dict[str, Any]] = {}
    for number in range(66):
        name = BUILDS[number % len(BUILDS)]
        kv = random_numbers.choice([1, 2, 3, 4, 6, 8])
        heads = kv * random_numbers.choice([1, 2, 3, 4, 5, 6])
        config = {
            **TINY[name],
            "num_attention_heads": heads,
            "num_key_value_heads": heads if name == "deepseek_v3" else kv,
            "head_dim": 64,
            "hidden_size": 64 * heads,
            "intermediate_size": random_numbers.choice([256, 384, 960, 1536, 2520]),
            "vocab_size": random_numbers.choice([512, 768, 1000, 6720]),
        }
        if name == "gpt_oss":
            config["intermediate_size"] = 1536  # the CPU's kernel for experts takes few widths
        if name == "qwen3_next":
            # with fewer key heads than ranks vLLM makes the layers, and fails when they run
            config |= {"linear_num_key_heads": 16, "linear_num_value_heads": 32}
        if "moe_intermediate_size" in config:
            config["moe_intermediate_size"] = random_numbers.choice([64, 96, 120, 256])
        if name == "lfm2":
            config |= {"block_dim": 64 * heads, "conv_dim": 64 * heads, "block_ff_dim": config["intermediate_size"]}
        configs[str(tmp_path / str(number))] = config
    for name, quantization, width in (
        ("llama", FP8_BLOCKS, 1024),
        ("llama", FP8_BLOCKS, 1536),
        ("qwen3_moe", FP8_BLOCKS, 1024),
        ("qwen3_moe", FP8_BLOCKS, 1536),
        ("llama", GROUPS_OF_128, 1024),
        ("llama", GROUPS_OF_128, 1536),
    ):
        config = {**TINY[name], **QUANTIZABLE, "intermediate_size": width, "quantization_config": quantization}
        if name == "qwen3_moe":
            config["moe_intermediate_size"] = width // 2
        configs[str(tmp_path / str(len(configs)))] = config
    for path, config in configs.items():
        Path(path).mkdir()
        (Path(path) / "config.json").write_text(json.dumps(config))
    answers = ask({"build": dict.fromkeys(configs, sizes)})["build"]
    wrong = []
    for path, config in configs.items():
        model = on_cpu(read_config(config))
        memory = ModelMemory(model)
        for size in sizes:
            real, why = answers[path][str(size)], why_illegal(model, size)
            if isinstance(real, dict) != (why is None):
                wrong.append(f"{config['architectures'][0]} at tensor {size}: vLLM {real}; ours {why}; {config}")
            elif isinstance(real, dict):
                weights = memory.weights(size, 1, EngineOptions(), 2) - memory._rope(2)
                if weights != pytest.approx(real["weights"], rel=0.02):
                    wrong.append(
                        f"{config['architectures'][0]} at tensor {size}: weights {real}; ours {weights}; {config}"
                    )
                layout = build_layout(model, tensor_parallel_size=size)
                if (layout.bytes_per_token, layout.state_bytes) != (real["token"], real["states"]):
                    wrong.append(
                        f"{config['architectures'][0]} at tensor {size}: cache {real}; ours {layout}; {config}"
                    )
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:40]])


@pytest.mark.parametrize(
    ("source", "figures"),
    [
        ("v1/worker/gpu_model_runner.py", StartUp(weights=1.25, cuda_graphs=1.25, load_seconds=1.25)),
        ("v1/worker/gpu_worker.py", StartUp(kv_cache=1.25)),
        ("model_executor/model_loader/default_loader.py", StartUp(load_seconds=1.25)),
    ],
)
def test_vllm_writes_into_its_log_what_is_looked_for(source: str, figures: StartUp) -> None:
    """A GPU is needed to see it write the first two; here are the messages of its source, with numbers in."""
    folder = environment_path() / "lib" / "python3.11" / "site-packages" / "vllm"
    if not folder.exists():
        pytest.skip(f"vLLM is not installed in {environment_path()}: make cluster-up installs it")
    messages = re.findall(r'"([^"]*(?:took %|memory: %)[^"]*)"', (folder / source).read_text())
    assert read_start_up("\n".join(re.sub(r"%[0-9.]*[sdf]", "1.25", each) for each in messages)) == figures, messages
