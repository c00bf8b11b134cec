"""The operator's settings: each a flag of `vllm-operator run` and an environment variable VLLM_OPERATOR_<NAME>."""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from vllm_operator.api.endpoint import Network, read_networks
from vllm_operator.api.names import Key
from vllm_operator.engine.images import parse_version
from vllm_operator.hub.hugging_face import DEFAULT_ENDPOINT
from vllm_operator.reconcile.gateway_watch import GatewayPods
from vllm_operator.reconcile.reconciler import Timings
from vllm_operator.sizing.plan import AcceleratorKind
from vllm_operator.sizing.pools import GpuPool, declared_pools
from vllm_operator.workload.peers import NetworkPolicyPeer, read_peers
from vllm_operator.workload.settings import BuildSettings, GatewayRef

PREFIX = "VLLM_OPERATOR_"

_YES = ("true", "1", "yes")
_NO = ("false", "0", "no")
_ACCELERATORS: tuple[AcceleratorKind, ...] = ("nvidia", "amd", "intel", "cpu")
_LOG_FORMATS = ("json", "text")
_LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Settings:
    """How the operator runs."""

    namespaces: tuple[str, ...]
    """Namespaces that are watched; empty: all."""
    workers: int
    http_host: str
    http_port: int
    leader_election: bool
    lease_name: str
    lease_namespace: str
    identity: str
    probe_interval: float
    hub_endpoint: str
    """Hugging Face hub or mirror that models are looked up on; empty: none is asked."""
    external_networks: tuple[Network, ...]
    """Networks where external models may be, besides the Internet."""
    inspect_image: str
    """Image of the Jobs that read models in volumes; empty: the operator's own."""
    gateway_pods: GatewayPods | None
    """Pods of the gateway for all models; None: nobody looks at them."""
    own_pod: Key | None
    """The operator's own pod; None outside a cluster."""
    log_format: str
    log_level: str
    timings: Timings
    build: BuildSettings = field(repr=False)


class SettingsError(ValueError):
    """A setting has a value that cannot be used."""


def add_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """Add a flag for each setting; its default comes from the environment."""
    defaults = BuildSettings()
    add = flag_adder(parser, environment)
    add("namespaces", "", "namespaces to watch, separated by commas; none: all", metavar="A,B")
    add("workers", "16", "models reconciled at the same time", metavar="N")
    add("http-address", "0.0.0.0:8080", "where /healthz, /readyz and /metrics are served", metavar="HOST:PORT")
    variable = f"{PREFIX}LEADER_ELECTION"
    parser.add_argument(
        "--leader-election",
        action=argparse.BooleanOptionalAction,
        default=environment.get(variable) or "true",
        help=f"hold a Lease, so that several replicas are safe [{variable}; default: true]",
    )
    add("lease-name", "vllm-operator", "name of the Lease", metavar="NAME")
    add("lease-namespace", environment.get("POD_NAMESPACE", "default"), "namespace of the Lease", metavar="NAMESPACE")
    add(
        "identity",
        environment.get("POD_NAME") or socket.gethostname(),
        "this replica's name in the Lease",
        metavar="NAME",
    )
    add("default-gateway", "", "Gateway that models attach to unless they name one", metavar="NAMESPACE/NAME[/SECTION]")
    add("vllm-version", defaults.vllm_version, "vLLM version run unless a model names one", metavar="VERSION")
    for kind, template in defaults.image_templates.items():
        add(f"image-{kind}", template, f"image for {kind}; {{version}} stands for the vLLM version", metavar="IMAGE")
    add(
        "default-accelerator",
        defaults.default_accelerator,
        "accelerator of models that name none",
        choices=_ACCELERATORS,
    )
    add("vllm-run-as-user", "", "user id that vLLM runs as, in non-root pods; none: the image's own", metavar="UID")
    add(
        "hub-endpoint",
        environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT,
        "Hugging Face hub, or a mirror of it, where the operator reads what models are; off: it asks none",
        metavar="URL",
    )
    add("inspect-image", "", "image of the Jobs that read models in volumes; none: the operator's own", metavar="IMAGE")
    add_external_argument(parser, environment)
    add("gateway-url", "", "URL of the gateway for all models, told to users; none: there is none", metavar="URL")
    add(
        "gateway-pods",
        "",
        "pods of this gateway, whose state is shown on the models; none: they are not looked at",
        metavar="NAMESPACE/LABEL=VALUE,LABEL=VALUE",
    )
    add(
        "model-network-policy-from",
        "",
        "who may reach the pods of models that are behind this gateway alone, as JSON: a list of NetworkPolicy peers; "
        "none: everybody, and no NetworkPolicy is made",
        metavar="JSON",
    )
    add(
        "gpu-pools",
        "",
        "GPU pools that scale from zero, as JSON: a list of objects with product, memory, gpusPerNode and more (docs/sizing.md)",
        metavar="JSON",
    )
    add("probe-interval", "3", "seconds between two looks at a pod's /health", metavar="SECONDS")
    add("resync-interval", "300", "seconds between two looks at a model that nothing happens to", metavar="SECONDS")
    add(
        "reference-interval",
        "30",
        "seconds between two looks at the Secrets and ConfigMaps of a model",
        metavar="SECONDS",
    )
    add(
        "yield-after",
        "30",
        "seconds that a roll-out waits for a free GPU before an old pod goes first",
        metavar="SECONDS",
    )
    add("cluster-domain", defaults.cluster_domain, "DNS domain of the cluster", metavar="DOMAIN")
    add_log_arguments(parser, environment)


