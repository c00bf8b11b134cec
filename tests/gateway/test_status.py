"""What the operator is told of a gateway that does not do what it was told."""

from dataclasses import replace
from typing import Any

import pytest

from tests.gateway.states import model, state
from vllm_operator.api.names import Key
from vllm_operator.gateway.render import AUTHENTICATION, CLUSTER, EXTENSION, LIMITS, ROUTES
from vllm_operator.gateway.state import Endpoint
from vllm_operator.gateway.status import describe_rejected, describe_status
from vllm_operator.gateway.xds import Rejection
from vllm_operator.reconcile.gateway_watch import read_answer

A, B = "model/ml/a", "model/ml/b"
GOES_ON = "and goes on with what it had"


def told(*rejections: Rejection, used: list[str] | None = None, **problems: str) -> dict[str, Any]:
    return describe_rejected(
        rejections, {Key("ml", name): text for name, text in problems.items()}, published=[A, B], used=used
    )


def refused(kind: str, *names: str) -> Rejection:
    return Rejection(kind, names, "1")


def test_nothing_is_wrong() -> None:
    assert told() == {"all": None, "models": {}}


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [
        (ROUTES, "names/3", "routes of models"),
        (EXTENSION, AUTHENTICATION, "the callers' keys"),
        (EXTENSION, LIMITS, "the limits of keys"),
    ],
)
def test_what_belongs_to_all_is_told_of_all(kind: str, name: str, what: str) -> None:
    assert told(refused(kind, name)) == {"all": f"Envoy has not taken {what} {GOES_ON}", "models": {}}


def test_clusters_that_are_refused_are_those_that_envoy_has_not() -> None:
    """It asks for all of them at once, and does not say which it does not like."""
    assert told(refused(CLUSTER), used=["xds", A]) == {"all": None, "models": {"ml/b": "Envoy has not taken it"}}


def test_of_clusters_that_it_has_those_are_meant_that_have_changed() -> None:
    changed = replace(refused(CLUSTER), changed=frozenset({A}))
    changes = f"Envoy has not taken what has changed {GOES_ON}"
    assert told(changed, used=["xds", A, B]) == {"all": None, "models": {"ml/a": changes}}
    assert told(changed, used=["xds", B]) == {"all": None, "models": {"ml/a": "Envoy has not taken it"}}
    assert told(changed, used=None) == {"all": None, "models": {"ml/a": changes}}
    # One model must not make all others say that they are not served.
    assert told(refused(CLUSTER), used=None) == {"all": None, "models": {}}


def test_the_cluster_of_an_adapter_is_told_of_its_model() -> None:
    found = describe_rejected([refused(CLUSTER)], {}, published=[A, f"{A}/sql", B], used=["xds", A, B])
    assert found == {"all": None, "models": {"ml/a": "Envoy has not taken it"}}
    assert read_answer(found).models == {Key("ml", "a"): "Envoy has not taken it"}


def test_a_cluster_that_is_not_there_yet_is_no_refusal() -> None:
    assert told(used=["xds", A]) == {"all": None, "models": {}}


def test_people_see_what_could_not_be_told() -> None:
    shown = state(model("a", Endpoint("x", 1), namespace="ml"), model("b", namespace="ml", waiting="Starting"))
    found = describe_status(shown, [], [refused(ROUTES, "others")], {Key("ml", "a"): "it is bad"})
    assert [each["waiting"] for each in found["models"]] == ["it is bad", "Starting"]
    assert found["rejected"] == ["RouteConfiguration others", "ml/a: it is bad"]
