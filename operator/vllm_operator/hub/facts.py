"""Facts about a model, as values. Pure: nothing here reads anything."""

from dataclasses import dataclass
from typing import Literal

from vllm_operator.hub.chat_template import MARKERS

LONGEST_NAME = 128
"""Characters of an architecture's or a model type's name that are kept; the longest known have 50."""

Task = Literal["generate", "embed", "score", "classify", "reward", "transcribe"]
"""What a model is for. `score` is vLLM's word for rerankers."""

CacheKind = Literal["full", "sliding", "chunked", "mla", "indexer", "state", "cross"]
"""How a layer's cache grows.

full: with the sequence. sliding, chunked: up to a window. mla: one latent vector a token, the same on every tensor-parallel
rank. indexer: the keys of DeepSeek's sparse attention. state: one state for each sequence (Mamba, linear attention, short
convolution). cross: keys and values of the encoder's output, of one length whatever the sequence's.
"""

StateKind = Literal["mamba1", "mamba2", "gated_delta_net", "kda", "linear_attention", "short_conv"]


@dataclass(frozen=True, slots=True)
class StateShape:
    """Shape of a recurrent layer's state, in vLLM's words (model_executor/layers/mamba/mamba_utils.py)."""

    kind: StateKind
    heads: int = 0
    """Heads of the state (mamba2), value heads (gated_delta_net), or heads (linear_attention, kda)."""
    head_size: int = 0
    state_size: int = 0
    """Elements of the state a head and element of head_size."""
    groups: int = 1
    """mamba2: groups that share B and C; gated_delta_net: key heads."""
    intermediate_size: int = 0
    """mamba1, mamba2, short_conv: width of the convolution without B and C."""
    conv_kernel: int = 4
    state_dtype_bytes: int | None = None
    """Bytes of an element of the recurrent state; None: as the model's data type."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One cache of one layer. A layer may have several (Falcon-H1: attention and Mamba) or none."""

    kind: CacheKind
    kv_heads: int = 0
    """Key/value heads of the whole model, before tensor parallelism. 1 for mla."""
    head_size: int = 0
    """Elements of a key; of the latent vector for mla; bytes of a token for indexer."""
    head_size_v: int = 0
    """Elements of a value; 0 for mla."""
    window: int | None = None
    """sliding, chunked: tokens that stay; cross: tokens of the encoder."""
    state: StateShape | None = None
    sparse: bool = False
    """mla: read by DeepSeek's sparse attention, which has a layout of its own for fp8."""


@dataclass(frozen=True, slots=True)
class Mla:
    """Multi-head latent attention (DeepSeek V2, V3 and their kin)."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the weights are quantized, as the config says."""

    method: str
    """vLLM's name: fp8, awq, gptq, compressed-tensors, mxfp4, modelopt, bitsandbytes …"""
    bits: float
    """Bits of one weight, without scales."""
    group_size: int | None = None
    """Weights along the input that share a scale (awq, gptq, mxfp4 …)."""
    block: tuple[int, int] | None = None
    """Output × input weights that share a scale (fp8 of DeepSeek and Qwen)."""
    experts_only: bool = False
    """Only the experts are quantized (gpt-oss)."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Bytes of one layer, by what tensor parallelism does with them."""

    sharded: int = 0
    """Divided by the tensor-parallel size."""
    kv: int = 0
    """Key and value projections: divided by it too, but never below one head a rank."""
    replicated: int = 0
    """Whole on every rank: norms, routers, MLA's down projections."""
    experts: int = 0
    """Routed experts: divided by it (each expert is split, or with expert parallelism they are dealt out)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of the weights as vLLM holds them, of the whole model."""

    layers: tuple[LayerWeights, ...]
    embedding: int
    """Token embeddings: divided by the tensor-parallel size, vocabulary padded to 64. On the first pipeline stage."""
    head: int
    """Output layer, when it is not tied to the embeddings. On the last pipeline stage."""
    other: int = 0
    """Whatever else there is (final norm, position embeddings, poolers): whole on every rank."""
    towers: int = 0
    """Vision and audio towers and their projectors: counted whole on every rank, on the first pipeline stage."""
    by_dtype: tuple[tuple[str, int], ...] = ()
    """Bytes in the files by data type, as safetensors calls them, sorted. Empty when no header was read."""
    source: Literal["headers", "index", "files", "given", "estimate"] = "estimate"
    """Where the figure is from: safetensors headers; the index's total; file sizes; the user; the config's shapes."""

    @property
    def total(self) -> int:
        """Bytes of the whole model."""
        layers = sum(layer.sharded + layer.kv + layer.replicated + layer.experts for layer in self.layers)
        return layers + self.embedding + self.head + self.other + self.towers


@dataclass(frozen=True, slots=True)
class Traits:
    """What the choice of vLLM's options looks at (engine/recipes.py); all empty where nothing is known of a model."""

    architecture: str = ""
    model_type: str = ""
    task: Task | None = None
    template: tuple[str, ...] = ()
    """Markers of the chat template and the tokenizer (chat_template.py)."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What sizing needs to know of a model."""

    architecture: str
    """The first of config.json's architectures, e.g. Qwen3ForCausalLM."""
    model_type: str
    task: Task
    num_layers: int
    attention_heads: int
    kv_heads: int
    head_size: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    dtype: str
    """Data type that vLLM computes in: bfloat16, float16 or float32."""
    max_positions: int
    """Positions that the config speaks of, before rope scaling."""
    max_model_len: int
    """The longest context that vLLM accepts for it (ModelConfig's derived maximum)."""
    default_max_model_len: int
    """What vLLM takes when none is given; smaller than max_model_len for longrope only."""
    caches: tuple[tuple[LayerCache, ...], ...]
    """For each layer, its caches."""
    weights: Weights
    rope_scaling: str | None = None
    """Type of rope scaling: llama3, yarn, longrope, linear, dynamic."""
    rope_dim: int = 0
    """Elements of a head that rotate: vLLM keeps their sines and cosines."""
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate_size: int = 0
    mla: Mla | None = None
    quantization: Quantization | None = None
    sliding_window: int | None = None
    towers: tuple[str, ...] = ()
    """vision, audio."""
    tied_embeddings: bool = False
    encoder_only: bool = False
    """Attends both ways and keeps no KV cache (BERT and its kin)."""
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    """Heads of linear attention (Qwen3-Next), which tensor parallelism must divide too."""
    warnings: tuple[str, ...] = ()
    """What was found that a person should know."""
    template: tuple[str, ...] | None = None
    """Markers of the chat template and the tokenizer (chat_template.py); None: nothing is known of them."""

    @property
    def traits(self) -> Traits:
        """What the choice of vLLM's options looks at. They are kept with each decision, so nothing in them is long, whoever has told
        the facts.
        """
        known = tuple(sorted(MARKERS.keys() & set(self.template or ())))
        return Traits(self.architecture[:LONGEST_NAME], self.model_type[:LONGEST_NAME], self.task, known)

    @property
    def hybrid(self) -> bool:
        """Whether some layers keep a state instead of keys and values."""
        return any(cache.kind == "state" for layer in self.caches for cache in layer)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element of the data type."""
        return 4 if self.dtype == "float32" else 2
