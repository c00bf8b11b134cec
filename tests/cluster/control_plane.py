"""The control plane: real etcd, kube-apiserver, controller-manager and scheduler, and kwok for nodes that only
pretend.

RBAC and the Node authorizer are on. Every request but health checks is written to an audit log, so that a test can
count the writes a component makes at rest.
"""

import json
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import pki, tools
from .commands import run, wait_until
from .processes import Processes, Spec
from .settings import CLUSTER_FOLDER, Settings

# Level Metadata for all requests, without the RequestReceived stage, which would double each line.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version"]},
        {"level": "Metadata"},
    ],
}

# Products as GPU feature discovery writes them: product -> (memory MiB, compute capability, family).
GPU_PRODUCTS: Mapping[str, tuple[int, tuple[int, int], str]] = {
    "NVIDIA-H100-80GB-HBM3": (81559, (9, 0), "hopper"),
    "NVIDIA-H200": (143771, (9, 0), "hopper"),
    "NVIDIA-B200": (183359, (10, 0), "blackwell"),
    "NVIDIA-A100-SXM4-80GB": (81920, (8, 0), "ampere"),
    "NVIDIA-A100-SXM4-40GB": (40960, (8, 0), "ampere"),
    "NVIDIA-L40S": (46068, (8, 9), "ada-lovelace"),
    "NVIDIA-L4": (23034, (8, 9), "ada-lovelace"),
    "NVIDIA-A10G": (23028, (8, 6), "ampere"),
    "Tesla-T4": (15360, (7, 5), "turing"),
}


def gpu_labels(*, product: str, memory_mib: int, gpus: int) -> dict[str, str]:
    """Return a node's labels as GPU feature discovery writes them."""
    _, (major, minor), family = GPU_PRODUCTS.get(product, (memory_mib, (9, 0), "hopper"))
    return {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory_mib),
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.compute.major": str(major),
        "nvidia.com/gpu.compute.minor": str(minor),
        "nvidia.com/gpu.family": family,
        "nvidia.com/gpu.machine": "kwok",
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/cuda.driver.major": "580",
        "nvidia.com/cuda.runtime.major": "13",
    }


