"""What Envoy is started with: its listeners, and where the rest is asked for. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_operator.gateway.render import (
    AUTHENTICATION,
    BUFFER_FILTER,
    COUNTED_FILTER,
    COUNTED_LISTENER,
    LIMITS,
    MODEL_FILTER,
    MOST_HEADERS,
    MOST_HEADERS_KIB,
    REWRITE_FILTER,
    error_body,
    header,
    xds_source,
)
from vllm_operator.gateway.scripts import (
    ASKING,
    CALLER_HEADER,
    CHANGED,
    CLIENT,
    CLIENT_HEADER,
    COUNTED,
    KEYLESS,
    LIMIT,
    MODEL,
    NAMESPACE,
    OTHERS,
    PART_HEADER,
    PROMPT,
    REWRITE,
)

JSONObject = dict[str, Any]

OWN_HEADERS = ("x-vllm-", "x-envoy-")
"""How headers begin that are the gateway's and Envoy's own: with some of Envoy's, callers would choose retries and time limits."""
READY_PATH = "/-/ready"
"""Answers 200 when Envoy has all that it asks for, until it is told to leave."""
ADMIN_PATHS = ("/ready", "/clusters", "/stats", "/healthcheck/")
"""How paths begin that the administration interface answers: neither the configuration, which has keys in it, nor what ends Envoy."""

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True)
class Patience:
    """Seconds that a request may take to come; its answer may take any time."""

    headers: float = 10
    whole: float = 300
    """More than for the headers."""


def build_bootstrap(
    *,
    port: int,
    admin_port: int,
    agent_port: int,
    largest_body: int,
    node: str,
    address: str = "::",
    patience: Patience = Patience(),
) -> JSONObject:
    """Envoy's configuration file. The administration interface and the agent are on loopback."""
    return {
        "node": {"id": node, "cluster": "vllm-gateway"},
        "admin": {
            "address": _address("127.0.0.1", admin_port),
            "allow_paths": [{"prefix": path} for path in ADMIN_PATHS],
        },
        "static_resources": {
            "listeners": [
                build_listener(port=port, largest_body=largest_body, address=address, patience=patience),
                build_counted_listener(largest_body=largest_body, patience=patience),
            ],
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address("127.0.0.1", agent_port)}}]}],
                    },
                }
            ],
        },
        "dynamic_resources": {"cds_config": xds_source()},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
    }


def build_listener(
    *,
    port: int,
    largest_body: int,
    address: str = "::",
    patience: Patience = Patience(),
) -> JSONObject:
    """What callers reach: filters in the order in which a request passes them."""
    counted = _metadata_filter(LIMIT, present=True)
    manager = {
        **_build_manager("models", build_filters(largest_body=largest_body)),
        "codec_type": "AUTO",
        "access_log": [
            *build_logs(_all_of({"not_health_check_filter": {}}, _metadata_filter(LIMIT, present=False))),
            # What has come to the other listener is logged there.
            *build_logs(_all_of(counted, _expression("!has(upstream.local_address)")), upstream=None),
        ],
        "local_reply_config": {"mappers": [_too_many_at_once(counted), *build_local_replies(largest_body)]},
        # Nothing that a client calls itself is believed.
        "early_header_mutation_extensions": [
            _early_mutation(
                [
                    *({"remove_on_match": {"key_matcher": {"prefix": each}}} for each in OWN_HEADERS),
                    {"append": header(PART_HEADER, OTHERS)},
                ]
            )
        ],
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": f"{patience.headers:g}s",
        "request_timeout": f"{patience.whole:g}s",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
    }
    return {
        "name": "models",
        "address": {"socket_address": {"address": address, "port_value": port, "ipv4_compat": address == "::"}},
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "filter_chains": [_filter_chain(manager)],
    }


def build_counted_listener(*, largest_body: int, patience: Patience = Patience()) -> JSONObject:
    """What requests come to, from Envoy itself, when a cluster has counted them. Who asks is known; headers are as the other
    listener has made them.
    """
    manager = {
        **_build_manager("counted", build_counted_filters(largest_body=largest_body)),
        "codec_type": "HTTP1",
        "access_log": build_logs(None),
        "local_reply_config": {"mappers": build_local_replies(largest_body)},
        "early_header_mutation_extensions": [
            _early_mutation(
                [
                    {"append": header(CLIENT_HEADER, f"%REQ({CALLER_HEADER})%")},
                    {"remove": CALLER_HEADER},
                    {"append": header(PART_HEADER, OTHERS)},
                ]
            )
        ],
        # No later than the other listener, which does not log what has come here.
        "request_timeout": f"{patience.whole - patience.headers:g}s",
        "max_request_headers_kb": MOST_HEADERS_KIB,
        # Connections are the other end's: it closes those that it does not need.
        "common_http_protocol_options": {"idle_timeout": "0s", "max_headers_count": MOST_HEADERS},
    }
    return {
        "name": COUNTED_LISTENER,
        "internal_listener": {},
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "filter_chains": [_filter_chain(manager)],
    }


