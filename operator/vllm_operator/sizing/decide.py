"""Spec + facts + pools → the plan that the engine and the builders take, and why; or the refusal with its numbers. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import Accelerator, Engine, Parallelism, VLLMModelSpec
from vllm_operator.hub.facts import ModelFacts, Traits
from vllm_operator.sizing.cpu import PROCESSES, plan_cpu
from vllm_operator.sizing.memory import GIB, Version, gib
from vllm_operator.sizing.plan import AcceleratorKind, Plan, decide_plan
from vllm_operator.sizing.planner import Sizing, SizingPlan, plan_sizing
from vllm_operator.sizing.pools import GpuPool, Pools
from vllm_operator.sizing.wanted import read_bytes, wanted_from_spec

KV_CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
MOST_REASONS, LONGEST_REASON, MOST_ALTERNATIVES = 24, 1024, 8
"""Bounds of the lists in status.sizing."""

JSONObject = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What is known of the model and the cluster."""

    facts: ModelFacts | None = None
    unread: str = ""
    """Why there are no facts."""
    may_come: bool = False
    """Whether facts would be there if their source answered: then sizes are not guessed."""
    pools: Pools | None = None
    """None: the operator may not read nodes."""
    commit: str | None = None
    """Of the repository that the facts are of."""


@dataclass(frozen=True)
class Decided:
    """What was decided for a spec."""

    plan: Plan
    status: JSONObject
    """For status.sizing."""
    traits: Traits | None = None
    """What is known of the model, for the choice of options (engine/recipes.py). None: kept by an operator that did not choose any."""

    def as_json(self) -> JSONObject:
        """For keeping; read by `from_json`."""
        traits = {} if self.traits is None else {"traits": _TRAITS.dump_python(self.traits, mode="json")}
        return {"plan": _PLAN.dump_python(self.plan, mode="json"), "status": self.status, **traits}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Decided":
        """What was kept. Raises ValueError when it is of another operator version that kept something else."""
        traits = _TRAITS.validate_python(kept["traits"]) if "traits" in kept else None
        return cls(_PLAN.validate_python(kept["plan"]), dict(kept["status"]), traits)


_PLAN = TypeAdapter(Plan)
_TRAITS = TypeAdapter(Traits)


def is_fixed(spec: VLLMModelSpec, *, default_accelerator: AcceleratorKind) -> bool:
    """Whether the user has fixed the number of GPUs, or none are needed: then it can be served unchecked."""
    wanted, parallelism = spec.accelerator or Accelerator(), spec.parallelism or Parallelism()
    kind = default_accelerator if wanted.type == "auto" else wanted.type
    return kind == "cpu" or parallelism.tensor is not None or wanted.count is not None


def decide(
    spec: VLLMModelSpec,
    known: Known,
    *,
    default_accelerator: AcceleratorKind = "nvidia",
    version: Version | None = None,
) -> Decided:
    """The plan for a spec. `version`: of vLLM, when the spec names none.

    Raises Refusal: InvalidSpec or InvalidParallelism when the fields contradict each other, HubUnavailable when sizes would have
    to be guessed, DoesNotFit with the numbers when nothing fits.
    """
    decided = _decide(spec, known, default_accelerator=default_accelerator, version=version)
    return replace(decided, traits=known.facts.traits if known.facts is not None else Traits())


def _decide(
    spec: VLLMModelSpec, known: Known, *, default_accelerator: AcceleratorKind, version: Version | None
) -> Decided:
    plain = decide_plan(spec, default_accelerator=default_accelerator)
    fixed = is_fixed(spec, default_accelerator=default_accelerator)
    if plain.accelerator == "cpu":
        return _on_cpu(spec, known, plain)
    if known.facts is None and known.may_come and not fixed:
        raise Refusal(Reason.HUB_UNAVAILABLE, f"the GPUs cannot be decided yet: {known.unread}")
    if known.facts is None or known.pools is None:
        why = known.unread if known.facts is None else "the operator may not read nodes"
        _refuse_minimum(spec, why)
        return _unchecked(plain, why, fixed=fixed)
    return _on_gpus(spec, known, known.facts, known.pools, plain, fixed=fixed, version=version)