class ControlPlane:
    """Starts, checks and repairs the control plane of one cluster."""

    COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")

    def __init__(self, settings: Settings, processes: Processes) -> None:
        """Use the given addresses, paths and process records."""
        self._settings = settings
        self._processes = processes

    def up(self) -> None:
        """Start what does not run, in order, and wait until it answers."""
        settings = self._settings
        settings.logs.mkdir(parents=True, exist_ok=True)
        pki.ensure(settings)
        (settings.state / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
        specs = {spec.name: spec for spec in self.specs()}
        self._processes.ensure(specs["etcd"])
        self._processes.ensure(specs["kube-apiserver"])
        wait_until(
            "kube-apiserver to be ready",
            self.ready,
            timeout=60,
            log=self._processes.log("kube-apiserver"),
            interval=0.2,
        )
        for name in ("kube-controller-manager", "kube-scheduler"):
            self._processes.ensure(specs[name])
        # Pods are refused until the controller manager has made the default service account.
        wait_until(
            "the default service account",
            lambda: (
                self.kubectl("get", "serviceaccount", "default", "-n", "default", "--ignore-not-found", "-o", "name")
                != ""
            ),
            timeout=60,
            log=self._processes.log("kube-controller-manager"),
        )

    def start_kwok(self) -> None:
        """Start what keeps the simulated nodes alive."""
        settings, keys = self._settings, self._settings.pki
        self._processes.ensure(
            Spec(
                "kwok",
                [
                    str(tools.binary("kwok")),
                    f"--kubeconfig={keys / 'kwok.kubeconfig'}",
                    f"--config={CLUSTER_FOLDER / 'kwok-stages.yaml'}",
                    "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                    "--cidr=10.201.0.0/16",
                    "--node-ip=10.202.0.1",
                    f"--node-port={settings.port(32347)}",
                    f"--server-address=127.0.0.1:{settings.port(32347)}",
                    "--node-lease-duration-seconds=40",
                ],
                address=f"http://127.0.0.1:{settings.port(32347)}",
            )
        )

    def ready(self) -> bool:
        """Ask the API server's /readyz."""
        return https_ok(f"{self._settings.api_url}/readyz", self._settings.pki)

    def healthy(self, name: str) -> bool:
        """Ask a component for its health at its own address."""
        settings = self._settings
        if name == "etcd":
            return http_ok(f"http://127.0.0.1:{settings.etcd_port}/health")
        if name == "kube-apiserver":
            return self.ready()
        if name == "kwok":
            return http_ok(f"http://127.0.0.1:{settings.port(32347)}/healthz")
        port = settings.port(32257 if name == "kube-controller-manager" else 32259)
        return https_ok(f"https://127.0.0.1:{port}/healthz", None)

    def kubectl(self, *words: str | Path, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl as the user `cluster-up`, so that a test tells this harness's writes from the operator's."""
        config = self._settings.pki / "cluster-up.kubeconfig"
        return run([tools.binary("kubectl"), "--kubeconfig", config, *words], stdin=stdin, timeout=timeout)

    def apply(self, *objects: Mapping[str, object], force: bool = True) -> None:
        """Server-side apply objects as the harness's field manager."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        words = ["apply", "--server-side", "--field-manager=cluster-up", "-f", "-"]
        self.kubectl(*words, *(["--force-conflicts"] if force else []), stdin=document, timeout=180)

    def install_gateway_api(self, folder: Path) -> None:
        """Install the Gateway API's standard CRDs unless they are there."""
        if "gatewayclasses.gateway.networking.k8s.io" in self.kubectl("get", "crd", "-o", "name"):
            return
        self.kubectl("apply", "--server-side", "--field-manager=cluster-up", "-f", folder, timeout=120)
        # The folder also holds an admission policy, which has no such condition.
        crds = [name for name in self.kubectl("get", "-f", folder, "-o", "name").split() if name.startswith("custom")]
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", *crds, timeout=90)

    def add_gpu_nodes(self, *, product: str, memory_mib: int, gpus: int, count: int, prefix: str) -> list[str]:
        """Make nodes that kwok keeps alive; only pods that tolerate their taint land on them. Return their names."""
        names = [f"{prefix}{number}" for number in range(count)]
        self.apply(*(self._gpu_node(name, product=product, memory_mib=memory_mib, gpus=gpus) for name in names))
        return names

    @staticmethod
    def _gpu_node(name: str, *, product: str, memory_mib: int, gpus: int) -> dict[str, object]:
        resources = {
            "cpu": "128",
            "memory": "1Ti",
            "ephemeral-storage": "4Ti",
            "pods": "250",
            "nvidia.com/gpu": str(gpus),
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "annotations": {"kwok.x-k8s.io/node": "fake"},
                "labels": {
                    "type": "kwok",
                    "kubernetes.io/arch": "amd64",
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/hostname": name,
                    **gpu_labels(product=product, memory_mib=memory_mib, gpus=gpus),
                },
            },
            "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
            "status": {"capacity": resources, "allocatable": resources},
        }

    def specs(self) -> Sequence[Spec]:
        """Return how each component is started."""
        settings, keys = self._settings, self._settings.pki
        etcd = f"http://127.0.0.1:{settings.etcd_port}"
        peer = f"http://127.0.0.1:{settings.port(32380)}"
        quick = ["--kube-api-qps=1000", "--kube-api-burst=2000"]
        return (
            Spec(
                "etcd",
                [
                    str(tools.binary("etcd")),
                    f"--data-dir={settings.state / 'etcd'}",
                    "--name=etcd",
                    f"--listen-client-urls={etcd}",
                    f"--advertise-client-urls={etcd}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster=etcd={peer}",
                    "--unsafe-no-fsync",
                    "--quota-backend-bytes=8589934592",
                    "--log-level=warn",
                ],
                address=etcd,
            ),
            Spec(
                "kube-apiserver",
                [
                    str(tools.binary("kube-apiserver")),
                    f"--etcd-servers={etcd}",
                    f"--secure-port={settings.api_port}",
                    "--bind-address=0.0.0.0",
                    f"--advertise-address={settings.host_address}",
                    f"--client-ca-file={keys / 'ca.crt'}",
                    f"--tls-cert-file={keys / 'apiserver.crt'}",
                    f"--tls-private-key-file={keys / 'apiserver.key'}",
                    f"--service-account-key-file={keys / 'service-account.pub'}",
                    f"--service-account-signing-key-file={keys / 'service-account.key'}",
                    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                    f"--kubelet-client-certificate={keys / 'admin.crt'}",
                    f"--kubelet-client-key={keys / 'admin.key'}",
                    "--kubelet-preferred-address-types=InternalIP",
                    "--authorization-mode=Node,RBAC",
                    "--enable-admission-plugins=NodeRestriction",
                    "--allow-privileged=true",
                    f"--service-cluster-ip-range={settings.service_range}",
                    "--max-requests-inflight=0",
                    "--max-mutating-requests-inflight=0",
                    "--enable-priority-and-fairness=false",
                    f"--audit-policy-file={settings.state / 'audit-policy.json'}",
                    f"--audit-log-path={settings.audit_log}",
                    "--audit-log-mode=batch",
                    # Never rotated: whoever counts from a place in it would count nothing, and call that rest.
                    "--audit-log-maxsize=100000",
                    "--audit-log-batch-max-wait=200ms",
                    "--audit-log-batch-throttle-enable=false",
                    "--shutdown-delay-duration=0s",
                ],
                address=settings.api_url,
            ),
            Spec(
                "kube-controller-manager",
                [
                    str(tools.binary("kube-controller-manager")),
                    f"--kubeconfig={keys / 'controller-manager.kubeconfig'}",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={settings.port(32257)}",
                    f"--service-account-private-key-file={keys / 'service-account.key'}",
                    f"--root-ca-file={keys / 'ca.crt'}",
                    "--use-service-account-credentials=true",
                    "--leader-elect=false",
                    f"--cluster-signing-cert-file={keys / 'ca.crt'}",
                    f"--cluster-signing-key-file={keys / 'ca.key'}",
                    "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics",
                    *quick,
                ],
                address=f"https://127.0.0.1:{settings.port(32257)}",
            ),
            Spec(
                "kube-scheduler",
                [
                    str(tools.binary("kube-scheduler")),
                    f"--kubeconfig={keys / 'scheduler.kubeconfig'}",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={settings.port(32259)}",
                    "--leader-elect=false",
                    "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics",
                    *quick,
                ],
                address=f"https://127.0.0.1:{settings.port(32259)}",
            ),
        )


def http_ok(url: str) -> bool:
    """Tell whether a plain HTTP address answers 2xx within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, ValueError):
        return False


def https_ok(url: str, keys: Path | None) -> bool:
    """Tell whether an HTTPS address answers 2xx, trusting the cluster's authority (or nobody, with ``keys`` None)."""
    try:
        if keys is None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
            context.load_cert_chain(keys / "cluster-up.crt", keys / "cluster-up.key")
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, ValueError):
        return False