def _build_manager(name: str, filters: list[JSONObject]) -> JSONObject:
    """What is the same for both listeners. `name`: how its metrics are called."""
    return {
        "@type": _HTTP_MANAGER,
        "stat_prefix": name,
        "scoped_routes": {
            "name": "parts",
            "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": PART_HEADER, "index": 0}}]},
            "rds_config_source": xds_source(),
            "scoped_rds": {"scoped_rds_config_source": xds_source()},
        },
        "http_filters": filters,
        "server_header_transformation": "PASS_THROUGH",
        # An answer may be long in coming; a request may not.
        "stream_idle_timeout": "0s",
    }


def _filter_chain(manager: JSONObject) -> JSONObject:
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def build_filters(*, largest_body: int, told: Mapping[str, JSONObject] | None = None) -> list[JSONObject]:
    """`told`: filters by their names, in place of asking for them."""

    def dynamic(name: str, kind: str) -> JSONObject:
        if told is not None:
            return {"name": name, "typed_config": told[name]}
        return {"name": name, "config_discovery": {"config_source": xds_source(), "type_urls": [kind]}}

    return [
        {
            "name": "ready",
            "typed_config": {
                "@type": f"{_FILTERS}.health_check.v3.HealthCheck",
                "pass_through_mode": False,
                "headers": [{"name": ":path", "string_match": {"exact": READY_PATH}}],
            },
        },
        _lua("keyless", KEYLESS),
        dynamic(AUTHENTICATION, "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher"),
        # Before anything of the body is taken in.
        dynamic(LIMITS, f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit"),
        _lua(COUNTED_FILTER, COUNTED),
        *_model_filters(largest_body),
    ]


def build_counted_filters(*, largest_body: int) -> list[JSONObject]:
    """Nothing but requests for models is counted."""
    asking = {"metadata_namespace": NAMESPACE, "value": {"path": ASKING}}
    return [
        {"name": "asking", "typed_config": {"@type": f"{_FILTERS}.set_metadata.v3.Config", "metadata": [asking]}},
        *_model_filters(largest_body),
    ]


def _model_filters(largest_body: int) -> list[JSONObject]:
    """From the body to the model."""
    return [
        {
            "name": BUFFER_FILTER,
            "typed_config": {"@type": f"{_FILTERS}.buffer.v3.Buffer", "max_request_bytes": largest_body},
        },
        _lua(MODEL_FILTER, MODEL),
        _lua(REWRITE_FILTER, REWRITE),
        {
            "name": "hashed",
            "typed_config": {
                "@type": f"{_FILTERS}.set_filter_state.v3.Config",
                "on_request_headers": [_hashed(name) for name in (CLIENT, PROMPT)],
            },
        },
        {
            "name": "envoy.filters.http.router",
            # Whether a request was counted on its way cannot be seen from its answer.
            "typed_config": {"@type": f"{_FILTERS}.router.v3.Router", "suppress_envoy_headers": True},
        },
    ]


def _lua(name: str, script: str) -> JSONObject:
    return {
        "name": name,
        "typed_config": {"@type": f"{_FILTERS}.lua.v3.Lua", "default_source_code": {"inline_string": script}},
    }


def _hashed(name: str) -> JSONObject:
    """Something of a request that may choose the pod. Headers that go no further cannot: they are taken away before."""
    return {
        "object_key": f"{NAMESPACE}.{name}",
        "factory_key": "envoy.hashable_string",
        "format_string": {
            "text_format_source": {"inline_string": f"%DYNAMIC_METADATA({NAMESPACE}:{name})%"},
            "omit_empty_values": True,
        },
        "skip_if_empty": True,
    }


def _early_mutation(mutations: Iterable[JSONObject]) -> JSONObject:
    return {
        "name": "headers",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": list(mutations),
        },
    }


def _all_of(*filters: JSONObject) -> JSONObject:
    return {"and_filter": {"filters": list(filters)}}


