"""What Envoy is started with: its listener, and where the rest is asked for. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_operator.gateway.render import (
    AUTHENTICATION,
    LIMITS,
    REWRITE_FILTER,
    ROUTE_CONFIGURATION,
    error_body,
    xds_source,
)
from vllm_operator.gateway.scripts import (
    CLIENT,
    KEYLESS,
    MODEL,
    NAMESPACE,
    PROMPT,
    REWRITE,
)

JSONObject = dict[str, Any]

OWN_HEADERS = ("x-vllm-", "x-envoy-")
"""How headers begin that are the gateway's and Envoy's own: with some of Envoy's, callers would choose retries and time limits."""
READY_PATH = "/-/ready"
"""Answers 200 when Envoy has all that it asks for, until it is told to leave."""

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True)
class Patience:
    """Seconds that a request may take to come; its answer may take any time."""

    headers: float = 10
    whole: float = 300


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
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "static_resources": {
            "listeners": [build_listener(port=port, largest_body=largest_body, address=address, patience=patience)],
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
        # A pattern names all Secrets whose keys may use a model.
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 100_000}}]
        },
    }


def build_listener(
    *,
    port: int,
    largest_body: int,
    address: str = "::",
    patience: Patience = Patience(),
) -> JSONObject:
    """The one listener: filters in the order in which a request passes them."""
    manager: JSONObject = {
        "@type": _HTTP_MANAGER,
        "stat_prefix": "models",
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTE_CONFIGURATION, "config_source": xds_source()},
        "http_filters": build_filters(largest_body=largest_body),
        "access_log": [build_access_log()],
        "local_reply_config": build_local_replies(largest_body),
        # Nothing that a client calls itself is believed.
        "early_header_mutation_extensions": [_strip_own_headers()],
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "server_header_transformation": "PASS_THROUGH",
        # An answer may be long in coming; a request may not.
        "stream_idle_timeout": "0s",
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
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


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
        {
            "name": "buffer",
            "typed_config": {"@type": f"{_FILTERS}.buffer.v3.Buffer", "max_request_bytes": largest_body},
        },
        _lua("model", MODEL),
        _lua(REWRITE_FILTER, REWRITE),
        {
            "name": "hashed",
            "typed_config": {
                "@type": f"{_FILTERS}.set_filter_state.v3.Config",
                "on_request_headers": [_hashed(name) for name in (CLIENT, PROMPT)],
            },
        },
        {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_FILTERS}.router.v3.Router"}},
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


def _strip_own_headers() -> JSONObject:
    return {
        "name": "strip",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove_on_match": {"key_matcher": {"prefix": each}}} for each in OWN_HEADERS],
        },
    }


def build_access_log() -> JSONObject:
    """One JSON line for each request, with the name of the key. Neither keys nor what stands behind ? in a path."""
    return {
        "name": "stdout",
        "filter": {"not_health_check_filter": {}},
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%PATH(NQ)%",
                    "status": "%RESPONSE_CODE%",
                    "flags": "%RESPONSE_FLAGS%",
                    "model": "%METADATA(ROUTE:vllm:model)%",
                    "fallback": "%METADATA(ROUTE:vllm:fallback)%",
                    # The header itself is taken away before the request goes on.
                    "client": f"%DYNAMIC_METADATA({NAMESPACE}:{CLIENT})%",
                    "bytes_received": "%BYTES_RECEIVED%",
                    "bytes_sent": "%BYTES_SENT%",
                    "milliseconds": "%DURATION%",
                    "first_byte_milliseconds": "%RESPONSE_DURATION%",
                    "upstream": "%UPSTREAM_HOST%",
                    "request_id": "%REQ(x-request-id)%",
                }
            },
        },
    }


def build_local_replies(largest_body: int) -> JSONObject:
    """Envoy's own errors in the shape of OpenAI's."""
    megabytes = largest_body / 1024 / 1024

    def reply(filters: JSONObject, body: JSONObject, *headers: tuple[str, str]) -> JSONObject:
        return {
            "filter": filters,
            "body_format_override": {"json_format": body},
            "headers_to_add": [
                {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
                for name, value in headers
            ],
        }

    def status(code: int) -> JSONObject:
        comparison = {"op": "EQ", "value": {"default_value": code, "runtime_key": "none"}}
        return {"status_code_filter": {"comparison": comparison}}

    request = "invalid_request_error"
    return {
        "mappers": [
            reply(
                {"response_flag_filter": {"flags": ["UH", "UF", "URX", "NC", "UC", "UT", "UPE"]}},
                error_body("No replica of the model answers. Try again.", kind="server_error", code="model_not_ready"),
                ("retry-after", "5"),
            ),
            reply(
                status(401),
                error_body(
                    "The API key is missing or wrong: send Authorization: Bearer KEY.",
                    kind=request,
                    code="invalid_api_key",
                ),
                ("www-authenticate", "Bearer"),
            ),
            reply(
                status(413),
                error_body(f"The body is larger than {megabytes:g} MiB.", kind=request, code="request_too_large"),
            ),
            # Envoy says itself when to ask again.
            reply(
                status(429),
                error_body(
                    "The key has been used too often within a minute.", kind="requests", code="rate_limit_exceeded"
                ),
            ),
            reply(status(408), error_body("The request took too long to come.", kind=request, code="request_timeout")),
            reply(
                {"response_flag_filter": {"flags": ["DPE"]}},
                error_body("The request is malformed: it is no HTTP.", kind=request, code="bad_request"),
            ),
            # No routes have come yet. Answers that routes give themselves pass through here too: nothing is said of all of them.
            {
                **reply(
                    {"response_flag_filter": {"flags": ["NR", "NFCF"]}},
                    error_body("The gateway is starting. Try again.", kind="server_error", code="gateway_not_ready"),
                    ("retry-after", "1"),
                ),
                "status_code": 503,
            },
        ],
    }


def _address(address: str, port: int) -> JSONObject:
    return {"socket_address": {"address": address, "port_value": port}}
