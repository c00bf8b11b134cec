"""config.json → facts. Pure.

Follows what vLLM itself reads (transformers_utils/model_arch_config_convertor.py, config/model.py, and the models' own
code, 0.32) so that the plan and the engine speak of the same model. What a config leaves out is filled in as transformers'
configuration classes do.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm_operator.hub.errors import InvalidModelError
from vllm_operator.hub.estimate import estimate_weights
from vllm_operator.hub.facts import LayerCache, Mla, ModelFacts, StateShape, Task, Weights
from vllm_operator.hub.quantization import read_quantization

# where the text part of a multimodal config lies, as transformers' get_text_config and vLLM look for it
_TEXT_CONFIGS = ("thinker_config", "text_config", "llm_config", "language_config", "text_model_config")

# ModelArchConfigConvertorBase.is_deepseek_mla
_MLA_TYPES = frozenset(
    {
        "axk1",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "kimi_k2",
        "kimi_linear",
        "longcat_flash",
        "pangu_ultra_moe",
        "bailing_hybrid",
    }
)

_UNSUPPORTED_CACHES = {
    "deepseek_v4": "compressed attention",
    "deepseek_v41": "compressed attention",
    "zamba2": "shared attention blocks",
    "gemma3n": "shared key/value layers",
    "mimo_v2": "layers of different head sizes",
    "mimo_v2_flash": "layers of different head sizes",
    "step3p5": "layers of different head counts",
    "qwen4_exp": "several state layouts",
    "nemotron-nas": "layers of different shapes",
}
"""model_type → why the KV cache is only estimated."""

_ENCODER_TYPES = frozenset(
    {
        "bert",
        "roberta",
        "xlm-roberta",
        "modernbert",
        "nomic_bert",
        "new",
        "gte",
        "distilbert",
        "mpnet",
        "camembert",
        "albert",
        "electra",
        "deberta-v2",
        "jina_bert_v3",
    }
)

_ENCODER_ARCHITECTURES = (
    "LlamaBidirectional",
    "VoyageQwen3Bidirectional",
    "Gemma3TextModel",
    "GteModel",
    "GteNewModel",
)

_UNSCALED_ROPE = frozenset(
    {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "mrope", "default"}
)

_MAX_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)

_DTYPES = {"float16": "float16", "half": "float16", "bfloat16": "bfloat16", "float32": "float32", "float": "float32"}


def read_config(
    config: Mapping[str, Any],
    *,
    weights: Weights | None = None,
    weights_bytes: int | None = None,
    files: Collection[str] = (),
    pipeline_tag: str | None = None,
    tokenizer_max_length: int | None = None,
) -> ModelFacts:
    """Facts from a config.json.

    `weights`: from the headers, when they were read. `weights_bytes`: the total, when only that is known; it is spread over
    the parts as the config's shapes have them. `files`: names in the repository, which tell sentence-transformers models
    apart. Raises InvalidModelError when the config names no architecture or lacks a size without which nothing can be said.
    """
    try:
        facts, text = _read(config, files=files, pipeline_tag=pipeline_tag, tokenizer_max_length=tokenizer_max_length)
        return replace(facts, weights=weights or estimate_weights(facts, config, text, total=weights_bytes))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a config is written by anybody, and its values may be of any type
        raise InvalidModelError(f"config.json has a value that makes no sense: {str(error)[:200]}") from error


def _read(
    config: Mapping[str, Any], *, files: Collection[str], pipeline_tag: str | None, tokenizer_max_length: int | None
) -> tuple[ModelFacts, Mapping[str, Any]]:
    """Facts without weights, and the text part of the config."""
    text = text_config(config)
    model_type = str(config.get("model_type") or text.get("model_type") or "")
    text_type = str(text.get("model_type") or model_type)
    architectures = config.get("architectures") or text.get("architectures") or []
    if not architectures:
        raise InvalidModelError("config.json names no architectures, so vLLM cannot tell what model it is")
    architecture = str(architectures[0])
    quantization = read_quantization(config, text)
    notes: list[str] = []

    hidden = _number(text, "hidden_size", "d_model", "n_embd", "dim")
    layers = _number(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
    if hidden is None or layers is None:
        raise InvalidModelError("config.json has no hidden_size or no num_hidden_layers")
    mla = _mla(text, text_type)
    heads = _number(text, "num_attention_heads", "n_head", "n_heads", "decoder_attention_heads") or 0
    kv_heads = _kv_heads(text, text_type, heads)
    head_size = _head_size(text, mla, hidden, heads)
    experts = _experts(text)
    encoder_only = _is_encoder(config, text, architecture, text_type)
    caches = (
        ()
        if encoder_only
        else _caches(text, text_type, layers=layers, kv_heads=kv_heads, head_size=head_size, mla=mla, notes=notes)
    )
    if encoder_only:
        caches = ((),) * layers
    if text_type in _UNSUPPORTED_CACHES:
        notes.append(f"{text_type} has {_UNSUPPORTED_CACHES[text_type]}: the KV cache is an estimate on the safe side")
    if text.get("kv_cache_dtype"):
        notes.append("config.json asks for a KV cache data type")

    rope_type, rope_factor = _rope(text)
    positions, longest = _max_length(text, model_type, rope_type, rope_factor, tokenizer_max_length)
    default_length = longest
    if rope_type == "longrope":
        default_length = int(config.get("original_max_position_embeddings", longest))
    towers = tuple(
        name
        for name, keys in (
            ("vision", ("vision_config", "visual", "vision_encoder", "vision_model_config", "vit_config")),
            ("audio", ("audio_config", "speech_config", "audio_encoder_config", "audio_processor")),
        )
        if any(
            isinstance(holder.get(key), Mapping)
            for holder in (config, config.get("thinker_config") or {})
            for key in keys
        )
    )
    if model_type == "whisper":
        towers = ("audio",)
    facts = ModelFacts(
        architecture=architecture,
        model_type=model_type,
        task=_task(config, architecture, files, pipeline_tag),
        num_layers=layers,
        attention_heads=heads,
        kv_heads=1 if mla else kv_heads,
        head_size=head_size,
        hidden_size=hidden,
        intermediate_size=_intermediate(text, hidden),
        vocab_size=_number(text, "vocab_size", "padded_vocab_size") or 0,
        dtype=_dtype(config, text),
        max_positions=positions,
        max_model_len=longest,
        default_max_model_len=default_length,
        caches=tuple(caches),
        weights=Weights(layers=(), embedding=0, head=0),
        rope_scaling=None if rope_type in (None, "default", "mrope") else rope_type,
        rope_dim=_rope_dim(text, mla, head_size),
        experts=experts,
        experts_per_token=_number(text, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk")
        or 0,
        expert_intermediate_size=_expert_intermediate(text, experts),
        mla=mla,
        quantization=quantization,
        sliding_window=_window(text),
        towers=towers,
        tied_embeddings=_tied(config, text, text_type),
        encoder_only=encoder_only,
        linear_key_heads=_number(text, "linear_num_key_heads") or 0,
        linear_value_heads=_number(text, "linear_num_value_heads") or 0,
        warnings=tuple(notes),
    )
    for name, value, most in (
        ("num_hidden_layers", facts.num_layers, 1000),
        ("hidden_size", facts.hidden_size, 1_000_000),
        ("intermediate_size", facts.intermediate_size, 10_000_000),
        ("num_attention_heads", facts.attention_heads, 10_000),
        ("num_key_value_heads", facts.kv_heads, 10_000),
        ("head_dim", facts.head_size, 100_000),
        ("vocab_size", facts.vocab_size, 100_000_000),
        ("num_experts", facts.experts, 100_000),
        ("moe_intermediate_size", facts.expert_intermediate_size, 10_000_000),
        ("max_position_embeddings", facts.max_model_len, 1_000_000_000),
    ):
        if not 0 <= value <= most:
            raise InvalidModelError(f"config.json has {name} {value}, which no model has")
    if facts.num_layers < 1 or facts.hidden_size < 1 or facts.max_model_len < 1:
        raise InvalidModelError("config.json has no layers, no hidden size or no context")
    for cache in {cache for layer in facts.caches for cache in layer}:
        state = cache.state
        if state is not None:
            shape = (
                state.heads,
                state.head_size,
                state.state_size,
                state.groups,
                state.intermediate_size,
                state.conv_kernel,
            )
            if min(shape) < 0 or state.groups < 1 or max(state.heads * state.head_size, state.intermediate_size) < 1:
                raise InvalidModelError(f"config.json has a {state.kind} layer without a size")
        elif cache.kv_heads < 1 or cache.head_size < 1 or cache.head_size_v < 0 or (cache.window or 1) < 1:
            raise InvalidModelError("config.json has attention layers without heads, head size or window")
    return facts, text


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that speaks of the language model; the config itself for text models."""
    for name in _TEXT_CONFIGS:
        part = config.get(name)
        if isinstance(part, Mapping) and part:
            return text_config({**part, "model_type": part.get("model_type") or config.get("model_type")})
    return config


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
            return int(max(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    return None


def _mla(text: Mapping[str, Any], text_type: str) -> Mla | None:
    if text_type not in _MLA_TYPES or text.get("kv_lora_rank") is None or text.get("is_causal") is False:
        return None
    return Mla(
        kv_lora_rank=int(text["kv_lora_rank"]),
        qk_rope_head_dim=_number(text, "qk_rope_head_dim") or 0,
        qk_nope_head_dim=_number(text, "qk_nope_head_dim") or 0,
        v_head_dim=_number(text, "v_head_dim") or 0,
        q_lora_rank=_number(text, "q_lora_rank"),
    )


def _kv_heads(text: Mapping[str, Any], text_type: str, heads: int) -> int:
    """get_total_num_kv_heads, with FalconModelArchConfigConvertor and DbrxModelArchConfigConvertor."""
    old_falcon = text_type == "falcon" and not text.get("new_decoder_architecture")
    if (old_falcon or text_type in ("RefinedWebModel", "gpt_bigcode")) and text.get("multi_query", True):
        return 1
    if text_type == "dbrx":
        return int((text.get("attn_config") or {}).get("kv_n_heads", heads))
    return (
        _number(
            text, "n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups"
        )
        or heads
    )


def _head_size(text: Mapping[str, Any], mla: Mla | None, hidden: int, heads: int) -> int:
    """get_head_size: for MLA, the latent vector with its rotary part."""
    if mla is not None:
        return mla.kv_lora_rank + mla.qk_rope_head_dim
    for name in ("head_dim", "attention_head_dim", "hidden_size_per_head"):
        value = text.get(name)
        if isinstance(value, int) and value > 0:
            return value
    default = _DEFAULT_HEAD_SIZES.get(str(text.get("model_type")))
    if default is not None:
        return default
    return hidden // heads if heads else 0


_DEFAULT_HEAD_SIZES = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3": 256, "gemma3_text": 256, "gpt_oss": 64, "qwen3_next": 256,
                       "qwen3_5_text": 256, "qwen3_5_moe_text": 256, "qwen3_vl_text": 128, "qwen3_vl_moe_text": 128}  # fmt: skip
"""head_dim of transformers' configuration classes, where a config may leave it out and it is not hidden ÷ heads."""


def _experts(text: Mapping[str, Any]) -> int:
    found = _number(text, "num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
    if found is None and isinstance(text.get("ffn_config"), Mapping):
        found = _number(text["ffn_config"], "moe_num_experts")
    return found or 0


def _intermediate(text: Mapping[str, Any], hidden: int) -> int:
    found = _number(
        text,
        "intermediate_size",
        "ffn_dim",
        "n_inner",
        "ffn_hidden_size",
        "d_ff",
        "decoder_ffn_dim",
        "intermediate_size_mlp",
    )
    if found is None and isinstance(text.get("ffn_config"), Mapping):
        found = _number(text["ffn_config"], "ffn_hidden_size")
    if found is None:
        found = 4 * hidden
    if text.get("model_type") == "lfm2" and text.get("block_auto_adjust_ff_dim", True):
        # Lfm2MLP: two thirds, times the multiplier, rounded up
        found = int(2 * found / 3)
        found = int(float(text.get("block_ffn_dim_multiplier") or 1.0) * found)
        multiple = int(text.get("block_multiple_of") or 256)
        found = multiple * math.ceil(found / multiple)
    return found


def _expert_intermediate(text: Mapping[str, Any], experts: int) -> int:
    if not experts:
        return 0
    return _number(text, "moe_intermediate_size", "intermediate_size") or _intermediate(
        text, _number(text, "hidden_size", "d_model") or 0
    )


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """What --dtype auto takes on a GPU that has bfloat16: as the config says, float32 cast down (_resolve_auto_dtype)."""
    for holder in (config, text):
        value = holder.get("torch_dtype") or holder.get("dtype")
        if isinstance(value, str):
            found = _DTYPES.get(value.removeprefix("torch."))
            if found is not None:
                return "bfloat16" if found == "float32" else found
    return "bfloat16"


def _tied(config: Mapping[str, Any], text: Mapping[str, Any], text_type: str) -> bool:
    for holder in (text, config):
        value = holder.get("tie_word_embeddings")
        if isinstance(value, bool):
            return value
    return text_type.startswith(("gemma", "cohere", "gpt2", "bloom", "falcon", "opt", "lfm2", "whisper"))


def _rope(text: Mapping[str, Any]) -> tuple[str | None, float]:
    parameters = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return None, 1.0
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    kind, factor = None, 1.0
    for entry in nested or [parameters]:
        entry_kind = entry.get("rope_type") or entry.get("type")
        if entry_kind is None:
            continue
        if kind is None or entry_kind != "default":
            kind = str(entry_kind)
        if kind not in _UNSCALED_ROPE:
            factor = float(entry.get("factor") or 1.0)
    return kind, factor


def _max_length(
    text: Mapping[str, Any], model_type: str, rope_type: str | None, factor: float, tokenizer_max_length: int | None
) -> tuple[int, int]:
    """Positions, and the longest context: _get_and_verify_max_len."""
    found = [int(text[key]) for key in _MAX_LENGTH_KEYS if isinstance(text.get(key), int | float) and text.get(key)]
    positions = min(found) if found else 2048
    if isinstance(text.get("model_max_length"), int):
        positions = int(text["model_max_length"])
    longest = positions
    if tokenizer_max_length is not None:
        longest = min(longest, tokenizer_max_length)
    if rope_type is not None and "gemma3" not in model_type and rope_type not in _UNSCALED_ROPE:
        longest = int(longest * factor)
    return positions, longest


def _rope_dim(text: Mapping[str, Any], mla: Mla | None, head_size: int) -> int:
    if mla is not None:
        return mla.qk_rope_head_dim
    parameters = text.get("rope_parameters")
    partial = text.get("partial_rotary_factor") or text.get("rotary_pct")
    if partial is None and isinstance(parameters, Mapping):
        partial = parameters.get("partial_rotary_factor")
    if partial is None and text.get("model_type") in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
        partial = 0.25
    if text.get("position_embedding_type") in ("absolute", "nope", "alibi") or text.get("model_type") in (
        "opt",
        "gpt2",
        "bloom",
    ):
        return 0
    return int(head_size * float(partial)) if partial else head_size


def _window(text: Mapping[str, Any]) -> int | None:
    value = text.get("sliding_window") or text.get("sliding_window_size")
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return None
    if str(text.get("model_type")).startswith("qwen") and not text.get("use_sliding_window", False):
        return None
    return value


def _is_encoder(config: Mapping[str, Any], text: Mapping[str, Any], architecture: str, text_type: str) -> bool:
    if architecture.startswith(_ENCODER_ARCHITECTURES):
        return True
    if text.get("is_causal") is False or text.get("use_bidirectional_attention") is True:
        return True
    return text_type in _ENCODER_TYPES


def _task(config: Mapping[str, Any], architecture: str, files: Collection[str], pipeline_tag: str | None) -> Task:
    """What vLLM would run it as (ModelConfig._get_default_runner_type), told a little finer."""
    labels = config.get("num_labels")
    if labels is None and isinstance(config.get("id2label"), Mapping):
        labels = len(config["id2label"])
    if architecture.startswith(
        ("Whisper", "CohereAsr", "FireRedASR", "FunASR", "Qwen3ASR", "GlmAsr")
    ) or architecture.endswith("ForSpeechSeq2Seq"):
        return "transcribe"
    if "Ranking" in architecture or pipeline_tag == "text-ranking":
        return "score"
    if architecture.endswith(("ForSequenceClassification", "ForTokenClassification", "ClassificationModel")):
        return "score" if labels == 1 else "classify"
    if architecture.endswith(("RewardModel", "ForRewardModeling")):
        return "reward"
    if any(name == "modules.json" or name.endswith("1_Pooling/config.json") for name in files):
        return "embed"
    if pipeline_tag in ("feature-extraction", "sentence-similarity"):
        return "embed"
    if architecture.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "ChatModel")):
        return "generate"
    if architecture.endswith(("Model", "ForMaskedLM", "ForTextEncoding")):
        return "embed"
    return "generate"