def _refuse_minimum(spec: VLLMModelSpec, why: str) -> None:
    """A minMemory can only be obeyed where GPUs are chosen; it is not to be ignored elsewhere."""
    minimum = spec.accelerator.min_memory if spec.accelerator else None
    if minimum is not None:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.accelerator.minMemory is {minimum}, but GPUs cannot be chosen ({why}); use accelerator.product",
        )


def _unchecked(plan: Plan, why: str, *, fixed: bool) -> Decided:
    sizes = "the sizes are those of the spec" if fixed else "1 GPU is a guess; set parallelism.tensor or modelFacts"
    reasons = [f"not checked whether it fits: {why}", sizes] if plan.accelerator != "cpu" else [f"not checked: {why}"]
    return Decided(plan, _status(plan, reasons=reasons))


def _on_gpus(
    spec: VLLMModelSpec,
    known: Known,
    facts: ModelFacts,
    pools: Pools,
    plain: Plan,
    *,
    fixed: bool,
    version: Version | None,
) -> Decided:
    wanted = wanted_from_spec(spec, version=version)
    candidates = [pool for pool in pools.pools if _is_meant(pool, spec)]
    if not candidates and fixed:
        there = ", ".join(pool.name for pool in pools.pools) or "none"
        why = f"no node has such GPUs now ({'; '.join((f'there are: {there}', *pools.excluded))})"
        _refuse_minimum(spec, why)
        return _unchecked(plain, why, fixed=True)
    if not pools.pools:
        hint = "add nodes, declare pools that scale from zero (gpuPools in the chart), or set parallelism.tensor"
        raise Refusal(Reason.DOES_NOT_FIT, "; ".join(("no node has GPUs whose memory is known", *pools.excluded, hint)))
    sizing = plan_sizing(facts, replace(wanted, most_nodes=1), pools.pools, excluded=pools.excluded)
    found = sizing.plan
    if found is None:
        several = plan_sizing(facts, wanted, pools.pools).plan
        more = (
            f"; it would fit on {several.nodes} nodes of {several.pool.name} (tensor {several.tensor_parallel_size} × pipeline "
            f"{several.pipeline_parallel_size}), but this version of the operator serves a replica on one node only"
            if several is not None
            else ""
        )
        raise Refusal(Reason.DOES_NOT_FIT, sizing.message + more)
    pool = found.pool
    plan = Plan(
        accelerator=pool.vendor,
        resource_name=pool.resource_name,
        gpus_per_replica=found.gpus,
        tensor_parallel_size=found.tensor_parallel_size,
        pipeline_parallel_size=found.pipeline_parallel_size,
        data_parallel_size=found.data_parallel_size,
        enable_expert_parallel=plain.enable_expert_parallel,
        node_selector=dict(pool.node_selector),
        tolerations=tuple(
            {name: value for name, value in vars(toleration).items() if value} for toleration in pool.tolerations
        ),
        max_model_len=None if found.max_context else found.max_model_len,
    )
    return Decided(plan, _gpu_status(plan, sizing, found, [*sizing.reasons, *_not_counted(spec)], known.commit))


def _is_meant(pool: GpuPool, spec: VLLMModelSpec) -> bool:
    """Whether the spec allows this kind of GPU, whatever its size."""
    wanted = spec.accelerator or Accelerator()
    return (
        wanted.type in ("auto", pool.vendor)
        and (wanted.product is None or wanted.product in pool.products)
        and wanted.resource_name in (None, pool.resource_name)
    )


def _not_counted(spec: VLLMModelSpec) -> Iterable[str]:
    """What the spec asks for and the memory model does not know."""
    engine = spec.engine or Engine()
    for field, value in (("speculativeConfig", engine.speculative_config), ("hfOverrides", engine.hf_overrides)):
        if value is not None:
            yield f"not counted: engine.{field}"


