"""What the operator is told of a gateway that does not do what it was told."""

from typing import Any

import pytest

from tests.gateway.states import model, state
from vllm_operator.api.names import Key
from vllm_operator.gateway.render import AUTHENTICATION, CLUSTER, ENDPOINTS, EXTENSION, LIMITS, ROUTES, SECRET
from vllm_operator.gateway.state import Endpoint
from vllm_operator.gateway.status import describe_rejected, describe_status
from vllm_operator.gateway.xds import Rejection

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


def test_what_belongs_to_a_model_is_told_of_it() -> None:
    found = told(refused(ENDPOINTS, A), refused(SECRET, A), refused(SECRET, B), b="it is bad")
    pods, key = (
        f"Envoy has not taken {what} {GOES_ON}"
        for what in ("the addresses of its pods", "the key that its vLLM asks for")
    )
    assert found == {"all": None, "models": {"ml/a": f"{pods}; {key}", "ml/b": f"{key}; it is bad"}}


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [
        (ROUTES, "models", "the routes of all models"),
        (EXTENSION, AUTHENTICATION, "the callers' keys"),
        (EXTENSION, LIMITS, "the limits of keys"),
    ],
)
def test_what_belongs_to_all_is_told_of_all(kind: str, name: str, what: str) -> None:
    assert told(refused(kind, name)) == {"all": f"Envoy has not taken {what} {GOES_ON}", "models": {}}


def test_clusters_that_are_refused_are_those_that_envoy_has_not() -> None:
    """It asks for all of them at once, and does not say which it does not like."""
    assert told(refused(CLUSTER), used=["xds", A]) == {"all": None, "models": {"ml/b": "Envoy has not taken it"}}


@pytest.mark.parametrize("used", [[A, B, "xds"], None], ids=["a change of one that it has", "it does not answer"])
def test_clusters_that_are_refused_and_not_known_concern_all(used: list[str] | None) -> None:
    assert told(refused(CLUSTER), used=used) == {
        "all": f"Envoy has not taken the cluster of some model {GOES_ON}",
        "models": {},
    }


def test_a_cluster_that_is_not_there_yet_is_no_refusal() -> None:
    assert told(used=["xds", A]) == {"all": None, "models": {}}


def test_people_see_what_could_not_be_told() -> None:
    shown = state(model("a", Endpoint("x", 1), namespace="ml"), model("b", namespace="ml", waiting="Starting"))
    found = describe_status(shown, [], [refused(ROUTES, "models")], {Key("ml", "a"): "it is bad"})
    assert [each["waiting"] for each in found["models"]] == ["it is bad", "Starting"]
    assert found["rejected"] == ["RouteConfiguration models", "ml/a: it is bad"]
