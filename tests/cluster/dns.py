"""CoreDNS on the bridge's address: names of Services for pods of the real node (`http://name.namespace.svc`).

It runs on this machine and pods ask it directly, so it needs no Service and no pod of its own.
"""

from .commands import wait_until
from .control_plane import ControlPlane, http_ok
from .processes import Processes, Spec
from .settings import Settings
from .tools import binary


class Dns:
    """Starts and checks CoreDNS."""

    COMPONENTS = ("coredns",)

    def __init__(self, settings: Settings, processes: Processes, control_plane: ControlPlane) -> None:
        """Use the given addresses, paths, process records and API server."""
        self._settings = settings
        self._processes = processes
        self._control_plane = control_plane

    def up(self) -> None:
        """Start CoreDNS and wait until it has read the Services."""
        settings = self._settings
        read = ["list", "watch"]
        self._control_plane.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "coredns"},
                "rules": [
                    {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": read},
                    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
                ],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "coredns"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "coredns"}],
            },
        )
        configuration = settings.state / "Corefile"
        configuration.write_text(
            f""".:53 {{
    bind {settings.host_address}
    health 127.0.0.1:{settings.port(32391)}
    ready 127.0.0.1:{settings.port(32392)}
    errors
    cache 2
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {settings.pki / "coredns.kubeconfig"} vllm-operator-local
        fallthrough in-addr.arpa
        ttl 2
    }}
    forward . /etc/resolv.conf
}}
"""
        )
        self._processes.ensure(
            Spec(
                "coredns",
                [str(binary("coredns")), "-conf", str(configuration)],
                address=f"{settings.host_address}:53",
            )
        )
        wait_until(
            "CoreDNS to be ready",
            lambda: http_ok(f"http://127.0.0.1:{settings.port(32392)}/ready"),
            timeout=30,
            log=self._processes.log("coredns"),
        )

    def healthy(self, _name: str) -> bool:
        """Ask CoreDNS for its health."""
        return http_ok(f"http://127.0.0.1:{self._settings.port(32391)}/health")
