"""Which model answers to which name."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.states import model
from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import Names, adapter_of, decide_names, own_name


def shares(names: Names, name: str) -> dict[str, int]:
    return {share.model.key.name: share.weight for share in names.owners[name]}


def test_the_older_keeps_the_name() -> None:
    young = model("young", served_model_names=("chat", "other"), created="2026-02-01T00:00:00Z")
    old = model("old", served_model_names=("chat",), created="2026-01-01T00:00:00Z")
    names = decide_names([young, old])
    assert shares(names, "chat") == {"old": 1}
    assert shares(names, "other") == {"young": 1}
    assert names.taken == {young.key: {"chat": old.key}}


def test_the_long_name_is_always_the_models_own() -> None:
    thief = model("thief", served_model_names=("models/victim",), created="2026-01-01T00:00:00Z")
    victim = model("victim", served_model_names=("victim",), created="2026-02-01T00:00:00Z")
    names = decide_names([thief, victim])
    assert shares(names, "models/victim") == {"victim": 1}
    assert names.taken == {thief.key: {"models/victim": victim.key}}


def test_an_adapter_has_names_as_a_model_has() -> None:
    """The older of those who want a name has it, whether it is a model's or an adapter's."""
    base = model("base", created="2026-01-01T00:00:00Z")
    other = model("other", created="2026-02-01T00:00:00Z", served_model_names=("sql",))
    oldest = model("oldest", created="2025-01-01T00:00:00Z", served_model_names=("law",))
    sql, law = adapter_of(base, "sql"), adapter_of(base, "law")
    names = decide_names([other, sql, law, base, oldest])
    assert shares(names, "sql") == shares(names, "models/base/sql") == {"base/sql": 1}
    assert shares(names, "law") == {"oldest": 1}
    assert shares(names, "models/base/law") == {"base/law": 1}
    assert names.taken == {other.key: {"sql": sql.key}, law.key: {"law": oldest.key}}


def test_weights_share_a_name() -> None:
    first = model("first", served_model_names=("chat",), created="1", weight=9)
    second = model("second", served_model_names=("chat",), created="2", weight=1)
    without = model("without", served_model_names=("chat",), created="3")
    names = decide_names([without, second, first])
    assert shares(names, "chat") == {"first": 9, "second": 1}
    assert names.taken == {without.key: {"chat": first.key}}
    assert shares(decide_names([first, model("x", served_model_names=("chat",), created="0")]), "chat") == {"x": 1}


def test_no_share_is_drawn_from_another_namespace_or_past_a_key() -> None:
    """Whoever may make models elsewhere must not see these callers' prompts, nor these callers what is not theirs."""
    a, b = Key("team-a", "keys"), Key("team-b", "keys")
    own = model("own", served_model_names=("chat",), created="1", weight=1, callers=frozenset({a}))
    thief = model("thief", namespace="evil", served_model_names=("chat",), created="2", weight=1000)
    narrow = model("narrow", served_model_names=("chat",), created="2", weight=1, callers=frozenset({b}))
    wide = model("wide", served_model_names=("chat",), created="2", weight=1, callers=frozenset({a, b}))
    names = decide_names([own, thief, narrow, wide])
    assert shares(names, "chat") == {"own": 1, "wide": 1}
    assert names.taken == {thief.key: {"chat": own.key}, narrow.key: {"chat": own.key}}
    everybody = model("own", served_model_names=("chat",), created="1", weight=1)
    assert shares(decide_names([everybody, narrow]), "chat") == {"own": 1}


def test_no_share_at_all_is_equal_shares() -> None:
    pair = [model(name, served_model_names=("chat",), weight=0) for name in ("a", "b")]
    assert shares(decide_names(pair), "chat") == {"a": 1, "b": 1}


MODELS = st.lists(
    st.builds(
        lambda name, namespace, served, created, weight: model(
            name, namespace=namespace, served_model_names=tuple(served), created=created, weight=weight
        ),
        st.sampled_from("abcd"),
        st.sampled_from(["n", "m"]),
        st.lists(st.sampled_from(["chat", "a", "n/a", "m/b"]), min_size=1, max_size=3),
        st.sampled_from(["1", "2"]),
        st.none() | st.integers(0, 3),
    ),
    max_size=6,
    unique_by=lambda each: each.key,
)


@given(models=MODELS, seed=st.integers())
def test_every_name_has_an_owner_whatever_the_order(models: list, seed: int) -> None:
    names = decide_names(models)
    shuffled = list(models)
    random.Random(seed).shuffle(shuffled)
    assert decide_names(shuffled) == names
    for each in models:
        assert [share.model for share in names.owners[own_name(each.key)]] == [each]
        for name in each.served_model_names:
            mine = each in [share.model for share in names.owners[name]]
            assert mine != (name in names.taken.get(each.key, {}))
    assert all(isinstance(other, Key) for taken in names.taken.values() for other in taken.values())
