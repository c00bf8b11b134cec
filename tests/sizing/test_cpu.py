"""Models on CPUs."""

import pytest

from tests.sizing.published import published
from tests.sizing.tiny_models import TINY
from vllm_operator.hub.config import read_config
from vllm_operator.sizing.cpu import instruction_set, plan_cpu
from vllm_operator.sizing.memory import GIB


def test_what_is_left_is_the_cache() -> None:
    plan = plan_cpu(published("Qwen/Qwen3-0.6B"), memory=16 * GIB)
    assert plan.fits
    assert 8 <= plan.kv_cache_space_gib <= 13
    assert plan.max_model_len == 40960
    assert plan.memory_needed <= 16 * GIB


def test_shorter_context() -> None:
    plan = plan_cpu(published("Qwen/Qwen3-0.6B"), memory=6 * GIB)
    assert 0 < plan.max_model_len < 40960
    assert "the largest that fits" in plan.reasons[-1]
    refused = plan_cpu(published("Qwen/Qwen3-0.6B"), memory=6 * GIB, max_model_len=40960)
    assert not refused.fits
    assert f"maxModelLen ≤ {plan.max_model_len:,} fits" in refused.reasons[0]
    assert plan_cpu(published("Qwen/Qwen3-0.6B"), memory=refused.memory_needed + GIB, max_model_len=40960).fits


def test_too_small() -> None:
    assert not plan_cpu(published("Qwen/Qwen3-8B"), memory=8 * GIB).fits


def test_tiny_model_in_the_tests_pod() -> None:
    assert plan_cpu(read_config(TINY["qwen3"]), memory=3 * GIB).kv_cache_space_gib >= 1


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (
            {
                "feature.node.kubernetes.io/cpu-cpuid.AVX512F": "true",
                "feature.node.kubernetes.io/cpu-cpuid.AVX2": "true",
            },
            "AVX512",
        ),
        ({"feature.node.kubernetes.io/cpu-cpuid.AVX2": "true"}, "AVX2"),
        ({}, None),
    ],
)
def test_instruction_set(labels: dict[str, str], name: str | None) -> None:
    assert instruction_set(labels) == name
