"""The cluster with the operator in it, and short words for what tests do with both."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
import yaml

from tests.apiserver import Object
from tests.cluster import ClusterError, LocalCluster
from tests.cluster.progress import Progress
from tests.demo.installation import APPLICATION, SAMPLES, Installation, local_values, releases

from .api import OWNED, Api, ReadyRecorder, condition, eventually
from .node import Audit

NAMESPACE_LABEL = "vllm-operator.io/e2e"
GATEWAY_PODS = "app.kubernetes.io/name=vllm-operator-gateway"
LOAD_SECONDS = 300.0
"""Seconds that vLLM may take to start here: 40 when the machine has nothing else to do."""


def unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason}; on CI nothing is skipped", pytrace=False)
    pytest.skip(reason)


class World:
    """The cluster, the operator in it, and short words for what tests do with both."""

    def __init__(self, cluster: LocalCluster, api: Api, operator: Installation, values: dict[str, Any]) -> None:
        self.cluster = cluster
        self.api = api
        self.operator = operator
        self.values = values
        self.namespaces: list[str] = []
        self.shared_namespace = ""

    # the operator

    def reinstall(self, **changes: Any) -> None:
        """Upgrade the release to its usual values with changes."""
        self.operator.install({**self.values, **changes})

    def operator_pods(self) -> list[Object]:
        """Return the operator's pods that are not leaving."""
        pods = self.api.list("pods", self.operator.namespace, labels=APPLICATION)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def leader(self) -> str:
        """Return the name of the pod that holds the lease, "" when none does."""
        lease = self.api.find("leases", self.operator.namespace, self.operator.release)
        return str((lease or {}).get("spec", {}).get("holderIdentity") or "")

    def wait_for_leader(self, *, other_than: str = "", seconds: float = 60.0) -> str:
        """Wait until a pod that exists holds the lease; return its name."""

        def look() -> str | None:
            names = {pod["metadata"]["name"] for pod in self.operator_pods()} - {other_than}
            return leader if (leader := self.leader()) in names else None

        return eventually("one of the operator's pods holds the lease", look, seconds=seconds)

    def audit(self) -> Audit:
        """Begin to note what the operator asks of the API server."""
        try:
            return Audit(self.cluster.audit_log, self.operator.user)
        except ClusterError as error:
            unavailable(str(error))

    def gateway_pods(self) -> list[Object]:
        """Return the pods of the gateway for all models that are not leaving."""
        pods = self.api.list("pods", self.operator.namespace, labels=GATEWAY_PODS)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    # namespaces and models

    def make_namespace(self, *, labels: dict[str, str] | None = None) -> str:
        """Make a namespace that `delete_namespace` removes."""
        name = f"e2e-{uuid.uuid4().hex[:8]}"
        metadata = {"name": name, "labels": {NAMESPACE_LABEL: "true", **(labels or {})}}
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.cluster.kubectl("create", "-f", "-", stdin=json.dumps(document))
        self.namespaces.append(name)
        return name

    def delete_namespace(self, name: str) -> None:
        """Remove a namespace with all that is in it, pods at once: draining is not what is tested here."""
        self.cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")

        def gone() -> bool:
            for pod in self.api.list("pods", name):
                self.api.delete("pods", name, pod["metadata"]["name"], force=True)
            return self.cluster.kubectl("get", "namespace", name, "--ignore-not-found", "-o", "name") == ""

        eventually(f"namespace {name} is gone", gone, seconds=180, interval=0.5)
        if name in self.namespaces:
            self.namespaces.remove(name)

    def apply(self, namespace: str, *documents: Object) -> str:
        """kubectl apply; return what kubectl said."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        return self.cluster.kubectl("apply", "--namespace", namespace, "-f", "-", stdin=json.dumps(listed))

    def edit(self, namespace: str, name: str, spec: object) -> Object:
        """Merge a change into a model's spec."""
        return self.api.patch("models", namespace, name, {"spec": spec})

    def recorder(self, namespace: str, name: str) -> ReadyRecorder:
        """Watch Ready."""
        return ReadyRecorder(self.api, namespace, name)

    def pods(self, namespace: str, name: str, *, leaving: bool = True) -> list[Object]:
        """Return a model's pods, oldest first."""
        pods = self.api.list("pods", namespace, labels=f"vllm-operator.io/model={name}")
        kept = [pod for pod in pods if leaving or "deletionTimestamp" not in pod["metadata"]]
        return sorted(kept, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def pod(self, namespace: str, name: str) -> Object:
        """Return a model's only pod that is not leaving."""
        pods = self.pods(namespace, name, leaving=False)
        assert len(pods) == 1, [pod["metadata"]["name"] for pod in pods]
        return pods[0]

    def wait_condition(
        self, namespace: str, name: str, wanted: str, status: str, reason: str = "", *, seconds: float = 60.0
    ) -> Object:
        """Wait for a condition of the newest generation; return it."""

        def look() -> Object | None:
            model = self.api.get("models", namespace, name)
            found = condition(model, wanted)
            shown = f"{wanted} is {found.get('status')}, {found.get('reason')}: {found.get('message')}"
            assert found.get("status") == status, shown
            assert reason in ("", found.get("reason")), shown
            assert found.get("observedGeneration") == model["metadata"]["generation"], (
                f"{shown} (of an older generation)"
            )
            return found

        return eventually(f"{wanted} of {namespace}/{name} is {status} {reason}", look, seconds=seconds)

    def wait_ready(self, namespace: str, name: str, *, seconds: float = LOAD_SECONDS) -> Object:
        """Wait until the newest generation is Ready and old pods are gone; return the model."""
        self.wait_condition(namespace, name, "Ready", "True", seconds=seconds)

        def settled() -> bool:
            pods = self.pods(namespace, name)
            return len(pods) == int(self.api.get("models", namespace, name)["spec"].get("replicas", 1))

        eventually("pods of before are gone", settled, seconds=180)
        return self.api.get("models", namespace, name)

    def owned(self, namespace: str, name: str) -> list[str]:
        """Return what exists of a model's children, as kind/name."""
        return [
            f"{kind}/{each['metadata']['name']}"
            for kind in OWNED
            for each in self.api.list(kind, namespace, labels=f"vllm-operator.io/model={name}")
        ]

    def events(self, namespace: str, name: str) -> list[Object]:
        """Return the events about a model."""
        found = self.api.list("events", namespace)
        return [
            each for each in found if each["regarding"].get("name") == name and each["regarding"]["kind"] == "VLLMModel"
        ]


def sample(**spec: Any) -> Object:
    """Return manifests/samples/tiny-cpu.yaml with changes to fields of its spec."""
    document: Object = yaml.safe_load((SAMPLES / "tiny-cpu.yaml").read_text())
    document["spec"] |= spec
    return document


def without_pods(name: str, **spec: Any) -> Object:
    """Return a model like the sample that runs no pod: for tests that look at objects only."""
    document = sample(replicas=0, **spec)
    document["metadata"]["name"] = name
    return document


def key_secret(name: str, **keys: str) -> Object:
    """Return a Secret with keys of the gateway's callers."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"vllm-operator.io/api-keys": "true"}},
        "stringData": keys,
    }


@contextmanager
def brought_up(progress: Progress) -> Iterator[tuple[LocalCluster, str]]:
    """Yield the whole cluster and the operator's image in it; it is stopped again unless it ran before."""
    cluster = LocalCluster.load()
    was_running = cluster.answers()
    cluster.up(profile="full", progress=progress)
    image = cluster.build_image(progress=progress)
    try:
        yield cluster, image
    finally:
        if not was_running:
            cluster.down(Progress())


@contextmanager
def alone(cluster: LocalCluster, image: str) -> Iterator[World]:
    """Yield a world whose operator has yet to be installed (`reinstall`); other releases rest until it is removed again."""
    for namespace in cluster.kubectl("get", "ns", "-l", NAMESPACE_LABEL, "-o", "name").split():
        cluster.kubectl("delete", namespace, "--ignore-not-found", timeout=180)  # Left by a run that was killed.
    operator = Installation(cluster, namespace="vllm-operator-e2e", release="vllm-operator-e2e")
    others = [each for each in releases(cluster) if each != (operator.namespace, operator.release)]
    values = local_values(image)
    if others:
        # The definition and the roles for people exist once in a cluster: they stay with the other release, e.g. the demo's.
        values |= {"crds": {"install": False}, "rbac": {"aggregateRoles": False}}
    replicas: dict[tuple[str, str], str] = {}
    api = Api(cluster.kubeconfig)
    world = World(cluster, api, operator, values)
    try:
        for namespace, release in others:
            # Two operators must not care for the same models: the others rest until the tests are over.
            path = "jsonpath={.spec.replicas}"
            count = cluster.kubectl("-n", namespace, "get", "deployment", release, "-o", path)
            replicas[namespace, release] = count if count != "0" else "1"
            scale(cluster, namespace, release, "0")
        if others:
            cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", SAMPLES.parents[1] / "crds")
        yield world
    finally:
        for namespace in [*world.namespaces, *([world.shared_namespace] if world.shared_namespace else [])]:
            world.delete_namespace(namespace)
        operator.uninstall()
        there = releases(cluster)
        for (namespace, release), count in replicas.items():
            if (namespace, release) not in there:
                continue  # Removed meanwhile, e.g. by `make demo-down`.
            scale(cluster, namespace, release, count)
        if not others:
            cluster.kubectl("delete", "crd", "vllmmodels.vllm-operator.io", "--ignore-not-found", "--timeout=60s")
        api.close()


def scale(cluster: LocalCluster, namespace: str, release: str, replicas: str) -> None:
    """Set the number of an operator's pods and wait until it is so."""
    cluster.kubectl("-n", namespace, "scale", "deployment", release, f"--replicas={replicas}")
    if replicas == "0":
        words = ("wait", "--for=delete", "pod", "-l", f"app.kubernetes.io/instance={release}", "--timeout=90s")
        cluster.kubectl("-n", namespace, *words, timeout=100)
