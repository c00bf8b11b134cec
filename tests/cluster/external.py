"""Clusters this harness did not build: the one of the current KUBECONFIG, or one made with kind where Docker is.

They have no components to kill and no audit log; tests that need these skip, with the reason that the error gives.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from . import tools
from .commands import run
from .local import ComponentStatus, LocalCluster, Profile
from .progress import Progress
from .settings import OPERATOR_IMAGE, REPOSITORY, ClusterError

_KIND_NAME = "vllm-operator"


def _program(name: str, how: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise ClusterError(f"{name} is not on PATH; {how}")
    return Path(found)


class ExistingCluster(LocalCluster):
    """The cluster of the current KUBECONFIG. It is used as it is: `up` only checks, `down` leaves it alone."""

    @property
    def kubeconfig(self) -> Path:
        """First file of KUBECONFIG, else the default one."""
        first = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
        return Path(first) if first else Path.home() / ".kube" / "config"

    @property
    def audit_log(self) -> Path:
        """There is none that could be read from here."""
        raise ClusterError("this cluster's audit log cannot be read from here")

    @property
    def gateway_url(self) -> str:
        """Base address of the gateway, which only the user knows."""
        address = os.environ.get("VLLM_OPERATOR_GATEWAY_URL")
        if not address:
            raise ClusterError("set VLLM_OPERATOR_GATEWAY_URL to the address of this cluster's gateway")
        return address.rstrip("/")

    def bin(self, name: str) -> Path:
        """Return a program from PATH."""
        return _program(name, "a cluster of your own needs its own kubectl and helm")

    def kubectl(self, *words: str | Path, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl with this cluster's kubeconfig."""
        return run([self.bin("kubectl"), "--kubeconfig", self.kubeconfig, *words], stdin=stdin, timeout=timeout)

    def answers(self) -> bool:
        """Tell whether the API server is ready now."""
        try:
            return self.kubectl("get", "--raw", "/readyz", timeout=10).strip() == "ok"
        except ClusterError:
            return False

    def up(self, *, profile: Profile = "full", progress: Progress | None = None) -> "LocalCluster":
        """Check that the cluster answers."""
        if not self.answers():
            raise ClusterError(f"the cluster of {self.kubeconfig} does not answer")
        return self

    def down(self, progress: Progress | None = None) -> None:
        """Leave the cluster alone: it is the user's."""

    def status(self) -> list[ComponentStatus]:
        """Return one row: the API server."""
        health = "ok" if self.answers() else "unreachable"
        return [ComponentStatus("kube-apiserver", None, health, str(self.kubeconfig), Path("-"))]

    def environment(self) -> dict[str, str]:
        """Return the variables that make kubectl talk to this cluster."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    def kill(self, component: str) -> None:
        """Refuse: the processes are elsewhere."""
        raise ClusterError(f"{component} of this cluster cannot be controlled from here")

    start = pause = resume = kill

    def healthy(self, component: str) -> bool:
        """Tell whether the API server answers; other components cannot be asked."""
        return component == "kube-apiserver" and self.answers()

    def add_gpu_nodes(
        self, *, product: str, memory_mib: int | None = None, gpus: int = 8, count: int = 1, prefix: str = "gpu-"
    ) -> list[str]:
        """Refuse: nothing here plays a node."""
        raise ClusterError("kwok nodes are made in this harness's own cluster only")

    def build_image(self, *, tag: str = OPERATOR_IMAGE, progress: Progress | None = None) -> str:
        """Refuse: only the user knows where this cluster gets its images."""
        raise ClusterError("build the image yourself and push it to a registry this cluster reads")

    def envoy_image(self, *, progress: Progress | None = None) -> str:
        """Return the chart's own: such a cluster reads registries."""
        values: dict[str, Any] = yaml.safe_load((REPOSITORY / "charts/vllm-operator/values.yaml").read_text())
        image = values["gateway"]["envoy"]["image"]
        return f"{image['repository']}:{image['tag']}"


class KindCluster(ExistingCluster):
    """A cluster made with kind, for machines that have Docker. Not tried on a machine with Docker yet."""

    @property
    def kubeconfig(self) -> Path:
        """kind's kubeconfig, under this harness's state."""
        return self._settings.state.parent / "kind" / "kubeconfig"

    def up(self, *, profile: Profile = "full", progress: Progress | None = None) -> "LocalCluster":
        """Create the cluster unless it is there, and install the Gateway API's CRDs."""
        progress = progress or Progress()
        kind = self._kind()
        if _KIND_NAME not in run([kind, "get", "clusters"]).split():
            self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
            with progress.task("kind create cluster"):
                run(
                    [
                        kind,
                        "create",
                        "cluster",
                        "--name",
                        _KIND_NAME,
                        "--kubeconfig",
                        self.kubeconfig,
                        "--wait",
                        "120s",
                    ],
                    timeout=600,
                )
        crds = tools.gateway_api_crds(progress)
        self.kubectl("apply", "--server-side", "--field-manager=cluster-up", "-f", crds, timeout=120)
        return super().up(profile=profile, progress=progress)

    def down(self, progress: Progress | None = None) -> None:
        """Delete the cluster."""
        run([self._kind(), "delete", "cluster", "--name", _KIND_NAME], timeout=120)

    def build_image(self, *, tag: str = OPERATOR_IMAGE, progress: Progress | None = None) -> str:
        """Build with Docker and load the image into kind."""
        kind = self._kind()
        run(["docker", "build", "-t", tag, REPOSITORY], timeout=900)
        run([kind, "load", "docker-image", "--name", _KIND_NAME, tag], timeout=300)
        return tag

    @staticmethod
    def _kind() -> Path:
        how = "VLLM_OPERATOR_CLUSTER=kind needs kind and a running Docker; without them leave the variable unset"
        found = _program("kind", how)
        try:
            run([_program("docker", how), "info"], timeout=20)
        except ClusterError as error:
            raise ClusterError(f"Docker does not answer; {how}") from error
        return found
