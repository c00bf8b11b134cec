"""State → Envoy's configuration (xDS v3, as JSON). Pure: the same state gives the same resources, to the letter.

A request's way through Envoy: the key is looked up before anything of the body is read; the body is taken in; its `model` becomes
metadata; the route is looked up by that and by who asks. No name is ever searched for in a body by pattern, and no header that a client
sends decides anything.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import Names, Share, decide_names, own_name
from vllm_operator.gateway.scripts import (
    ASK,
    ASKING,
    CALLER_HEADER,
    CHANGED,
    CLIENT,
    CLIENT_HEADER,
    CLUSTER_HEADER,
    COUNTED_ROUTE,
    DROP_TOOLS,
    ELSEWHERE,
    KEYLESS_HEADER,
    MAX_MODEL_LEN,
    NAMESPACE,
    NO_JSON,
    NO_MODEL,
    OTHERS,
    PART_HEADER,
    PARTS,
    PROMPT,
    ROUTE_HEADER,
    SHOW,
    part_of,
)
from vllm_operator.gateway.state import ApiKey, External, GatewayModel, GatewayState

JSONObject = dict[str, Any]

CLUSTER, SCOPES, ROUTES, EXTENSION = (
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
)
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_ROUTE = "type.googleapis.com/envoy.config.route.v3"
_LUA_PER_ROUTE = f"{_FILTERS}.lua.v3.LuaPerRoute"

AUTHENTICATION, LIMITS, REWRITE_FILTER = "api-keys", "limits", "rewrite"
COUNTED_FILTER, BUFFER_FILTER, MODEL_FILTER = "counted", "buffer", "model"
COUNTED_LISTENER = "counted"
"""Takes, within Envoy, the requests that a cluster has counted, and does with them what is done with others at once."""
MOST_HEADERS, MOST_HEADERS_KIB = 200, 96
"""What it takes of headers, and what is taken of its answers: some more than callers and pods may send, since Envoy adds some."""
FALLBACK_HEADER = "x-vllm-fallback"
"""Says in an answer which model gave it, where that is not the one that was asked."""
CHANGED_HEADER = "x-vllm-changed"
"""Says in an answer what its model was asked otherwise than the client wrote."""
ASKED = "%DYNAMIC_METADATA(vllm:model)%"
"""Envoy's word for the model that the body names."""
KEY_HEADERS = ("authorization", "x-api-key", "api-key", "proxy-authorization")
"""Headers in which keys are sent, to the gateway or by a mistake: no model is told any of them."""
PRIVATE_HEADERS = ("cookie", "x-forwarded-for", "x-envoy-external-address")
"""Headers that servers outside of the cluster are not told."""
MOST_NAMES = 50
"""Names that an error message lists at most."""
REFRESH_DELAY = "0.1s"
"""Pause of Envoy between an answer, or none, and its next question. While the agent is away it asks in vain, which costs 1 ms each."""
MOST_FALLBACKS = 3
"""Steps from a model to its fallback, and from there to that one's; a circle ends there too."""
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
"""The certificates that Envoy's image trusts."""
_REMEMBERED = 2048
"""Models of which what was rendered is kept: nearly all are the same the next time."""
_ADDRESS = re.compile(r"[0-9a-fA-F:.]+")


@dataclass(frozen=True)
class Resources:
    """What Envoy is told, by type and name; and what could not be told."""

    by_type: Mapping[str, Mapping[str, JSONObject]]
    names: Names
    problems: Mapping[Key, str] = field(default_factory=dict)
    """Model → why the gateway cannot serve it. It answers 503 and keeps its names; nobody else is concerned."""


