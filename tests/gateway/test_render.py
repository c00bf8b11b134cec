"""What Envoy is told."""

import itertools
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.matching import Request, find_route, list_routes
from tests.gateway.states import ALICE, BOB, TEAM_A, TEAM_B, model, state
from vllm_operator.api.endpoint import Server
from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import Names
from vllm_operator.gateway.render import CLUSTER, EXTENSION, ROUTES, describe, render
from vllm_operator.gateway.scripts import OTHERS
from vllm_operator.gateway.state import ApiKey, Endpoint, External, GatewayModel

TEAM_C = Key("team-c", "keys")
POD, OTHER = Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000)


def routes(*models: Any, **fields: Any) -> dict[str, dict[str, Any]]:
    return list_routes(*render(state(*models, **fields)).by_type[ROUTES].values())


def message(route: dict[str, Any]) -> str:
    return str(body(route)["error"]["message"])


def body(route: dict[str, Any]) -> dict[str, Any]:
    """What a fixed answer says, for Envoy to format."""
    form = route["direct_response"]["body_format"]
    if "json_format" in form:
        return dict(form["json_format"])
    assert form["content_type"] == "application/json"
    return dict(json.loads(form["text_format_source"]["inline_string"]))


def test_one_model() -> None:
    found = render(state(model("qwen", POD, OTHER, upstream_key="up-secret")))
    assert list(found.by_type[CLUSTER]) == ["model/models/qwen"]
    cluster = found.by_type[CLUSTER]["model/models/qwen"]
    (locality,) = cluster["load_assignment"]["endpoints"]
    assert [each["endpoint"]["address"]["socket_address"]["address"] for each in locality["lb_endpoints"]] == [
        "10.0.0.1",
        "10.0.0.2",
    ]
    assert "Bearer up-secret" in json.dumps(cluster)


def test_keys_are_only_where_they_are_needed() -> None:
    found = render(state(model("qwen", POD, upstream_key="up-secret", callers=frozenset({TEAM_A}))))
    assert "up-secret" not in json.dumps({kind: each for kind, each in found.by_type.items() if kind != CLUSTER})
    shown = json.dumps({kind: each for kind, each in found.by_type.items() if kind != EXTENSION})
    for value in (ALICE.value, BOB.value):
        assert value not in shown
    for value in ("up-secret", ALICE.value, BOB.value):
        assert value not in repr(state(model("qwen", upstream_key="up-secret")))


def test_a_model_without_pods_has_no_endpoints() -> None:
    found = render(state(model("qwen")))
    assert found.by_type[CLUSTER]["model/models/qwen"]["load_assignment"]["endpoints"] == []


def left_out(bad: GatewayModel) -> str:
    """Why a model is left out of what Envoy is told of models; it answers 503 with that, and all the rest is as without it."""
    good = model("good", POD, upstream_key="up-secret", callers=frozenset({TEAM_A}))
    alone, found = render(state(good)), render(state(good, bad))
    assert found.by_type[CLUSTER] == alone.by_type[CLUSTER]
    (text,) = found.problems.values()
    assert found.problems == {bad.key: text}
    assert alone.problems == {}
    by_name = list_routes(*found.by_type[ROUTES].values())
    asked = {name.rpartition("/")[2]: route for name, route in by_name.items() if name.startswith("ask/")}
    assert asked[bad.key.name]["direct_response"]["status"] == 503
    assert message(asked[bad.key.name]).endswith(f"does not answer now: {text}".replace("%", "%%"))
    assert body(by_name[f"show/{bad.key.name}"])["ready"] is False
    assert asked["good"]["route"]["cluster"] == "model/models/good"
    return text


@pytest.mark.parametrize("endpoint", [Endpoint("evil.example.com", 80), Endpoint("10.0.0.1", 0), Endpoint("", 80)])
def test_what_is_no_address_is_refused(endpoint: Endpoint) -> None:
    assert left_out(model("qwen", endpoint)).endswith("is no address of a pod")