def add_external_argument(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """Add the flag that says where external models may be."""
    flag_adder(parser, environment)(
        "external-networks",
        "",
        "networks that are not public, where external models may be all the same, separated by commas",
        metavar="CIDR,...",
    )


def read_external_networks(text: str) -> tuple[Network, ...]:
    """Networks where external models may be, though they are not public. Raises SettingsError."""
    try:
        return read_networks(text)
    except ValueError as error:
        raise SettingsError(f"--external-networks: {error}; write networks such as 10.1.0.0/16") from error


def add_log_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """Add the flags of the log."""
    add = flag_adder(parser, environment)
    add("log-format", "json", "how log lines are written", choices=_LOG_FORMATS)
    add("log-level", "info", "least level that is logged", choices=_LOG_LEVELS)


class AddFlag(Protocol):
    """Adds a flag."""

    def __call__(
        self, name: str, default: str, help_text: str, *, metavar: str = "VALUE", choices: Sequence[str] | None = None
    ) -> None:
        """`name` without the dashes; `default` holds where neither the command line nor the environment says anything."""
        ...


def flag_adder(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> AddFlag:
    """What adds flags whose defaults come from the environment: VLLM_OPERATOR_ and the flag's name."""

    def add(
        name: str, default: str, help_text: str, *, metavar: str = "VALUE", choices: Sequence[str] | None = None
    ) -> None:
        variable = PREFIX + name.upper().replace("-", "_")
        parser.add_argument(
            f"--{name}",
            default=environment.get(variable) or default,
            metavar=None if choices else metavar,
            choices=choices,
            help=f"{help_text} [{variable}; default: {default or 'none'}]".replace("%", "%%"),
        )

    return add


def read_namespaces(text: str) -> tuple[str, ...]:
    """Namespaces, separated by commas."""
    return tuple(sorted({name.strip() for name in text.split(",") if name.strip()}))


def read_log_format(text: str) -> str:
    """A format of log lines. Raises SettingsError."""
    return _choice("--log-format", text, _LOG_FORMATS)


def read_log_level(text: str) -> str:
    """A level of the log. Raises SettingsError."""
    return _choice("--log-level", text, _LOG_LEVELS)


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Settings from parsed arguments. Raises SettingsError naming the flag, its value and what would be right."""
    host, port = read_address("--http-address", arguments.http_address)
    return Settings(
        namespaces=read_namespaces(arguments.namespaces),
        workers=read_number("--workers", arguments.workers, least=1, most=256),
        http_host=host,
        http_port=port,
        leader_election=_switch("--leader-election", str(arguments.leader_election)),
        lease_name=_text("--lease-name", arguments.lease_name),
        lease_namespace=_text("--lease-namespace", arguments.lease_namespace),
        identity=_text("--identity", arguments.identity),
        probe_interval=_number("--probe-interval", arguments.probe_interval, least=0.5, most=4),
        inspect_image=arguments.inspect_image.strip(),
        gateway_pods=_gateway_pods(arguments.gateway_pods),
        own_pod=_own_pod(os.environ),
        hub_endpoint=_endpoint("--hub-endpoint", arguments.hub_endpoint),
        external_networks=read_external_networks(arguments.external_networks),
        log_format=read_log_format(arguments.log_format),
        log_level=read_log_level(arguments.log_level),
        timings=Timings(
            resync=_number("--resync-interval", arguments.resync_interval, least=5, most=86400),
            references=_number("--reference-interval", arguments.reference_interval, least=1, most=3600),
            patience=_number("--yield-after", arguments.yield_after, least=0, most=86400),
        ),
        build=BuildSettings(
            vllm_version=_version("--vllm-version", arguments.vllm_version),
            image_templates={
                kind: _text(f"--image-{kind}", getattr(arguments, f"image_{kind}")) for kind in _ACCELERATORS
            },
            default_accelerator=cast(
                AcceleratorKind, _choice("--default-accelerator", arguments.default_accelerator, _ACCELERATORS)
            ),
            default_gateway=_gateway(arguments.default_gateway),
            gateway_url=_url("--gateway-url", arguments.gateway_url),
            model_network_policy_from=_peers("--model-network-policy-from", arguments.model_network_policy_from),
            run_as_user=(
                read_number("--vllm-run-as-user", arguments.vllm_run_as_user, least=1, most=2**31 - 1)
                if arguments.vllm_run_as_user
                else None
            ),
            declared_pools=_pools("--gpu-pools", arguments.gpu_pools),
            cluster_domain=_text("--cluster-domain", arguments.cluster_domain),
        ),
    )


def _number(flag: str, text: str, *, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise SettingsError(f"{flag} is {text!r}; it must be a number from {least:g} to {most:g}")
    return value


def read_number(flag: str, text: str, *, least: int, most: int) -> int:
    """A whole number. Raises SettingsError naming the flag and what would be right."""
    value = _number(flag, text, least=least, most=most)
    if value != int(value):
        raise SettingsError(f"{flag} is {text!r}; it must be a whole number from {least} to {most}")
    return int(value)


def _choice(flag: str, text: str, choices: Sequence[str]) -> str:
    """One of the choices. argparse only looks at what stands on the command line, not at what the environment says."""
    if text not in choices:
        raise SettingsError(f"{flag} is {text!r}; it must be one of {', '.join(choices)}")
    return text


def _text(flag: str, text: str) -> str:
    if not text.strip():
        raise SettingsError(f"{flag} is {text!r}; it must not be empty")
    return text.strip()


def _version(flag: str, text: str) -> str:
    try:
        parse_version(text)
    except ValueError as error:
        raise SettingsError(f"{flag} is {text!r}; write a release, e.g. 0.32.0") from error
    return text


def _switch(flag: str, text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise SettingsError(f"{flag} is {text!r}; it must be true or false")
    return text.lower() in _YES


def read_address(flag: str, text: str) -> tuple[str, int]:
    """HOST:PORT. Raises SettingsError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"{flag} is {text!r}; write HOST:PORT, e.g. 0.0.0.0:8080")
    return host.strip("[]") or "0.0.0.0", int(port)


def _own_pod(environment: Mapping[str, str]) -> Key | None:
    namespace, name = environment.get("POD_NAMESPACE"), environment.get("POD_NAME")
    return Key(namespace, name) if namespace and name else None


def _endpoint(flag: str, text: str) -> str:
    if text.strip().lower() == "off":
        return ""
    try:
        return _url(flag, text)
    except SettingsError as error:
        raise SettingsError(f"{error}, or off") from None


def _url(flag: str, text: str) -> str:
    if text.strip() and not text.startswith(("http://", "https://")):
        raise SettingsError(f"{flag} is {text!r}; write a URL that begins with http:// or https://")
    return text.strip().rstrip("/")


def _pools(flag: str, text: str) -> tuple[GpuPool, ...]:
    try:
        return declared_pools(text) if text.strip() else ()
    except ValueError as error:
        raise SettingsError(f"{flag}: {error}") from error


def _peers(flag: str, text: str) -> tuple[NetworkPolicyPeer, ...]:
    try:
        return read_peers(text) if text.strip() else ()
    except ValueError as error:
        raise SettingsError(f"{flag}: {error}") from error


def _gateway_pods(text: str) -> GatewayPods | None:
    if not text.strip():
        return None
    namespace, _, labels = text.strip().partition("/")
    pairs = [label.partition("=") for label in labels.split(",")]
    if not namespace or not all(name and value for name, _, value in pairs):
        raise SettingsError(
            f"--gateway-pods is {text!r}; write NAMESPACE/LABEL=VALUE or NAMESPACE/LABEL=VALUE,LABEL=VALUE"
        )
    return GatewayPods(namespace, {name: value for name, _, value in pairs})


def _gateway(text: str) -> GatewayRef | None:
    if not text:
        return None
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise SettingsError(f"--default-gateway is {text!r}; write NAMESPACE/NAME or NAMESPACE/NAME/SECTION")
    return GatewayRef(parts[0], parts[1], parts[2] if len(parts) == 3 else None)
