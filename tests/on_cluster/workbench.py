"""Everything that a test on the local cluster needs, and its removal: namespaces, identities, GPU nodes, operators."""

import base64
import contextlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.apiserver import ApiError, Object
from tests.cluster import LocalCluster
from tests.hub.server import serving
from tests.sizing.published import configs
from vllm_operator.api.crd import CRD_NAME, crd
from vllm_operator.api.types import PLURAL
from vllm_operator.cluster import kinds

from .api import Api, Audit, wait_until
from .operator_process import OperatorProcess

RULES = Path(__file__).resolve().parent.parent.parent / "charts" / "vllm-operator" / "files" / "rbac"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def chart_rules(name: str = "cluster-rules.yaml") -> list[Object]:
    """The rules that the chart gives the operator."""
    rules: list[Object] = yaml.safe_load((RULES / name).read_text())
    return rules


@dataclass(frozen=True)
class Identity:
    """A ServiceAccount of the operator."""

    user: str
    token: str
    kubeconfig: Path


class Workbench:
    """One session's things in the cluster. `close` removes them."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.api = Api(cluster.kubeconfig)
        self.audit = Audit(cluster.audit_log, self.api)
        self.id = uuid.uuid4().hex[:6]
        self._cluster_wide: list[str] = []
        self._namespaces: list[str] = []
        self._nodes: list[str] = []
        self._install_crd()
        self.home = self.namespace("operator")
        """Where the operator's ServiceAccounts and leases are."""
        self.role = f"on-cluster-{self.id}"
        self.make_cluster_role(self.role, chart_rules())
        self.make_cluster_role(f"{self.role}-nodes", chart_rules("node-rules.yaml"))
        self._closing = contextlib.ExitStack()
        self.hub = self._closing.enter_context(serving())
        """A hub that has every published model's config."""
        for name, config in configs().items():
            self.hub.repositories[name] = {"config.json": json.dumps(config).encode()}
        role = {"metadata": {"name": "leases"}, "rules": chart_rules("own-namespace-rules.yaml")}
        self.api.request("POST", f"{RBAC}/namespaces/{self.home}/roles", body=role)

    def _install_crd(self) -> None:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}"
        self.api.apply(path, crd())

        def served() -> bool:
            found = self.api.request("GET", path).get("status", {}).get("conditions", [])
            return any(each["type"] == "Established" and each["status"] == "True" for each in found) and bool(
                self.api.request("GET", kinds.VLLM_MODEL.path("default"))
            )

        wait_until(f"{PLURAL} to be served", served, timeout=60)

    def close(self) -> None:
        for namespace in self._namespaces:
            with contextlib.suppress(ApiError):
                self.api.request("DELETE", f"/api/v1/namespaces/{namespace}")
        for path in self._cluster_wide:
            with contextlib.suppress(ApiError):
                self.api.request("DELETE", path)
        with contextlib.suppress(Exception):
            self.cluster.remove_nodes(*self._nodes)
        self._closing.close()
        self.api.close()

    # namespaces and nodes

    def namespace(self, words: str = "models") -> str:
        name = f"on-cluster-{self.id}-{words}-{uuid.uuid4().hex[:4]}"
        self.api.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        self._namespaces.append(name)
        return name

    def gpu_nodes(self, *, gpus: int, count: int = 1) -> str:
        """Simulated nodes of a product of their own, which is returned."""
        product = f"Test-{self.id}-{uuid.uuid4().hex[:4]}"
        self._nodes += self.cluster.add_gpu_nodes(
            product=product, memory_mib=81559, gpus=gpus, count=count, prefix=f"{product.lower()}-"
        )
        return product

    def forget_later(self, *names: str) -> None:
        """Have nodes removed at the end."""
        self._nodes += names

    # identities

    def make_cluster_role(self, name: str, rules: list[Object]) -> None:
        self.api.request("POST", f"{RBAC}/clusterroles", body={"metadata": {"name": name}, "rules": rules})
        self._cluster_wide.append(f"{RBAC}/clusterroles/{name}")

    def identity(self, *, namespaces: Sequence[str], role: str | None = None, nodes: bool = True) -> Identity:
        """A ServiceAccount with the chart's rules in these namespaces, or in all when none is given."""
        name = f"operator-{uuid.uuid4().hex[:6]}"
        self.api.request("POST", f"/api/v1/namespaces/{self.home}/serviceaccounts", body={"metadata": {"name": name}})
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": self.home}]

        def bind(path: str, kind: str, to: str) -> None:
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": to}
            body = {"metadata": {"name": f"on-cluster-{name}"}, "roleRef": reference, "subjects": subjects}
            self.api.request("POST", path, body=body)

        bind(f"{RBAC}/namespaces/{self.home}/rolebindings", "Role", "leases")
        if nodes:
            self._bind_nodes(name)
        role = role or self.role
        for namespace in namespaces:
            bind(f"{RBAC}/namespaces/{namespace}/rolebindings", "ClusterRole", role)
        if not namespaces:
            bind(f"{RBAC}/clusterrolebindings", "ClusterRole", role)
            self._cluster_wide.append(f"{RBAC}/clusterrolebindings/on-cluster-{name}")
        answer = self.api.request(
            "POST",
            f"/api/v1/namespaces/{self.home}/serviceaccounts/{name}/token",
            body={"spec": {"expirationSeconds": 7200}},
        )
        token = str(answer["status"]["token"])
        user = f"system:serviceaccount:{self.home}:{name}"
        return Identity(user, token, self.kubeconfig(token))

    def _bind_nodes(self, name: str) -> None:
        """Nodes are of the whole cluster, whatever namespaces the operator looks after."""
        path = f"{RBAC}/clusterrolebindings"
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{self.role}-nodes"}
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": self.home}]
        body = {"metadata": {"name": f"on-cluster-{name}-nodes"}, "roleRef": reference, "subjects": subjects}
        self.api.request("POST", path, body=body)
        self._cluster_wide.append(f"{path}/on-cluster-{name}-nodes")

    def kubeconfig(self, token: str, server: str | None = None) -> Path:
        """A kubeconfig with a token, for the API server or for a proxy (plain HTTP) before it."""
        where: dict[str, Any] = {"server": server or self.api.access.host}
        if server is None:
            where["certificate-authority-data"] = base64.b64encode(Path(self.api.access.ca_file).read_bytes()).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": where}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.folder / f"kubeconfig-{uuid.uuid4().hex[:8]}"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    # operators

    def operator(
        self,
        identity: Identity,
        *flags: str,
        namespaces: Sequence[str],
        lease: str,
        replica: str = "a",
        server: str | None = None,
        supervised: bool = False,
    ) -> OperatorProcess:
        """A replica of the operator, not started yet. `server`: reach the API server through this address."""
        log = self.folder / f"operator-{lease}-{replica}-{uuid.uuid4().hex[:4]}.log"
        all_flags = ["--hub-endpoint", self.hub.url]
        all_flags += ["--lease-namespace", self.home, "--lease-name", lease, "--identity", replica]
        if namespaces:
            all_flags += ["--namespaces", ",".join(namespaces)]
        return OperatorProcess(
            kubeconfig=identity.kubeconfig if server is None else self.kubeconfig(identity.token, server),
            flags=[*all_flags, *flags],
            log=log,
            supervised=supervised,
        )

    def other_operators(self) -> list[str]:
        """Leases of operators that look after all namespaces of this cluster now: they would mix with a test's own."""
        found = self.api.items(kinds.LEASE, None)
        return [
            f"{lease['metadata']['namespace']}/{lease['metadata']['name']}"
            for lease in found
            if lease["metadata"]["name"] == "vllm-operator"
            and lease["spec"].get("holderIdentity")
            and datetime.now(UTC) - datetime.fromisoformat(lease["spec"]["renewTime"]) < timedelta(seconds=60)
        ]


def on_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"
