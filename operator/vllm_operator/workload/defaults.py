"""Values that the API server does not give back, because they are the zero of a field that is left out when empty.

Applying them would make what is wanted differ from what is read, for ever. From the `omitempty` tags in k8s.io/api/core/v1/types.go;
fields that are pointers there (automountServiceAccountToken, hostPath.type …) keep their zero and are not named here.
"""

from collections.abc import Mapping
from typing import Any

_FALSE = frozenset({"hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly"})
_ZERO = frozenset({"initialDelaySeconds"})
_EMPTY_TEXT = frozenset(
    {
        "value",
        "effect",
        "operator",
        "subPath",
        "subPathExpr",
        "workingDir",
        "hostname",
        "subdomain",
        "nodeName",
        "priorityClassName",
        "medium",
        "host",
        "prefix",
    }
)
_EMPTY_MAP = frozenset({"nodeSelector", "matchLabels", "labels", "annotations", "limits", "requests", "overhead"})


def without_zero_values(value: Any) -> Any:
    """A copy of a pod's spec without the zeros that the API server leaves out. Empty lists are always such."""
    if isinstance(value, list):
        return [without_zero_values(element) for element in value]
    if not isinstance(value, Mapping):
        return value
    return {key: without_zero_values(inner) for key, inner in value.items() if not _is_left_out(key, inner)}


def _is_left_out(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return not value and key in _FALSE
    if isinstance(value, list):
        return not value
    if isinstance(value, Mapping):
        return not value and key in _EMPTY_MAP
    return (value == "" and key in _EMPTY_TEXT) or (value == 0 and key in _ZERO)
