"""What a model takes of a GPU. Pure. docs/sizing.md has the formulas with their sources, and the measured rows.

All figures are bytes of one rank. vLLM's own bookkeeping is followed (gpu_worker.determine_available_memory): the KV cache gets

    gpu_memory_utilization × memory - weights - activation - non-torch [- CUDA graphs, from 0.21 on]
"""

from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil

from vllm_operator.hub.facts import LayerWeights, ModelFacts
from vllm_operator.sizing.kv_cache import Classes, KvLayout, build_layout, cache_classes

GIB = 1024**3
Version = tuple[int, int, int]
OLDEST: Version = (0, 11, 0)
LATEST: Version = (0, 32, 0)

SORTING_SAMPLER = 9.5
"""Float32 logits that the sampler's warm-up holds at its peak before 0.17, for max_num_seqs rows of the whole vocabulary.

Gathered logits (half), their float32 copy, sorted values, int64 indices (two), masked copy, probabilities, their sum, and the
sort's own workspace; measured 9.46 to 9.51 (vLLM 0.11, three models of 128 to 201 thousand words). Every tensor-parallel rank
samples over the whole vocabulary, so nothing here is divided.
"""

SAMPLER = 3.5
"""The same from 0.17 on: gathered logits (half), their float32 copy, probabilities, and the noise that they are divided by. Top-k
and top-p no longer sort (v1/sample/ops/topk_topp_triton.py); their kernel has a row of its own for each of SAMPLER_PROGRAMS."""

SAMPLER_PROGRAMS = 132
"""Streaming multiprocessors of an H100; other GPUs have 40 to 160."""

SORTS_UNTIL: Version = (0, 17, 0)

GRAPH_BYTES = int(0.22 * 1024**2)
"""Of one layer in one CUDA graph. Seen: 0.14 to 0.23 MiB (Qwen2.5-7B, Qwen3-8B, a model of 70 thousand million weights)."""

GRAPH_BYTES_EXPERTS = int(0.5 * 1024**2)
"""As above, of layers with experts, which launch more kernels. Seen: 0.14 to 0.8 MiB."""

LARGEST_GRAPH, LARGEST_GRAPH_BLACKWELL = 512, 1024
"""Largest batch that vLLM captures by itself (VllmConfig._set_cudagraph_sizes); the second on B200 and B300."""

NON_TORCH_BYTES = int(0.15 * GIB)
"""CUDA context beyond the baseline, cuBLAS and attention workspaces outside torch: measured 0.13 to 0.14 GiB."""

COLLECTIVE_BYTES = int(1.1 * GIB)
"""What collectives take outside torch while the model runs, as soon as there is more than one rank, between GPUs with NVLink. Seen,
with the above: 0.95 (four B200) to 1.38 GiB (two H200)."""

COLLECTIVE_BYTES_PCIE = int(0.3 * GIB)
"""The same over PCIe. Seen, with the above: 0.20 to 0.33 GiB (RTX 3090, 4090, 5090)."""

NCCL_BYTES = int(0.9 * GIB)
"""What NCCL takes when it starts, between GPUs with NVLink. Seen, with all of the above, before 0.11: 1.95 (two H100), 2.10 (eight
A100) and 2.4 GiB (four H100)."""

NCCL_FIRST: Version = (0, 11, 0)
"""From here on NCCL starts before vLLM looks at the free memory (vllm pull request 25359): what it takes then is not taken out of
the budget any more, but out of what gpu_memory_utilization leaves."""

PCIE_UNTIL, NVLINK_FROM = 24 * GIB, 38 * GIB
"""GPUs of this memory are taken for such with PCIe only, and with NVLink. In between in proportion: a step would make a GPU with
more memory the worse one."""

CONTEXT_BYTES = int(0.5 * GIB)
"""CUDA's own of each GPU, before vLLM looks at the free memory."""

BEFOREHAND_BYTES = int(2.3 * GIB)
"""The same with NCCL's, between GPUs with NVLink, from 0.11 on. Seen: 0.6 (two H200) to 3.3 GiB (four RTX PRO 6000)."""

NETWORK_BYTES = int(0.3 * GIB)
"""NCCL's buffers towards other nodes. An assumption."""

TOWER_BYTES = 2 * GIB
"""Peak of a vision or audio tower's profile run with the largest input. An assumption; it comes before the sampler's peak and
is not added to it (GPUModelRunner.profile_run), so that it counts on small GPUs only."""

MLA_WORKSPACE_TOKENS = 64 * 1024
"""MLACommonMetadataBuilder.determine_chunked_prefill_workspace_size: most tokens that are decompressed at once."""

MXFP4_ALIGNMENT = 256
"""gpt-oss' experts are padded to this width; seen in the measured weights (13.47 GiB for 12.82 GiB of files)."""

