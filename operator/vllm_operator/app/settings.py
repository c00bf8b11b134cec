"""The operator's settings: each a flag of `vllm-operator run` and an environment variable VLLM_OPERATOR_<NAME>."""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_operator.reconcile.reconciler import Timings
from vllm_operator.sizing.plan import AcceleratorKind
from vllm_operator.workload.settings import BuildSettings, GatewayRef

PREFIX = "VLLM_OPERATOR_"


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
    log_format: str
    log_level: str
    timings: Timings
    build: BuildSettings = field(repr=False)


class SettingsError(ValueError):
    """A setting has a value that cannot be used."""


def add_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """Add a flag for each setting; its default comes from the environment."""
    defaults = BuildSettings()

    def add(
        name: str, default: str, help_text: str, *, metavar: str = "VALUE", choices: Sequence[str] | None = None
    ) -> None:
        variable = PREFIX + name.upper().replace("-", "_")
        parser.add_argument(
            f"--{name}",
            default=environment.get(variable) or default,
            metavar=None if choices else metavar,
            choices=choices,
            help=f"{help_text} [{variable}; default: {default or 'none'}]",
        )

    add("namespaces", "", "namespaces to watch, separated by commas; none: all", metavar="A,B")
    add("workers", "16", "models reconciled at the same time", metavar="N")
    add("http-address", "0.0.0.0:8080", "where /healthz, /readyz and /metrics are served", metavar="HOST:PORT")
    variable = f"{PREFIX}LEADER_ELECTION"
    parser.add_argument(
        "--leader-election",
        action=argparse.BooleanOptionalAction,
        default=environment.get(variable, "true").lower() not in ("false", "0", "no"),
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
        choices=("nvidia", "amd", "intel", "cpu"),
    )
    add("vllm-run-as-user", "", "user id that vLLM runs as, in non-root pods; none: the image's own", metavar="UID")
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
    add("log-format", "json", "how log lines are written", choices=("json", "text"))
    add("log-level", "info", "least level that is logged", choices=("debug", "info", "warning", "error"))


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Settings from parsed arguments. Raises SettingsError naming the flag, its value and what would be right."""
    host, port = _host_port("--http-address", arguments.http_address)
    kinds: tuple[AcceleratorKind, ...] = ("nvidia", "amd", "intel", "cpu")
    return Settings(
        namespaces=tuple(sorted({name.strip() for name in arguments.namespaces.split(",") if name.strip()})),
        workers=int(_number("--workers", arguments.workers, least=1, most=256)),
        http_host=host,
        http_port=port,
        leader_election=arguments.leader_election,
        lease_name=arguments.lease_name,
        lease_namespace=arguments.lease_namespace,
        identity=arguments.identity,
        probe_interval=_number("--probe-interval", arguments.probe_interval, least=0.5, most=4),
        log_format=arguments.log_format,
        log_level=arguments.log_level,
        timings=Timings(
            resync=_number("--resync-interval", arguments.resync_interval, least=5, most=86400),
            references=_number("--reference-interval", arguments.reference_interval, least=1, most=3600),
            patience=_number("--yield-after", arguments.yield_after, least=0, most=86400),
        ),
        build=BuildSettings(
            vllm_version=arguments.vllm_version,
            image_templates={kind: getattr(arguments, f"image_{kind}") for kind in kinds},
            default_accelerator=arguments.default_accelerator,
            default_gateway=_gateway(arguments.default_gateway),
            run_as_user=(
                int(_number("--vllm-run-as-user", arguments.vllm_run_as_user, least=1, most=2**31 - 1))
                if arguments.vllm_run_as_user
                else None
            ),
            cluster_domain=arguments.cluster_domain,
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


def _host_port(flag: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"{flag} is {text!r}; write HOST:PORT, e.g. 0.0.0.0:8080")
    return host.strip("[]") or "0.0.0.0", int(port)


def _gateway(text: str) -> GatewayRef | None:
    if not text:
        return None
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise SettingsError(f"--default-gateway is {text!r}; write NAMESPACE/NAME or NAMESPACE/NAME/SECTION")
    return GatewayRef(parts[0], parts[1], parts[2] if len(parts) == 3 else None)