def _metadata_filter(name: str, *, present: bool) -> JSONObject:
    """Matches requests of which this is noted, or is not."""
    # Of a value that is there, present_match false is never true.
    matcher = {"filter": NAMESPACE, "path": [{"key": name}], "value": {"present_match": present}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": not present}}


def _expression(text: str) -> JSONObject:
    kind = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    return {"extension_filter": {"name": "expression", "typed_config": {"@type": kind, "expression": text}}}


def build_logs(which: JSONObject | None, *, upstream: str | None = "%UPSTREAM_HOST%") -> list[JSONObject]:
    """What is kept of requests: a line of the access log, and what is counted. `which`: filter of requests; None: all."""
    chosen = {} if which is None else {"filter": which}
    return [
        {"name": "stdout", **chosen, "typed_config": _access_log(upstream)},
        {"name": "requests", **chosen, "typed_config": _counters()},
    ]


_MODEL, _CLIENT = "%METADATA(ROUTE:vllm:model)%", f"%DYNAMIC_METADATA({NAMESPACE}:{CLIENT})%"
"""Which model's route a request has taken, and the name of its key. The header itself is taken away before the request goes on."""


def _access_log(upstream: str | None) -> JSONObject:
    """One JSON line for each request, with the name of the key. Neither keys nor what stands behind ? in a path."""
    return {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {
            "json_format": {
                "time": "%START_TIME%",
                "method": "%REQ(:METHOD)%",
                "path": "%PATH(NQ)%",
                "status": "%RESPONSE_CODE%",
                "flags": "%RESPONSE_FLAGS%",
                "model": _MODEL,
                "fallback": "%METADATA(ROUTE:vllm:fallback)%",
                "changed": f"%DYNAMIC_METADATA({NAMESPACE}:{CHANGED})%",
                "client": _CLIENT,
                "bytes_received": "%BYTES_RECEIVED%",
                "bytes_sent": "%BYTES_SENT%",
                "milliseconds": "%DURATION%",
                "first_byte_milliseconds": "%RESPONSE_DURATION%",
                "upstream": upstream,
                "request_id": "%REQ(x-request-id)%",
            }
        },
    }


def _counters() -> JSONObject:
    """Requests by model, key and status: as many numbers as models have callers, and nothing that a client can make up."""
    tags = {"model": _MODEL, "client": _CLIENT, "status": "%RESPONSE_CODE%"}
    requests = {
        "name": "requests",
        "tags": [{"name": name, "value_format": value} for name, value in tags.items()],
    }
    return {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
        "stat_prefix": "gateway",
        "counters": [{"stat": requests, "value_fixed": 1}],
    }


def _reply(which: JSONObject, body: JSONObject, *headers: tuple[str, str]) -> JSONObject:
    return {
        "filter": which,
        "body_format_override": {"json_format": body},
        "headers_to_add": [header(name, value) for name, value in headers],
    }


def _too_many_at_once(counted: JSONObject) -> JSONObject:
    """What is answered to a request that its key's cluster has no place for."""
    body = error_body(
        "The key has as many requests under way at the same time as it may have. Try again when one has ended.",
        kind="requests",
        code="rate_limit_exceeded",
    )
    which = _all_of(counted, {"response_flag_filter": {"flags": ["UO"]}})
    return {**_reply(which, body, ("retry-after", "1")), "status_code": 429}


def build_local_replies(largest_body: int) -> list[JSONObject]:
    """Envoy's own errors in the shape of OpenAI's."""
    megabytes = largest_body / 1024 / 1024

    def status(code: int) -> JSONObject:
        comparison = {"op": "EQ", "value": {"default_value": code, "runtime_key": "none"}}
        return {"status_code_filter": {"comparison": comparison}}

    request = "invalid_request_error"
    return [
        _reply(
            {"response_flag_filter": {"flags": ["UH", "UF", "URX", "NC", "UC", "UT", "UPE"]}},
            error_body("No replica of the model answers. Try again.", kind="server_error", code="model_not_ready"),
            ("retry-after", "5"),
        ),
        _reply(
            status(401),
            error_body(
                "The API key is missing or wrong: send Authorization: Bearer KEY.",
                kind=request,
                code="invalid_api_key",
            ),
            ("www-authenticate", "Bearer"),
        ),
        _reply(
            status(413),
            error_body(f"The body is larger than {megabytes:g} MiB.", kind=request, code="request_too_large"),
        ),
        # Envoy says itself when to ask again.
        _reply(
            status(429),
            error_body("The key has been used too often within a minute.", kind="requests", code="rate_limit_exceeded"),
        ),
        _reply(status(408), error_body("The request took too long to come.", kind=request, code="request_timeout")),
        _reply(
            {"response_flag_filter": {"flags": ["DPE"]}},
            error_body("The request is malformed: it is no HTTP.", kind=request, code="bad_request"),
        ),
        # No routes have come yet. Answers that routes give themselves pass through here too: nothing is said of all of them.
        {
            **_reply(
                {"response_flag_filter": {"flags": ["NR", "NFCF"]}},
                error_body("The gateway is starting. Try again.", kind="server_error", code="gateway_not_ready"),
                ("retry-after", "1"),
            ),
            "status_code": 503,
        },
    ]


def _address(address: str, port: int) -> JSONObject:
    return {"socket_address": {"address": address, "port_value": port}}