FLOAT32_ON_TURING = frozenset({"gemma2", "gemma3", "gemma3_text", "plamo2", "glm4"})
"""Model types that vLLM does not run in float16 (_FLOAT16_NOT_SUPPORTED_MODELS): without bfloat16 they become float32."""


def default_utilization(version: Version) -> float:
    """--gpu-memory-utilization when it is not given: raised when CUDA graphs came into the budget."""
    return 0.92 if version >= (0, 22, 0) else 0.9


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the user set of vLLM's options; None: vLLM's own default."""

    version: Version | None = None
    """None: not known. What is promised then holds for OLDEST and for LATEST, and so for those between."""
    gpu_memory_utilization: float | None = None
    kv_cache_dtype: str = "auto"
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    enforce_eager: bool = False
    quantization: str | None = None
    """--quantization: fp8 and its kin quantize an unquantized model while it is loaded."""
    dtype: str = "auto"
    cpu_offload_bytes: int = 0
    expert_parallel: bool = False

    @property
    def utilization(self) -> float:
        """The share of memory that vLLM takes."""
        return default_utilization(self.newest) if self.gpu_memory_utilization is None else self.gpu_memory_utilization

    @property
    def newest(self) -> Version:
        """The version, or the latest where it is not known."""
        return self.version or LATEST


@dataclass(frozen=True, slots=True)
class Device:
    """What the memory model needs to know of a GPU."""

    memory: int
    """Bytes that CUDA reports as total, not the nominal size."""
    name: str = ""
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the fullest rank, by part."""

    budget: int
    """gpu_memory_utilization × memory."""
    weights: int
    activation: int
    non_torch: int
    cuda_graph: int
    cuda_graph_counts: bool
    """Whether this vLLM version takes CUDA graphs out of the budget."""
    beforehand: int = CONTEXT_BYTES
    """What is taken, not out of the budget, before vLLM starts only if the whole budget is free."""

    @property
    def counted_graphs(self) -> int:
        """What CUDA graphs take out of the budget."""
        return self.cuda_graph if self.cuda_graph_counts else 0

    @property
    def other(self) -> int:
        """What neither weights nor activation nor the KV cache take out of the budget."""
        return self.non_torch + self.counted_graphs

    @property
    def kv_cache(self) -> int:
        """What is left for the KV cache; negative when the rest does not fit."""
        return self.budget - self.weights - self.activation - self.other


@cache
def captured_sizes(largest: int) -> int:
    """Number of batch sizes that are captured up to this one: 1, 2, 4, every 8th to 256, every 16th from there."""
    return sum(size <= largest for size in (1, 2, 4)) + min(largest, 255) // 8 + max(0, (largest - 256) // 16 + 1)


def batch_defaults(device: Device, options: EngineOptions) -> tuple[int, int]:
    """max_num_seqs and max_num_batched_tokens of vllm serve (EngineArgs.get_batch_defaults)."""
    if device.memory >= 160 * GIB:
        sequences, tokens = 1024, 16384
    elif device.memory >= 70 * GIB and "a100" not in device.name.lower():
        sequences, tokens = 1024, 8192
    else:
        sequences, tokens = 256, 2048
    return options.max_num_seqs or sequences, options.max_num_batched_tokens or tokens


def in_flight_tokens(batched_tokens: int, pipeline_parallel_size: int) -> int:
    """VllmConfig.max_in_flight_tokens: asynchronous scheduling keeps one batch more than there are stages."""
    return (pipeline_parallel_size + 1) * batched_tokens


