"""The shape of what is read of a pod template that a user wrote part of.

Only as much as this room relies on: the API server checks the rest, and its words reach the user too.
"""

from collections.abc import Mapping
from typing import Any

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal

# An object's fields, a list's elements as a list of one, `str` for text; a field that is not named may be anything.
Shape = Mapping[str, Any] | list[Any] | type[str]

_KEY_REFERENCE: Shape = {"name": str, "key": str}
_RESOURCES: Shape = {"requests": {}, "limits": {}}
_SOURCE: Shape = {"secretName": str, "name": str, "items": [{"key": str}]}
_CONTAINER: Shape = {
    "name": str,
    "env": [
        {
            "name": str,
            "valueFrom": {"secretKeyRef": _KEY_REFERENCE, "configMapKeyRef": _KEY_REFERENCE, "resourceFieldRef": {}},
        }
    ],
    "envFrom": [{"secretRef": {"name": str}, "configMapRef": {"name": str}}],
    "ports": [{"name": str}],
    "volumeMounts": [{"name": str}],
    "resources": _RESOURCES,
}
POD_SPEC: Shape = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "ephemeralContainers": [_CONTAINER],
    "resources": _RESOURCES,
    "overhead": {},
    "volumes": [
        {
            "name": str,
            "emptyDir": {},
            "secret": _SOURCE,
            "configMap": _SOURCE,
            "projected": {"sources": [{"secret": _SOURCE, "configMap": _SOURCE}]},
            "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": _RESOURCES}}},
            "downwardAPI": {"items": [{"resourceFieldRef": {}}]},
        }
    ],
}


def check_shape(value: Any, shape: Shape = POD_SPEC, *, path: str = "spec.podTemplate.spec") -> None:
    """Raise Refusal(InvalidPodTemplate) naming the first field that is not of its shape."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise _refusal(path, value, "a list")
        for index, element in enumerate(value):
            check_shape(element, shape[0], path=f"{path}[{index}]")
    elif isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            raise _refusal(path, value, "an object")
        for field, inner in shape.items():
            if field in value:
                check_shape(value[field], inner, path=f"{path}.{field}")
    elif not isinstance(value, str):
        raise _refusal(path, value, "text")


def _refusal(path: str, value: Any, wanted: str) -> Refusal:
    return Refusal(Reason.INVALID_POD_TEMPLATE, f"{path} is {repr(value)[:80]}, but must be {wanted}")
