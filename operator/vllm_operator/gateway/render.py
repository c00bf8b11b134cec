"""State → Envoy's configuration (xDS v3, as JSON). Pure: the same state gives the same resources, to the letter.

A request's way through Envoy: the key is looked up before anything of the body is read; the body is taken in; its `model` becomes
metadata; the route is chosen by that and by who asks. No name is ever searched for in a body by pattern, and no header that a client
sends decides anything.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import Names, Share, decide_names, own_name
from vllm_operator.gateway.scripts import (
    ASKING,
    CALLER_HEADER,
    CHANGED,
    CLIENT,
    CLIENT_HEADER,
    CLUSTER_HEADER,
    DROP_TOOLS,
    KEYLESS_HEADER,
    MAX_MODEL_LEN,
    NAMESPACE,
    NO_JSON,
    NO_MODEL,
    PROMPT,
)
from vllm_operator.gateway.state import ApiKey, External, GatewayModel, GatewayState

JSONObject = dict[str, Any]

CLUSTER, ROUTES, EXTENSION = (
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
)
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_LUA_PER_ROUTE = f"{_FILTERS}.lua.v3.LuaPerRoute"

ROUTE_CONFIGURATION, AUTHENTICATION, LIMITS, REWRITE_FILTER = "models", "api-keys", "limits", "rewrite"
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
"""Pause of Envoy between an answer and its next question. While the agent is away questions fail at once, and are asked again."""
MOST_FALLBACKS = 3
"""Steps from a model to its fallback, and from there to that one's; a circle ends there too."""
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
"""The certificates that Envoy's image trusts."""
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
        ROUTES: {ROUTE_CONFIGURATION: build_routes(state, names)},
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


