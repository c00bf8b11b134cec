"""Spec + facts + pools → the plan that the engine and the builders take, or the refusal with its numbers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.sizing.memory import Version
from vllm_operator.sizing.plan import Plan
from vllm_operator.sizing.planner import Sizing, plan_sizing
from vllm_operator.sizing.pools import GpuPool
from vllm_operator.sizing.wanted import wanted_from_spec


@dataclass(frozen=True)
class Decision:
    """What was decided for a spec."""

    sizing: Sizing
    plan: Plan | None
    """None when nothing fits: sizing.message says why, with numbers (reason DoesNotFit)."""
    max_model_len: int | None
    """For --max-model-len, when neither the spec nor the model's maximum is what was decided; else None."""
    gpus_per_node: int
    """GPUs of one pod; the plan's gpus_per_replica is over all nodes."""
    nodes: int


def decide_sizing(
    spec: VLLMModelSpec,
    facts: ModelFacts,
    pools: Sequence[GpuPool],
    *,
    excluded: Sequence[str] = (),
    version: Version | None = None,
) -> Decision:
    """The plan for a spec. `version`: of vLLM, when the spec names none; `excluded`: nodes that do not count."""
    sizing = plan_sizing(facts, wanted_from_spec(spec, version=version), pools, excluded=excluded)
    found = sizing.plan
    if found is None:
        return Decision(sizing, None, None, 0, 0)
    plan = Plan(
        accelerator=found.pool.vendor,
        resource_name=found.pool.resource_name,
        gpus_per_replica=found.gpus,
        tensor_parallel_size=found.tensor_parallel_size,
        pipeline_parallel_size=found.pipeline_parallel_size,
        data_parallel_size=found.data_parallel_size,
        enable_expert_parallel=bool(spec.parallelism and spec.parallelism.expert),
        node_selector=dict(found.pool.node_selector),
    )
    chosen = None if found.max_context else found.max_model_len
    return Decision(sizing, plan, chosen, found.gpus // found.nodes, found.nodes)
