"""Spec → the plan that the builders take."""

from typing import Any

from tests.sizing.published import pool, published
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.sizing.decide import Decision, decide_sizing
from vllm_operator.sizing.pools import GpuPool
from vllm_operator.sizing.wanted import read_bytes, read_tokens, read_version, wanted_from_spec

H100 = pool("H100", 8, 2)


def decide(model: str, *pools: GpuPool, **spec: Any) -> Decision:
    return decide_sizing(VLLMModelSpec.model_validate({"model": model, **spec}), published(model), pools or (H100,))


def test_plan() -> None:
    decided = decide("Qwen/Qwen3-8B")
    assert decided.plan is not None
    assert (decided.plan.accelerator, decided.plan.resource_name, decided.plan.gpus_per_replica) == (
        "nvidia",
        "nvidia.com/gpu",
        1,
    )
    assert (decided.max_model_len, decided.gpus_per_node, decided.nodes) == (None, 1, 1)


def test_several_nodes() -> None:
    decided = decide("deepseek-ai/DeepSeek-V3")
    assert decided.plan is not None
    assert (decided.plan.gpus_per_replica, decided.gpus_per_node, decided.nodes) == (16, 8, 2)


def test_a_context_that_was_chosen_is_passed_on() -> None:
    decided = decide("Qwen/Qwen3-32B", pool("H100", 1, 1))
    assert decided.max_model_len is not None
    assert decided.max_model_len < 40960
    assert decide("Qwen/Qwen3-32B", pool("H100", 1, 1), engine={"maxModelLen": 1000}).max_model_len is None


def test_refusal() -> None:
    decided = decide("Qwen/Qwen3-32B", parallelism={"tensor": 3})
    assert decided.plan is None
    assert "cannot be divided by tensor 3" in decided.sizing.message


def test_what_a_spec_wants() -> None:
    wanted = wanted_from_spec(
        VLLMModelSpec.model_validate(
            {
                "model": "a/b",
                "accelerator": {"type": "amd", "count": 8, "minMemory": "80Gi"},
                "parallelism": {"pipeline": 2, "expert": True},
                "engine": {"kvCacheDtype": "fp8", "cpuOffloadGB": 2, "version": "0.21.0", "maxModelLen": "auto"},
            }
        )
    )
    assert (wanted.vendor, wanted.gpus, wanted.pipeline, wanted.max_model_len, wanted.min_memory) == (
        "amd",
        8,
        2,
        None,
        80 * 1024**3,
    )
    assert (wanted.options.kv_cache_dtype, wanted.options.cpu_offload_bytes, wanted.options.version) == (
        "fp8",
        2 * 1024**3,
        (0, 21, 0),
    )
    assert wanted.options.expert_parallel


def test_numbers() -> None:
    assert [read_tokens(text) for text in ("32k", "32K", 16000, "1.5k", "auto", -1)] == [
        32000,
        32768,
        16000,
        1500,
        None,
        None,
    ]
    assert [read_bytes(text) for text in ("80Gi", "1.5G", "7", "x")] == [80 * 2**30, 1_500_000_000, 7, None]
    assert read_version("v0.32.0rc1") == (0, 32, 0)