def render(state: GatewayState) -> Resources:
    """All dynamic resources of a state."""
    clusters: dict[str, JSONObject] = {}
    problems: dict[Key, str] = {}
    models = []
    for model in sorted(state.models, key=lambda model: model.key):
        # A model comes before its adapters, as its key does.
        if model.parent is not None and model.parent in problems:
            models.append(replace(model, waiting=problems[model.parent]))
            continue
        if model.shares_pods:
            models.append(model)
            continue
        try:
            cluster = build_cluster(model)
        except ValueError as error:
            problems[model.key] = f"the gateway cannot serve it: {error}"
            models.append(replace(model, waiting=problems[model.key]))
            continue
        models.append(model)
        clusters[cluster_name(model.key)] = cluster
    state = replace(state, models=tuple(models))
    names = decide_names(state.models)
    clusters |= {counter_name(key): build_counter(key) for key in _counted(state)}
    by_type = {
        CLUSTER: clusters,
        EXTENSION: {AUTHENTICATION: build_authentication(state), LIMITS: build_limits(state)},
        SCOPES: build_scopes(),
        ROUTES: build_routes(state, names),
    }
    return Resources(by_type, names, problems)


_OF_MODEL = "model/"


def cluster_name(key: Key) -> str:
    """Name of a model's cluster."""
    return f"{_OF_MODEL}{own_name(key)}"


def cluster_of(model: GatewayModel) -> str:
    """The cluster that leads to a model."""
    return cluster_name(model.parent if model.parent is not None and model.shares_pods else model.key)


def model_of(name: str) -> str:
    """The model, as NAMESPACE/NAME, whose cluster, or cluster of an adapter, has this name."""
    return "/".join(name.removeprefix(_OF_MODEL).split("/")[:2])


def xds_source() -> JSONObject:
    """Where Envoy asks: the agent beside it, by long-polling (the answer is held until something changes)."""
    return {
        "resource_api_version": "V3",
        # Envoy listens when it knows all that it asks for, not after 15 seconds without.
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": ["xds"],
            "refresh_delay": REFRESH_DELAY,
            "request_timeout": "70s",
        },
    }


# ---- clusters


@lru_cache(maxsize=_REMEMBERED)
def build_cluster(model: GatewayModel) -> JSONObject:
    """A model's pods as one cluster, with the key that they ask for. Raises ValueError for what Envoy must not be told.
    Not to be changed.

    Pods and keys are part of it: asked for by themselves, each would be a held question of 80 kB (see xds.py). When a pod comes or goes
    Envoy makes the cluster anew, uses it once its pods have answered health checks, and lets the requests of the one before end.
    """
    cluster: JSONObject = {
        "@type": CLUSTER,
        "name": cluster_name(model.key),
        "type": "STATIC",
        "load_assignment": build_endpoints(model),
        # A connection that is too late fails all requests that wait for one: on a busy node 2 s were too short.
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST" if model.balance == "leastRequest" else "RING_HASH",
        "circuit_breakers": _most_requests(1_000_000),
        "outlier_detection": {
            "consecutive_5xx": 3,
            "consecutive_gateway_failure": 3,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
    }
    if model.external is None:
        cluster["health_checks"] = [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                # Otherwise Envoy says the cluster's name, which is no name of a host.
                "http_health_check": {"path": "/health", "host": "vllm"},
            }
        ]
    elif model.external.server.tls:
        cluster["transport_socket"] = _tls(model.external)
    if model.balance != "leastRequest":
        cluster["common_lb_config"] = {"consistent_hashing_lb_config": {"hash_balance_factor": 150}}
    if model.upstream_key is not None:
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [_show_key(model.upstream_key), _upstream_codec()],
            }
        }
    return cluster


def _most_requests(requests: int) -> JSONObject:
    """Circuit breakers that count nothing but requests under way."""
    many = 1_000_000
    return {
        "thresholds": [
            {"max_connections": many, "max_pending_requests": many, "max_requests": requests, "max_retries": 1000}
        ]
    }


