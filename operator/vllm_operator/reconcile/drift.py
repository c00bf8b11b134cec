"""Whether a live object still has all that we applied.

Only our own fields count: what others add (a sidecar injected by a webhook, an annotation of `kubectl rollout restart`) stays.
Comparing here instead of applying again is what keeps writes at rest at zero.
"""

from typing import Any

from vllm_operator.workload.quantities import parse_quantity

_LIST_KEYS = ("name", "mountPath", "containerPort", "type", "uid", "topologyKey", "key")
"""Keys by which elements of a list of objects are told apart, in order of preference."""

_ATOMIC = frozenset({"selector", "nodeSelector", "podSelector", "ingress"})
"""What the API server replaces as a whole, so that a key more than ours is drift: with it a Service finds no pod, and a
NetworkPolicy keeps others away, or nobody.
"""

_QUANTITY_PARENTS = frozenset({"limits", "requests", "sizeLimit"})


def covers(live: Any, wanted: Any, *, parent: str = "") -> bool:
    """True when every value in `wanted` is in `live`; the API server's defaults in `live` do not matter."""
    match wanted:
        case dict() | list() if live is not None and parent in _ATOMIC:
            return bool(live == wanted)
        case dict():
            if not isinstance(live, dict):
                # An empty object may be dropped or kept by the API server: emptyDir: {} is kept, resources: {} is too.
                return not wanted and live is None
            inside = parent if parent in _QUANTITY_PARENTS else None
            return all(covers(live.get(name), value, parent=inside or name) for name, value in wanted.items())
        case list():
            if not isinstance(live, list):
                return not wanted and live is None
            return _covers_list(live, wanted, parent)
        case _:
            if live is None and wanted in ("", False, 0):
                return True  # The API server leaves many zeros out.
            return bool(live == wanted) or (parent in _QUANTITY_PARENTS and _same_quantity(live, wanted))


def _covers_list(live: list[Any], wanted: list[Any], parent: str) -> bool:
    key = _list_key(wanted)
    if key is None:
        return len(live) == len(wanted) and all(
            covers(one, other, parent=parent) for one, other in zip(live, wanted, strict=True)
        )
    found = {element.get(key): element for element in live if isinstance(element, dict)}
    return all(covers(found.get(element[key]), element, parent=parent) for element in wanted)


def _list_key(elements: list[Any]) -> str | None:
    """The key that all elements have, with distinct values; None when the list is compared by position."""
    if not elements or not all(isinstance(element, dict) for element in elements):
        return None
    for key in _LIST_KEYS:
        values = [element.get(key) for element in elements]
        if None not in values and len({str(value) for value in values}) == len(values):
            return key
    return None


def _same_quantity(one: Any, other: Any) -> bool:
    try:
        return parse_quantity(one) == parse_quantity(other)
    except (ValueError, TypeError, AttributeError):
        return False
