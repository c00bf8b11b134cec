"""What the builders need to know of the operator's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from vllm_operator.sizing.plan import AcceleratorKind
from vllm_operator.sizing.pools import GpuPool
from vllm_operator.workload.peers import NetworkPolicyPeer

STOCK_IMAGES: Mapping[AcceleratorKind, str] = MappingProxyType(
    {
        "nvidia": "vllm/vllm-openai:v{version}",
        "amd": "vllm/vllm-openai-rocm:v{version}",
        "intel": "vllm/vllm-openai-xpu:v{version}",
        "cpu": "vllm/vllm-openai-cpu:v{version}",
    }
)
"""vLLM's release images (its .buildkite/scripts publish them). The cpu one is a manifest for x86_64 and arm64."""


@dataclass(frozen=True)
class GatewayRef:
    """The Gateway that routes attach to when a model names none."""

    namespace: str
    name: str
    section: str | None = None
    """Listener; None: every listener that takes the route."""


@dataclass(frozen=True)
class BuildSettings:
    """Settings that change what is built. The same for all models of one operator."""

    vllm_version: str = "0.32.0"
    """vLLM version of models that do not say one."""
    image_templates: Mapping[AcceleratorKind, str] = field(default_factory=lambda: STOCK_IMAGES)
    """Image for each kind of accelerator; {version} is replaced."""
    default_accelerator: AcceleratorKind = "nvidia"
    """What accelerator.type `auto` means."""
    default_gateway: GatewayRef | None = None
    """Gateway of models without route.parentRefs; None: they get no route."""
    run_as_user: int | None = None
    """User and group number of the pods; None: the image's own, which is root in vLLM's stock images."""
    declared_pools: tuple[GpuPool, ...] = ()
    """Pools of GPUs that scale from zero: there is no node to read them from."""
    gateway_url: str = ""
    """URL of the gateway for all models; empty: there is none."""
    model_network_policy_from: tuple[NetworkPolicyPeer, ...] = ()
    """Who may reach the pods of models that are behind this gateway alone; empty: everybody, by no NetworkPolicy of the operator's."""
    cluster_domain: str = "cluster.local"
    """DNS domain of the cluster's Services."""
    listen_address: Literal["0.0.0.0", "::"] = "0.0.0.0"
    """Address that vLLM listens on. `::` for clusters without IPv4; it also takes IPv4 on Linux, but fails on nodes whose
    kernel has no IPv6."""
