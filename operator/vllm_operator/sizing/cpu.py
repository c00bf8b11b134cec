"""Models on CPUs: how much memory is left for the KV cache, and which nodes can run them. Pure.

vLLM's CPU backend takes VLLM_CPU_KVCACHE_SPACE (whole GiB) for the KV cache of each rank, beside everything else
(v1/worker/cpu_worker.py, envs.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vllm_operator.hub.facts import ModelFacts
from vllm_operator.sizing.kv_cache import build_layout
from vllm_operator.sizing.memory import GIB, EngineOptions, ModelMemory, gib, in_flight_tokens, kv_element

PROCESSES = int(1.5 * GIB)
"""The API server and the engine with their libraries; measured 0.65 GB each with a tiny model, and some room."""

BLOCK_SIZE = 128
"""Tokens; what the CPU attention backend takes by default (platforms/cpu.py)."""

SEQUENCES, TOKENS = 128, 2048
"""max_num_seqs and max_num_batched_tokens of one rank (EngineArgs.get_batch_defaults)."""

_LABEL = "feature.node.kubernetes.io/cpu-cpuid."
"""Of node feature discovery; FXSR is there on every x86 CPU that it has looked at, unless it is told to label less."""

NODE_AFFINITY: Mapping[str, Any] = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": f"{_LABEL}AVX2", "operator": "In", "values": ["true"]}]},
            {"matchExpressions": [{"key": f"{_LABEL}FXSR", "operator": "DoesNotExist"}]},
        ]
    },
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {
            "weight": 100,
            "preference": {"matchExpressions": [{"key": f"{_LABEL}AVX512F", "operator": "In", "values": ["true"]}]},
        }
    ],
}
"""Rather nodes with AVX512, and none of which the labels say that it has not even AVX2, without which vLLM ends by an illegal
instruction (platforms/cpu.py: import_kernels). Nodes that say nothing of themselves, and other architectures, are taken.
"""


@dataclass(frozen=True)
class CpuPlan:
    """How one replica runs on CPUs."""

    kv_cache_space_gib: int
    """VLLM_CPU_KVCACHE_SPACE; 0 when nothing fits."""
    max_model_len: int
    """0 when nothing fits."""
    memory_needed: int
    """Bytes that the container needs for this."""
    weights: int
    """Bytes."""
    activation: int
    """Bytes."""
    kv_bytes_per_token: int
    reasons: tuple[str, ...]
    kv_cache_tokens: int | None = None
    """Tokens that the cache holds, in sequences of the whole context; None without a cache."""

    @property
    def fits(self) -> bool:
        """Whether the model runs."""
        return self.max_model_len > 0


def plan_cpu(
    facts: ModelFacts, *, memory: int, options: EngineOptions | None = None, max_model_len: int | None = None
) -> CpuPlan:
    """The KV cache and context for a container that may use so many bytes."""
    asked = options or EngineOptions()
    asked = replace(
        asked,
        max_num_seqs=asked.max_num_seqs or SEQUENCES,
        max_num_batched_tokens=asked.max_num_batched_tokens or TOKENS,
    )
    model = ModelMemory(facts)
    own = facts.dtype_bytes if asked.dtype == "auto" else 4 if asked.dtype in ("float", "float32") else 2
    target = max_model_len or facts.default_max_model_len
    weights = model.weights(1, 1, asked, own)
    sequences, tokens = asked.max_num_seqs or SEQUENCES, asked.max_num_batched_tokens or TOKENS
    activation = model.activation(1, sequences=sequences, tokens=tokens, max_model_len=target, element=own)
    layout = build_layout(
        facts,
        tensor_parallel_size=1,
        element_bytes=kv_element(asked.kv_cache_dtype, own),
        model_bytes=own,
        block_size=asked.block_size or BLOCK_SIZE,
    )
    in_flight = in_flight_tokens(tokens, 1)
    other = weights + activation + PROCESSES
    space = (memory - other) // GIB
    parts = f"weights {gib(weights)} + activation {gib(activation)} + processes {gib(PROCESSES)} GiB of {gib(memory)}"

    def refused(needed: int, why: str) -> CpuPlan:
        reason = f"does not fit: {parts} leave {why}"
        return CpuPlan(0, 0, other + needed, weights, activation, layout.bytes_per_token, (reason,))

    if target > facts.max_model_len:
        said = f"a context of {target:,} tokens is more than the model's own maximum of {facts.max_model_len:,}"
        return CpuPlan(0, 0, other, weights, activation, layout.bytes_per_token, (said,))
    if space < 1 and layout.groups:
        return refused(GIB, "less than 1 GiB for the KV cache")
    longest = layout.longest(space * GIB, target, in_flight=in_flight)
    if max_model_len is not None and longest < max_model_len:
        needed = layout.needed(target, in_flight=in_flight)
        left = f"{space} GiB for the KV cache, {max_model_len:,} tokens need {gib(needed)}"
        return refused(needed, f"{left}; maxModelLen ≤ {longest:,} fits")
    if longest < 1:
        return refused(GIB, f"{space} GiB for the KV cache, not enough for one block")
    said = (
        "the model's maximum"
        if longest == facts.default_max_model_len
        else "the largest that fits"
        if max_model_len is None
        else "as asked for"
    )
    return CpuPlan(
        space,
        longest,
        other + space * GIB,
        weights,
        activation,
        layout.bytes_per_token,
        (parts, f"{space} GiB for the KV cache", f"context {longest:,} tokens, {said}"),
        int(layout.concurrency(space * GIB, longest, in_flight=in_flight) * longest) if layout.groups else None,
    )
