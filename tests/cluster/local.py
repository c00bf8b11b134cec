"""One cluster on this machine, as tests and the command line use it."""

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import dns, envoy, gateway, operator_image, packages, tools, vllm_env
from .commands import wait_until
from .control_plane import GPU_PRODUCTS, ControlPlane
from .gateway import Gateway
from .node import Node
from .processes import Processes
from .progress import Progress
from .settings import OPERATOR_IMAGE, ClusterError, Settings

Profile = Literal["control-plane", "serving", "full"]

PROFILES: dict[Profile, frozenset[str]] = {
    "control-plane": frozenset({"gpu-nodes"}),
    "serving": frozenset({"node"}),
    "full": frozenset({"gpu-nodes", "node", "dns"}),
}
"""What each profile has beside the control plane itself. `serving` is the least that serves a model through a gateway."""


@dataclass(frozen=True)
class ComponentStatus:
    """One row of the status table."""

    name: str
    pid: int | None
    health: str
    address: str
    log: Path


class LocalCluster:
    """A real Kubernetes without Docker: real control plane, kwok GPU nodes and one real node."""

    def __init__(self, settings: Settings) -> None:
        """Describe the cluster of these settings; nothing is started."""
        self._settings = settings
        self._processes = Processes(records=settings.state / "processes", logs=settings.logs)
        self._control_plane = ControlPlane(settings, self._processes)
        self._node = Node(settings, self._processes, self._control_plane)
        self._dns = dns.Dns(settings, self._processes, self._control_plane)
        self._gateway = Gateway(settings, self._processes, self._control_plane)

    # -- life
    # ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def load() -> "LocalCluster":
        """Return the cluster that ``VLLM_OPERATOR_CLUSTER`` chooses, running or not.

        ``local`` (the default) is this harness's own, of this environment's slot; ``existing`` is the one of the
        current KUBECONFIG; ``kind`` is made with kind and Docker.
        """
        from .external import ExistingCluster, KindCluster

        kinds = {"local": LocalCluster, "existing": ExistingCluster, "kind": KindCluster}
        chosen = os.environ.get("VLLM_OPERATOR_CLUSTER", "local")
        if chosen not in kinds:
            raise ClusterError(f"VLLM_OPERATOR_CLUSTER must be one of {', '.join(kinds)}, not {chosen!r}")
        return kinds[chosen](Settings.load())

    @classmethod
    def running(cls) -> "LocalCluster | None":
        """Return the cluster when its API server answers now, else None."""
        cluster = cls.load()
        return cluster if cluster.answers() else None

    def answers(self) -> bool:
        """Tell whether the API server is ready now."""
        return self.kubeconfig.exists() and self._control_plane.ready()

    @property
    def profile(self) -> Profile | None:
        """What runs here, or None."""
        parts = self._parts()
        return next((profile for profile, wanted in PROFILES.items() if wanted == parts), None)

    def up(self, *, profile: Profile = "full", progress: Progress | None = None) -> "LocalCluster":
        """Start what is missing and repair what is broken; on a healthy cluster this takes seconds.

        What a running cluster has beyond the profile that is asked for, it keeps.
        """
        progress = progress or Progress()
        with self._locked():
            parts = PROFILES[profile] | self._parts()
            if "node" in parts and self._settings.slot != 0:
                raise ClusterError("the real node uses machine-wide network names: it exists in slot 0 only")
            if "node" in parts and os.geteuid() != 0:
                raise ClusterError("the real node makes a network bridge and containers: run it as root")
            traefik = self._provide(parts, progress)
            if "node" in parts:
                self._node.network_up()
            self._start(parts, traefik, progress)
            self._settings.state.mkdir(parents=True, exist_ok=True)
            (self._settings.state / "parts.json").write_text(json.dumps(sorted(parts)))
        return self

    def _parts(self) -> frozenset[str]:
        """What was last brought up."""
        try:
            return frozenset(json.loads((self._settings.state / "parts.json").read_text()))
        except (OSError, ValueError, TypeError):
            return frozenset()

    def _provide(self, parts: frozenset[str], progress: Progress) -> Path | None:
        """Build and download what these parts need; returns Traefik when they need it."""
        wanted = [tool for part, needed in tools.BY_PART.items() if part == "" or part in parts for tool in needed]
        if "node" not in parts:
            tools.build(wanted, progress)
            return None
        packages.ensure(packages.NODE_PACKAGES, progress)
        # Downloads wait for the network and builds for the processors: they go well together.
        with ThreadPoolExecutor(max_workers=1) as pool:
            downloads = pool.submit(self._download, progress)
            tools.build(wanted, progress)
            return downloads.result()

    def _start(self, parts: frozenset[str], traefik: Path | None, progress: Progress) -> None:
        crds = tools.gateway_api_crds(progress)
        progress.expect(1 + len(parts) + (traefik is not None))
        with progress.task("start the control plane, with the Gateway API's CRDs"):
            self._control_plane.up()
            self._control_plane.install_gateway_api(crds)
        if "gpu-nodes" in parts:
            with progress.task("4 kwok nodes with 8 GPUs each"):
                self._control_plane.start_kwok()
                self.add_gpu_nodes(product="NVIDIA-H100-80GB-HBM3", count=4, prefix="gpu-h100-")
                self.wait(
                    "the kwok nodes to be Ready",
                    lambda: self._ready_nodes("type=kwok") >= 4,
                    timeout=60,
                    log=self._processes.log("kwok"),
                )
        if "node" in parts:
            with progress.task("the real node: containerd, kubelet, kube-proxy, images"):
                self._node.up()
        if "dns" in parts:
            with progress.task("CoreDNS"):
                self._dns.up()
        if traefik is not None:
            with progress.task("Traefik and its Gateway"):
                self._gateway.up(traefik)

    @staticmethod
    def _download(progress: Progress) -> Path:
        vllm_env.ensure(progress)
        operator_image.prepare(progress)
        return gateway.program(progress)

    def down(self, progress: Progress | None = None) -> None:
        """Stop every process and remove all state; also works on a cluster that is half made or half dead."""
        progress = progress or Progress()
        with self._locked():
            progress.expect(1)
            with progress.task("stop the processes and remove the state"):
                if self._settings.slot == 0 and os.geteuid() == 0:
                    self._node.down()
                for name in reversed(self._processes.names()):
                    self._processes.kill(name)  # its data goes with it
                    self._processes.forget(name)
                shutil.rmtree(self._settings.state, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep two `up` or `down` from working on the same cluster at once."""
        folder = self._settings.state.parent / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{self._settings.state.name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    # -- what tests use
    # ------------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig."""
        return self._settings.kubeconfig

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: JSON lines at level Metadata; `user.username` tells whose request it was."""
        return self._settings.audit_log

    @property
    def gateway_url(self) -> str:
        """Base address of the gateway, reachable from this machine and from pods on the real node."""
        return f"http://{self._settings.host_address}:{self._settings.gateway_port}"

    def bin(self, name: str) -> Path:
        """Return the path of one of the built programs: kubectl, helm, ctr and so on."""
        return tools.binary(name)

    def log(self, component: str) -> Path:
        """Return a component's log."""
        return self._processes.log(component)

    def kubectl(self, *words: str | Path, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl as the harness's own user (`cluster-up`) and return its output."""
        return self._control_plane.kubectl(*words, stdin=stdin, timeout=timeout)

    def kill(self, component: str) -> None:
        """Kill a component (SIGKILL) by its own pid."""
        self._processes.kill(component)

    def start(self, component: str) -> None:
        """Start a killed component again, as it was, without waiting for its health (see `healthy` and `wait`)."""
        self._processes.start(component)

    def pause(self, component: str) -> None:
        """Stop a component's process in its tracks (SIGSTOP): connections stay open and nothing answers."""
        self._processes.signal(component, signal.SIGSTOP)

    def resume(self, component: str) -> None:
        """Let a paused component go on (SIGCONT)."""
        self._processes.signal(component, signal.SIGCONT)

    def healthy(self, component: str) -> bool:
        """Tell whether a component runs and answers at its health address."""
        if self._processes.pid(component) is None:
            return False
        for part in (self._node, self._dns, self._gateway):
            if component in part.COMPONENTS:
                return part.healthy(component)
        return self._control_plane.healthy(component)

    def add_gpu_nodes(
        self, *, product: str, memory_mib: int | None = None, gpus: int = 8, count: int = 1, prefix: str = "gpu-"
    ) -> list[str]:
        """Add kwok nodes ``prefix0`` … with ``gpus`` GPUs each and return their names.

        ``memory_mib`` is one GPU's memory as GPU feature discovery labels it; known products may leave it out.
        """
        if memory_mib is None:
            if product not in GPU_PRODUCTS:
                raise ClusterError(f"memory_mib is needed for {product!r}; known: {', '.join(GPU_PRODUCTS)}")
            memory_mib = GPU_PRODUCTS[product][0]
        return self._control_plane.add_gpu_nodes(
            product=product, memory_mib=memory_mib, gpus=gpus, count=count, prefix=prefix
        )

    def remove_nodes(self, *names: str) -> None:
        """Delete nodes; their pods follow when the controller manager notices."""
        if names:
            self.kubectl("delete", "node", "--ignore-not-found", "--wait=false", *names)

    def build_image(self, *, tag: str = OPERATOR_IMAGE, progress: Progress | None = None) -> str:
        """Build the operator's image, import it into the real node and return its name."""
        return operator_image.ensure(progress or Progress(), tag=tag)

    def envoy_image(self, *, progress: Progress | None = None) -> str:
        """Import an image with Envoy into the real node and return its name."""
        return envoy.ensure_image(progress or Progress())

    def wait(self, what: str, ready: Callable[[], bool], *, timeout: float = 60.0, log: Path | None = None) -> None:
        """Wait for a condition with a deadline; the error names ``what`` and shows the end of ``log``."""
        wait_until(what, ready, timeout=timeout, log=log)

    def status(self) -> list[ComponentStatus]:
        """Return one row for each component that has been started."""

        def row(name: str) -> ComponentStatus:
            pid = self._processes.pid(name)
            if pid is None:
                health = "dead"
            elif self._processes.paused(name):
                health = "paused"
            else:
                health = "ok" if self.healthy(name) else "unhealthy"
            return ComponentStatus(name, pid, health, self._processes.address(name), self._processes.log(name))

        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(row, self._processes.names()))

    def environment(self) -> dict[str, str]:
        """Return the variables that make kubectl and friends talk to this cluster."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": f"{tools.link_folder()}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def _ready_nodes(self, selector: str) -> int:
        path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
        return self.kubectl("get", "nodes", "-l", selector, "-o", f"jsonpath={path}").split().count("True")