def _tls(external: External) -> JSONObject:
    """TLS to a server that must have a certificate for its name."""
    host, literal = external.server.host, external.server.is_address
    expected = {"san_type": "IP_ADDRESS" if literal else "DNS", "matcher": {"exact": host}}
    trusted = {"filename": SYSTEM_CA} if external.ca is None else {"inline_string": external.ca}
    context: JSONObject = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["http/1.1"],
            "validation_context": {"trusted_ca": trusted, "match_typed_subject_alt_names": [expected]},
        },
    }
    # RFC 6066: an address is no server name.
    if not literal:
        context["sni"] = host
    return {"name": "tls", "typed_config": context}


def _show_key(key: str) -> JSONObject:
    """Puts the key that a vLLM asks for into what is sent to it. Raises ValueError for one that no header takes."""
    if not key.isascii() or not key.isprintable():
        raise ValueError("the key that its vLLM asks for is no printable ASCII, so that no header takes it")
    # Envoy formats the value: percent signs begin its commands.
    shown = header("authorization", f"Bearer {key}".replace("%", "%%"))
    return {
        "name": "key",
        "typed_config": {
            "@type": f"{_FILTERS}.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"append": shown}]},
        },
    }


def _upstream_codec() -> JSONObject:
    return {
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": f"{_FILTERS}.upstream_codec.v3.UpstreamCodec"},
    }


def build_endpoints(model: GatewayModel) -> JSONObject:
    """A model's pods. Raises ValueError for what is no address: it comes from the cluster, and a name would be looked up."""
    for endpoint in model.endpoints:
        if not _ADDRESS.fullmatch(endpoint.address) or not 0 < endpoint.port < 65536:
            raise ValueError(f"{f'{endpoint.address}:{endpoint.port}'!r} is no address of a pod")
    pods = [
        {"endpoint": {"address": {"socket_address": {"address": each.address, "port_value": each.port}}}}
        for each in sorted(model.endpoints)
    ]
    return {"cluster_name": cluster_name(model.key), "endpoints": [{"lb_endpoints": pods}] if pods else []}


# ---- who asks


def client_name(key: ApiKey) -> str:
    """How a caller is called in logs and metrics."""
    return f"{key.secret}/{key.name}"


def build_authentication(state: GatewayState) -> JSONObject:
    """The filter that knows the keys. Requests without any key pass it where some model is open to everybody."""
    keys: JSONObject = {
        "@type": f"{_FILTERS}.api_key_auth.v3.ApiKeyAuth",
        "credentials": [
            {"key": each.value, "client": client_name(each)} for each in sorted(state.keys, key=client_name)
        ],
        "key_sources": [{"header": "Authorization"}, {"header": "x-api-key"}],
        "forwarding": {"header": CLIENT_HEADER, "hide_credentials": True},
    }
    return {
        "@type": EXTENSION,
        "name": AUTHENTICATION,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": AUTHENTICATION, "typed_config": keys},
            "xds_matcher": _skip_without_key(open_to_all=any(model.callers is None for model in state.models)),
        },
    }


def _skip_without_key(*, open_to_all: bool) -> JSONObject:
    """Skip for requests that show no key (a header set by the filter before says so); never, unless some model is open."""
    skip = {
        "action": {
            "name": "skip",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
            },
        }
    }
    tree = {"input": _input(KEYLESS_HEADER), "exact_match_map": {"map": {"open" if open_to_all else "never": skip}}}
    return {"matcher_tree": tree}


