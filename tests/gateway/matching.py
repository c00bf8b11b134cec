"""How Envoy finds a request's route, as far as what is rendered needs it; tests/gateway/test_envoy.py asks Envoy itself."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_operator.gateway.scripts import (
    ASK,
    ASKING,
    CLIENT_HEADER,
    ELSEWHERE,
    NAMESPACE,
    OTHERS,
    ROUTE_HEADER,
    SHOW,
    part_of,
)

JSONObject = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What is known of a request when its route is looked for."""

    path: str
    method: str = "POST"
    client: str | None = None
    """Who asks, by the key."""
    model: str | None = None
    """What the body names; None: this is no request for a model."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those that the scripts make, besides."""

    @property
    def noted(self) -> dict[str, str]:
        """Its metadata."""
        return {} if self.model is None else {"path": ASKING, "model": self.model}

    @property
    def all_headers(self) -> dict[str, str]:
        client = {} if self.client is None else {CLIENT_HEADER: self.client}
        return {":method": self.method, **client, **_lead(self), **self.headers}


def _lead(request: Request) -> dict[str, str]:
    """What the script `model` says of the route."""
    name, kind = request.model, ASK
    if name is None and request.method == "GET" and request.path.startswith("/v1/models/"):
        name, kind = request.path.removeprefix("/v1/models/"), SHOW
    if name is None or not re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9._/:@]*", name):
        return {}
    return {ROUTE_HEADER: f"{kind}{name}"}


def list_routes(*configurations: JSONObject) -> dict[str, JSONObject]:
    """Name → route."""
    hosts = [host for each in configurations for host in each["virtual_hosts"]]
    return {route["name"]: route for host in hosts for route in _routes(host["matcher"])}


def _routes(found: Any) -> Iterator[JSONObject]:
    if isinstance(found, list):
        for each in found:
            yield from _routes(each)
    elif isinstance(found, dict) and found.get("@type", "").endswith(".Route"):
        yield found
    elif isinstance(found, dict) and found.get("@type", "").endswith(".RouteList"):
        yield from found["routes"]
    elif isinstance(found, dict):
        for each in found.values():
            yield from _routes(each)


def find_route(configurations: Mapping[str, JSONObject], request: Request) -> str | None:
    """Name of the route that a request takes: in the part that its name is of, or, where there is none for it, in the others."""
    wanted = request.all_headers.get(ROUTE_HEADER, "")
    found = None
    if wanted.startswith((ASK, SHOW)):
        found = _find(configurations[part_of(wanted.partition("/")[2])], request)
    if found in (None, ELSEWHERE):
        assert found is not None or not wanted.startswith((ASK, SHOW)), "a part says something of every name"
        found = _find(configurations[OTHERS], request)
    return found


def _find(configuration: JSONObject, request: Request) -> str | None:
    (host,) = configuration["virtual_hosts"]
    action = _decide(host["matcher"], request)
    if action is None:
        return None
    config = action["typed_config"]
    routes = config["routes"] if config["@type"].endswith(".RouteList") else [config]
    return next((route["name"] for route in routes if _matches(route["match"], request)), None)


def _decide(matcher: JSONObject, request: Request) -> JSONObject | None:
    """The action; a matcher within that says no leaves it to those behind it."""
    candidates = []
    if "matcher_list" in matcher:
        listed = matcher["matcher_list"]["matchers"]
        candidates = [each["on_match"] for each in listed if _says(each["predicate"], request)]
    elif "matcher_tree" in matcher:
        tree = matcher["matcher_tree"]
        value = _read(tree["input"], request)
        if value is not None and "exact_match_map" in tree:
            candidates = [each for key, each in tree["exact_match_map"]["map"].items() if key == value]
        elif value is not None:
            found = tree["prefix_match_map"]["map"].items()
            candidates = [each for key, each in sorted(found, reverse=True) if value.startswith(key)]
    if "on_no_match" in matcher:
        candidates.append(matcher["on_no_match"])
    for each in candidates:
        action = each["action"] if "action" in each else _decide(each["matcher"], request)
        if action is not None:
            return dict(action)
    return None


def _says(predicate: JSONObject, request: Request) -> bool:
    if "or_matcher" in predicate:
        return any(_says(each, request) for each in predicate["or_matcher"]["predicate"])
    single = predicate["single_predicate"]
    value = _read(single["input"], request)
    return value is not None and value.startswith(single["value_match"]["prefix"])


def _read(where: JSONObject, request: Request) -> str | None:
    return request.all_headers.get(where["typed_config"]["header_name"])


def _matches(match: JSONObject, request: Request) -> bool:
    if not (request.path == match["path"] if "path" in match else request.path.startswith(match["prefix"])):
        return False
    for each in match.get("headers", []):
        value = request.all_headers.get(each["name"])
        if value is not None if "present_match" in each else value != each["string_match"]["exact"]:
            return False
    return all(
        each["filter"] == NAMESPACE
        and request.noted.get(each["path"][0]["key"]) == each["value"]["string_match"]["exact"]
        for each in match.get("dynamic_metadata", [])
    )
