"""Revisions: which are a model's, which is wanted, which go."""

from typing import Any

import pytest

from vllm_operator.api.names import ANNOTATION_INPUTS
from vllm_operator.reconcile.revisions import (
    Pinned,
    find,
    inputs_hash,
    is_owned,
    next_number,
    read_revisions,
    superfluous,
)


def obj(name: str, number: int, *, uid: str = "u", inputs: str = "", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid of {name}",
            "annotations": {ANNOTATION_INPUTS: inputs or name},
            "ownerReferences": [{"uid": uid, "controller": True}],
            **metadata,
        },
        "revision": number,
        "data": {"deployment": {"spec": {}}, "templateHash": "h"},
    }


def test_oldest_first_and_only_our_own() -> None:
    found = read_revisions(
        [
            obj("c", 10),
            obj("a", 2),
            obj("foreign", 3, uid="other"),
            obj("going", 4, deletionTimestamp="2026-01-01T00:00:00Z"),
            obj("ownerless", 5, ownerReferences=[]),
            {**obj("empty", 6), "data": {"something": "else"}},
            {**obj("nothing", 7), "data": None},
        ],
        uid="u",
    )
    assert [(pinned.name, pinned.number, pinned.inputs_hash, pinned.uid) for pinned in found] == [
        ("a", 2, "a", "uid of a"),
        ("c", 10, "c", "uid of c"),
    ]
    assert found[0].deployment == {"spec": {}}
    assert found[0].template_hash == "h"


@pytest.mark.parametrize(
    ("owners", "owned"),
    [
        ([{"uid": "u", "controller": True}], True),
        ([{"uid": "x"}, {"uid": "u", "controller": True}], True),
        ([{"uid": "u"}], False),
        ([{"uid": "u", "controller": False}], False),
        ([{"uid": "x", "controller": True}], False),
        ([], False),
        (None, False),
    ],
)
def test_is_owned(owners: Any, owned: bool) -> None:
    assert is_owned({"metadata": {"ownerReferences": owners}}, "u") is owned


REVISIONS = [Pinned(name, number, name, {}) for number, name in enumerate("abcd", start=1)]


def test_find_takes_the_newest_with_these_inputs() -> None:
    twice = [*REVISIONS, Pinned("again", 9, "b", {})]
    found = find(twice, "b")
    assert found is not None
    assert found.name == "again"
    assert find(REVISIONS, "z") is None


def test_next_number() -> None:
    assert next_number([]) == 1
    assert next_number(REVISIONS) == 5
    assert next_number([Pinned("x", 40, "x", {}), REVISIONS[0]]) == 41


@pytest.mark.parametrize(
    ("current", "limit", "gone"), [("d", 3, ""), ("d", 2, "a"), ("d", 1, "ab"), ("a", 1, "bc"), ("d", 10, "")]
)
def test_superfluous_are_the_oldest_and_never_the_current(current: str, limit: int, gone: str) -> None:
    assert "".join(pinned.name for pinned in superfluous(REVISIONS, current=current, limit=limit)) == gone


def test_inputs_hash_depends_on_all_of_it_and_on_no_order() -> None:
    base = inputs_hash("n", {"a": 1, "b": {"c": 2, "d": 3}}, {"Secret/x": "1"})
    assert inputs_hash("n", {"b": {"d": 3, "c": 2}, "a": 1}, {"Secret/x": "1"}) == base
    others = [
        inputs_hash("m", {"a": 1, "b": {"c": 2, "d": 3}}, {"Secret/x": "1"}),
        inputs_hash("n", {"a": 1, "b": {"c": 2, "d": 4}}, {"Secret/x": "1"}),
        inputs_hash("n", {"a": 1, "b": {"c": 2, "d": 3}}, {"Secret/x": "2"}),
        inputs_hash("n", {"a": 1, "b": {"c": 2, "d": 3}}, {}),
    ]
    assert len({base, *others}) == 5