def build_limits(state: GatewayState) -> JSONObject:
    """The filter that counts requests of keys. It is told apart from the routes: with these, all counts would begin anew.

    Raises ValueError for a limit that is none.
    """
    limited = [key for key in sorted(state.keys, key=client_name) if key.requests_per_minute is not None]
    for key in limited:
        if key.requests_per_minute is not None and key.requests_per_minute < 1:
            raise ValueError(f"{client_name(key)}: {key.requests_per_minute} requests per minute are no limit")
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "none"}
    return {
        "@type": EXTENSION,
        "name": LIMITS,
        "typed_config": {
            "@type": f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": LIMITS,
            "filter_enabled": always,
            "filter_enforced": always,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "enable_retry_after_header": True,
            # Who has no limit, or shows no key, is not counted.
            "always_consume_default_token_bucket": False,
            # Only what asks a model counts: not the list of models, nor what is refused for its path.
            "rate_limits": [
                {
                    "actions": [
                        {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}},
                        {
                            "metadata": {
                                "descriptor_key": "path",
                                "metadata_key": {"key": NAMESPACE, "path": [{"key": "path"}]},
                                "skip_if_absent": True,
                            }
                        },
                    ]
                }
            ],
            "descriptors": [
                {
                    "entries": [{"key": "client", "value": client_name(key)}, {"key": "path", "value": ASKING}],
                    "token_bucket": {
                        "max_tokens": key.requests_per_minute,
                        "tokens_per_fill": key.requests_per_minute,
                        "fill_interval": "60s",
                    },
                }
                for key in limited
            ],
        },
    }


def counter_name(key: ApiKey) -> str:
    """Name of the cluster that counts the requests of a key."""
    return f"limit/{client_name(key)}"


def _counted(state: GatewayState) -> list[ApiKey]:
    """Keys that have a limit of requests at the same time."""
    return [key for key in sorted(state.keys, key=client_name) if key.concurrent_requests is not None]


def build_counter(key: ApiKey) -> JSONObject:
    """The cluster that a key's requests go through on their way to another listener of this Envoy. Envoy limits requests at the
    same time for clusters alone, in all of its threads together; it refuses one more with 503 and the flag UO.

    Raises ValueError for a limit that is none.
    """
    if not key.concurrent_requests or key.concurrent_requests < 1:
        raise ValueError(f"{client_name(key)}: {key.concurrent_requests} requests at the same time are no limit")
    name = counter_name(key)
    listener = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": COUNTED_LISTENER}}}}
    return {
        "@type": CLUSTER,
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [listener]}]},
        "circuit_breakers": _most_requests(key.concurrent_requests),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {
                    # A burst leaves a connection for each of its requests.
                    "idle_timeout": "30s",
                    "max_headers_count": MOST_HEADERS,
                    "max_response_headers_kb": MOST_HEADERS_KIB,
                },
            }
        },
    }


# ---- routes


def build_scopes() -> dict[str, JSONObject]:
    """Which route configuration is for which requests: the value of a header that a script sets."""
    return {
        name: {
            "@type": SCOPES,
            "name": name,
            "route_configuration_name": name,
            "key": {"fragments": [{"string_key": name}]},
        }
        for name in (OTHERS, *PARTS)
    }


def build_routes(state: GatewayState, names: Names) -> dict[str, JSONObject]:
    """Route configurations by name. The routes to models, and what is shown of them, stand in several parts, by their names: for a
    change of one model Envoy is told of a few of a thousand.
    """
    models = {model.key: model for model in state.models}
    found: dict[str, dict[frozenset[Key] | None, dict[str, JSONObject]]] = {part: {} for part in PARTS}
    for name, shares in names.owners.items():
        serving, stand_in = _who_answers(shares, models)
        into = found[part_of(name)].setdefault(shares[0].model.callers, {})
        into |= _model_routes(name, shares[0].model, serving, stand_in)
    hosts = {OTHERS: _others(state, names), **{part: {"matcher": _part(each)} for part, each in found.items()}}
    return {
        name: {
            "@type": ROUTES,
            "name": name,
            "max_direct_response_body_size_bytes": 8 * 1024 * 1024,
            "request_headers_to_remove": [CLIENT_HEADER, KEYLESS_HEADER, PART_HEADER, ROUTE_HEADER, *KEY_HEADERS],
            "virtual_hosts": [{"name": name, "domains": ["*"], "retry_policy": RETRIES, **host}],
        }
        for name, host in hosts.items()
    }


