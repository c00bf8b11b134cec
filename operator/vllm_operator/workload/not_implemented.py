"""Fields that are part of the API but that this version, or this installation, does nothing with: refused, never silently
ignored.
"""

from collections.abc import Callable
from typing import Any

from vllm_operator.api.base import Model
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import Auth, Route, VLLMModelSpec

# (field, its value, what to do instead); the first that is set is named, so the order is the order of the API
_FIELDS: tuple[tuple[str, Callable[[VLLMModelSpec], Any], str], ...] = (
    ("autoscaling", lambda spec: spec.autoscaling, "set spec.replicas"),
    ("defaults", lambda spec: spec.defaults if spec.external else None, "an external model's are set where it runs"),
)

_BY_GATEWAY: tuple[tuple[str, Callable[[VLLMModelSpec], Any]], ...] = (
    ("route.weight", lambda spec: (spec.route or Route()).weight),
    ("route.balance", lambda spec: (spec.route or Route()).balance),
    ("route.fallback", lambda spec: (spec.route or Route()).fallback),
    ("route.clampMaxTokens", lambda spec: (spec.route or Route()).clamp_max_tokens),
    ("route.dropUnsupportedTools", lambda spec: (spec.route or Route()).drop_unsupported_tools),
    ("external", lambda spec: spec.external),
    ("adapters", lambda spec: spec.adapters or None),
    ("auth.mode", lambda spec: (spec.auth or Auth()).mode),
    ("auth.callers", lambda spec: (spec.auth or Auth()).callers),
)


def check_implemented(spec: VLLMModelSpec, *, gateway: bool) -> None:
    """Raise Refusal for the first field that nothing would be done with: NotImplemented, or NeedsGateway when there is no
    `gateway` for all models. Empty lists and objects pass the former.
    """
    for field, read in _BY_GATEWAY if not gateway else ():
        if read(spec) is not None:
            raise Refusal(
                Reason.NEEDS_GATEWAY,
                f"spec.{field}: needs the gateway for all models: set gateway.enabled in the chart's values, or remove it",
            )
    for field, read, instead in _FIELDS:
        value = read(spec)
        if isinstance(value, Model):
            value = value.model_dump(exclude_none=True) or None
        if value is not None and value != []:
            raise Refusal(
                Reason.NOT_IMPLEMENTED, f"spec.{field}: this operator version does nothing with it yet; {instead}"
            )
