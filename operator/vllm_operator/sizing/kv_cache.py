"""The KV cache, allocated as vLLM allocates it. Pure.

Source: vllm/v1/core/kv_cache_utils.py and v1/kv_cache_interface.py (0.32). vLLM sorts the layers' caches into groups of one
kind; each group has a block table of its own, all draw blocks from one pool, and a block is as large as the largest group
needs on this worker. A sequence therefore takes, for every group, as many blocks as that group must keep, each of them of
the same size. That is what decides whether a context fits; bytes per token alone do not (sliding windows, hybrid models).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_operator.hub.facts import CacheKind, LayerCache, ModelFacts, StateShape

DEFAULT_BLOCK_SIZE = 16
"""CacheConfig.DEFAULT_BLOCK_SIZE, in tokens."""

MLA_BLOCK_SIZE = 64
"""FlashMLA's and FlashInfer's MLA kernels take blocks of 64."""

HYBRID_MLA_ALIGNMENT = 128
"""Platform._align_hybrid_block_size."""

DS_MLA_BYTES = 656
"""Bytes of a token in the fp8_ds_mla layout of DeepSeek's sparse attention: 512 fp8, 4 scales of 4 bytes, 64 of bfloat16."""


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers that share a block table."""

    kind: CacheKind
    block_size: int
    """Tokens of a block; for states, which do not grow, the blocks that a sequence takes."""
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    """Bytes of a block in one layer, and the layers of the whole model, by rising index, that have such blocks."""
    window: int | None = None

    def held(self, stage: range) -> int:
        """Bytes of one block of all this group's layers in a pipeline stage."""
        return sum(
            page * (bisect_left(layers, stage.stop) - bisect_left(layers, stage.start)) for page, layers in self.parts
        )

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks that one sequence of so many tokens takes at most (KVCacheSpec.max_memory_usage_bytes).

        `in_flight`: tokens that may be scheduled but not settled, VllmConfig.max_in_flight_tokens.
        """
        match self.kind:
            case "sliding":
                return _ceil(min((self.window or 1) - 1 + in_flight, tokens), self.block_size) + 1
            case "chunked":
                return _ceil(min((self.window or 0) + in_flight, tokens), self.block_size)
            case "state":
                return self.block_size  # a number of states, not of tokens
            case "cross":
                return _ceil(self.window or 0, self.block_size)
            case _:
                return _ceil(tokens, self.block_size)


@dataclass(frozen=True, slots=True)
class KvLayout:
    """The cache of one worker."""

    groups: tuple[KvGroup, ...]
    bytes_per_block: int
    """Of the pool that all groups draw from; 0 without any cache."""
    bytes_per_token: int
    """Over all layers with keys and values of this worker: what one token costs where every layer keeps it."""
    state_bytes: int
    """Of one sequence's states on this worker, without padding."""

    def needed(self, tokens: int, *, sequences: int = 1, in_flight: int) -> int:
        """Bytes that so many sequences of so many tokens take, with the one block that vLLM holds back."""
        if not self.groups:
            return 0
        return (sum(group.blocks(tokens, in_flight) for group in self.groups) * sequences + 1) * self.bytes_per_block

    def concurrency(self, budget: int, tokens: int, *, in_flight: int) -> float:
        """Sequences of so many tokens that fit in a budget, as vLLM's log says it. Infinite without any cache."""
        if not self.groups:
            return float("inf")
        blocks = sum(group.blocks(tokens, in_flight) for group in self.groups)
        return max(0.0, (budget // self.bytes_per_block) / blocks)

    def longest(self, budget: int, limit: int, *, sequences: int = 1, in_flight: int) -> int:
        """The longest context up to `limit` that so many sequences may have in a budget; 0 when none fits."""
        if self.needed(limit, sequences=sequences, in_flight=in_flight) <= budget:
            return limit
        low, high = 0, limit
        while high - low > 1:
            middle = (low + high) // 2
            if self.needed(middle, sequences=sequences, in_flight=in_flight) <= budget:
                low = middle
            else:
                high = middle
        return low


Classes = tuple[tuple[LayerCache, tuple[int, ...]], ...]
"""The different caches of a model, and the layers that have each."""


def cache_classes(facts: ModelFacts) -> Classes:
    """Layers by their cache: a model has many layers, but few kinds of them."""
    result: dict[LayerCache, list[int]] = {}
    for index, caches in enumerate(facts.caches):
        for cache in caches:
            result.setdefault(cache, []).append(index)
    return tuple((cache, tuple(layers)) for cache, layers in result.items())


@dataclass(slots=True)
class _Class:
    """One kind of cache, while the groups are made."""

    cache: LayerCache
    layers: tuple[int, ...]
    block_size: int
    page: int


def build_layout(
    facts: ModelFacts,
    *,
    tensor_parallel_size: int,
    element_bytes: int | None = None,
    model_bytes: int | None = None,
    block_size: int | None = None,
    stages: Sequence[range] | None = None,
    classes: Classes | None = None,
) -> KvLayout:
    """The cache of the worker whose pipeline stage has the largest one.

    `element_bytes`: of the KV cache's data type, None for the model's. `model_bytes`: of the model's data type. `stages`: one
    of all layers by default. `classes`: cache_classes(facts), when the caller has it already.
    """
    own = model_bytes or facts.dtype_bytes
    element = element_bytes or own
    found = cache_classes(facts) if classes is None else classes
    made = _classes(facts, found, tensor_parallel_size, element=element, own=own, block_size=block_size)
    groups = _groups(made)
    everything = stages or (range(facts.num_layers),)
    widest, stage = max(
        ((max((group.held(stage) for group in groups), default=0), stage) for stage in everything),
        key=lambda pair: (pair[0], -pair[1].start),
    )
    per_token = states = 0
    for cache, layers in found:
        number = bisect_left(layers, stage.stop) - bisect_left(layers, stage.start)
        if cache.state is not None:
            states += number * state_bytes(cache.state, tensor_parallel_size, own)
        elif cache.kind != "cross":
            per_token += number * token_bytes(cache, tensor_parallel_size, element)
    return KvLayout(groups, widest, per_token, states)


def token_bytes(cache: LayerCache, tensor_parallel_size: int, element: int) -> int:
    """Bytes of one token in one layer on one rank. KV heads are never fewer than one a rank; MLA's vector is whole on each."""
    if cache.kind == "indexer":
        return cache.head_size
    if cache.kind == "mla":
        return DS_MLA_BYTES if cache.sparse and element == 1 else cache.head_size * element
    heads = max(1, cache.kv_heads // tensor_parallel_size)
    return heads * (cache.head_size + cache.head_size_v) * element


def state_bytes(state: StateShape, tensor_parallel_size: int, element: int) -> int:
    """Bytes of one sequence's state in one layer on one rank (MambaStateShapeCalculator)."""
    tp = tensor_parallel_size
    recurrent = state.state_dtype_bytes or element
    match state.kind:
        case "mamba1":
            inner = state.intermediate_size // tp
            return inner * (state.conv_kernel - 1) * element + inner * state.state_size * recurrent
        case "mamba2":
            groups = state.groups if state.groups % tp == 0 else tp
            width = (state.intermediate_size + 2 * groups * state.state_size) // tp
            conv = width * (state.conv_kernel - 1) * element
            return conv + state.heads // tp * state.head_size * state.state_size * recurrent
        case "gated_delta_net":
            width = (2 * state.state_size * state.groups + state.head_size * state.heads) // tp
            conv = width * (state.conv_kernel - 1) * element
            return conv + state.heads // tp * state.head_size * state.state_size * recurrent
        case "kda":
            width = 3 * state.heads * state.head_size // tp
            conv = width * (state.conv_kernel - 1) * element
            return conv + state.heads // tp * state.head_size * state.head_size * recurrent
        case "linear_attention":
            return state.heads // tp * state.head_size * state.head_size * recurrent
        case "short_conv":
            return state.intermediate_size // tp * (state.conv_kernel - 1) * element


def _classes(
    facts: ModelFacts, classes: Classes, tp: int, *, element: int, own: int, block_size: int | None
) -> list[_Class]:
    states = [cache.state for cache, _ in classes if cache.state is not None]
    tokens = {cache: token_bytes(cache, tp, element) for cache, _ in classes if cache.state is None}
    block = block_size or (MLA_BLOCK_SIZE if facts.mla and not states else DEFAULT_BLOCK_SIZE)
    state_page = max((state_bytes(state, tp, own) for state in states), default=0)
    if states and tokens:
        # Platform._align_hybrid_block_size: the attention page grows to hold a state, and states are padded to it
        attention = max(tokens.values())
        alignment = max(block, DEFAULT_BLOCK_SIZE, HYBRID_MLA_ALIGNMENT if facts.mla else 0)
        block = max(block, alignment * _ceil(state_page, alignment * attention))
        state_page = max(state_page, block * attention)
    return [
        _Class(cache, layers, _state_blocks(cache.state), state_page)
        if cache.state is not None
        else _Class(cache, layers, block, block * tokens[cache])
        for cache, layers in classes
    ]


def _state_blocks(state: StateShape) -> int:
    """Blocks of one sequence in mamba_cache_mode align, the default with prefix caching: the state and the last checkpoint.

    Mamba 2 keeps one more, the checkpoint of a prefill (mamba_mixer2.py, num_prefill_checkpoint_blocks).
    """
    return 3 if state.kind == "mamba2" else 2


def _groups(classes: list[_Class]) -> tuple[KvGroup, ...]:
    """get_kv_cache_groups."""
    if not classes:
        return ()
    first = classes[0]
    if len(classes) == 1:
        return (KvGroup(first.cache.kind, first.block_size, ((first.page, first.layers),), first.cache.window),)
    if {made.cache.kind for made in classes} <= {"full", "mla", "indexer"}:
        # caches that all grow with the sequence: one group, with pages of different sizes side by side
        return (KvGroup("full", first.block_size, tuple((made.page, made.layers) for made in classes)),)
    largest = max(made.page for made in classes)
    for made in classes:  # unify_kv_cache_spec_page_size
        if made.page != largest and made.cache.kind != "state" and largest % made.page == 0:
            made.block_size *= largest // made.page
        made.page = largest
    counts = [len(made.layers) for made in classes]
    size = max(counts) if max(counts) < min(counts) * 1.5 else min(counts)
    result = []
    for made in classes:
        number = _ceil(len(made.layers), size)
        result += [
            KvGroup(made.cache.kind, made.block_size, ((made.page, made.layers[i::number]),), made.cache.window)
            for i in range(number)
        ]
    return tuple(result)


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)