def _part(found: Mapping[frozenset[Key] | None, Mapping[str, JSONObject]]) -> JSONObject:
    """Matcher: routes of models, by who may use them. They are looked up by the name that a script has put into a header: a list of
    them would be gone through for each request.
    """
    restricted = [
        {
            "predicate": _one_of(callers),
            "on_match": {"matcher": _look_up(ROUTE_HEADER, "exact_match_map", of_theirs)},
        }
        for callers, of_theirs in sorted(found.items(), key=lambda each: sorted(each[0] or ()))
        if callers  # Nobody may use what has no callers.
    ]
    open_to_all = _look_up(ROUTE_HEADER, "exact_match_map", found.get(None, {}), _take(_elsewhere()))
    # What a caller does not find with its own models is looked for further on.
    on_no_match = {"matcher": open_to_all} if found.get(None) else open_to_all["on_no_match"]
    if not restricted:
        return open_to_all
    return {"matcher_list": {"matchers": restricted}, "on_no_match": on_no_match}


def _elsewhere() -> JSONObject:
    """For names that are not there, or not for this caller: what is said to that stands with the others."""
    change = {"@type": _LUA_PER_ROUTE, "filter_context": {ELSEWHERE: True}}
    # The script sends it elsewhere: this is what would be answered if it did not.
    route = {"name": ELSEWHERE, "match": _ANY, "direct_response": {"status": 404}}
    return {**route, "typed_per_filter_config": {REWRITE_FILTER: change}}


def _others(state: GatewayState, names: Names) -> JSONObject:
    """What is no model's: the list of them, what the caller's audience is told of what is not there, and the way of what is counted."""
    audiences = {
        f"{secret}/": _take(*_audience_routes(secret, names, keys=True))
        for secret in sorted({key.secret for key in state.keys})
    }
    others = _take(*_audience_routes(None, names, keys=bool(state.keys)))
    audience = _look_up(CLIENT_HEADER, "prefix_match_map", audiences, others)
    counted = _counted(state)
    if not counted:
        return {"matcher": audience}
    clusters = {client_name(key): counter_name(key) for key in counted}
    routes = {COUNTED_ROUTE: _take(_counted_route())}
    return {
        "matcher": _look_up(ROUTE_HEADER, "exact_match_map", routes, {"matcher": audience}),
        "typed_per_filter_config": {COUNTED_FILTER: {"@type": _LUA_PER_ROUTE, "filter_context": clusters}},
    }


def _input(header: str) -> JSONObject:
    """A header, as matchers look at it."""
    kind = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    return {"name": "header", "typed_config": {"@type": kind, "header_name": header}}


def _look_up(header: str, how: str, found: Mapping[str, JSONObject], otherwise: JSONObject | None = None) -> JSONObject:
    """Matcher: what is found by the value of a header."""
    # Envoy takes no map of nothing.
    tree = {"matcher_tree": {"input": _input(header), how: {"map": found}}} if found else {}
    return {**tree, **({} if otherwise is None else {"on_no_match": otherwise})}


def _take(*routes: JSONObject) -> JSONObject:
    """What a matcher says where it says yes: one route, or the first one of several that matches."""
    if len(routes) == 1:
        return {"action": {"name": "route", "typed_config": {"@type": f"{_ROUTE}.Route", **routes[0]}}}
    return {"action": {"name": "routes", "typed_config": {"@type": f"{_ROUTE}.RouteList", "routes": list(routes)}}}


def _one_of(callers: frozenset[Key]) -> JSONObject:
    """Predicate: the key is of one of these Secrets."""
    who = [
        {"single_predicate": {"input": _input(CLIENT_HEADER), "value_match": {"prefix": f"{each}/"}}}
        for each in sorted(callers)
    ]
    return who[0] if len(who) == 1 else {"or_matcher": {"predicate": who}}


_ANY: JSONObject = {"prefix": "/"}


