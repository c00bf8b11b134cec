"""Whether a live object still has what we applied."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.reconcile.drift import covers

COVERED: list[tuple[str, Any, Any]] = [
    ("the API server's defaults do not matter", {"a": 1, "default": 2}, {"a": 1}),
    ("defaults deep inside", {"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}),
    ("an empty object may be dropped", {}, {"resources": {}}),
    ("an empty list may be dropped", {}, {"args": []}),
    ("an empty object may be filled", {"emptyDir": {"x": 1}}, {"emptyDir": {}}),
    ("quantities by value", {"limits": {"cpu": "1", "memory": "1Gi"}}, {"limits": {"cpu": "1000m", "memory": "1024Mi"}}),
    ("a quantity written as a number", {"requests": {"cpu": "2"}}, {"requests": {"cpu": 2}}),
    ("sizeLimit is a quantity", {"sizeLimit": "1Gi"}, {"sizeLimit": "1024Mi"}),
    ("a list of objects by name, in any order", {"env": [{"name": "b"}, {"name": "a", "x": 1}]},
     {"env": [{"name": "a", "x": 1}, {"name": "b"}]}),
    ("what others add to a keyed list stays", {"containers": [{"name": "vllm"}, {"name": "sidecar"}]},
     {"containers": [{"name": "vllm"}]}),
    ("mounts by mountPath", {"volumeMounts": [{"name": "b", "mountPath": "/x"}, {"name": "a", "mountPath": "/y"}]},
     {"volumeMounts": [{"name": "a", "mountPath": "/y"}, {"name": "b", "mountPath": "/x"}]}),
    ("one volume mounted twice", {"volumeMounts": [{"name": "a", "mountPath": "/y"}, {"name": "a", "mountPath": "/x"}]},
     {"volumeMounts": [{"name": "a", "mountPath": "/x"}, {"name": "a", "mountPath": "/y"}]}),
    ("owners by uid", {"ownerReferences": [{"uid": "2", "kind": "B"}, {"uid": "1", "kind": "A"}]},
     {"ownerReferences": [{"uid": "1", "kind": "A"}]}),
    ("an index in a list of objects without key", {"rules": [{"matches": [{"path": "/"}], "default": 1}]},
     {"rules": [{"matches": [{"path": "/"}]}]}),
]  # fmt: skip

LACKING: list[tuple[str, Any, Any]] = [
    ("a field that is gone", {}, {"a": 1}),
    ("another value", {"a": 2}, {"a": 1}),
    ("an object that is gone", None, {"a": 1}),
    ("a word where an object was", {"a": "x"}, {"a": {"b": 1}}),
    ("a list where an object was", {"a": []}, {"a": {}}),
    ("a command with a word more", {"command": ["a", "b", "c"]}, {"command": ["a", "b"]}),
    ("a command with a word less", {"command": ["a"]}, {"command": ["a", "b"]}),
    ("a command in another order", {"command": ["b", "a"]}, {"command": ["a", "b"]}),
    ("an element that is gone", {"env": [{"name": "a"}]}, {"env": [{"name": "a"}, {"name": "b"}]}),
    ("an element with another value", {"env": [{"name": "a", "value": "2"}]}, {"env": [{"name": "a", "value": "1"}]}),
    ("a list of objects without key that grew", {"rules": [{"x": 1}, {"x": 2}]}, {"rules": [{"x": 1}]}),
    ("another quantity", {"limits": {"cpu": "2"}}, {"limits": {"cpu": "1"}}),
    ("words are no quantities", {"value": "1000m"}, {"value": "1"}),
    ("no quantity at all", {"limits": {"cpu": "much"}}, {"limits": {"cpu": "1"}}),
    ("a quantity that is gone", {"limits": {}}, {"limits": {"cpu": "1"}}),
    ("true is not false", {"a": True}, {"a": False}),
    ("a whole list that is gone", {}, {"args": ["a"]}),
    ("a selector with a label more", {"selector": {"a": "1", "b": "2"}}, {"selector": {"a": "1"}}),
    ("a selector where all were chosen", {"podSelector": {"matchLabels": {"a": "1"}}}, {"podSelector": {}}),
    (
        "a rule that lets in on one port only",
        {"ingress": [{"from": [{}], "ports": [{}]}]},
        {"ingress": [{"from": [{}]}]},
    ),
]


@pytest.mark.parametrize(("live", "wanted"), [row[1:] for row in COVERED], ids=[row[0] for row in COVERED])
def test_covered(live: Any, wanted: Any) -> None:
    before = copy.deepcopy((live, wanted))
    assert covers(live, wanted)
    assert (live, wanted) == before


@pytest.mark.parametrize(("live", "wanted"), [row[1:] for row in LACKING], ids=[row[0] for row in LACKING])
def test_lacking(live: Any, wanted: Any) -> None:
    assert not covers(live, wanted)


JSON = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcde"), inner, max_size=3),
    max_leaves=12,
)


@given(value=JSON)
def test_everything_covers_itself(value: Any) -> None:
    assert covers(value, copy.deepcopy(value))


@given(value=st.dictionaries(st.sampled_from("abcde"), JSON, min_size=1, max_size=4), data=st.data())
def test_a_changed_leaf_is_seen(value: dict[str, Any], data: st.DataObject) -> None:
    live = copy.deepcopy(value)
    holder: Any = live
    name: Any = data.draw(st.sampled_from(sorted(holder)))
    while isinstance(holder[name], (dict, list)) and holder[name]:
        holder = holder[name]
        name = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    if holder[name] in ({}, []):
        return  # Anything covers what is empty, or nearly so.
    holder[name] = "another"
    assert not covers(live, value)
    assert covers(value, value)