def stage_layers(layers: int, stages: int) -> tuple[range, ...]:
    """Layers of each pipeline stage (distributed/utils.py: get_pp_indices)."""
    sizes = [layers // stages] * stages
    for i in range(2, layers % stages + 2):
        sizes[-i] += 1
    result, start = [], 0
    for size in sizes:
        result.append(range(start, start + size))
        start += size
    return tuple(result)


@dataclass(slots=True)
class ModelMemory:
    """The memory model of one model, remembering what it has computed: a plan asks the same again and again."""

    facts: ModelFacts
    _layouts: dict[tuple[int, int, int, int, int | None], KvLayout] = field(default_factory=dict)
    _weights: dict[tuple[int, int, bool, str | None, int], int] = field(default_factory=dict)
    _sums: list[LayerWeights] = field(default_factory=list)
    _classes: Classes | None = None

    def element(self, device: Device, options: EngineOptions) -> int:
        """Bytes of the data type that vLLM computes in on this GPU."""
        if options.dtype in ("float", "float32"):
            return 4
        turing = device.capability is not None and device.capability < (8, 0)
        if options.dtype == "auto" and turing and self.facts.model_type in FLOAT32_ON_TURING:
            return 4
        return 2 if options.dtype != "auto" else self.facts.dtype_bytes

    def memory(
        self,
        device: Device,
        options: EngineOptions,
        *,
        tensor_parallel_size: int,
        pipeline_parallel_size: int = 1,
        nodes: int = 1,
        max_model_len: int,
    ) -> Memory:
        """Memory of the fullest rank."""
        if options.version is None:
            either = (
                replace(options, version=version, gpu_memory_utilization=options.utilization)
                for version in (OLDEST, LATEST)
            )
            return min(
                (
                    self.memory(
                        device,
                        each,
                        tensor_parallel_size=tensor_parallel_size,
                        pipeline_parallel_size=pipeline_parallel_size,
                        nodes=nodes,
                        max_model_len=max_model_len,
                    )
                    for each in either
                ),
                key=lambda memory: memory.kv_cache,
            )
        sequences, tokens = batch_defaults(device, options)
        tokens = min(tokens, sequences * max_model_len)
        sequences = min(sequences, tokens)
        element = self.element(device, options)
        ranks = tensor_parallel_size * pipeline_parallel_size
        linked = min(1.0, max(0.0, (device.memory - PCIE_UNTIL) / (NVLINK_FROM - PCIE_UNTIL))) if ranks > 1 else 0.0
        non_torch = NON_TORCH_BYTES + (NETWORK_BYTES if nodes > 1 else 0)
        if ranks > 1:
            non_torch += COLLECTIVE_BYTES_PCIE + int(linked * (COLLECTIVE_BYTES - COLLECTIVE_BYTES_PCIE))
        if options.version < NCCL_FIRST:
            non_torch += int(linked * NCCL_BYTES)
        return Memory(
            budget=int(device.memory * options.utilization),
            weights=max(
                0,
                self.weights(tensor_parallel_size, pipeline_parallel_size, options, element)
                - options.cpu_offload_bytes,
            ),
            activation=self.activation(
                tensor_parallel_size,
                sequences=sequences,
                tokens=tokens,
                max_model_len=max_model_len,
                element=element,
                version=options.version,
            ),
            non_torch=non_torch,
            beforehand=BEFOREHAND_BYTES if linked == 1 and options.version >= NCCL_FIRST else CONTEXT_BYTES,
            cuda_graph=0 if options.enforce_eager else self.cuda_graphs(device, sequences, pipeline_parallel_size),
            cuda_graph_counts=options.version >= (0, 21, 0),
        )

    def layout(
        self, device: Device, options: EngineOptions, *, tensor_parallel_size: int, pipeline_parallel_size: int = 1
    ) -> KvLayout:
        """KV cache of the stage whose cache is largest."""
        own = self.element(device, options)
        element = kv_element(options.kv_cache_dtype, own)
        key = (tensor_parallel_size, pipeline_parallel_size, own, element, options.block_size)
        found = self._layouts.get(key)
        if found is None:
            if self._classes is None:
                self._classes = cache_classes(self.facts)
            found = build_layout(
                self.facts,
                tensor_parallel_size=tensor_parallel_size,
                element_bytes=element,
                model_bytes=own,
                block_size=options.block_size,
                stages=stage_layers(self.facts.num_layers, pipeline_parallel_size),
                classes=self._classes,
            )
            self._layouts[key] = found
        return found

    def weights(self, tp: int, pp: int, options: EngineOptions, element: int) -> int:
        """Bytes of the weights on the fullest rank."""
        key = (tp, pp, options.expert_parallel, options.quantization, element)
        found = self._weights.get(key)
        if found is None:
            found = max(
                self._stage(tp, pp, rank, layers, options, element)
                for rank, layers in enumerate(stage_layers(self.facts.num_layers, pp))
            )
            self._weights[key] = found
        return found

    def _stage(self, tp: int, pp: int, rank: int, layers: range, options: EngineOptions, element: int) -> int:
        facts, weights = self.facts, self.facts.weights
        # unquantized weights in another data type than the file's: float32 on GPUs without bfloat16
        wider = element / facts.dtype_bytes if facts.quantization is None else 1.0
        quantized = (
            0.5
            if facts.quantization is None and (options.quantization or "").startswith(("fp8", "int8", "experts_int8"))
            else 1.0
        )
        held = self._held(layers)
        kv_shards = min(tp, facts.kv_heads) if facts.mla is None and facts.kv_heads else tp
        experts = held.experts / tp
        if options.expert_parallel and facts.experts:
            experts = held.experts * ceil(facts.experts / tp) / facts.experts
        if facts.quantization is not None and facts.quantization.method == "mxfp4":
            padded = ceil(facts.hidden_size / MXFP4_ALIGNMENT) * MXFP4_ALIGNMENT
            experts *= padded / facts.hidden_size
        linear = held.sharded / tp + held.kv / kv_shards + experts
        total = linear * quantized + held.replicated
        if facts.mla is not None and (facts.quantization is not None or quantized < 1):
            # kv_b_proj is kept a second time, dequantized, to be absorbed into the query and output (mla_attention.py)
            mla = facts.mla
            absorbed = mla.kv_lora_rank * facts.attention_heads * (mla.qk_nope_head_dim + mla.v_head_dim) * 2
            total += len(layers) * absorbed / tp
        if rank == 0:
            total += weights.embedding / tp + weights.towers
        if rank == pp - 1:
            total += weights.head / tp + weights.other
            if facts.tied_embeddings and pp > 1:
                total += weights.embedding / tp
        return int(total * wider) + self._rope(element)

    def _rope(self, element: int) -> int:
        """Sines and cosines of every position, which each rank keeps (RotaryEmbedding.cos_sin_cache)."""
        facts = self.facts
        tables = 2 if facts.model_type.startswith("gemma3") else 1
        return facts.max_positions * facts.rope_dim * element * tables if facts.max_positions < 4_000_000 else 0

    def _held(self, layers: range) -> LayerWeights:
        if not self._sums:
            running = LayerWeights()
            self._sums.append(running)
            for layer in self.facts.weights.layers:
                running = LayerWeights(
                    running.sharded + layer.sharded,
                    running.kv + layer.kv,
                    running.replicated + layer.replicated,
                    running.experts + layer.experts,
                )
                self._sums.append(running)
        last = len(self._sums) - 1
        before, after = self._sums[min(layers.start, last)], self._sums[min(layers.stop, last)]
        return LayerWeights(
            after.sharded - before.sharded,
            after.kv - before.kv,
            after.replicated - before.replicated,
            after.experts - before.experts,
        )

    def cuda_graphs(self, device: Device, sequences: int, pp: int) -> int:
        """CUDA graphs of mixed batches and of decoding, one for each captured size."""
        blackwell = device.capability is not None and device.capability[0] == 10
        largest = min(2 * sequences, LARGEST_GRAPH_BLACKWELL if blackwell else LARGEST_GRAPH)
        graphs = captured_sizes(largest) + captured_sizes(min(sequences, largest))
        return ceil(self.facts.num_layers / pp) * graphs * (GRAPH_BYTES_EXPERTS if self.facts.experts else GRAPH_BYTES)

    def activation(
        self, tp: int, *, sequences: int, tokens: int, max_model_len: int, element: int, version: Version = LATEST
    ) -> int:
        """Peak of the profile run: the sampler's over max_num_seqs rows, or a layer's over max_num_batched_tokens."""
        facts = self.facts
        hidden = 2 * tokens * facts.hidden_size * element
        sampler = 0
        if facts.task in ("generate", "transcribe"):
            rows = (
                SORTING_SAMPLER * sequences
                if version < SORTS_UNTIL
                else SAMPLER * sequences + min(sequences, SAMPLER_PROGRAMS)
            )
            sampler = int(rows * facts.vocab_size * 4)
        feed = 3 * facts.intermediate_size // tp
        if facts.experts:
            routed = facts.experts_per_token * (
                max(2 * facts.expert_intermediate_size // tp, facts.hidden_size) + facts.expert_intermediate_size // tp
            )
            feed = max(feed, routed + facts.hidden_size)
        attention = (2 * facts.attention_heads + 2 * facts.kv_heads) * facts.head_size // tp
        if facts.mla is not None:
            mla = facts.mla
            attention = (
                facts.attention_heads // tp * (2 * (mla.qk_nope_head_dim + mla.qk_rope_head_dim) + 2 * mla.v_head_dim)
            )
        layer = tokens * max(feed, attention) * element
        if facts.mla is not None:
            mla = facts.mla
            chunk = min(MLA_WORKSPACE_TOKENS, 8 * max_model_len)
            layer += chunk * (mla.kv_lora_rank + mla.qk_rope_head_dim) * element
            layer += chunk * (facts.attention_heads // tp) * (mla.qk_nope_head_dim + mla.v_head_dim) * element
        if facts.encoder_only or facts.task in ("embed", "score", "classify", "reward"):
            # poolers work in float32 on the whole batch
            layer += tokens * facts.hidden_size * 4
        if not facts.towers:
            return hidden + max(sampler, layer)
        # the encoder's outputs for a whole batch stay while the language model runs
        return max(TOWER_BYTES, hidden + max(sampler, layer) + tokens * facts.hidden_size * element)


def kv_element(kv_cache_dtype: str, own: int) -> int:
    """Bytes of one element of the KV cache (STR_DTYPE_TO_TORCH_DTYPE)."""
    if kv_cache_dtype == "auto":
        return own
    if kv_cache_dtype.startswith(("fp8", "int8", "uint8")):
        return 1
    if kv_cache_dtype in ("float32", "float"):
        return 4
    return 2


def gib(value: float) -> float:
    """Bytes in GiB, rounded for people."""
    return round(value / GIB, 2)