def _counted_route() -> JSONObject:
    """The way of all requests that are counted, to the cluster that counts them: as they are, body and all."""
    not_yet = {"@type": _LUA_PER_ROUTE, "disabled": True}
    return {
        "name": COUNTED_ROUTE,
        "match": _ANY,
        "route": {
            "cluster_header": CLUSTER_HEADER,
            "timeout": "0s",
            # Behind it pods are tried again; here there is nothing else to try.
            "retry_policy": {"num_retries": 0},
        },
        "request_headers_to_remove": [CLUSTER_HEADER],
        "request_headers_to_add": [header(CALLER_HEADER, f"%DYNAMIC_METADATA({NAMESPACE}:{CLIENT})%")],
        "typed_per_filter_config": {
            BUFFER_FILTER: {"@type": f"{_FILTERS}.buffer.v3.BufferPerRoute", "disabled": True},
            MODEL_FILTER: not_yet,
            REWRITE_FILTER: not_yet,
        },
    }


RETRIES: JSONObject = {
    "retry_on": "reset,connect-failure,refused-stream,retriable-status-codes",
    "retriable_status_codes": [503],
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": 5,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
}
"""For all routes: once for the host, not a thousand times. An answer that has begun is never asked for again."""


def _when(path: JSONObject, *headers: JSONObject, noted: tuple[str, str] | None = None) -> JSONObject:
    """What matches requests with this path and these headers, of which something has been noted."""
    match: JSONObject = {**path, **({"headers": list(headers)} if headers else {})}
    if noted is not None:
        key, value = noted
        matcher = {"filter": NAMESPACE, "path": [{"key": key}], "value": {"string_match": {"exact": value}}}
        match["dynamic_metadata"] = [matcher]
    return match


def _who_answers(
    shares: tuple[Share, ...], models: Mapping[Key, GatewayModel]
) -> tuple[tuple[Share, ...], GatewayModel | None]:
    """Those that serve; if there are none, the model that answers in their place, if there is one."""
    serving = tuple(share for share in shares if share.model.waiting is None)
    if serving:
        return serving, None
    first = shares[0].model
    return (), next(filter(None, (_find_stand_in(each.model, first, models) for each in shares)), None)


@lru_cache(maxsize=2 * _REMEMBERED)  # A model has two names and more.
def _model_routes(
    name: str, first: GatewayModel, serving: tuple[Share, ...], stand_in: GatewayModel | None
) -> Mapping[str, JSONObject]:
    """Routes by their names: requests for a model by this name of it, and what /v1/models/{id} says of it. Not to be changed."""
    meta = {"model": own_name(first.key)}
    if serving:
        answer: JSONObject = _lead(serving, name)
    elif stand_in is not None:
        meta["fallback"] = own_name(stand_in.key)
        answer = _lead((Share(stand_in, 1),), name)
        answer["response_headers_to_add"].append(header(FALLBACK_HEADER, own_name(stand_in.key)))
    else:
        answer = {
            **_error(
                503,
                f"The model `{ASKED}` does not answer now: {first.waiting}",
                kind="server_error",
                code="model_not_ready",
                param="model",
            ),
            "response_headers_to_add": [header("retry-after", str(first.retry_after))],
        }
    ask = {"name": f"{ASK}{name}", "match": _ANY, "metadata": {"filter_metadata": {NAMESPACE: meta}}, **answer}
    show = {"name": f"{SHOW}{name}", "match": _ANY, **_answer(200, describe(name, first))}
    return {route["name"]: _take(route) for route in (ask, show)}


def _find_stand_in(model: GatewayModel, asked: GatewayModel, models: Mapping[Key, GatewayModel]) -> GatewayModel | None:
    """The serving model that answers in the place of one that does not, to all who may use the one that they asked for."""
    for _ in range(MOST_FALLBACKS):
        found = models.get(model.fallback) if model.fallback is not None else None
        if found is None:
            return None
        if found.waiting is None:
            open_to_all = found.callers is None or (asked.callers is not None and asked.callers <= found.callers)
            return found if open_to_all else None
        model = found
    return None


def _change(model: GatewayModel, name: str, *, prompt: bool) -> JSONObject:
    """What is to be changed in requests for this name before a model gets them; `prompt`: whether its beginning is needed."""
    wanted: JSONObject = {PROMPT: True} if prompt else {}
    if (there := _name_there(model, name)) != name:
        wanted["name"] = there
    if model.external is not None and (prefix := model.external.server.path_prefix):
        wanted["prefix"] = prefix
    if model.clamp_max_tokens and model.max_model_len is not None:
        wanted[MAX_MODEL_LEN] = model.max_model_len
    if model.drop_tools:
        wanted[DROP_TOOLS] = True
    if not wanted:
        return {}
    change = {"@type": f"{_FILTERS}.lua.v3.LuaPerRoute", "filter_context": wanted}
    return {"typed_per_filter_config": {REWRITE_FILTER: change}}


def _name_there(model: GatewayModel, name: str) -> str:
    """How the server knows a model that was asked for by this name: vLLM knows the served names and no others."""
    known = model.served_model_names
    served = name if name in known or not known else known[0]
    return served if model.external is None else model.external.model_names.get(served, served)


def _lead(serving: Sequence[Share], name: str) -> JSONObject:
    """The way to models that serve."""
    action: JSONObject = {
        # Answers take as long as they take: a limit would cut streams.
        "timeout": "0s",
    }
    balance = serving[0].model.balance
    if balance == "session":
        action["hash_policy"] = [{"header": {"header_name": "x-session-id"}}]
    elif balance == "user":
        action["hash_policy"] = [{"filter_state": {"key": f"{NAMESPACE}.{CLIENT}"}}]
    elif balance == "prefix":
        action["hash_policy"] = [{"filter_state": {"key": f"{NAMESPACE}.{PROMPT}"}}]
    first, *others = (_way(share.model, name, prompt=balance == "prefix") for share in serving)
    if not others:
        host = first.pop("host_rewrite_literal", None)
        action |= {"cluster": first.pop("name"), **({} if host is None else {"host_rewrite_literal": host})}
        return {"route": action, **_told_back(), **first}
    # Those that have a share may all be away; no sum of shares may be 0.
    total = sum(share.weight for share in serving)
    weights = [share.weight if total else 1 for share in serving]
    action["weighted_clusters"] = {
        "clusters": [{**way, "weight": weight} for way, weight in zip((first, *others), weights, strict=True)]
    }
    return {"route": action, **_told_back()}


def _told_back() -> JSONObject:
    """What an answer says besides the model's own; what a server calls so is taken away. Here and not for all routes: an answer that
    was counted comes by two of them.
    """
    return {
        "response_headers_to_remove": [CHANGED_HEADER, FALLBACK_HEADER],
        "response_headers_to_add": [header(CHANGED_HEADER, f"%DYNAMIC_METADATA({NAMESPACE}:{CHANGED})%")],
    }


def _way(model: GatewayModel, name: str, *, prompt: bool) -> JSONObject:
    """One of the clusters that a route leads to, and what is changed on the way there."""
    way = {"name": cluster_of(model), **_change(model, name, prompt=prompt)}
    if model.external is not None:
        # Who asks is nobody's business outside, nor what other servers of this name have let a browser remember.
        way |= {
            "host_rewrite_literal": model.external.server.authority,
            "request_headers_to_remove": list(PRIVATE_HEADERS),
        }
    return way


