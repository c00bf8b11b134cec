"""What the operator itself knows of options of `vllm serve`; what vLLM knows of them is in catalogue.py."""

from collections.abc import Mapping

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

INSTEAD: Mapping[str, str] = {
    # vLLM's own words, in the help or a warning of the last versions with the option
    "cuda-graph-sizes": "cudagraph-capture-sizes",
    "disable-mm-preprocessor-cache": "mm-processor-cache-gb: 0",
    "enable-multimodal-encoder-data-parallel": "mm-encoder-tp-mode: data",
    "enable-reasoning": "reasoning-parser",
    "num-lookahead-slots": "speculative-config",
    "override-pooler-config": "pooler-config",
    "task": "runner and convert",
    # where the last versions with the option put its value (vllm/engine/arg_utils.py of 0.11.2)
    "eplb-log-balancedness": "eplb-config.log_balancedness",
    "eplb-step-interval": "eplb-config.step_interval",
    "eplb-window-size": "eplb-config.window_size",
    "num-redundant-experts": "eplb-config.num_redundant_experts",
    "guided-decoding-backend": "structured-outputs-config.backend",
    "guided-decoding-disable-additional-properties": "structured-outputs-config.disable_additional_properties",
    "guided-decoding-disable-any-whitespace": "structured-outputs-config.disable_any_whitespace",
    # the same description under another name
    "enable-mamba-fine-grained-prefix-cache": "enable-mamba-shared-prefix-checkpoint",
    "use-gpu-for-pooling-score": "enable-flash-late-interaction",
    # off since then, and switched on by the other
    "disable-log-requests": "enable-log-requests: false",
    # github.com/vllm-project/vllm, issue 29026
    "rope-scaling": "hf-overrides",
    "rope-theta": "hf-overrides",
    # the limit that is left: github.com/vllm-project/vllm, pull request 55256
    "max-long-partial-prefills": "long-prefill-token-threshold",
    "max-num-partial-prefills": "long-prefill-token-threshold",
}
"""Removed options → what does the same, where vLLM's last version with the option did not say it in the option's help."""
