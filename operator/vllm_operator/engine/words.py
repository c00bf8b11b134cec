"""Values as words of a command, and as parts of messages."""

import json
import math
from typing import Any

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal


def to_word(value: Any, where: str) -> str:
    """One value as text; an object or list as compact JSON, a boolean within a list as JSON does."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return repr(value).removesuffix(".0")
    return to_json(value, where)


def to_json(value: Any, where: str) -> str:
    """Compact JSON with sorted keys: the same text for the same value."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise refusal(f"{where} is {show(value)}, which cannot be written as JSON: {error}") from error


def show(value: Any) -> str:
    """A value for a message, on one line and not too long."""
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def refusal(message: str) -> Refusal:
    """What the engine cannot be started with."""
    return Refusal(Reason.INVALID_ENGINE_ARGS, message)