def _audience_routes(audience: Key | None, names: Names, *, keys: bool) -> list[JSONObject]:
    """The list of models, and what is said to requests that no model answers, for those who show the keys of one Secret."""
    # Whoever shows no key may well be asking for something that a key opens.
    unknown = 401 if audience is None and keys else 404
    seen = {
        name: shares[0].model
        for name, shares in names.owners.items()
        if shares[0].model.callers is None or (audience is not None and audience in shares[0].model.callers)
    }
    # Aliases are listed, the long names are not: each model once by each of its short names.
    listed = {name: model for name, model in seen.items() if name != own_name(model.key) or not _short(model, seen)}
    shown = [f"`{name}`" for name in listed][:MOST_NAMES]
    more = f" and {len(listed) - MOST_NAMES} more (GET /v1/models)" if len(listed) > MOST_NAMES else ""
    known = f"You may use: {', '.join(shown)}{more}." if shown else "There is none that you may use."
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    # Routes may be older than keys: who shows one of a Secret that they do not know yet is told nothing of this.
    who = [{"name": CLIENT_HEADER, "present_match": False}] if audience is None else []
    suffix = "none" if audience is None else str(audience)
    return [
        {
            "name": f"list/{suffix}",
            "match": _when({"path": "/v1/models"}, get, *who),
            **_answer(200, {"object": "list", "data": [describe(name, model) for name, model in listed.items()]}),
        },
        {
            "name": f"no-model/{suffix}",
            "match": _when(_ANY, *who, noted=("model", NO_MODEL)),
            **_error(
                400,
                f"The body names no `model`. {known}",
                kind="invalid_request_error",
                code="missing_model",
                param="model",
            ),
        },
        {
            "name": f"no-json/{suffix}",
            "match": _when(_ANY, *who, noted=("model", NO_JSON)),
            **_error(400, "The body is no JSON object.", kind="invalid_request_error", code="invalid_json"),
        },
        {
            "name": f"unknown/{suffix}",
            "match": _when(_ANY, *who, noted=("path", ASKING)),
            **_error(
                unknown,
                f"The model `{ASKED}` does not exist, or you may not use it. {known}",
                kind="invalid_request_error",
                code="model_not_found",
                param="model",
            ),
        },
        {
            "name": f"unknown-one/{suffix}",
            "match": _when({"prefix": "/v1/models/"}, get, *who),
            **_error(
                unknown,
                f"There is no such model, or you may not use it. {known}",
                kind="invalid_request_error",
                code="model_not_found",
                param="model",
            ),
        },
        {
            "name": f"nothing/{suffix}",
            "match": _when(_ANY, *who),
            **_error(
                404, "There is no such path, or not with this method.", kind="invalid_request_error", code="not_found"
            ),
        },
    ]


def _short(model: GatewayModel, seen: Mapping[str, GatewayModel]) -> bool:
    return any(seen.get(name) is model for name in model.served_model_names)


def describe(name: str, model: GatewayModel) -> JSONObject:
    """A model as /v1/models shows it; an adapter with the model that it is of."""
    return {
        "id": name,
        "object": "model",
        "owned_by": model.key.namespace,
        "root": own_name(model.key),
        **({"parent": own_name(model.parent)} if model.parent is not None else {}),
        "max_model_len": model.max_model_len,
        "ready": model.waiting is None,
    }


# ---- answers of the gateway's own


def error_body(message: str, *, kind: str, code: str, param: str | None = None) -> JSONObject:
    """An error as OpenAI's API has it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def header(name: str, value: str) -> JSONObject:
    """A header that is put in the place of what is there."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _answer(status: int, body: JSONObject) -> JSONObject:
    """A fixed answer, as text: of JSON Envoy would make a formatter for each value. Percent signs are doubled: they begin its commands."""
    text = json.dumps(_escaped(body), separators=(",", ":"))
    source = {"text_format_source": {"inline_string": text}, "content_type": "application/json"}
    return {"direct_response": {"status": status, "body_format": source}}


def _error(status: int, message: str, *, kind: str, code: str, param: str | None = None) -> JSONObject:
    head, dynamic, tail = message.partition(ASKED)
    if not dynamic:
        return _answer(status, error_body(message, kind=kind, code=code, param=param))
    text = _escaped(head) + dynamic + _escaped(tail)
    body = _escaped(error_body("", kind=kind, code=code, param=param))
    body["error"]["message"] = text
    return {"direct_response": {"status": status, "body_format": {"json_format": body}}}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("%", "%%")
    if isinstance(value, Mapping):
        return {name: _escaped(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return value
