"""Models as files: a tiny safetensors writer, and configs of real shapes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I32": 4}

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, body: bool = True) -> bytes:
    """A safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + (b"\0" * offset if body else b"")


def qwen3_tensors(
    *, head: bool = True, layers: range = range(2), dtype: str = "BF16"
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors of QWEN3, as its repository would have them."""
    result: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": (dtype, (256, 64))}
    for index in layers:
        prefix = f"model.layers.{index}"
        result |= {
            f"{prefix}.self_attn.q_proj.weight": (dtype, (64, 64)),
            f"{prefix}.self_attn.k_proj.weight": (dtype, (32, 64)),
            f"{prefix}.self_attn.v_proj.weight": (dtype, (32, 64)),
            f"{prefix}.self_attn.o_proj.weight": (dtype, (64, 64)),
            f"{prefix}.mlp.gate_proj.weight": (dtype, (128, 64)),
            f"{prefix}.mlp.up_proj.weight": (dtype, (128, 64)),
            f"{prefix}.mlp.down_proj.weight": (dtype, (64, 128)),
            f"{prefix}.input_layernorm.weight": (dtype, (64,)),
            f"{prefix}.post_attention_layernorm.weight": (dtype, (64,)),
        }
    result["model.norm.weight"] = (dtype, (64,))
    if head:
        result["lm_head.weight"] = (dtype, (256, 64))
    return result


def write_model(folder: Path, config: Mapping[str, Any] = QWEN3, **files: bytes) -> Path:
    """A directory with config.json and the files, `__` in a name standing for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder
