"""Server-side apply's arithmetic on fields, for the in-memory cluster.

A field is a path from the object's root. What a manager owns is a set of paths: leaves, and elements of lists that have
keys. The rules are those of sigs.k8s.io/structured-merge-diff, which the API server uses; the contract suite holds this
file to what a real API server does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Element:
    """An element of a list with keys, named by the values of its keys."""

    keys: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        shown = (f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}" for name, value in self.keys)
        return f"[{','.join(shown)}]"


Path = tuple[str | Element, ...]
FieldSet = frozenset[Path]

EMPTY: FieldSet = frozenset()


@dataclass(frozen=True)
class Node:
    """What the API server knows of a value: how it is merged, and which fields it may have."""

    fields: Mapping[str, "Node"] = field(default_factory=dict)
    """Fields that are more than a scalar."""
    known: frozenset[str] | None = None
    """All fields; None: any name may stand here."""
    element: "Node | None" = None
    """Elements of the list, if they are told apart by `keys`; None: the list is one value."""
    keys: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of keys that an element may leave out."""
    values: "Node | None" = None
    """Values of a map with free keys."""
    atomic: bool = False
    """Owned as a whole."""
    raw: bool = False
    """Kept as it came, nulls and zeros too."""
    type: str = ""
    """`integer`, `boolean` or `string` for a checked scalar; `object` or `array`; empty: not checked."""

    def child(self, name: str) -> "Node":
        """The node of a field."""
        return self.fields.get(name) or self.values or ANY


ANY = Node()
"""A value nothing is known of: maps merge, lists are one value."""
ATOMIC = Node(atomic=True)
INTEGER = Node(type="integer")
BOOLEAN = Node(type="boolean")
STRING = Node(type="string")
STRINGS = Node(type="object", values=STRING)


class SchemaError(Exception):
    """The object does not fit the schema; `path` as the API server writes it, e.g. .spec.containers[name="a"].env."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


def show(path: Path) -> str:
    """A path as the API server writes it."""
    return "".join(str(part) if isinstance(part, Element) else f".{part}" for part in path)


def element_of(node: Node, value: Any, path: Path = ()) -> Element:
    """The name of a list's element."""
    if not isinstance(value, dict):
        raise SchemaError(show(path), f"expected map, got {_type_name(value)}")
    pairs = []
    for key in node.keys:
        if key in value:
            pairs.append((key, value[key]))
        elif key in node.defaults:
            pairs.append((key, node.defaults[key]))
        else:
            raise SchemaError(show(path), f'associative list with keys has an element that omits key field "{key}"')
    return Element(tuple(pairs))


def check(value: Any, node: Node, path: Path = ()) -> None:
    """Raise SchemaError where the value does not fit."""
    if value is None:
        return
    if node.type and not _fits(value, node.type):
        expected = {"integer": "numeric (int or float)", "object": "map", "array": "list"}.get(node.type, node.type)
        raise SchemaError(show(path), f"expected {expected}, got {_type_name(value)}")
    if isinstance(value, dict):
        for name, inner in value.items():
            if node.known is not None and name not in node.known:
                raise SchemaError(show((*path, name)), "field not declared in schema")
            check(inner, node.child(name), (*path, name))
    elif isinstance(value, list) and node.element is not None:
        seen = set()
        for inner in value:
            if not node.keys:
                check(inner, node.element, path)
                continue
            element = element_of(node, inner, path)
            if element in seen:
                raise SchemaError(show(path), f"duplicate entries for key {element}")
            seen.add(element)
            check(inner, node.element, (*path, element))


def _fits(value: Any, type_name: str) -> bool:
    match type_name:
        case "integer":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "object":
            return isinstance(value, dict)
        case _:
            return isinstance(value, list)


