"""Models on CPUs."""

from typing import Any

import pytest

from tests.sizing.published import published
from tests.sizing.tiny_models import TINY
from vllm_operator.hub.config import read_config
from vllm_operator.sizing.cpu import NODE_AFFINITY, plan_cpu
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


LABEL = "feature.node.kubernetes.io/cpu-cpuid."


def _matches(term: dict[str, Any], labels: dict[str, str]) -> bool:
    """As the scheduler matches a node selector's term (k8s.io/component-helpers/scheduling/corev1/nodeaffinity)."""
    checks = {
        "In": lambda key, values: labels.get(key) in values,
        "DoesNotExist": lambda key, values: key not in labels,
    }
    return all(checks[each["operator"]](each["key"], each.get("values")) for each in term["matchExpressions"])


@pytest.mark.parametrize(
    ("features", "allowed", "preferred"),
    [
        (("FXSR", "AVX", "AVX2", "AVX512F"), True, True),
        (("FXSR", "AVX", "AVX2"), True, False),
        (("FXSR", "AVX"), False, False),  # too old
        (("FXSR",), False, False),  # a virtual machine whose CPU model hides what the CPU has
        (("ASIMD", "FP"), True, False),  # arm64
        ((), True, False),  # nobody has labelled it
    ],
)
def test_nodes_are_chosen_by_the_labels_that_they_have(
    features: tuple[str, ...], allowed: bool, preferred: bool
) -> None:
    labels = {LABEL + feature: "true" for feature in features}
    terms = NODE_AFFINITY["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert any(_matches(term, labels) for term in terms) is allowed
    [rather] = NODE_AFFINITY["preferredDuringSchedulingIgnoredDuringExecution"]
    assert _matches(rather["preference"], labels) is preferred