@pytest.mark.parametrize("key", ["line\nbreak", "caf\u00e9", "nul\0"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str) -> None:
    text = left_out(model("qwen", POD, upstream_key=key))
    assert "the key that its vLLM asks for" in text
    assert key not in text


def test_a_model_that_cannot_be_told_keeps_its_names_and_has_its_fallback() -> None:
    bad = Endpoint("evil.example.com", 80)
    older = model("older", bad, served_model_names=("chat",), created="1", fallback=Key("models", "good"))
    younger = model("younger", POD, served_model_names=("chat",), created="2")
    found = routes(older, younger, model("good", POD))
    assert found["ask/chat"]["route"]["cluster"] == "model/models/good"
    assert found["ask/models/younger"]["route"]["cluster"] == "model/models/younger"
    # Nor does it stand in for anybody.
    waiting = model("waiting", waiting="Starting", fallback=Key("models", "older"))
    alone = replace(older, fallback=None)
    assert message(routes(alone, waiting)["ask/models/waiting"]).endswith("Starting")


def test_servers_outside() -> None:
    def cluster(**fields: Any) -> dict[str, Any]:
        found = render(state(model("gpt", POD, external=External(server=Server(**fields)))))
        return dict(found.by_type[CLUSTER]["model/models/gpt"])

    def host(**fields: Any) -> str:
        return str(
            routes(model("gpt", POD, external=External(server=Server(**fields))))["ask/gpt"]["route"][
                "host_rewrite_literal"
            ]
        )

    assert "health_checks" not in cluster(host="a")
    assert "transport_socket" not in cluster(host="a", tls=False)
    assert cluster(host="a.example.com")["transport_socket"]["typed_config"]["sni"] == "a.example.com"
    assert "sni" not in cluster(host="2001:db8::1")["transport_socket"]["typed_config"]
    assert host(host="a") == host(host="a", port=80, tls=False) == "a"
    assert host(host="a", port=80) == "a:80"
    assert host(host="2001:db8::1", port=8443) == "[2001:db8::1]:8443"
    # Both are values: a state can be compared with the one before.
    assert External(server=Server("a"), model_names={"x": "y"}) == External(server=Server("a"), model_names={"x": "y"})
    assert hash(model("gpt", external=External(server=Server("a"), model_names={"x": "y"})))


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ({"requests_per_minute": 0}, "0 requests per minute are no limit"),
        ({"concurrent_requests": 0}, "0 requests at the same time are no limit"),
    ],
)
def test_a_limit_of_nothing_is_refused(limit: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=f"team-a/keys/demo: {problem}"):
        render(state(keys=(ApiKey(TEAM_A, "demo", "sk-demo", **limit),)))


def test_only_keys_with_a_limit_of_requests_at_the_same_time_are_counted() -> None:
    def rendered(limit: int | None) -> Any:
        key = ApiKey(TEAM_A, "demo", "sk-demo", concurrent_requests=limit)
        return render(state(model("qwen", POD), keys=(ALICE, key))).by_type

    plain, counted = rendered(None), rendered(8)
    assert "limit/" not in json.dumps(plain)
    assert "counted" not in json.dumps(plain)
    name = "limit/team-a/keys/demo"
    assert counted[CLUSTER].keys() - plain[CLUSTER].keys() == {name}
    (threshold,) = counted[CLUSTER][name]["circuit_breakers"]["thresholds"]
    assert threshold["max_requests"] == 8
    (host,), (before,) = (each[ROUTES][OTHERS]["virtual_hosts"] for each in (counted, plain))
    assert _names(host) == {"counted", *_names(before)}
    request = Request("/v1/completions", client="team-a/keys/demo", headers={"x-vllm-route": "counted"})
    assert find_route(counted[ROUTES], request) == "counted"
    assert find_route(plain[ROUTES], request) == "nothing/team-a/keys"
    assert host["typed_per_filter_config"]["counted"]["filter_context"] == {"team-a/keys/demo": name}


