"""Strategic merge of spec.podTemplate over the generated pod template.

The rules are the API's own (patchStrategy and patchMergeKey in k8s.io/api/core/v1/types.go; what merging means is in
k8s.io/apimachinery/pkg/util/strategicpatch): objects are merged, lists with a merge key are merged by it and new elements go
to the end, every other list is replaced, null deletes. `$patch: replace` and `$patch: delete` are understood, in objects and in
the elements of merged lists.

Two rules go further than `kubectl patch`, which would make a pod that the API server refuses: where exactly one of several
fields may be set (a volume's source, a variable's value or valueFrom, a probe's or hook's action), the one in the patch takes the
generated one's place; and ports are merged by number and protocol, spread constraints by key and mode, as server-side apply
does.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal

_CONTAINER_KEYS: Mapping[str, tuple[str, ...]] = {
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
}

# path of a list, elements of lists written [] → the fields that together name an element
_MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "spec.volumes": ("name",),
    "spec.imagePullSecrets": ("name",),
    "spec.hostAliases": ("ip",),
    "spec.topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "spec.schedulingGates": ("name",),
    "spec.resourceClaims": ("name",),
    **{f"spec.{containers}": ("name",) for containers in ("containers", "initContainers", "ephemeralContainers")},
    **{
        f"spec.{containers}[].{field}": keys
        for containers in ("containers", "initContainers", "ephemeralContainers")
        for field, keys in _CONTAINER_KEYS.items()
    },
}
_KEY_DEFAULTS = {"protocol": "TCP"}

_HANDLERS = frozenset({"exec", "httpGet", "tcpSocket", "grpc", "sleep"})


def merge_pod_template(
    base: Mapping[str, Any], patch: Mapping[str, Any], *, where: str = "spec.podTemplate"
) -> dict[str, Any]:
    """`patch` merged over `base`; neither is changed. Raises Refusal(InvalidPodTemplate) naming the path that cannot be merged."""
    return _merge_objects(dict(base), patch, path="", where=where)


def _merge_objects(base: dict[str, Any], patch: Mapping[str, Any], *, path: str, where: str) -> dict[str, Any]:
    directive = patch.get("$patch", "merge")
    if directive == "replace":
        return {
            key: _fresh(value, path=_join(path, key), where=where) for key, value in patch.items() if key != "$patch"
        }
    if directive != "merge":
        raise _refusal(
            where, path, f"has $patch: {directive}, but an object takes replace, merge, or delete from what holds it"
        )
    result = {key: copy.deepcopy(value) for key, value in base.items()}
    for field in _displaced(path, result, patch):
        del result[field]
    for key, value in patch.items():
        if key == "$patch":
            continue
        inner = _join(path, key)
        if key.startswith("$"):
            raise _refusal(
                where, inner, "is a directive that is not supported: use $patch: delete, $patch: replace or null"
            )
        if value is None or (isinstance(value, Mapping) and value.get("$patch") == "delete"):
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), dict):
            result[key] = _merge_objects(result[key], value, path=inner, where=where)
        elif inner in _MERGE_KEYS:
            if not isinstance(value, list):
                raise _refusal(where, inner, f"is {_kind(value)}, but must be a list")
            existing = result.get(key)
            result[key] = _merge_lists(existing if isinstance(existing, list) else [], value, path=inner, where=where)
        else:
            if key in result and isinstance(result[key], (dict, list)) and not isinstance(value, type(result[key])):
                raise _refusal(where, inner, f"is {_kind(value)}, but must be {_kind(result[key])}")
            result[key] = _fresh(value, path=inner, where=where)
    return result


def _merge_lists(base: Sequence[Any], patch: Sequence[Any], *, path: str, where: str) -> list[Any]:
    keys = _MERGE_KEYS[path]
    for index, element in enumerate(patch):
        if not isinstance(element, Mapping):
            raise _refusal(where, f"{path}[{index}]", f"is {_kind(element)}, but must be an object")
    replace = any(element.get("$patch") == "replace" and len(element) == 1 for element in patch)
    result: list[Any] = [] if replace else [copy.deepcopy(element) for element in base]
    named: set[tuple[Any, ...]] = set()
    for index, element in enumerate(patch):
        directive = element.get("$patch", "merge")
        if directive == "replace" and len(element) == 1:
            continue
        for key in keys:
            if element.get(key) is None and key not in _KEY_DEFAULTS:
                raise _refusal(
                    where, f"{path}[{index}]", f"has no {key}, by which elements of this list are told apart"
                )
            if isinstance(element.get(key), (Mapping, list)):
                raise _refusal(
                    where, f"{path}[{index}].{key}", f"is {_kind(element[key])}, but must be text or a number"
                )
        if _key(element, keys) in named:
            raise _refusal(
                where, f"{path}[{index}]", f"names {_key(element, keys)[0]!r} a second time: keep one of them"
            )
        named.add(_key(element, keys))
        found = next((i for i, other in enumerate(result) if _key(other, keys) == _key(element, keys)), None)
        inner = f"{path}[]"
        if directive == "delete":
            if found is not None:
                del result[found]
        elif found is None:
            result.append(_fresh({k: v for k, v in element.items() if k != "$patch"}, path=inner, where=where))
        else:
            result[found] = _merge_objects(result[found], element, path=inner, where=where)
    return result


def _fresh(value: Any, *, path: str, where: str) -> Any:
    """A value that has no counterpart in the base: a copy, with its nulls and directives carried out."""
    if isinstance(value, Mapping):
        return _merge_objects({}, {k: v for k, v in value.items() if k != "$patch"}, path=path, where=where)
    if isinstance(value, list):
        if path in _MERGE_KEYS:
            return _merge_lists([], value, path=path, where=where)
        return [_fresh(element, path=f"{path}[]", where=where) for element in value]
    return value


def _displaced(path: str, base: Mapping[str, Any], patch: Mapping[str, Any]) -> list[str]:
    """Fields of the base that the patch's choice among exclusive fields takes the place of."""
    wanted = {key for key, value in patch.items() if value is not None}
    if path == "spec.volumes[]":
        sources = wanted - {"name", "$patch"}
        return [key for key in base if key != "name" and key not in sources] if sources else []
    name = path.rpartition(".")[2]
    if name == "env[]":
        pair = {"value": "valueFrom", "valueFrom": "value"}
        return [other for key, other in pair.items() if key in wanted and other in base]
    if name in ("livenessProbe", "readinessProbe", "startupProbe", "preStop", "postStart"):
        return [key for key in base if key in _HANDLERS and key not in wanted] if wanted & _HANDLERS else []
    return []


def _key(element: Any, keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(element.get(key, _KEY_DEFAULTS.get(key)) for key in keys) if isinstance(element, Mapping) else ()


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return f"{value!r}"[:80]


def _refusal(where: str, path: str, problem: str) -> Refusal:
    return Refusal(Reason.INVALID_POD_TEMPLATE, f"{where}{'.' if path else ''}{path} {problem}")
