"""The plan for one replica."""

from typing import Any

import pytest

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.sizing.plan import Plan, decide_plan


def plan(**spec: Any) -> Plan:
    return decide_plan(VLLMModelSpec.model_validate({"model": "a/b", **spec}))


def test_smallest() -> None:
    assert plan() == Plan("nvidia", "nvidia.com/gpu", 1, 1, 1, 1, False)


def test_auto_is_the_operators_accelerator() -> None:
    spec = VLLMModelSpec.model_validate({"model": "a/b"})
    assert decide_plan(spec, default_accelerator="cpu") == Plan("cpu", None, 0, 1, 1, 1, False)
    assert decide_plan(spec, default_accelerator="amd").resource_name == "amd.com/gpu"


@pytest.mark.parametrize(
    ("accelerator", "parallelism", "sizes"),
    [
        ({"count": 8}, {}, (8, 8, 1, 1)),
        ({"count": 8}, {"pipeline": 2}, (8, 4, 2, 1)),
        ({"count": 8}, {"data": 2, "pipeline": 2}, (8, 2, 2, 2)),
        ({"count": 8}, {"tensor": 8}, (8, 8, 1, 1)),
        ({}, {"tensor": 4, "data": 2}, (8, 4, 1, 2)),
        ({}, {"data": 3}, (3, 1, 1, 3)),
    ],
)
def test_sizes(accelerator: dict[str, Any], parallelism: dict[str, Any], sizes: tuple[int, int, int, int]) -> None:
    decided = plan(accelerator=accelerator, parallelism=parallelism)
    assert (
        decided.gpus_per_replica,
        decided.tensor_parallel_size,
        decided.pipeline_parallel_size,
        decided.data_parallel_size,
    ) == sizes


@pytest.mark.parametrize(
    ("accelerator", "parallelism", "part"),
    [
        ({"count": 8}, {"tensor": 4}, "spec.accelerator.count is 8"),
        ({"count": 3}, {"pipeline": 2}, "no multiple"),
        ({"count": 1}, {"data": 2}, "no multiple"),
    ],
)
def test_contradiction(accelerator: dict[str, Any], parallelism: dict[str, Any], part: str) -> None:
    with pytest.raises(Refusal, match=part) as caught:
        plan(accelerator=accelerator, parallelism=parallelism)
    assert caught.value.reason is Reason.INVALID_PARALLELISM


def test_cpu_asks_for_no_gpu_whatever_its_sizes() -> None:
    decided = plan(accelerator={"type": "cpu"}, parallelism={"tensor": 2})
    assert (decided.gpus_per_replica, decided.resource_name, decided.tensor_parallel_size) == (0, None, 2)


@pytest.mark.parametrize(
    "field",
    [{"product": "x"}, {"minMemory": "1Gi"}, {"resourceName": "a.b/c"}, {"count": 1}],
    ids=lambda f: next(iter(f)),
)
def test_cpu_takes_no_gpu_fields(field: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=rf"spec\.accelerator\.{next(iter(field))} "):
        plan(accelerator={"type": "cpu", **field})


def test_product_and_resource_name() -> None:
    decided = plan(accelerator={"product": "NVIDIA-L4", "resourceName": "nvidia.com/gpu.shared"})
    assert decided.node_selector == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert decided.resource_name == "nvidia.com/gpu.shared"
    assert plan(accelerator={"type": "amd", "product": "x"}).node_selector == {"amd.com/gpu.product-name": "x"}


def test_expert_parallel() -> None:
    assert plan(parallelism={"expert": True}).enable_expert_parallel is True
    assert plan(parallelism={"expert": False}).enable_expert_parallel is False
