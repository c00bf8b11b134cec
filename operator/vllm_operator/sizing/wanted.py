"""spec → what the planner is asked for. Pure."""

import re
from collections.abc import Sequence

from vllm_operator.api.types import Accelerator, Engine, Parallelism, VLLMModelSpec
from vllm_operator.sizing.memory import GIB, LATEST, EngineOptions, Version
from vllm_operator.sizing.planner import Wanted
from vllm_operator.sizing.pools import Toleration

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]i|[kMGTP]?)")
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNITS = {
    "": 1,
    **{f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGTP", start=1)},
    **{letter: 10 ** (3 * power) for power, letter in enumerate("kMGTP", start=1)},
}


def wanted_from_spec(spec: VLLMModelSpec, *, version: Version | None = None) -> Wanted:
    """What a spec asks for. `version`: of vLLM, when the spec names none."""
    engine, accelerator, parallelism = (
        spec.engine or Engine(),
        spec.accelerator or Accelerator(),
        spec.parallelism or Parallelism(),
    )
    return Wanted(
        tensor=parallelism.tensor,
        pipeline=parallelism.pipeline,
        data=parallelism.data or 1,
        gpus=accelerator.count,
        max_model_len=None if engine.max_model_len is None else read_tokens(engine.max_model_len),
        vendor=None if accelerator.type in ("auto", "cpu") else accelerator.type,
        product=accelerator.product,
        min_memory=None if accelerator.min_memory is None else read_bytes(str(accelerator.min_memory)),
        resource_name=accelerator.resource_name,
        options=EngineOptions(
            version=read_version(engine.version) if engine.version else version or LATEST,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            kv_cache_dtype=engine.kv_cache_dtype or "auto",
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            block_size=engine.block_size,
            enforce_eager=bool(engine.enforce_eager),
            quantization=engine.quantization,
            dtype=engine.dtype or "auto",
            cpu_offload_bytes=int((engine.cpu_offload_gb or 0) * GIB),
            expert_parallel=bool(parallelism.expert),
        ),
    )


def tolerations_from_spec(spec: VLLMModelSpec) -> Sequence[Toleration]:
    """Taints that the model's pods tolerate."""
    if spec.scheduling is None:
        return ()
    return tuple(
        Toleration(item.key or "", item.operator or "Equal", item.value or "", item.effect or "")
        for item in spec.scheduling.tolerations or ()
    )


def read_tokens(value: int | str) -> int | None:
    """--max-model-len as vLLM reads it: 32k is 32,000, 32K is 32,768; auto and -1 are None. Raises ValueError."""
    text = str(value).strip()
    if text in ("auto", "-1"):
        return None
    match = _TOKENS.fullmatch(text)
    if match is None:
        raise ValueError(f"not a number of tokens: {text!r}")
    unit = match[2]
    result = int(float(match[1]) * (_DECIMAL.get(unit) or _BINARY.get(unit) or 1))
    if result < 1:
        raise ValueError(f"not a number of tokens: {text!r}")
    return result


def read_version(text: str) -> Version:
    """Release of a version, e.g. 0.32.0rc1 → (0, 32, 0). Raises ValueError."""
    match = _VERSION.match(text.removeprefix("v"))
    if match is None:
        raise ValueError(f"not a version: {text!r}")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def read_bytes(text: str) -> int | None:
    """Bytes of a Kubernetes quantity; None for what is none."""
    match = _QUANTITY.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None