def build_cluster(model: GatewayModel) -> JSONObject:
    """A model's pods as one cluster, with the key that they ask for. Raises ValueError for what Envoy must not be told.

    Pods and keys are part of it: asked for by themselves, each would be a held question of 80 kB (see xds.py). When a pod comes or goes
    Envoy makes the cluster anew, uses it once its pods have answered health checks, and lets the requests of the one before end.
    """
    cluster: JSONObject = {
        "@type": CLUSTER,
        "name": cluster_name(model.key),
        "type": "STATIC",
        "load_assignment": build_endpoints(model),
        "connect_timeout": "2s",
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
    header = {"key": "authorization", "value": f"Bearer {key}".replace("%", "%%")}
    return {
        "name": "key",
        "typed_config": {
            "@type": f"{_FILTERS}.header_mutation.v3.HeaderMutation",
            "mutations": {
                "request_mutations": [{"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}]
            },
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
    header = {
        "name": "header",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": KEYLESS_HEADER,
        },
    }
    skip = {
        "action": {
            "name": "skip",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
            },
        }
    }
    return {"matcher_tree": {"input": header, "exact_match_map": {"map": {"open" if open_to_all else "never": skip}}}}


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


def build_routes(state: GatewayState, names: Names) -> JSONObject:
    """One virtual host: what may be asked for, in the order in which it is looked for."""
    audiences: list[Key | None] = [*sorted({key.secret for key in state.keys}), None]
    counted = _counted(state)
    routes: list[JSONObject] = [_counted_route()] if counted else []
    models = {model.key: model for model in state.models}
    groups: dict[tuple[Share, ...], list[str]] = {}
    for name, shares in names.owners.items():
        groups.setdefault(shares, []).append(name)
    for shares, answering in groups.items():
        routes += _model_routes(shares, answering, models)
    for audience in audiences:
        routes += _audience_routes(audience, names, keys=bool(state.keys))
    host: JSONObject = {"name": "models", "domains": ["*"], "retry_policy": RETRIES, "routes": routes}
    if counted:
        clusters = {client_name(key): counter_name(key) for key in counted}
        host["typed_per_filter_config"] = {COUNTED_FILTER: {"@type": _LUA_PER_ROUTE, "filter_context": clusters}}
    return {
        "@type": ROUTES,
        "name": ROUTE_CONFIGURATION,
        "max_direct_response_body_size_bytes": 8 * 1024 * 1024,
        "request_headers_to_remove": [CLIENT_HEADER, KEYLESS_HEADER, *KEY_HEADERS],
        "virtual_hosts": [host],
    }


def _counted_route() -> JSONObject:
    """The way of all requests that are counted, to the cluster that counts them: as they are, body and all."""
    not_yet = {"@type": _LUA_PER_ROUTE, "disabled": True}
    return {
        "name": "counted",
        "match": {"prefix": "/", "headers": [{"name": CLUSTER_HEADER, "present_match": True}]},
        "route": {
            "cluster_header": CLUSTER_HEADER,
            "timeout": "0s",
            # Behind it pods are tried again; here there is nothing else to try.
            "retry_policy": {"num_retries": 0},
        },
        "request_headers_to_remove": [CLUSTER_HEADER],
        "request_headers_to_add": [_header(CALLER_HEADER, f"%DYNAMIC_METADATA({NAMESPACE}:{CLIENT})%")],
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


def _seen_by(callers: frozenset[Key] | None) -> list[JSONObject]:
    """Metadata matchers of those who may use a model."""
    if callers is None:
        return []
    # Nobody where there are none: no client is called that.
    texts = [{"string_match": {"prefix": f"{each}/"}} for each in sorted(callers)] or [{"string_match": {"exact": ""}}]
    return [_noted(CLIENT, texts)]


def _noted(what: str, values: list[JSONObject]) -> JSONObject:
    """Matcher of what has been noted of a request: one of these."""
    value = values[0] if len(values) == 1 else {"or_match": {"value_matchers": values}}
    return {"filter": NAMESPACE, "path": [{"key": what}], "value": value}


def _audience(secret: Key | None) -> list[JSONObject]:
    if secret is None:
        return [{"name": CLIENT_HEADER, "present_match": False}]
    return [{"name": CLIENT_HEADER, "string_match": {"prefix": f"{secret}/"}}]


def _method(name: str) -> JSONObject:
    return {"name": ":method", "string_match": {"exact": name}}


def _asking(names: Iterable[str] = ()) -> list[JSONObject]:
    """Metadata matchers of requests for a model, one of these that the body may name; no names: any."""
    values = [{"string_match": {"exact": name}} for name in names]
    # A model is only noted of these requests. All models' routes are tried in turn, so each has to say no by its first matcher.
    return [_noted("model", values)] if values else [_noted("path", [{"string_match": {"exact": ASKING}}])]


def _model_routes(shares: tuple[Share, ...], names: list[str], models: Mapping[Key, GatewayModel]) -> list[JSONObject]:
    """Requests for a model, and what /v1/models/{id} says of it."""
    first = shares[0].model
    seen = _seen_by(first.callers)
    matched = {"prefix": "/", "dynamic_metadata": [*_asking(names), *seen]}
    serving = [share for share in shares if share.model.waiting is None]
    stand_in = (
        None if serving else next(filter(None, (_find_stand_in(each.model, first, models) for each in shares)), None)
    )
    meta = {"model": own_name(first.key)}
    if serving:
        answer: JSONObject = _lead(serving, names)
    elif stand_in is not None:
        meta["fallback"] = own_name(stand_in.key)
        answer = _lead([Share(stand_in, 1)], names)
        answer["response_headers_to_add"].append(_header(FALLBACK_HEADER, own_name(stand_in.key)))
    else:
        answer = {
            **_error(
                503,
                f"The model `{ASKED}` does not answer now: {first.waiting}",
                kind="server_error",
                code="model_not_ready",
                param="model",
            ),
            "response_headers_to_add": [_header("retry-after", str(first.retry_after))],
        }
    metadata = {"filter_metadata": {NAMESPACE: meta}}
    routes = [{"name": f"ask/{names[0]}", "match": matched, "metadata": metadata, **answer}]
    for name in names:
        routes.append(
            {
                "name": f"show/{name}",
                "match": {"path": f"/v1/models/{name}", "headers": [_method("GET")], "dynamic_metadata": seen},
                **_answer(200, describe(name, first)),
            }
        )
    return routes


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


def _change(model: GatewayModel, names: Iterable[str], *, prompt: bool) -> JSONObject:
    """What is to be changed in requests for these names before a model gets them; `prompt`: whether its beginning is needed."""
    wanted: JSONObject = {PROMPT: True} if prompt else {}
    renamed = {name: there for name in names if (there := _name_there(model, name)) != name}
    if renamed:
        wanted["names"] = renamed
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


def _lead(serving: list[Share], names: list[str]) -> JSONObject:
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
    first, *others = (_way(share.model, names, prompt=balance == "prefix") for share in serving)
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
        "response_headers_to_add": [_header(CHANGED_HEADER, f"%DYNAMIC_METADATA({NAMESPACE}:{CHANGED})%")],
    }


def _way(model: GatewayModel, names: Iterable[str], *, prompt: bool) -> JSONObject:
    """One of the clusters that a route leads to, and what is changed on the way there."""
    way = {"name": cluster_of(model), **_change(model, names, prompt=prompt)}
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
    who = _audience(audience)
    suffix = "none" if audience is None else str(audience)
    return [
        {
            "name": f"list/{suffix}",
            "match": {"path": "/v1/models", "headers": [_method("GET"), *who]},
            **_answer(200, {"object": "list", "data": [describe(name, model) for name, model in listed.items()]}),
        },
        {
            "name": f"no-model/{suffix}",
            "match": {"prefix": "/", "headers": who, "dynamic_metadata": _asking([NO_MODEL])},
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
            "match": {"prefix": "/", "headers": who, "dynamic_metadata": _asking([NO_JSON])},
            **_error(400, "The body is no JSON object.", kind="invalid_request_error", code="invalid_json"),
        },
        {
            "name": f"unknown/{suffix}",
            "match": {"prefix": "/", "headers": who, "dynamic_metadata": _asking()},
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
            "match": {"prefix": "/v1/models/", "headers": [_method("GET"), *who]},
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
            "match": {"prefix": "/", "headers": who},
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


def _header(name: str, value: str) -> JSONObject:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _answer(status: int, body: JSONObject) -> JSONObject:
    """A fixed answer. Envoy's own formatter makes the JSON, so percent signs are doubled: they begin its commands."""
    return {"direct_response": {"status": status, "body_format": {"json_format": _escaped(body)}}}


def _error(status: int, message: str, *, kind: str, code: str, param: str | None = None) -> JSONObject:
    head, dynamic, tail = message.partition(ASKED)
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
