"""A tiny random LoRA adapter for the tiny model of tests/cluster/make_model.py, as peft would have saved it."""

import json
import random
import struct

HIDDEN, LAYERS, QUERY, VALUE = 128, 2, 128, 64
"""The model's hidden size, layers, and what its q_proj and v_proj give."""


def adapter_files(*, rank: int, seed: int) -> dict[str, bytes]:
    """The adapter's files. Another seed is another adapter: each changes what the model says."""
    draw = random.Random(seed)
    tensors: dict[str, tuple[int, int]] = {}
    for layer in range(LAYERS):
        for module, size in (("q_proj", QUERY), ("v_proj", VALUE)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors |= {f"{prefix}.lora_A.weight": (rank, HIDDEN), f"{prefix}.lora_B.weight": (size, rank)}
    header, body = {}, b""
    for name, (rows, columns) in tensors.items():
        values = struct.pack(f"<{rows * columns}f", *(draw.gauss(0, 1) for _ in range(rows * columns)))
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    text = json.dumps(header).encode()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": 16,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": len(text).to_bytes(8, "little") + text + body,
    }
