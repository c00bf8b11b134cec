"""Facts + GPU pools + what the user fixed → the plan, with its reasons. Pure, and the same for the same inputs.

The order of preference: what serves the wanted context before what does not, and then the longer context; one node before
several; fewer GPUs; the smaller GPU; then by name, so that equal pools never make a plan flap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from vllm_operator.hub.facts import ModelFacts
from vllm_operator.sizing.gpus import find_product
from vllm_operator.sizing.kv_cache import KvLayout
from vllm_operator.sizing.legality import why_illegal, why_unsupported
from vllm_operator.sizing.memory import (
    GIB,
    LATEST,
    OLDEST,
    Device,
    EngineOptions,
    Memory,
    ModelMemory,
    Version,
    batch_defaults,
    gib,
    in_flight_tokens,
)
from vllm_operator.sizing.pools import GpuPool

LEAST_CONTEXT = 2048
"""Tokens: a context that is chosen, not asked for, is never shorter (unless the model's own is)."""

MARGIN = 0.01
"""Share of the GPU's memory that a context chosen by the operator leaves alone, for what the estimate cannot know."""

NOMINAL = 0.9
"""Share of what a GPU is sold as that CUDA reports at least: 14.6 of a T4's 16 GB, 44.4 of an L40S's 48, 79.2 of an H100's 80. People
write the nominal size when they ask for a least one."""

TIGHT = 0.02
"""Less than this share of the GPU's memory left over is called tight."""

MOST_NODES = 16


@dataclass(frozen=True)
class Wanted:
    """What the user fixed. Fixed values are obeyed and checked, never changed."""

    tensor: int | None = None
    pipeline: int | None = None
    data: int = 1
    gpus: int | None = None
    """GPUs of one replica: tensor × pipeline × data."""
    max_model_len: int | None = None
    """None: the model's maximum if it fits, else the largest that fits."""
    concurrency: int = 1
    """Sequences of the whole context that must fit at once."""
    vendor: str | None = None
    product: str | None = None
    min_memory: int | None = None
    """Least bytes of one GPU."""
    resource_name: str | None = None
    most_nodes: int = MOST_NODES
    """Nodes that one replica may be spread over."""
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class SizingPlan:
    """How one replica runs."""

    pool: GpuPool
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    nodes: int
    max_model_len: int
    concurrency: float
    """Sequences of max_model_len that fit at once; infinite without a KV cache."""
    memory: Memory
    layout: KvLayout
    max_context: bool
    """Whether this is the whole context that was wanted."""
    tight: bool

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size


@dataclass(frozen=True)
class Sizing:
    """The answer: a plan or none, and why."""

    plan: SizingPlan | None
    reasons: tuple[str, ...]
    alternatives: tuple[SizingPlan, ...]
    """The best of each other pool that would do, best first; then fewer GPUs with a shorter context, where that goes."""
    closest: "Shortfall | None" = None
    """When nothing fits: what came nearest."""

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.plan is not None

    @property
    def message(self) -> str:
        """All reasons in one line, for a condition."""
        return "; ".join(self.reasons)


@dataclass(frozen=True)
class Shortfall:
    """A combination that does not fit, and by how much."""

    pool: GpuPool
    tensor_parallel_size: int
    pipeline_parallel_size: int
    nodes: int
    max_model_len: int
    needed: int
    """Bytes of the fullest GPU, KV cache of the wanted context included."""
    memory: Memory
    layout: KvLayout
    longest: int
    """Longest context that fits there; 0 when the weights alone do not."""


@dataclass(frozen=True)
class _Shape:
    tensor: int
    pipeline: int
    nodes: int

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline


class Planner:
    """Plans for one model. Keeps what it has computed, so that asking again for other pools or options is quick."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        self._model = ModelMemory(facts)
        self._legal: dict[tuple[int, int, bool, Version], str | None] = {}
        self._known_shapes: dict[tuple[object, ...], tuple[_Shape, ...]] = {}

    def plan(self, wanted: Wanted, pools: Sequence[GpuPool], *, excluded: Sequence[str] = ()) -> Sizing:
        """The plan for what is wanted on these pools. `excluded`: nodes that do not count, for the message."""
        facts, notes = self.facts, list(self.facts.warnings)
        contradiction = self._contradiction(wanted)
        if contradiction is not None:
            return Sizing(None, (contradiction, *_excluded(excluded)), ())
        refused: list[str] = []
        best: list[SizingPlan] = []
        shorter: list[SizingPlan] = []
        short: list[Shortfall] = []
        for pool in pools:
            why = self._why_not(pool, wanted)
            if why is not None:
                refused.append(f"{pool.name}: {why}")
                continue
            found, cheaper, missed, why = self._best(pool, wanted)
            if found is not None:
                best.append(found)
                shorter += [cheaper] if cheaper is not None else []
            elif missed is not None:
                short.append(missed)
            else:
                refused.append(f"{pool.name}: {why}")
        best.sort(key=_preference)
        if best:
            chosen, others = best[0], (*best[1:], *sorted(shorter, key=_preference))
            return Sizing(chosen, (*self._reasons(chosen, wanted, others), *notes, *_excluded(excluded)), others)
        if not pools:
            return Sizing(None, ("there is no pool of GPUs", *_excluded(excluded)), ())
        short.sort(key=lambda miss: (miss.needed - miss.memory.budget, miss.pool.name))
        reasons = [self._shortfall(miss, wanted) for miss in short[:3]] + refused[:5]
        return Sizing(
            None,
            (f"{facts.architecture} does not fit: {reasons[0]}", *reasons[1:], *_excluded(excluded)),
            (),
            short[0] if short else None,
        )

    # ---- one pool

    def _contradiction(self, wanted: Wanted) -> str | None:
        """What no pool can change."""
        facts = self.facts
        if wanted.max_model_len is not None and wanted.max_model_len > facts.max_model_len:
            return f"a context of {wanted.max_model_len:,} tokens is more than the model's own maximum of {facts.max_model_len:,}"
        if wanted.gpus is not None and wanted.gpus % ((wanted.tensor or 1) * (wanted.pipeline or 1) * wanted.data):
            sizes = f"tensor {wanted.tensor or 'any'} × pipeline {wanted.pipeline or 'any'} × data {wanted.data}"
            return f"{wanted.gpus} GPUs cannot be {sizes}"
        why = self._illegal(wanted.tensor or 1, wanted.pipeline or 1, wanted)
        if why is None and wanted.gpus is not None and not self._shapes(None, wanted):
            tensor = wanted.gpus // wanted.data // (wanted.pipeline or 1)
            why = (
                self._illegal(wanted.tensor or tensor, wanted.pipeline or 1, wanted)
                or f"no legal sizes make {wanted.gpus} GPUs"
            )
        if why is None:
            return None
        legal = ", ".join(
            str(size) for size in range(1, 65) if self._illegal(size, wanted.pipeline or 1, wanted) is None
        )
        return f"{why}; tensor sizes that vLLM takes for {facts.architecture}: {legal or 'none'}"

    def _illegal(self, tensor: int, pipeline: int, wanted: Wanted) -> str | None:
        key = (tensor, pipeline, wanted.options.expert_parallel, wanted.options.newest)
        if key not in self._legal:
            self._legal[key] = why_illegal(
                self.facts, tensor, pipeline_parallel_size=pipeline, expert_parallel=key[2], version=key[3]
            )
        return self._legal[key]

    def _why_not(self, pool: GpuPool, wanted: Wanted) -> str | None:
        if wanted.vendor is not None and pool.vendor != wanted.vendor:
            return f"accelerator {wanted.vendor} is wanted"
        if wanted.product is not None and wanted.product not in pool.products:
            return f"product {wanted.product} is wanted"
        if wanted.resource_name is not None and pool.resource_name != wanted.resource_name:
            return f"resource {wanted.resource_name} is wanted"
        if wanted.min_memory is not None and pool.device.memory < wanted.min_memory * NOMINAL:
            return f"{gib(pool.device.memory)} GiB a GPU is less than the {gib(wanted.min_memory)} that are wanted"
        if pool.vendor == "nvidia":
            return why_unsupported(self.facts, pool.device.capability, kv_cache_dtype=wanted.options.kv_cache_dtype)
        if self.facts.quantization is not None and self.facts.quantization.method in (
            "awq_marlin",
            "gptq_marlin",
            "modelopt_fp4",
            "modelopt",
        ):
            return f"vLLM has no {self.facts.quantization.method} kernels for {pool.vendor}"
        return None

    def _shapes(self, pool: GpuPool | None, wanted: Wanted) -> tuple[_Shape, ...]:
        """Legal shapes of one replica's data-parallel rank on a pool, in the order of preference. `pool` None: any."""
        a_node = pool.gpus_per_node if pool else 64
        nodes = min(pool.nodes if pool else MOST_NODES, MOST_NODES, wanted.most_nodes)
        if pool is not None and pool.shared:
            a_node, nodes = 1, 1
        key = (
            a_node,
            nodes,
            wanted.tensor,
            wanted.pipeline,
            wanted.data,
            wanted.gpus,
            wanted.options.expert_parallel,
            wanted.options.version,
        )
        found = self._known_shapes.get(key)
        if found is None:
            found = self._known_shapes[key] = tuple(self._legal_shapes(a_node, nodes, wanted))
        return found

    def _legal_shapes(self, a_node: int, nodes: int, wanted: Wanted) -> Iterable[_Shape]:
        """In steps: tensor parallelism on one node; pipelines on one node; two nodes; three …

        No step takes fewer GPUs than the one before it, so that asking for more never gives less.
        """
        within = max(1, a_node // wanted.data)
        tensors = [wanted.tensor] if wanted.tensor else list(range(1, a_node + 1))
        steps: list[list[_Shape]] = [
            [_Shape(tensor, 1, 1) for tensor in tensors if tensor <= within and wanted.pipeline in (None, 1)]
        ]
        steps.append(
            [
                _Shape(tensor, pipeline, 1)
                for tensor in tensors
                for pipeline in ([wanted.pipeline] if wanted.pipeline else range(2, within // tensor + 1))
                if pipeline > 1 and tensor * pipeline <= within
            ]
        )
        for number in range(2, nodes + 1) if wanted.data == 1 else ():
            # one stage a node; then several, where tensor parallelism cannot use a whole node
            on_node = [range(1, 2), range(2, a_node + 1)]
            if wanted.pipeline is not None:
                stages, rest = divmod(wanted.pipeline, number)
                on_node = [range(stages, stages + 1)] if not rest else []
            steps += [
                [
                    _Shape(tensor, stages * number, number)
                    for tensor in tensors
                    for stages in choices
                    if tensor * stages <= a_node
                ]
                for choices in on_node
            ]
        most = 0
        for step in steps:
            legal = sorted(
                (
                    shape
                    for shape in step
                    if shape.gpus >= most
                    and (wanted.gpus is None or shape.gpus * wanted.data == wanted.gpus)
                    and self._illegal(shape.tensor, shape.pipeline, wanted) is None
                ),
                key=lambda shape: (shape.gpus, shape.pipeline),
            )
            yield from legal
            most = max(most, *(shape.gpus for shape in legal), 0)

    def _best(
        self, pool: GpuPool, wanted: Wanted
    ) -> tuple[SizingPlan | None, SizingPlan | None, Shortfall | None, str]:
        """The best plan on a pool, and the longest context on fewer GPUs; or what comes nearest; or why no shape is legal."""
        target = wanted.max_model_len or self.facts.default_max_model_len
        automatic = wanted.max_model_len is None
        least = min(LEAST_CONTEXT, target)
        longest: SizingPlan | None = None
        nearest: Shortfall | None = None
        for shape in self._shapes(pool, wanted):
            plan, miss = self._try(pool, wanted, shape, target, automatic, least)
            if plan is not None and plan.max_context:
                return plan, longest if longest is not None and longest.gpus < plan.gpus else None, None, ""
            if plan is not None and (longest is None or plan.max_model_len > longest.max_model_len):
                longest = plan
            if miss is not None and (
                nearest is None or (miss.longest, -miss.needed) > (nearest.longest, -nearest.needed)
            ):
                nearest = miss
        if longest is not None:
            return longest, None, None, ""
        return None, None, nearest, f"no shape that is wanted fits on nodes of {pool.gpus_per_node} GPUs"

    def _try(
        self, pool: GpuPool, wanted: Wanted, shape: _Shape, target: int, automatic: bool, least: int
    ) -> tuple[SizingPlan | None, Shortfall | None]:
        options, device = wanted.options, pool.device
        memory = self._model.memory(
            device,
            options,
            tensor_parallel_size=shape.tensor,
            pipeline_parallel_size=shape.pipeline,
            nodes=shape.nodes,
            max_model_len=target,
        )
        layout = self._model.layout(
            device, options, tensor_parallel_size=shape.tensor, pipeline_parallel_size=shape.pipeline
        )
        _, tokens = batch_defaults(device, options)
        in_flight = in_flight_tokens(tokens, shape.pipeline)
        budget = memory.kv_cache
        spare = int(device.memory * MARGIN) if automatic else 0
        needed = layout.needed(target, sequences=wanted.concurrency, in_flight=in_flight)
        longest = 0
        if needed <= budget - spare:
            longest = target
        elif budget > spare:
            longest = layout.longest(budget - spare, target, sequences=wanted.concurrency, in_flight=in_flight)
            block = max((group.block_size for group in layout.groups), default=1)
            longest -= longest % block
        if longest < (least if automatic else target):
            return None, Shortfall(
                pool,
                shape.tensor,
                shape.pipeline,
                shape.nodes,
                target,
                memory.budget - budget + needed,
                memory,
                layout,
                longest,
            )
        left = budget - layout.needed(longest, sequences=wanted.concurrency, in_flight=in_flight)
        return (
            SizingPlan(
                pool=pool,
                tensor_parallel_size=shape.tensor,
                pipeline_parallel_size=shape.pipeline,
                data_parallel_size=wanted.data,
                nodes=shape.nodes,
                max_model_len=longest,
                concurrency=layout.concurrency(budget, longest, in_flight=in_flight),
                memory=memory,
                layout=layout,
                max_context=longest == target,
                tight=longest == target and left < device.memory * TIGHT,
            ),
            None,
        )

    # ---- words

    def _reasons(self, plan: SizingPlan, wanted: Wanted, others: Sequence[SizingPlan]) -> list[str]:
        facts, memory = self.facts, plan.memory
        where = f"{plan.gpus} × {plan.pool.name}" + (f" on {plan.nodes} nodes" if plan.nodes > 1 else "")
        sizes = f"tensor {plan.tensor_parallel_size}" + (
            f" × pipeline {plan.pipeline_parallel_size}" if plan.pipeline_parallel_size > 1 else ""
        )
        fixed = " as asked for" if wanted.tensor or wanted.gpus else ", the fewest GPUs that serve it"
        reasons = [f"{where}: {sizes}{fixed if plan.gpus > 1 or wanted.tensor else ''}"]
        reasons.append(
            f"weights {gib(memory.weights)} + activation {gib(memory.activation)} + other {gib(memory.other)} "
            f"of {gib(memory.budget)} GiB that vLLM takes of each GPU leave {gib(memory.kv_cache)} GiB for the KV cache"
        )
        target = wanted.max_model_len or facts.default_max_model_len
        if plan.max_context and wanted.max_model_len is None:
            reasons.append(f"context {plan.max_model_len:,} tokens, the model's maximum")
        elif plan.max_context:
            reasons.append(f"context {plan.max_model_len:,} tokens, as asked for")
        else:
            reasons.append(
                f"context {plan.max_model_len:,} of the model's {target:,} tokens: the largest that fits"
                + ("" if facts.encoder_only else ", set maxModelLen to ask for another")
            )
        if plan.concurrency != float("inf"):
            reasons.append(f"{plan.concurrency:.1f} sequences of that length at once")
        if plan.tight:
            reasons.append("tight: less than 2 % of the GPU is left over, so it may fail on a GPU that others use too")
        if wanted.options.version is None:
            oldest, latest = (".".join(map(str, version[:2])) for version in (OLDEST, LATEST))
            reasons.append(f"which vLLM runs is not said: this holds from {oldest} to {latest}")
        rest = plan.pool.device.memory - memory.budget
        if rest < memory.beforehand:
            reasons.append(
                f"gpuMemoryUtilization {wanted.options.utilization:g} leaves {gib(rest)} GiB of each GPU, of which CUDA"
                f"{' and NCCL take' if plan.gpus > 1 else ' takes'} some {gib(memory.beforehand)} first: vLLM may refuse to start; lower it"
            )
        if (
            wanted.options.quantization is None
            and facts.dtype == "bfloat16"
            and (plan.pool.device.capability or (9, 0)) < (8, 0)
        ):
            reasons.append("this GPU has no bfloat16: vLLM falls back to float16 (or float32 where the model needs it)")
        reasons += plan.pool.notes
        if plan.pool.scales_from_zero:
            reasons.append(f"the pool {plan.pool.name} scales from zero: the first pod waits for a node")
        if others:
            reasons.append(
                "would do too: "
                + ", ".join(
                    f"{other.gpus} × {other.pool.name} (context {other.max_model_len:,})" for other in others[:4]
                )
            )
        return reasons

    def _shortfall(self, miss: Shortfall, wanted: Wanted) -> str:
        sizes = f"tensor {miss.tensor_parallel_size}" + (
            f" × pipeline {miss.pipeline_parallel_size}" if miss.pipeline_parallel_size > 1 else ""
        )
        text = (
            f"needs {gib(miss.needed):.1f} GiB of {gib(miss.memory.budget):.1f} per GPU at {sizes} on {miss.pool.name} "
            f"for {miss.max_model_len:,} tokens"
        )
        hints = []
        if miss.longest >= 128:
            hints.append(f"maxModelLen ≤ {miss.longest:,}")
        if (
            wanted.options.kv_cache_dtype == "auto"
            and not self.facts.encoder_only
            and self._fits_with(miss, wanted, kv_cache_dtype="fp8")
        ):
            hints.append("kvCacheDtype fp8")
        if (
            wanted.options.quantization is None
            and self.facts.quantization is None
            and self._fits_with(miss, wanted, quantization="fp8")
        ):
            hints.append("quantization fp8")
        return text + (f"; there it fits with {' or '.join(hints)}" if hints else "")

    def _fits_with(self, miss: Shortfall, wanted: Wanted, *, kv_cache_dtype: str = "", quantization: str = "") -> bool:
        """Whether another option would make it fit where it came nearest."""
        options = replace(
            wanted.options,
            kv_cache_dtype=kv_cache_dtype or wanted.options.kv_cache_dtype,
            quantization=quantization or wanted.options.quantization,
        )
        if miss.pool.vendor == "nvidia" and why_unsupported(
            self.facts, miss.pool.device.capability, kv_cache_dtype=options.kv_cache_dtype
        ):
            return False
        shape = _Shape(miss.tensor_parallel_size, miss.pipeline_parallel_size, miss.nodes)
        changed = replace(wanted, options=options)
        plan, _ = self._try(
            miss.pool,
            changed,
            shape,
            miss.max_model_len,
            wanted.max_model_len is None,
            min(LEAST_CONTEXT, miss.max_model_len),
        )
        return plan is not None


def plan_sizing(facts: ModelFacts, wanted: Wanted, pools: Sequence[GpuPool], *, excluded: Sequence[str] = ()) -> Sizing:
    """The plan for one model; Planner when the same model is planned again and again."""
    return _planner(facts).plan(wanted, pools, excluded=excluded)


@lru_cache(maxsize=64)
def _planner(facts: ModelFacts) -> Planner:
    return Planner(facts)


def _preference(plan: SizingPlan) -> tuple[object, ...]:
    pool = plan.pool
    return (
        not plan.max_context,
        0 if plan.max_context else -plan.max_model_len,
        plan.nodes,
        plan.gpus,
        pool.scales_from_zero,
        pool.shared,
        pool.device.memory,
        pool.name,
        pool.resource_name,
        pool.node_selector,
    )


def _excluded(excluded: Sequence[str]) -> tuple[str, ...]:
    return (f"not counted: {', '.join(excluded)}",) if excluded else ()


def describe_memory(memory: Memory, layout: KvLayout) -> dict[str, float | int]:
    """Each part in GiB, for status and the command line."""
    return {
        "weights_gib": gib(memory.weights),
        "activation_gib": gib(memory.activation),
        "non_torch_gib": gib(memory.non_torch),
        "cuda_graph_gib": gib(memory.counted_graphs),
        "kv_cache_gib": gib(memory.kv_cache),
        "kv_bytes_per_token": layout.bytes_per_token,
        "budget_gib": gib(memory.budget),
        "state_bytes_per_sequence": layout.state_bytes,
    }


def nominal_pool(name: str, *, memory_gib: float, gpus_per_node: int, nodes: int = 1) -> GpuPool:
    """A pool as the command line has it; compute capability by the product's name, where it is known."""
    product = find_product(name)
    return GpuPool(
        name=name,
        device=Device(int(memory_gib * GIB), name, product.capability if product else None),
        gpus_per_node=gpus_per_node,
        nodes=nodes,
        vendor="amd" if name.upper().startswith("MI") else "nvidia",
        resource_name="amd.com/gpu" if name.upper().startswith("MI") else "nvidia.com/gpu",
    )
