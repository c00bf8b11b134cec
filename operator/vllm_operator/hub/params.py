"""params.json, Mistral's own format → the config that transformers would have. Pure. As vLLM's transformers_utils/configs/mistral.py."""

from collections.abc import Mapping
from typing import Any


def config_from_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json for a params.json."""
    text = {
        "hidden_size": params.get("dim"),
        "num_hidden_layers": params.get("n_layers"),
        "num_attention_heads": params.get("n_heads"),
        "num_key_value_heads": params.get("n_kv_heads") or params.get("n_heads"),
        "head_dim": params.get("head_dim"),
        "intermediate_size": params.get("hidden_dim"),
        "vocab_size": params.get("vocab_size"),
        "max_position_embeddings": params.get("max_position_embeddings") or params.get("max_seq_len") or 128_000,
        "tie_word_embeddings": bool(params.get("tied_embeddings")),
        "sliding_window": params.get("sliding_window") if isinstance(params.get("sliding_window"), int) else None,
        "torch_dtype": "bfloat16",
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
    }
    moe = params.get("moe")
    if isinstance(moe, Mapping):
        text |= {
            "num_local_experts": moe.get("num_experts"),
            "num_experts_per_tok": moe.get("num_experts_per_tok"),
            "moe_intermediate_size": moe.get("expert_hidden_dim"),
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
        }
        text = {key: value for key, value in text.items() if value is not None}
    vision = params.get("vision_encoder")
    if isinstance(vision, Mapping):
        return {
            "architectures": ["PixtralForConditionalGeneration"],
            "model_type": "pixtral",
            "torch_dtype": "bfloat16",
            "text_config": text,
            "vision_config": dict(vision),
        }
    return text