def _names(host: dict[str, Any]) -> set[str]:
    return set(list_routes({"virtual_hosts": [host]}))


def test_waiting_is_told() -> None:
    found = routes(model("qwen", waiting="Starting: 40 % of 1 pod", retry_after=30))
    answer = found["ask/models/qwen"]
    assert answer["direct_response"]["status"] == 503
    # Percent signs are Envoy's commands.
    assert message(answer) == "The model `%DYNAMIC_METADATA(vllm:model)%` does not answer now: Starting: 40 %% of 1 pod"
    assert answer["response_headers_to_add"][0]["header"] == {"key": "retry-after", "value": "30"}


def test_names_that_vllm_does_not_know_are_replaced() -> None:
    def renamed(*names: str) -> Any:
        answer = routes(model("qwen", POD, served_model_names=names))
        found = {name.removeprefix("ask/"): each for name, each in answer.items() if "route" in each}
        context = {
            name: each.get("typed_per_filter_config", {}).get("rewrite", {}).get("filter_context")
            for name, each in found.items()
        }
        return {name: each for name, each in context.items() if each is not None}

    assert renamed("chat", "qwen") == {"models/qwen": {"name": "chat"}}
    assert renamed("chat", "models/qwen") == {}
    assert renamed() == {}


def test_each_model_is_asked_for_what_it_takes() -> None:
    def context(change: dict[str, Any]) -> Any:
        return change.get("typed_per_filter_config", {}).get("rewrite", {}).get("filter_context")

    def wanted(**fields: Any) -> Any:
        return context(routes(model("qwen", POD, served_model_names=(), **fields))["ask/models/qwen"])

    assert wanted(clamp_max_tokens=True, max_model_len=4096) == {"max_model_len": 4096}
    assert wanted(drop_tools=True, max_model_len=4096) == {"drop_tools": True}
    assert wanted(clamp_max_tokens=True) is None
    assert wanted(max_model_len=4096) is None
    # Of models that share a name, and of one that stands in for another, what counts is who answers.
    pair = [
        model(
            name, POD, served_model_names=("chat",), created=name, weight=1, max_model_len=length, clamp_max_tokens=True
        )
        for name, length in (("1", 4096), ("2", 8192))
    ]
    found = routes(*pair, model("waits", waiting="Starting", fallback=Key("models", "2"), drop_tools=True))
    clusters = found["ask/chat"]["route"]["weighted_clusters"]["clusters"]
    assert [context(each) for each in clusters] == [{"max_model_len": 4096}, {"max_model_len": 8192}]
    for name in ("waits", "models/waits"):
        assert context(found[f"ask/{name}"]) == {"name": "chat", "max_model_len": 8192}


def test_weights() -> None:
    pair = [
        model(name, POD, served_model_names=("chat",), created=str(index), weight=weight)
        for index, (name, weight) in enumerate((("old", 9), ("new", 1)))
    ]
    (shared,) = [route for route in routes(*pair).values() if "weighted_clusters" in route.get("route", {})]
    assert [(each["name"], each["weight"]) for each in shared["route"]["weighted_clusters"]["clusters"]] == [
        ("model/models/old", 9),
        ("model/models/new", 1),
    ]
    # Nobody is sent to a model that does not serve.
    waiting = [pair[0], model("new", served_model_names=("chat",), created="1", weight=1, waiting="Starting")]
    assert not [route for route in routes(*waiting).values() if "weighted_clusters" in route.get("route", {})]


def test_shares_of_those_that_serve_are_never_nothing() -> None:
    """Envoy takes no routes at all where shares add up to 0, and the one that has all of it may be away."""
    found = routes(
        *(
            model(name, POD, served_model_names=("chat",), created=name, weight=weight, waiting=waiting)
            for name, weight, waiting in (("1", 100, "Starting"), ("2", 0, None), ("3", 0, None))
        )
    )
    (shared,) = [route for route in found.values() if "weighted_clusters" in route.get("route", {})]
    assert [each["weight"] for each in shared["route"]["weighted_clusters"]["clusters"]] == [1, 1]


