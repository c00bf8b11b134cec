"""quantization_config → how many bits a weight has, and in what groups. Pure."""

from collections.abc import Mapping
from typing import Any

from vllm_operator.hub.facts import Quantization


def read_quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> Quantization | None:
    """The quantization that a config speaks of, in vLLM's name (ModelArchConfigConvertorBase.get_quantization_config)."""
    found = (
        config.get("quantization_config")
        or config.get("compression_config")
        or text.get("quantization_config")
        or text.get("compression_config")
    )
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method") or "").lower().replace("compressed_tensors", "compressed-tensors")
    algorithm = str((found.get("quantization") or {}).get("quant_algo") or found.get("quant_algo") or "").upper()
    if not method and algorithm:
        method = "modelopt_fp4" if "NVFP4" in algorithm else "modelopt"
    match method:
        case "awq" | "awq_marlin" | "gptq" | "gptq_marlin" | "auto-round" | "inc":
            return Quantization(method, float(found.get("bits") or found.get("w_bit") or 4), _group(found))
        case "fp8" | "fbgemm_fp8" | "deepseek_v4_fp8":
            block = found.get("weight_block_size")
            return Quantization(method, 8, block=(int(block[0]), int(block[1])) if block else None)
        case "mxfp4" | "gpt_oss_mxfp4":
            return Quantization("mxfp4", 4, 32, experts_only=True)
        case "compressed-tensors":
            return _compressed(found)
        case "modelopt_fp4":
            return Quantization(method, 4, 16)
        case "modelopt" | "modelopt_mixed":
            return Quantization("modelopt_fp4", 4, 16) if "FP4" in algorithm else Quantization("modelopt", 8)
        case "bitsandbytes":
            return Quantization(
                method, 4 if found.get("load_in_4bit") else 8, 64 if found.get("load_in_4bit") else None
            )
        case "quark" | "torchao" | "hqq" | "aqlm" | "experts_int8":
            return Quantization(method, 8)
        case _:
            return Quantization(method or "unknown", 16)


def _group(found: Mapping[str, Any]) -> int | None:
    size = found.get("group_size", found.get("q_group_size", 128))
    return int(size) if isinstance(size, int) and size > 0 else None


def _compressed(found: Mapping[str, Any]) -> Quantization:
    for group in (found.get("config_groups") or {}).values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue
        block = weights.get("block_structure")
        size = weights.get("group_size")
        return Quantization(
            "compressed-tensors",
            float(weights.get("num_bits") or 8),
            int(size) if isinstance(size, int) and size > 0 else None,
            (int(block[0]), int(block[1])) if isinstance(block, list) and len(block) == 2 else None,
        )
    return Quantization("compressed-tensors", 8)