def _type_name(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "numeric"
        case str():
            return "string"
        case dict():
            return "map"
        case list():
            return "list"
        case _:
            return "null"


def _granular(value: Any, node: Node) -> bool:
    """Whether the value's parts are owned one by one."""
    if node.atomic or not value:
        return False
    return isinstance(value, dict) or (isinstance(value, list) and node.element is not None and bool(node.keys))


def _parts(value: Any, node: Node) -> Iterator[tuple[str | Element, Any, Node]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner, node.child(name)
    else:
        assert node.element is not None
        for inner in value:
            yield element_of(node, inner), inner, node.element


def field_set(value: Any, node: Node) -> FieldSet:
    """Fields of a value: leaves and list elements."""
    found: set[Path] = set()

    def walk(value: Any, node: Node, path: Path) -> None:
        if not _granular(value, node):
            if value != [] or node.atomic or not node.keys:  # Nobody owns an empty list with keys.
                found.add(path)
            return
        for part, inner, child in _parts(value, node):
            inside = (*path, part)
            if isinstance(part, Element):
                found.add(inside)
            walk(inner, child, inside)

    if value:
        walk(value, node, ())
    return frozenset(found)


def with_parents(fields: Iterable[Path]) -> FieldSet:
    """The fields and every named field above them."""
    found: set[Path] = set()
    for path in fields:
        found.add(path)
        above = path[:-1]
        while above and above not in found:
            if isinstance(above[-1], str):
                found.add(above)
            above = above[:-1]
    return frozenset(found)


def merge(live: Any, config: Any, node: Node) -> Any:
    """`config` laid over `live`. A merged list follows config's order, with elements of others where they stood."""
    if node.atomic or config is None or live is None:
        return config
    if isinstance(live, dict) and isinstance(config, dict):
        merged = {
            name: merge(value, config[name], node.child(name)) if name in config else value
            for name, value in live.items()
        }
        return {**merged, **{name: value for name, value in config.items() if name not in live}}
    if isinstance(live, list) and isinstance(config, list) and node.element is not None and node.keys:
        return _merge_lists(live, config, node, node.element)
    return config


def _merge_lists(live: list[Any], config: list[Any], node: Node, element: Node) -> list[Any]:
    """Both lists read side by side: shared elements come in config's order, others where they stand in theirs."""
    lives = [(element_of(node, value), value) for value in live]
    by_key = dict(lives)
    wanted = [(element_of(node, value), value) for value in config]
    wanted_keys = {key for key, _ in wanted}
    shared = [key for key, _ in wanted if key in by_key]
    merged: list[Any] = []
    done: set[Element] = set()
    left = right = 0
    while left < len(lives) or right < len(wanted):
        key, value = lives[left] if left < len(lives) else (None, None)
        waits_for = next((one for one in shared if one not in done), None)
        if key is not None and right < len(wanted) and key != wanted[right][0]:
            # A shared element that is not the next in config's order comes later, or has come.
            if key in wanted_keys and waits_for is not None and key != waits_for:
                left += 1
                continue
        elif key is not None and right < len(wanted):
            left += 1
        if key is not None and key not in wanted_keys:
            merged.append(value)
            left += 1
            continue
        if key is not None and key in done:
            left += 1
        if right < len(wanted):
            name, new = wanted[right]
            merged.append(merge(by_key[name], new, element) if name in by_key else new)
            done.add(name)
            right += 1
    return merged


def remove(value: Any, node: Node, fields: Iterable[Path]) -> Any:
    """The value without these fields; a map or list that loses all its content becomes None."""
    tree: dict[Any, Any] = {}
    for path in fields:
        here = tree
        for part in path:
            here = here.setdefault(part, {})
        here[None] = True
    return _remove(value, node, tree)


def _remove(value: Any, node: Node, tree: dict[Any, Any]) -> Any:
    if not _granular(value, node) or not tree:
        return value
    kept = []
    for part, inner, child in _parts(value, node):
        below = tree.get(part)
        if below is None:
            kept.append((part, inner))
        elif None not in below:
            kept.append((part, _remove(inner, child, below)))
    if not kept:
        return None
    if isinstance(value, dict):
        return dict(kept)
    return [inner for _, inner in kept]


def prune(merged: Any, node: Node, *, before: FieldSet, owned: FieldSet) -> Any:
    """The merged object without what its manager applied `before` and that nobody owns any more.

    `owned` is what all managers own together, the new apply included.
    """
    if before <= owned:
        return merged
    last = with_parents(before)
    managed = with_parents(owned)
    everything = with_parents(field_set(merged, node))
    without = with_parents(field_set(remove(merged, node, last), node))
    kept = remove(merged, node, everything - (without | managed))
    return remove(merged, node, (everything - with_parents(field_set(kept, node))) & last)


@dataclass(frozen=True)
class Difference:
    """What a write changed."""

    added: FieldSet
    modified: FieldSet
    removed: FieldSet


def compare(old: Any, new: Any, node: Node) -> Difference:
    """What `new` adds, changes and removes; a map or list that comes or goes is named as well as its content."""
    added: set[Path] = set()
    modified: set[Path] = set()
    removed: set[Path] = set()

    def whole(value: Any, node: Node, path: Path, into: set[Path]) -> None:
        if path:
            into.add(path)
        if _granular(value, node):
            for part, inner, child in _parts(value, node):
                whole(inner, child, (*path, part), into)

    def walk(old: Any, new: Any, node: Node, path: Path) -> None:
        if old == new:
            return
        if not (_granular(old, node) and _granular(new, node) and type(old) is type(new)):
            if _granular(old, node) or _granular(new, node):
                whole(old, node, path, removed)
                whole(new, node, path, added)
                removed.discard(path)
                added.discard(path)
            modified.add(path)
            return
        olds = {part: (inner, child) for part, inner, child in _parts(old, node)}
        news = {part: (inner, child) for part, inner, child in _parts(new, node)}
        for part, (inner, child) in olds.items():
            if part not in news:
                whole(inner, child, (*path, part), removed)
            else:
                walk(inner, news[part][0], child, (*path, part))
        for part, (inner, child) in news.items():
            if part not in olds:
                whole(inner, child, (*path, part), added)

    walk(old, new, node, ())
    return Difference(frozenset(added), frozenset(modified), frozenset(removed))
