"""config.json → facts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sizing.published import configs, published
from tests.sizing.tiny_models import TINY
from vllm_operator.hub.config import read_config
from vllm_operator.hub.errors import InvalidModelError
from vllm_operator.hub.facts import ModelFacts, Quantization
from vllm_operator.sizing.memory import GIB, Device
from vllm_operator.sizing.planner import Wanted, plan_sizing
from vllm_operator.sizing.pools import GpuPool


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    # the sizes of their safetensors files on the hub, without draft layers
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 16.06),
        ("meta-llama/Llama-3.1-70B-Instruct", 141.1),
        ("Qwen/Qwen2.5-7B-Instruct", 15.2),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", 41.6),
        ("Qwen/Qwen3-32B", 65.5),
        ("Qwen/Qwen3-30B-A3B", 61.1),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 93.4),
        ("google/gemma-2-9b-it", 18.5),
        ("openai/gpt-oss-20b", 13.76),
        ("openai/gpt-oss-120b", 65.2),
        ("BAAI/bge-m3", 1.14),
        ("openai/whisper-large-v3", 3.09),
    ],
)
def test_estimated_weights(model: str, gigabytes: float) -> None:
    assert published(model).weights.total / 1e9 == pytest.approx(gigabytes, rel=0.02)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "Qwen/Qwen3-8B",
            {"task": "generate", "head_size": 128, "kv_heads": 8, "hybrid": False, "sliding_window": None},
        ),
        ("Qwen/Qwen2.5-7B-Instruct", {"sliding_window": None, "max_model_len": 32768}),
        (
            "deepseek-ai/DeepSeek-V3",
            {"head_size": 576, "kv_heads": 1, "experts": 256, "max_model_len": 163840, "rope_scaling": "yarn"},
        ),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", {"hybrid": True, "linear_key_heads": 16, "rope_dim": 64}),
        (
            "google/gemma-3-27b-it",
            {"towers": ("vision",), "max_model_len": 131072, "sliding_window": 1024, "tied_embeddings": True},
        ),
        (
            "microsoft/Phi-3.5-mini-instruct",
            {"max_model_len": 131072, "default_max_model_len": 4096, "rope_scaling": "longrope"},
        ),
        ("CohereForAI/c4ai-command-r-plus", {"max_model_len": 131072}),
        ("tiiuae/falcon-7b-instruct", {"kv_heads": 1, "head_size": 64}),
        ("openai/gpt-oss-20b", {"quantization": Quantization("mxfp4", 4, 32, experts_only=True)}),
        ("BAAI/bge-m3", {"task": "embed", "encoder_only": True}),
        ("openai/whisper-large-v3", {"task": "transcribe", "towers": ("audio",), "max_model_len": 448}),
    ],
)
def test_facts(model: str, expected: dict[str, Any]) -> None:
    facts = published(model)
    assert {name: getattr(facts, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "files", "tag", "task"),
    [
        ({}, (), None, "generate"),
        ({}, ("modules.json",), None, "embed"),
        ({}, (), "feature-extraction", "embed"),
        ({"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1}, (), None, "score"),
        ({"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}, (), None, "classify"),
        ({"architectures": ["Qwen2ForRewardModel"]}, (), None, "reward"),
        ({"architectures": ["Qwen3Model"]}, (), None, "embed"),
    ],
)
def test_task(changes: dict[str, Any], files: tuple[str, ...], tag: str | None, task: str) -> None:
    assert read_config({**TINY["qwen3"], **changes}, files=files, pipeline_tag=tag).task == task


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, Quantization("awq", 4, 128)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, Quantization("gptq", 8, None)),
        ({"quant_method": "fp8"}, Quantization("fp8", 8)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, Quantization("fp8", 8, block=(128, 128))),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            Quantization("compressed-tensors", 4, 128),
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, Quantization("modelopt_fp4", 4, 16)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, Quantization("bitsandbytes", 4, 64)),
        ({"quant_method": "new"}, Quantization("new", 16)),
    ],
)
def test_quantization(found: dict[str, Any], expected: Quantization) -> None:
    assert read_config({**TINY["qwen3"], "quantization_config": found}).quantization == expected


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-1, 9), st.text(max_size=3), st.none()), max_size=4),
    st.dictionaries(
        st.sampled_from(["rope_type", "factor", "type", "quant_method", "bits", "a"]),
        st.one_of(st.integers(), st.text(max_size=4)),
        max_size=3,
    ),
)
BASES = [*TINY.values(), *configs().values()]
KEYS = sorted({key for base in BASES for key in base})


@given(
    base=st.sampled_from(BASES),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    dropped=st.lists(st.sampled_from(KEYS), max_size=3),
)
def test_any_config_is_read_or_refused(base: dict[str, Any], changes: dict[str, Any], dropped: list[str]) -> None:
    config = {key: value for key, value in {**base, **changes}.items() if key not in dropped}
    try:
        facts = read_config(config)
    except InvalidModelError:
        return
    assert isinstance(facts, ModelFacts)
    plan_sizing(facts, Wanted(), [GpuPool("X", Device(80 * GIB, "X", (9, 0)), 8, 2)])