# ---- caches


def _caches(
    text: Mapping[str, Any],
    text_type: str,
    *,
    layers: int,
    kv_heads: int,
    head_size: int,
    mla: Mla | None,
    notes: list[str],
) -> tuple[tuple[LayerCache, ...], ...]:
    """For each layer, what it keeps."""
    window = _window(text)
    if mla is not None:
        attention = LayerCache("mla", 1, head_size, 0)
    else:
        attention = LayerCache("full", kv_heads, head_size, _number(text, "v_head_dim") or head_size)
    if text_type in ("deepseek_v32", "glm_moe_dsa") and mla is not None:
        # DeepseekV32IndexerCache: 128 bytes of fp8 keys and a float32 scale for each 128
        index = _number(text, "index_head_dim") or 128
        sparse = LayerCache("mla", 1, head_size, 0, sparse=True)
        return ((sparse, LayerCache("indexer", 1, index + index // 128 * 4, 0)),) * layers
    if text_type == "whisper":
        cross = LayerCache("cross", kv_heads, head_size, head_size, _number(text, "max_source_positions") or 1500)
        return ((attention, cross),) * layers
    state = _state(text, text_type)
    sliding = (
        LayerCache("sliding", attention.kv_heads, attention.head_size, attention.head_size_v, window)
        if window
        else attention
    )
    if text_type in ("cohere2", "cohere2_moe") and window:
        # commandr.py: a Cohere window sees one token more
        sliding = LayerCache("sliding", attention.kv_heads, attention.head_size, attention.head_size_v, window + 1)
    chunk = _number(text, "attention_chunk_size")
    chunked = (
        LayerCache("chunked", attention.kv_heads, attention.head_size, attention.head_size_v, chunk)
        if chunk
        else attention
    )
    if text_type == "gemma4_text":
        wide = LayerCache(
            "full",
            _number(text, "num_global_key_value_heads") or kv_heads,
            _number(text, "global_head_dim") or head_size,
            _number(text, "global_head_dim") or head_size,
        )
        interleaved = layer_kinds(text, text_type, layers) or ["full"] * layers
        shared = _number(text, "num_kv_shared_layers") or 0
        return tuple(
            () if index >= layers - shared else ((sliding,) if kind == "sliding" else (wide,))
            for index, kind in enumerate(interleaved)
        )
    kinds = layer_kinds(text, text_type, layers)
    if kinds is None:
        # CacheConfig.sliding_window: a model without layer types is all one or all the other
        every = sliding if window and text_type in ("mistral", "mixtral", "starcoder2", "ministral") else attention
        return ((every,),) * layers
    result: list[tuple[LayerCache, ...]] = []
    for kind in kinds:
        if kind in ("state", "both") and state is None:
            notes.append(f"{text_type} has layers whose state is unknown: not counted")
            state = StateShape("linear_attention")
        recurrent = LayerCache("state", state=state)
        result.append(
            {
                "full": (attention,),
                "sliding": (sliding,),
                "chunked": (chunked,),
                "state": (recurrent,),
                "both": (attention, recurrent),
                "none": (),
            }[kind]
        )
    return tuple(result)


_LAYER_TYPES = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "state",
    "mamba": "state",
    "conv": "state",
    "recurrent": "state",
    "mlp": "none",
    "moe": "none",
}


def layer_kinds(text: Mapping[str, Any], text_type: str, layers: int) -> list[str] | None:
    """Kind of each layer: full, sliding, chunked, state, both, none. None: all alike."""
    types = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(types, Sequence) and not isinstance(types, str) and text_type != "gpt_oss":
        kinds = [_LAYER_TYPES.get(str(kind), "full") for kind in types][:layers]
        if text_type.startswith("qwen") and _window(text) is None:
            kinds = ["full" if kind == "sliding" else kind for kind in kinds]
        return kinds + ["full"] * (layers - len(kinds))
    for pattern_types, name, default in (
        (("gemma3", "gemma3_text"), "sliding_window_pattern", 6),
        (("cohere2",), "sliding_window_pattern", 4),
        (("olmo3",), "", 4),
        (("exaone4",), "sliding_window_pattern", 0),
    ):
        if text_type in pattern_types:
            pattern = text.get(name, default)
            if isinstance(pattern, str):
                return ["sliding" if pattern[i % len(pattern)] == "L" else "full" for i in range(layers)]
            if not pattern:
                return None
            return ["sliding" if (i + 1) % pattern else "full" for i in range(layers)]
    if text_type in ("gpt_oss", "gemma2"):
        return ["full" if i % 2 else "sliding" for i in range(layers)]
    if text_type.startswith("qwen") and _window(text) is not None:
        first = _number(text, "max_window_layers")
        first = layers if first is None else first
        return ["sliding" if i >= first else "full" for i in range(layers)]
    if text_type in ("llama4_text", "llama4"):
        rope = text.get("no_rope_layers") or [int((i + 1) % 4 != 0) for i in range(layers)]
        return ["chunked" if flag else "full" for flag in rope]
    if text_type.startswith(("qwen3_next", "qwen3_5")):
        interval = _number(text, "full_attention_interval") or 4
        return ["state" if (i + 1) % interval else "full" for i in range(layers)]
    if text_type == "jamba":
        period, offset = _number(text, "attn_layer_period") or 8, _number(text, "attn_layer_offset") or 4
        return ["full" if i % period == offset else "state" for i in range(layers)]
    if text_type == "bamba":
        full = set(text.get("attn_layer_indices") or ())
        return ["full" if i in full else "state" for i in range(layers)]
    if text_type == "nemotron_h":
        pattern = str(text.get("hybrid_override_pattern") or "")
        return [{"M": "state", "*": "full"}.get(letter, "none") for letter in pattern[:layers]]
    if text_type == "falcon_h1":
        return ["both"] * layers
    if text_type in ("mamba", "mamba2", "falcon_mamba"):
        return ["state"] * layers
    if text_type.startswith("lfm2"):
        full = set(text.get("full_attn_idxs") or ())
        return ["full" if i in full else "state" for i in range(layers)]
    if text_type == "kimi_linear":
        full = set((text.get("linear_attn_config") or {}).get("full_attn_layers") or ())
        return ["full" if i + 1 in full else "state" for i in range(layers)]
    if isinstance(text.get("attn_type_list"), list):
        return ["full" if kind else "state" for kind in text["attn_type_list"][:layers]]
    return None


_STATE_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def _state(text: Mapping[str, Any], text_type: str) -> StateShape | None:
    """Shape of a recurrent layer's state: each model's get_mamba_state_shape_from_config."""
    hidden = _number(text, "hidden_size", "d_model") or 0
    if text_type.startswith(("qwen3_next", "qwen3_5", "olmo_hybrid")):
        return StateShape(
            "gated_delta_net",
            heads=_number(text, "linear_num_value_heads") or 32,
            head_size=_number(text, "linear_value_head_dim") or 128,
            state_size=_number(text, "linear_key_head_dim") or 128,
            groups=_number(text, "linear_num_key_heads") or 16,
            conv_kernel=_number(text, "linear_conv_kernel_dim") or 4,
            state_dtype_bytes=_STATE_DTYPE_BYTES.get(str(text.get("mamba_ssm_dtype")))
            if text_type.startswith("qwen3_5")
            else None,
        )
    if text_type == "kimi_linear":
        linear = text.get("linear_attn_config") or {}
        return StateShape(
            "kda",
            heads=int(linear.get("num_heads") or 0),
            head_size=int(linear.get("head_dim") or 0),
            state_size=int(linear.get("head_dim") or 0),
            groups=int(linear.get("num_heads") or 0),
            conv_kernel=int(linear.get("short_conv_kernel_size") or 4),
            state_dtype_bytes=4,
        )
    if text_type == "nemotron_h":
        heads, size = _number(text, "mamba_num_heads") or 0, _number(text, "mamba_head_dim") or 0
        return StateShape(
            "mamba2",
            heads=heads,
            head_size=size,
            state_size=_number(text, "ssm_state_size") or 0,
            groups=_number(text, "n_groups") or 1,
            intermediate_size=heads * size,
            conv_kernel=_number(text, "conv_kernel") or 4,
            # NemotronHForCausalLMConfig.DEFAULT_MAMBA_SSM_CACHE_DTYPE
            state_dtype_bytes=_STATE_DTYPE_BYTES.get(str(text.get("mamba_ssm_cache_dtype", "float32"))),
        )
    if text_type == "mamba2":
        expand = int((_number(text, "expand") or 2) * hidden)
        return StateShape(
            "mamba2",
            heads=_number(text, "num_heads") or 0,
            head_size=_number(text, "head_dim") or 0,
            state_size=_number(text, "state_size") or 0,
            groups=_number(text, "n_groups") or 1,
            intermediate_size=expand,
            conv_kernel=_number(text, "conv_kernel") or 4,
        )
    if text_type in ("mamba", "falcon_mamba"):
        return StateShape(
            "mamba1",
            state_size=_number(text, "state_size") or 16,
            intermediate_size=_number(text, "intermediate_size") or 2 * hidden,
            conv_kernel=_number(text, "conv_kernel") or 4,
        )
    if text_type == "jamba":
        return StateShape(
            "mamba1",
            state_size=_number(text, "mamba_d_state") or 16,
            intermediate_size=(_number(text, "mamba_expand") or 2) * hidden,
            conv_kernel=_number(text, "mamba_d_conv") or 4,
        )
    if text_type in ("bamba", "granitemoehybrid", "falcon_h1"):
        inner = _number(text, "mamba_d_ssm") or int(float(text.get("mamba_expand") or 2) * hidden)
        return StateShape(
            "mamba2",
            heads=_number(text, "mamba_n_heads") or 0,
            head_size=_number(text, "mamba_d_head") or 0,
            state_size=_number(text, "mamba_d_state") or 0,
            groups=_number(text, "mamba_n_groups") or 1,
            intermediate_size=inner,
            conv_kernel=_number(text, "mamba_d_conv") or 4,
        )
    if text_type.startswith("lfm2"):
        return StateShape(
            "short_conv",
            intermediate_size=_number(text, "conv_dim") or hidden,
            conv_kernel=_number(text, "conv_L_cache") or 3,
        )
    if isinstance(text.get("attn_type_list"), list):
        heads = _number(text, "num_attention_heads") or 1
        size = _number(text, "head_dim") or hidden // heads
        return StateShape("linear_attention", heads=heads, head_size=size, state_size=size, state_dtype_bytes=4)
    return None
