"""What one replica asks for, and the sizes that a spec alone gives: what it fixes, else 1."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import Accelerator, Parallelism, VLLMModelSpec

AcceleratorKind = Literal["nvidia", "amd", "intel", "cpu"]

RESOURCE_NAMES: Mapping[AcceleratorKind, str] = {
    "nvidia": "nvidia.com/gpu",
    "amd": "amd.com/gpu",
    "intel": "gpu.intel.com/xe",
}
"""Extended resource that each vendor's device plugin advertises. Intel: the xe driver's; i915 is set by resourceName."""

PRODUCT_LABELS: Mapping[AcceleratorKind, str] = {
    "nvidia": "nvidia.com/gpu.product",
    "amd": "amd.com/gpu.product-name",
    "intel": "gpu.intel.com/product",
}
"""Node label with the product's name, as each vendor's feature discovery writes it."""


@dataclass(frozen=True)
class Plan:
    """What one replica asks for."""

    accelerator: AcceleratorKind
    resource_name: str | None
    """Extended resource; None on CPUs."""
    gpus_per_replica: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    enable_expert_parallel: bool
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    """Tolerations that the chosen nodes need beyond the GPU vendors' own."""
    max_model_len: int | None = None
    """--max-model-len, when it was decided and is not the model's own maximum."""
    kv_cache_space_gib: int | None = None
    """VLLM_CPU_KVCACHE_SPACE on CPUs, when it was decided."""


def decide_plan(spec: VLLMModelSpec, *, default_accelerator: AcceleratorKind = "nvidia") -> Plan:
    """The plan by the spec alone. Raises Refusal when the fields contradict each other."""
    wanted = spec.accelerator or Accelerator()
    parallelism = spec.parallelism or Parallelism()
    kind: AcceleratorKind = default_accelerator if wanted.type == "auto" else wanted.type
    pipeline = parallelism.pipeline or 1
    data = parallelism.data or 1
    tensor = parallelism.tensor or _tensor_from_count(wanted.count, pipeline, data)
    world = tensor * pipeline * data
    if wanted.count is not None and wanted.count != world:
        raise Refusal(
            Reason.INVALID_PARALLELISM,
            f"spec.accelerator.count is {wanted.count}, but parallelism needs tensor {tensor} × pipeline {pipeline} × data "
            f"{data} = {world} GPUs; make them equal or leave count out",
        )
    if kind == "cpu":
        for field_name in ("product", "min_memory", "resource_name", "count"):
            if getattr(wanted, field_name) is not None:
                raise Refusal(
                    Reason.INVALID_SPEC,
                    f"spec.accelerator.{Accelerator.model_fields[field_name].alias or field_name} is set, but the accelerator is cpu",
                )
        return Plan(kind, None, 0, tensor, pipeline, data, bool(parallelism.expert))
    selector = {PRODUCT_LABELS[kind]: wanted.product} if wanted.product else {}
    return Plan(
        accelerator=kind,
        resource_name=wanted.resource_name or RESOURCE_NAMES[kind],
        gpus_per_replica=world,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        data_parallel_size=data,
        enable_expert_parallel=bool(parallelism.expert),
        node_selector=selector,
    )


def _tensor_from_count(count: int | None, pipeline: int, data: int) -> int:
    """Tensor-parallel size when only the number of GPUs is given: all that pipeline and data leave."""
    if count is None:
        return 1
    tensor, rest = divmod(count, pipeline * data)
    if rest or tensor == 0:
        raise Refusal(
            Reason.INVALID_PARALLELISM,
            f"spec.accelerator.count is {count}, which is no multiple of pipeline {pipeline} × data {data}",
        )
    return tensor
