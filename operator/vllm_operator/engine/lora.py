"""vLLM's options for LoRA adapters that are loaded while it runs."""

import json
from collections.abc import Mapping
from typing import Any

from vllm_operator.engine.words import refusal

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank takes (MaxLoRARanks in vllm/config/lora.py)."""
DEFAULT_RANK = 16
"""vLLM's own --max-lora-rank."""
MAX_LORAS = 4
"""Adapters that one step of the engine computes with at most, each with room in the GPUs' memory. vLLM's default is 1: requests for
two adapters would be computed in turn."""
MAX_CPU_LORAS = 16
"""Adapters that are kept in memory; the others are read again when they are asked for. vLLM's default is --max-loras."""
ALLOW_UPDATING = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
"""Variable with which vLLM loads and unloads adapters by requests."""


def round_rank(rank: int) -> int:
    """The least --max-lora-rank for a rank. Raises Refusal when there is none.

    >>> [round_rank(rank) for rank in (1, 2, 16, 17, 300)]
    [1, 8, 16, 32, 320]
    """
    found = next((size for size in RANKS if size >= rank), None)
    if found is None:
        raise refusal(f"spec.adapters: rank {rank} is more than vLLM takes ({RANKS[-1]})")
    return found


def lora_options(args: Mapping[str, tuple[str, Any]], *, max_rank: int) -> dict[str, Any]:
    """Option → value, for those that spec.engine.args (by canonical name: see command.py) does not set. Raises Refusal."""
    written, enabled = args.get("enable-lora", ("enable-lora", True))
    if enabled is not True:
        raise refusal(f"spec.engine.args.{written} is {json.dumps(enabled)}, but spec.adapters need it: remove it")
    written, servers = args.get("api-server-count", ("api-server-count", 1))
    if servers != 1:
        raise refusal(
            f"spec.engine.args.{written} is {servers}: vLLM loads spec.adapters with one API server only; remove it"
        )
    options = {
        "enable-lora": True,
        "max-lora-rank": max_rank,
        "max-loras": _bounded(args, "max-cpu-loras", MAX_LORAS, min),
        "max-cpu-loras": _bounded(args, "max-loras", MAX_CPU_LORAS, max),
    }
    return {name: value for name, value in options.items() if name not in args}


def _bounded(args: Mapping[str, tuple[str, Any]], other: str, value: int, bound: Any) -> int:
    """A value that does not contradict what is given for the other: --max-cpu-loras is at least --max-loras."""
    given = args.get(other, ("", None))[1]
    return int(bound(value, given)) if isinstance(given, int) and not isinstance(given, bool) else value