def _on_cpu(spec: VLLMModelSpec, known: Known, plan: Plan) -> Decided:
    if known.facts is None:
        return _unchecked(plan, known.unread, fixed=True)
    limits = (spec.resources.limits if spec.resources else None) or {}
    memory = read_bytes(str(limits["memory"])) if "memory" in limits else None
    if memory is None:
        return _unchecked(plan, "resources.limits.memory is not set", fixed=True)
    if plan.tensor_parallel_size * plan.pipeline_parallel_size * plan.data_parallel_size > 1:
        return _unchecked(plan, "several ranks share the container's memory", fixed=True)
    if any(variable.name == KV_CACHE_SPACE for variable in (spec.engine or Engine()).env or ()):
        return _unchecked(plan, f"engine.env sets {KV_CACHE_SPACE}", fixed=True)
    wanted = wanted_from_spec(spec)
    decided = plan_cpu(known.facts, memory=memory, options=wanted.options, max_model_len=wanted.max_model_len)
    if not decided.fits:
        raise Refusal(
            Reason.DOES_NOT_FIT,
            f"{known.facts.architecture} {'; '.join(decided.reasons)}; raise resources.limits.memory to {gib(decided.memory_needed)}Gi",
        )
    whole = decided.max_model_len == (wanted.max_model_len or known.facts.default_max_model_len)
    plan = replace(
        plan, kv_cache_space_gib=decided.kv_cache_space_gib, max_model_len=None if whole else decided.max_model_len
    )
    return Decided(
        plan,
        _status(
            plan,
            reasons=[*decided.reasons, *known.facts.warnings],
            maxModelLen=decided.max_model_len,
            kvCacheTokens=decided.kv_cache_tokens,
            kvBytesPerToken=decided.kv_bytes_per_token,
            memory={
                "weights": quantity(decided.weights),
                "activation": quantity(decided.activation),
                "other": quantity(PROCESSES),
                "kvCache": f"{decided.kv_cache_space_gib}Gi",
                "total": quantity(memory),
            },
            revision=known.commit,
        ),
    )


# ---- status


def quantity(size: int) -> str:
    """Bytes as a quantity with two places, e.g. 15.27Gi."""
    return f"{size / GIB:.2f}Gi"


def _status(plan: Plan, *, reasons: Iterable[str], **fields: Any) -> JSONObject:
    return {
        "accelerator": plan.accelerator,
        "gpusPerReplica": plan.gpus_per_replica,
        "tensorParallelSize": plan.tensor_parallel_size,
        "pipelineParallelSize": plan.pipeline_parallel_size,
        "dataParallelSize": plan.data_parallel_size,
        **{name: value for name, value in fields.items() if value not in (None, [])},
        "reasons": [reason[:LONGEST_REASON] for reason in reasons][:MOST_REASONS],
    }


def _gpu_status(
    plan: Plan, sizing: Sizing, found: SizingPlan, reasons: Iterable[str], commit: str | None
) -> JSONObject:
    memory = found.memory
    return _status(
        plan,
        reasons=reasons,
        pool=found.pool.name,
        resourceName=found.pool.resource_name,
        nodes=found.nodes,
        maxModelLen=found.max_model_len,
        concurrency=None if math.isinf(found.concurrency) else f"{found.concurrency:.1f}",
        memory={
            "weights": quantity(memory.weights),
            "activation": quantity(memory.activation),
            "other": quantity(memory.other),
            "kvCache": quantity(memory.kv_cache),
            "total": quantity(memory.budget),
        },
        kvCacheTokens=None if math.isinf(found.concurrency) else int(found.concurrency * found.max_model_len),
        kvBytesPerToken=found.layout.bytes_per_token,
        alternatives=[
            {
                "pool": other.pool.name,
                "gpusPerReplica": other.gpus,
                "tensorParallelSize": other.tensor_parallel_size,
                "maxModelLen": other.max_model_len,
            }
            for other in sizing.alternatives[:MOST_ALTERNATIVES]
        ],
        revision=commit,
    )


def still_there(status: Mapping[str, Any], pools: Pools) -> bool:
    """Whether the pool that a decision chose is still there, with as many GPUs on a node."""
    return any(
        pool.name == status.get("pool")
        and pool.resource_name == status.get("resourceName")
        and pool.gpus_per_node * int(status.get("nodes") or 1) >= int(status.get("gpusPerReplica") or 0)
        for pool in pools.pools
    )
