"""Fields that are part of the API but that this version does nothing with: refused, never silently ignored."""

from collections.abc import Callable
from typing import Any

from vllm_operator.api.base import Model
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import Route, VLLMModelSpec

# (field, its value, what to do instead); the first that is set is named, so the order is the order of the API
_FIELDS: tuple[tuple[str, Callable[[VLLMModelSpec], Any], str], ...] = (
    ("autoscaling", lambda spec: spec.autoscaling, "set spec.replicas"),
    ("route.weight", lambda spec: (spec.route or Route()).weight, "remove it"),
    ("route.balance", lambda spec: (spec.route or Route()).balance, "remove it"),
    ("route.fallback", lambda spec: (spec.route or Route()).fallback, "remove it"),
    ("route.clampMaxTokens", lambda spec: (spec.route or Route()).clamp_max_tokens, "remove it"),
    ("route.dropUnsupportedTools", lambda spec: (spec.route or Route()).drop_unsupported_tools, "remove it"),
    ("adapters", lambda spec: spec.adapters, "use engine.args.lora-modules with a volume from podTemplate"),
    ("external", lambda spec: spec.external, "remove it"),
    ("defaults", lambda spec: spec.defaults, "use engine.args.override-generation-config"),
)


def check_implemented(spec: VLLMModelSpec) -> None:
    """Raise Refusal(NotImplemented) for the first field that nothing would be done with. Empty lists and objects pass."""
    for field, read, instead in _FIELDS:
        value = read(spec)
        if isinstance(value, Model):
            value = value.model_dump(exclude_none=True) or None
        if value is not None and value != []:
            raise Refusal(
                Reason.NOT_IMPLEMENTED, f"spec.{field}: this operator version does nothing with it yet; {instead}"
            )