A_AND_B, ONLY_A, NOBODY = frozenset({TEAM_A, TEAM_B}), frozenset({TEAM_A}), frozenset[Key]()


@pytest.mark.parametrize(
    ("callers", "callers_of_fallback", "used"),
    [
        (None, None, True),
        (ONLY_A, None, True),
        (ONLY_A, ONLY_A, True),
        (ONLY_A, A_AND_B, True),
        (None, A_AND_B, False),
        (A_AND_B, ONLY_A, False),
        (ONLY_A, NOBODY, False),
    ],
)
def test_a_fallback_opens_nothing(
    callers: frozenset[Key] | None, callers_of_fallback: frozenset[Key] | None, used: bool
) -> None:
    found = routes(
        model("a", waiting="Starting", fallback=Key("models", "b"), callers=callers),
        model("b", POD, callers=callers_of_fallback),
    )
    answer = found["ask/a"]
    assert ("route" in answer) == used
    if used:
        assert answer["route"]["cluster"] == "model/models/b"
        assert answer["metadata"]["filter_metadata"]["vllm"] == {"model": "models/a", "fallback": "models/b"}


def chain(*names: str, **fields: Any) -> list[Any]:
    """Models that wait, each with the next as its fallback."""
    return [
        model(name, waiting="Starting", fallback=Key("models", following), **fields)
        for name, following in itertools.pairwise(names)
    ]


def test_fallbacks_of_fallbacks() -> None:
    def cluster(*models: Any) -> str | None:
        found: str | None = routes(*models)["ask/a"].get("route", {}).get("cluster")
        return found

    assert cluster(*chain("a", "b", "c", "d"), model("d", POD)) == "model/models/d"
    assert cluster(*chain("a", "b", "c", "d", "e"), model("e", POD)) is None
    assert cluster(*chain("a", "b", "a")) is None
    assert cluster(*chain("a", "a")) is None
    assert cluster(*chain("a", "not-there")) is None
    # A model that serves answers itself.
    assert cluster(model("a", POD, fallback=Key("models", "b")), model("b", OTHER)) == "model/models/a"


def test_who_is_told_of_what() -> None:
    found = routes(model("open"), model("for-a", callers=frozenset({TEAM_A})), model("for-nobody", callers=frozenset()))

    def listed(audience: str) -> list[str]:
        return [each["id"] for each in body(found[f"list/{audience}"])["data"]]

    assert listed("team-a/keys") == ["for-a", "open"]
    assert listed("team-b/keys") == ["open"]
    assert listed("none") == ["open"]
    assert "`for-a`" in message(found["unknown/team-a/keys"])
    assert "`for-a`" not in message(found["unknown/team-b/keys"])
    assert found["unknown/none"]["direct_response"]["status"] == 401
    assert routes(model("open"), keys=())["unknown/none"]["direct_response"]["status"] == 404
    assert "ask/for-nobody" not in found


OWN, SHARED = ["x", "y", "z"], ["chat", "code", "a/b:c@d", "__none__", "%"]
CALLERS = [frozenset(each) for count in range(4) for each in itertools.combinations((TEAM_A, TEAM_B, TEAM_C), count)]
MODELS = st.builds(
    model,
    st.sampled_from(OWN),
    st.just(POD),
    namespace=st.sampled_from(["x", "models"]),
    served_model_names=st.lists(st.sampled_from(SHARED), max_size=3, unique=True).map(tuple),
    created=st.sampled_from(["1", "2"]),
    callers=st.none() | st.sampled_from(CALLERS),
    waiting=st.none() | st.just("Starting"),
    weight=st.none() | st.integers(0, 2),
)
NAMES = [*SHARED, *OWN, "x/x", "models/x", "models/y", "chat ", "", "é", "-", "__error__", "ask/chat"]
REQUESTS = st.builds(
    Request,
    st.sampled_from(["/v1/completions"]),
    client=st.none() | st.sampled_from([f"{each}/k" for each in (TEAM_A, TEAM_B, TEAM_C)]),
    model=st.none() | st.sampled_from(NAMES),
) | st.builds(
    Request,
    st.sampled_from(["/", "/v1/models", "/v1/models/", *(f"/v1/models/{name}" for name in NAMES)]),
    method=st.sampled_from(["GET", "POST", "HEAD"]),
    client=st.none() | st.sampled_from([f"{each}/k" for each in (TEAM_A, TEAM_B, TEAM_C)]),
)


