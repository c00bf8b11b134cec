"""What is known of the options of `vllm serve`, and of the parser that reads them.

Read in the source of vLLM 0.32.0: vllm/engine/arg_utils.py (engine options, `_compute_kwargs` for their kinds),
vllm/entrypoints/launchers/cli_args.py (frontend options), vllm/utils/argparse_utils.py (FlexibleArgumentParser).
Unknown options are let through: a custom image or a plugin may have more than this table knows.

What that source says, and this module relies on:

- Underscores in an option's name become dashes, up to the first dot (FlexibleArgumentParser.parse_args).
- `--a.b value` sets a key of the JSON option `--a`; the value is read as JSON, else as text. All dotted keys of one option
  become one more `--a`, which replaces an `--a` given whole.
- Any word that begins with `-` and has a dot is taken for such a dotted option, even when it is a value (-0.5).
- argparse accepts abbreviations, `--max-model` for `--max-model-len`.
- Every boolean field of the config classes is argparse.BooleanOptionalAction, so has a `--no-` form (enforce_eager and
  trust_remote_code too); the few others are in STORE_TRUE.
- A list is one flag and its values (nargs="+"), but for the options in APPENDED, JSON_LISTS and COMMA_LISTS.
"""

from collections.abc import Mapping

SHORT_NAMES: Mapping[str, str] = {
    "q": "quantization",
    "O": "optimization-level",
    "n": "nnodes",
    "r": "node-rank",
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "dcp": "decode-context-parallel-size",
    "pcp": "prefill-context-parallel-size",
    "dpn": "data-parallel-rank",
    "dpr": "data-parallel-start-rank",
    "dpl": "data-parallel-size-local",
    "dpa": "data-parallel-address",
    "dpp": "data-parallel-rpc-port",
    "dpb": "data-parallel-backend",
    "dph": "data-parallel-hybrid-lb",
    "dpe": "data-parallel-external-lb",
    "dpm": "data-parallel-multi-port-external-lb",
    "ep": "enable-expert-parallel",
    "sc": "speculative-config",
    "dc": "diffusion-config",
    "cc": "compilation-config",
    "ac": "attention-config",
    "asc": "api-server-count",
}
"""Forms with one dash; `--tp` is no option of vLLM, so these cannot be written in args."""

ALIASES: Mapping[str, str] = {"device-memory-utilization": "gpu-memory-utilization"}
"""Second long names."""

STORE_TRUE = frozenset(
    {"headless", "grpc", "data-parallel-multi-port-external-lb", "disable-log-stats", "aggregate-engine-logging"}
)
"""Switches without a `--no-` form: false is said by leaving them out."""

APPENDED = frozenset({"middleware"})
"""Options whose flag is repeated for each value (action="append")."""

JSON_LISTS = frozenset({"allowed-origins", "allowed-methods", "allowed-headers"})
"""Options whose list is one JSON value."""

COMMA_LISTS = frozenset({"device-ids", "disable-access-log-for-endpoints", "tool-server"})
"""Options whose list is one value with commas."""

SHUTDOWN_TIMEOUT_SINCE = (0, 18, 0)
"""First version with --shutdown-timeout (in the wheel of 0.18.0, not of 0.17.1)."""

_ONE_NODE = "the operator runs a replica on one node; remove it"

OWNED: Mapping[str, str] = {
    "model": "use spec.model",
    "model-tag": "use spec.model",
    "revision": "use spec.hub.revision",
    "served-model-name": "use spec.servedModelNames",
    "host": "the operator sets it",
    "port": "the operator sets it",
    "uds": "the operator reaches vLLM by its port; remove it",
    "headless": "a model without an API server cannot be served; remove it",
    "grpc": "the operator reaches vLLM by HTTP; remove it",
    "ssl-keyfile": "TLS ends at the gateway; remove it",
    "ssl-certfile": "TLS ends at the gateway; remove it",
    "api-key": "use spec.auth.apiKeySecretRef: an argument can be read by everyone who may see the pod",
    "hf-token": "use spec.hub.tokenSecretRef: an argument can be read by everyone who may see the pod",
    "tensor-parallel-size": "use spec.parallelism.tensor",
    "pipeline-parallel-size": "use spec.parallelism.pipeline",
    "data-parallel-size": "use spec.parallelism.data",
    "enable-expert-parallel": "use spec.parallelism.expert",
    "data-parallel-multi-port-external-lb": "it moves the API server to other ports; remove it",
    "nnodes": _ONE_NODE,
    "node-rank": _ONE_NODE,
    "data-parallel-rank": _ONE_NODE,
    "data-parallel-start-rank": _ONE_NODE,
    "data-parallel-address": _ONE_NODE,
    "help": "it ends vLLM instead of starting it; remove it",
}
"""Options that the operator sets, or that would take the server away from it → what to do instead."""


def canonical(name: str) -> str:
    """The one spelling of an option's name: dashes, no second name; the part after the first dot is left alone.

    >>> canonical("max_model_len"), canonical("compilation_config.pass_config")
    ('max-model-len', 'compilation-config.pass_config')
    """
    head, dot, rest = name.partition(".")
    head = head.replace("_", "-")
    return ALIASES.get(head, head) + dot + rest
