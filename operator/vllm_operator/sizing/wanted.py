"""spec → what the planner is asked for. Pure."""

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from vllm_operator.api.types import Accelerator, Engine, Parallelism, Scheduling, VLLMModelSpec
from vllm_operator.sizing.memory import GIB, EngineOptions, Version
from vllm_operator.sizing.planner import Wanted
from vllm_operator.sizing.pools import Toleration

_Value = TypeVar("_Value")

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")
_QUANTITY = re.compile(r"\+?(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,2})|([KMGTPE]i|[numkMGTPE]))?")
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNITS = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{f"{letter}i": Decimal(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", start=1)},
    **{letter: Decimal(10 ** (3 * power)) for power, letter in enumerate("kMGTPE", start=1)},
}


def wanted_from_spec(spec: VLLMModelSpec, *, version: Version | None = None) -> Wanted:
    """What a spec asks for. `version`: of vLLM, when the spec names none."""
    engine, accelerator, parallelism = (
        spec.engine or Engine(),
        spec.accelerator or Accelerator(),
        spec.parallelism or Parallelism(),
    )
    args = {name.replace("_", "-"): value for name, value in (engine.args or {}).items()}
    return Wanted(
        tensor=parallelism.tensor,
        pipeline=parallelism.pipeline,
        data=parallelism.data or 1,
        gpus=accelerator.count,
        max_model_len=_given(engine.max_model_len, args.get("max-model-len"), read_tokens),
        vendor=None if accelerator.type in ("auto", "cpu") else accelerator.type,
        product=accelerator.product,
        min_memory=None if accelerator.min_memory is None else read_bytes(str(accelerator.min_memory)),
        resource_name=accelerator.resource_name,
        options=EngineOptions(
            version=_given(engine.version, None, read_version) or version,
            gpu_memory_utilization=_given(engine.gpu_memory_utilization, args.get("gpu-memory-utilization"), float),
            kv_cache_dtype=_given(engine.kv_cache_dtype, args.get("kv-cache-dtype"), str) or "auto",
            max_num_seqs=_given(engine.max_num_seqs, args.get("max-num-seqs"), int),
            max_num_batched_tokens=_given(
                engine.max_num_batched_tokens, args.get("max-num-batched-tokens"), read_tokens
            ),
            block_size=_given(engine.block_size, args.get("block-size"), int),
            enforce_eager=bool(engine.enforce_eager or args.get("enforce-eager") is True),
            quantization=_given(engine.quantization, args.get("quantization"), str),
            dtype=_given(engine.dtype, args.get("dtype"), str) or "auto",
            cpu_offload_bytes=int((_given(engine.cpu_offload_gb, args.get("cpu-offload-gb"), float) or 0) * GIB),
            expert_parallel=bool(parallelism.expert),
        ),
    )


def _given(typed: Any, argument: Any, read: Callable[[Any], _Value | None]) -> _Value | None:
    """The value of a typed field, else of the option in engine.args; None for what vLLM's own parser is to refuse."""
    value = argument if typed is None else typed
    if value is None:
        return None
    try:
        return read(value)
    except (ValueError, TypeError):
        return None


def pod_constraints(spec: VLLMModelSpec) -> tuple[Sequence[Toleration], dict[str, str]]:
    """Taints that the model's pods tolerate, and labels that their nodes must have: of scheduling and of podTemplate."""
    scheduling = spec.scheduling or Scheduling()
    template = (spec.pod_template.spec if spec.pod_template else None) or {}
    tolerations = [
        Toleration(item.key or "", item.operator or "Equal", item.value or "", item.effect or "")
        for item in scheduling.tolerations or ()
    ]
    selector = dict(scheduling.node_selector or {})
    # podTemplate has no schema: what is no toleration and no selector is refused where it is merged
    for item in template.get("tolerations") or ():
        if isinstance(item, dict):
            tolerations.append(
                Toleration(
                    *(
                        str(item.get(name) or default)
                        for name, default in (("key", ""), ("operator", "Equal"), ("value", ""), ("effect", ""))
                    )
                )
            )
    for label, value in (
        (template.get("nodeSelector") or {}).items() if isinstance(template.get("nodeSelector"), dict) else ()
    ):
        if value is None:
            selector.pop(label, None)
        else:
            selector[label] = str(value)
    return tuple(tolerations), selector


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
    """Bytes of a Kubernetes quantity, rounded up; None for what is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    scale = Decimal(10) ** int(match[2]) if match[2] else _UNITS[match[3] or ""]
    return math.ceil(Decimal(match[1]) * scale)