@given(models=st.lists(MODELS, max_size=6, unique_by=lambda each: each.key), requests=st.lists(REQUESTS, min_size=8))
def test_requests_get_what_a_list_of_all_routes_would_give_them(
    models: list[GatewayModel], requests: list[Request]
) -> None:
    """The keys of team C have come later than the routes."""
    resources = render(state(*models, keys=(ALICE, BOB)))
    for request in requests:
        expected = by_list(resources.names, request, audiences=(TEAM_A, TEAM_B))
        assert find_route(resources.by_type[ROUTES], request) == expected, request


def by_list(names: Names, request: Request, *, audiences: tuple[Key, ...]) -> str | None:
    """Name of the route, if each were tried in turn: those of models, then those of each audience."""
    get, asks = request.method == "GET", request.model is not None
    for name, shares in names.owners.items():
        callers = shares[0].model.callers
        # No request can name it: the API takes no such name.
        if name in ("%", "__none__") or not (
            callers is None or any((request.client or "").startswith(f"{each}/") for each in callers)
        ):
            continue
        if request.model == name:
            return f"ask/{name}"
        if get and request.path == f"/v1/models/{name}":
            return f"show/{name}"
    theirs = [str(each) for each in audiences if (request.client or "").startswith(f"{each}/")]
    (suffix,) = ["none"] if request.client is None else theirs or [""]
    kinds = {
        "list": get and request.path == "/v1/models",
        "no-model": request.model == "__none__",
        "no-json": request.model == "__error__",
        "unknown": asks,
        "unknown-one": get and request.path.startswith("/v1/models/"),
        "nothing": True,
    }
    return f"{next(kind for kind, right in kinds.items() if right)}/{suffix}" if suffix else None


def test_many_names_are_not_all_in_a_message() -> None:
    found = routes(*(model(f"m{number:03}") for number in range(120)))
    assert "`m049` and 70 more (GET /v1/models)" in message(found["unknown/none"])


def test_a_model_that_has_lost_its_names_is_listed_by_its_own() -> None:
    found = routes(model("old", served_model_names=("chat",), created="1"), model("new", served_model_names=("chat",)))
    assert [each["id"] for each in body(found["list/none"])["data"]] == ["chat", "models/new"]


def test_description() -> None:
    assert describe("chat", model("qwen", max_model_len=4096, waiting="Starting")) == {
        "id": "chat",
        "object": "model",
        "owned_by": "models",
        "root": "models/qwen",
        "max_model_len": 4096,
        "ready": False,
    }


@given(seed=st.integers())
def test_the_order_does_not_matter(seed: int) -> None:
    models = [
        model(name, POD, OTHER, callers=callers, upstream_key=name)
        for name in "abc"
        for callers in ([None] if name == "a" else [frozenset({TEAM_A, TEAM_B})])
    ]
    keys = [ALICE, BOB]
    before = render(state(*models, keys=tuple(keys)))
    rng = random.Random(seed)
    rng.shuffle(models)
    rng.shuffle(keys)
    after = render(state(*models, keys=tuple(keys)))
    assert json.dumps(before.by_type) == json.dumps(after.by_type)
    assert before.by_type == after.by_type
