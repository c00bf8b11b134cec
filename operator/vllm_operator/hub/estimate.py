"""Bytes of the weights from the config's shapes, when no header was read. Pure.

The shapes are those of vLLM's model classes; small parts (biases, norms inside attention) are left out, which is far below
a per cent of any model worth planning for. When the total is known, the parts are scaled to it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm_operator.hub.facts import LayerCache, LayerWeights, ModelFacts, Quantization, Weights

_PLAIN_MLP = frozenset(
    {"opt", "gpt2", "gpt_neox", "gptj", "bloom", "falcon", "RefinedWeb", "RefinedWebModel", "gpt_bigcode", "starcoder2", "phi",
     "nemotron", "nemotron_h", "mpt", "whisper", "bert", "roberta", "xlm-roberta", "stablelm_epoch"}
)  # fmt: skip
"""Model types whose feed-forward has two matrices instead of three."""


def estimate_weights(
    facts: ModelFacts, config: Mapping[str, Any], text: Mapping[str, Any], *, total: int | None
) -> Weights:
    """Weights by part, scaled to `total` bytes when that is given."""
    element = facts.dtype_bytes
    quantized = weight_bytes(facts.quantization, element)
    dense = element if facts.quantization is not None and facts.quantization.experts_only else quantized
    gated = 2 if str(text.get("model_type")) in _PLAIN_MLP else 3
    layers = tuple(
        _layer(facts, text, index, dense=dense, expert=quantized, gated=gated) for index in range(facts.num_layers)
    )
    embedding = facts.vocab_size * int(text.get("word_embed_proj_dim") or facts.hidden_size) * element
    head = 0 if facts.tied_embeddings or _headless(facts) else facts.vocab_size * facts.hidden_size * element
    positions = facts.max_positions if facts.rope_dim == 0 and not facts.hybrid else 0
    result = Weights(
        layers=layers,
        embedding=embedding,
        head=head,
        other=(facts.hidden_size + positions * facts.hidden_size) * element,
        towers=_towers(config) * element,
    )
    return result if total is None else scaled(result, total)


def scaled(weights: Weights, total: int) -> Weights:
    """The same parts, with this total. What is rounded away goes to `other`, so that no byte is lost."""
    now = weights.total
    if now == 0:
        return replace(weights, other=total, source="given")

    def scale(part: int) -> int:
        return part * total // now

    layers = tuple(
        LayerWeights(scale(layer.sharded), scale(layer.kv), scale(layer.replicated), scale(layer.experts))
        for layer in weights.layers
    )
    result = replace(
        weights,
        layers=layers,
        embedding=scale(weights.embedding),
        head=scale(weights.head),
        other=0,
        towers=scale(weights.towers),
        source="given",
    )
    return replace(result, other=total - result.total)


def weight_bytes(quantization: Quantization | None, element: int) -> float:
    """Bytes of one quantized weight with its share of the scales."""
    if quantization is None:
        return element
    result = quantization.bits / 8
    if quantization.group_size:
        # a scale of two bytes for each group (one for the microscaling formats), and AWQ's and GPTQ's zero point
        scale = 1 if quantization.method in ("mxfp4", "modelopt_fp4") else 2
        zero = quantization.bits / 8 if quantization.method in ("awq", "awq_marlin", "gptq", "gptq_marlin") else 0
        result += (scale + zero) / quantization.group_size
    elif quantization.block:
        result += 4 / (quantization.block[0] * quantization.block[1])
    return result


def _headless(facts: ModelFacts) -> bool:
    return facts.task in ("embed", "score", "classify", "reward")


def _layer(
    facts: ModelFacts, text: Mapping[str, Any], index: int, *, dense: float, expert: float, gated: int
) -> LayerWeights:
    hidden, element = facts.hidden_size, facts.dtype_bytes
    sharded = kv = 0
    replicated = 2 * hidden * element
    caches = facts.caches[index] or (
        (LayerCache("full", facts.kv_heads, facts.head_size, facts.head_size),) if facts.encoder_only else ()
    )
    for cache in caches:
        if cache.kind == "state" and cache.state is not None:
            sharded += int(_state(facts, cache, dense))
            if cache.state.kind == "mamba2":
                # a single group of B and C is copied to every rank (mamba_mixer2.py)
                shared = int(2 * hidden * cache.state.groups * cache.state.state_size * dense)
                if cache.state.groups == 1:
                    replicated += shared
                else:
                    sharded += shared
        elif cache.kind == "mla" and facts.mla is not None:
            mla = facts.mla
            query = mla.qk_nope_head_dim + mla.qk_rope_head_dim
            down = hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim + (mla.q_lora_rank or 0))
            up = (mla.q_lora_rank or hidden) * facts.attention_heads * query
            up += mla.kv_lora_rank * facts.attention_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
            up += facts.attention_heads * mla.v_head_dim * hidden
            replicated += int(down * dense)
            sharded += int(up * dense)
        elif cache.kind in ("full", "sliding", "chunked", "cross"):
            outputs = 2 if facts.model_type.startswith(("qwen3_next", "qwen3_5")) else 1
            sharded += int(hidden * facts.attention_heads * (cache.head_size * outputs + cache.head_size_v) * dense)
            kv += int(hidden * cache.kv_heads * (cache.head_size + cache.head_size_v) * dense)
    feed, experts, router = _feed_forward(facts, text, index, dense=dense, expert=expert, gated=gated)
    return LayerWeights(sharded + feed, kv, replicated + router, experts)


def _state(facts: ModelFacts, cache: LayerCache, dense: float) -> float:
    state, hidden = cache.state, facts.hidden_size
    assert state is not None
    match state.kind:
        case "mamba2":
            inner = state.intermediate_size
            return (hidden * (2 * inner + state.heads) + inner * hidden) * dense
        case "mamba1":
            return (3 * hidden + 3 * state.state_size + hidden // 8) * state.intermediate_size * dense
        case "gated_delta_net":
            keys, values = state.groups * state.state_size, state.heads * state.head_size
            return hidden * (2 * keys + 3 * values + 2 * state.heads) * dense
        case "kda":
            return hidden * state.heads * (4 * state.head_size + 1) * dense
        case "linear_attention":
            return 5 * hidden * state.heads * state.head_size * dense
        case "short_conv":
            return 4 * hidden * state.intermediate_size * dense


def is_expert_layer(facts: ModelFacts, text: Mapping[str, Any], index: int) -> bool:
    """Whether a layer of a mixture-of-experts model has experts."""
    if not facts.experts or index < int(text.get("first_k_dense_replace") or 0):
        return False
    if index in (text.get("mlp_only_layers") or ()):
        return False
    if isinstance(text.get("moe_layers"), list):
        return index in text["moe_layers"]
    step = (
        int(text.get("decoder_sparse_step") or text.get("moe_layer_freq") or text.get("interleave_moe_layer_step") or 1)
        if not isinstance(text.get("moe_layer_freq"), list)
        else 1
    )
    if text.get("expert_layer_period"):
        return index % int(text["expert_layer_period"]) == int(text.get("expert_layer_offset") or 0)
    return (index + 1) % step == 0 if "moe_layer_freq" not in text else index % step == 0


def _feed_forward(
    facts: ModelFacts, text: Mapping[str, Any], index: int, *, dense: float, expert: float, gated: int
) -> tuple[int, int, int]:
    """Bytes of the dense part, of the experts, and of the router."""
    hidden = facts.hidden_size
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and index < len(pattern):
        if pattern[index] == "-":
            return int(gated * hidden * facts.intermediate_size * dense), 0, 0
        if pattern[index] != "E":
            return 0, 0, 0
        experts = int(facts.experts * 2 * hidden * facts.expert_intermediate_size * expert)
        shared = int(2 * hidden * int(text.get("moe_shared_expert_intermediate_size") or 0) * dense)
        return shared, experts, hidden * facts.experts * 2
    if facts.model_type in ("mamba", "mamba2", "falcon_mamba"):
        return 0, 0, 0
    shared_width = int(text.get("shared_intermediate_size") or 0)
    if not is_expert_layer(facts, text, index):
        width = shared_width or facts.intermediate_size
        if facts.experts and text.get("intermediate_size_mlp"):
            width = int(text["intermediate_size_mlp"])
        return int(gated * hidden * width * dense), 0, 0
    if not shared_width:
        shared_width = int(text.get("shared_expert_intermediate_size") or 0)
    if not shared_width:
        shared_width = (
            int(text.get("n_shared_experts") or text.get("num_shared_experts") or 0) * facts.expert_intermediate_size
        )
    if facts.model_type.startswith("llama4"):
        shared_width = facts.expert_intermediate_size
    experts = int(facts.experts * 3 * hidden * facts.expert_intermediate_size * expert)
    return int(3 * hidden * shared_width * dense), experts, hidden * facts.experts * 2


def _towers(config: Mapping[str, Any]) -> int:
    """Parameters of vision and audio towers, from their own configs."""
    total = 0
    holders: list[Mapping[str, Any]] = [config]
    if isinstance(config.get("thinker_config"), Mapping):
        holders.append(config["thinker_config"])
    for holder in holders:
        for name in ("vision_config", "visual", "vit_config", "audio_config", "speech_config"):
            tower = holder.get(name)
            if isinstance(tower, Mapping):
                total += _tower(tower)
    if config.get("model_type") == "whisper":
        width = int(config.get("d_model") or 0)
        total += int(config.get("encoder_layers") or 0) * (
            4 * width * width + 2 * width * int(config.get("encoder_ffn_dim") or 0)
        )
    return total


def _tower(tower: Mapping[str, Any]) -> int:
    width = int(tower.get("hidden_size") or tower.get("embed_dim") or tower.get("d_model") or tower.get("width") or 0)
    if not width and isinstance(tower.get("embed_dim"), int):
        width = int(tower["embed_dim"])
    depth = int(
        tower.get("num_hidden_layers") or tower.get("depth") or tower.get("encoder_layers") or tower.get("layers") or 0
    )
    inner = int(
        tower.get("intermediate_size") or tower.get("encoder_ffn_dim") or width * float(tower.get("mlp_ratio") or 4)
    )
    gated = 3 if tower.get("hidden_act") in ("silu", "quick_gelu_gated") else 2
    out = int(tower.get("out_hidden_size") or 0)
    merged = width * int(tower.get("spatial_merge_size") or 1) ** 2
    return depth * (4 * width * width + gated * width * inner) + (
        merged * merged + merged * out if out else 2 * width * width
    )
