"""Models find the GPUs that they need by themselves: simulated nodes of several products, real scheduler."""

import uuid
from functools import partial
from typing import Any

import pytest

from tests.apiserver import Object
from vllm_operator.api.names import LABEL_MODEL
from vllm_operator.cluster import kinds

from .api import UNSERVED, Api, condition, model, settled, wait_until
from .conftest import Log, Operators
from .workbench import Workbench

L4, A100, H100 = "NVIDIA-L4", "NVIDIA-A100-SXM4-40GB", "NVIDIA-H100-80GB-HBM3"
LABEL = "on-cluster-tests/pools"


class Site:
    """Nodes of this test alone: a label keeps its models away from all others."""

    def __init__(self, bench: Workbench, api: Api, namespace: str) -> None:
        self.bench, self.api, self.namespace = bench, api, namespace
        self.id = f"pools-{uuid.uuid4().hex[:6]}"

    def add(self, product: str, *, gpus: int, count: int = 1) -> list[str]:
        prefix = f"{self.id}-{product.lower()}-{uuid.uuid4().hex[:4]}-"
        names = self.bench.cluster.add_gpu_nodes(product=product, gpus=gpus, count=count, prefix=prefix)
        self.bench.forget_later(*names)
        for name in names:
            self._patch(name, {"metadata": {"labels": {LABEL: self.id}}})
            # Until then the node is tainted, and a model that comes first is rightly planned without it.
            wait_until(f"node {name} to be ready", partial(self._is_ready, name))
        return names

    def _is_ready(self, name: str) -> bool:
        node = self.api.request("GET", f"/api/v1/nodes/{name}")
        conditions = {each["type"]: each["status"] for each in node.get("status", {}).get("conditions") or []}
        taints = {taint["key"] for taint in node["spec"].get("taints") or []}
        return conditions.get("Ready") == "True" and "node.kubernetes.io/not-ready" not in taints

    def cordon(self, *names: str, on: bool = True) -> None:
        for name in names:
            self._patch(name, {"spec": {"unschedulable": on}})

    def _patch(self, name: str, patch: Object) -> None:
        path = f"/api/v1/nodes/{name}"
        self.api.request("PATCH", path, body=patch, content_type="application/merge-patch+json")

    def create(self, name: str, source: str, **spec: Any) -> None:
        body = model(name, product="", **spec)
        body["spec"] |= {"model": source, "accelerator": spec.get("accelerator", {"type": "auto"})}
        body["spec"]["scheduling"]["nodeSelector"] = {LABEL: self.id}
        self.api.create_model(self.namespace, body)

    def get(self, name: str) -> Object:
        return self.api.model(self.namespace, name)

    def until(self, name: str, *reasons: str, kind: str = "Ready") -> Object:
        """Wait until a condition has one of these reasons."""
        wait_until(
            lambda: f"{kind} of {name} to be {reasons}: {self.get(name).get('status')}",
            lambda: condition(self.get(name), kind).get("reason") in reasons,
        )
        return self.get(name)

    def pods(self, name: str) -> list[Object]:
        return [
            pod
            for pod in self.api.items(kinds.POD, self.namespace, f"{LABEL_MODEL}={name}")
            if "deletionTimestamp" not in pod["metadata"]
        ]

    def product(self, pod: Object) -> str | None:
        """GPU product of a pod's node; None when it has none."""
        name = pod["spec"].get("nodeName")
        if name is None:
            return None
        node = self.api.request("GET", f"/api/v1/nodes/{name}")
        assert node["metadata"]["labels"][LABEL] == self.id
        return str(node["metadata"]["labels"]["nvidia.com/gpu.product"])


@pytest.fixture
def site(bench: Workbench, api: Api, namespace: str) -> Site:
    return Site(bench, api, namespace)


def gpus(pod: Object) -> int:
    (container,) = pod["spec"]["containers"]
    return int(container["resources"]["limits"]["nvidia.com/gpu"])


def test_models_land_on_the_pool_that_fits(site: Site, operators: Operators, say: Log) -> None:
    site.add(L4, gpus=4)
    site.add(A100, gpus=8)
    site.add(H100, gpus=8)
    operators()
    # By hand: the weights are 1.2, 16.4 and 65.5 GB in bfloat16; a whole context of 40,960 tokens adds 4.4, 5.6 and 10 GiB.
    expected = {
        "tiny": ("Qwen/Qwen3-0.6B", L4, 1),
        "small": ("Qwen/Qwen3-8B", A100, 1),
        "large": ("Qwen/Qwen3-32B", H100, 2),
    }
    for name, (source, _, _) in expected.items():
        site.create(name, source)
    for name, (_, product, count) in expected.items():
        found = site.until(name, *UNSERVED)
        sizing = found["status"]["sizing"]
        say(f"{name}: {sizing['reasons'][0]}; {sizing['memory']}")
        (pod,) = site.pods(name)
        assert (site.product(pod), gpus(pod)) == (product, count)
        assert (sizing["pool"], sizing["tensorParallelSize"], found["status"]["gpus"]) == (product, count, count)
        assert sizing["maxModelLen"] == 40960


def test_a_minimum_and_a_product_are_obeyed(site: Site, operators: Operators) -> None:
    site.add(L4, gpus=4)
    site.add(A100, gpus=8)
    site.add(H100, gpus=8)
    operators()
    site.create("roomy", "Qwen/Qwen3-0.6B", accelerator={"minMemory": "60Gi"})
    site.create("named", "Qwen/Qwen3-0.6B", accelerator={"product": A100})
    for name, product in (("roomy", H100), ("named", A100)):
        site.until(name, *UNSERVED)
        (pod,) = site.pods(name)
        assert site.product(pod) == product


def test_what_does_not_fit_is_said_with_numbers_and_starts_when_a_node_comes(site: Site, operators: Operators) -> None:
    site.add(L4, gpus=1)
    operators()
    site.create("large", "Qwen/Qwen3-32B")
    found = site.until("large", "DoesNotFit", kind="Accepted")
    message = condition(found, "Accepted")["message"]
    assert "GiB" in message
    assert L4 in message
    assert condition(found, "Stalled")["status"] == "True"
    assert site.api.find(kinds.DEPLOYMENT, site.namespace, "large") is None
    site.add(H100, gpus=8)
    site.until("large", *UNSERVED)
    (pod,) = site.pods("large")
    assert site.product(pod) == H100


def test_changed_pools_replan_only_what_does_not_serve(site: Site, operators: Operators) -> None:
    (l4,) = site.add(L4, gpus=1)
    operators()
    site.create("serves", "Qwen/Qwen3-0.6B")
    site.until("serves", *UNSERVED)
    (before,) = site.pods("serves")
    site.create("waits", "Qwen/Qwen3-0.6B")
    site.until("waits", "Unschedulable", kind="Scheduled")
    # Another pool that is no better is no reason to move: the L4 may be free soon.
    site.add(A100, gpus=8)
    site.create("later", "Qwen/Qwen3-8B")
    site.until("later", *UNSERVED)
    assert condition(site.get("waits"), "Scheduled")["reason"] == "Unschedulable"
    first = site.get("waits")["status"]["revision"]
    site.cordon(l4)
    wait_until(
        lambda: f"the waiting model to be planned anew: {site.get('waits')['status']}",
        lambda: settled(site.get("waits")),
    )
    found = site.get("waits")
    (pod,) = site.pods("waits")
    assert (site.product(pod), found["status"]["sizing"]["pool"]) == (A100, A100)
    assert found["status"]["revision"] != first
    (after,) = site.pods("serves")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert site.get("serves")["status"]["sizing"]["pool"] == L4
    # The node comes back: what has been placed stays.
    site.cordon(l4, on=False)
    site.create("last", "Qwen/Qwen3-8B")
    site.until("last", *UNSERVED)
    (same,) = site.pods("waits")
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]


def test_what_the_hub_does_not_have(site: Site, operators: Operators, bench: Workbench) -> None:
    site.add(H100, gpus=8)
    operators()
    name = f"team/{uuid.uuid4().hex[:8]}"
    site.create("missing", name)
    found = site.until("missing", "ModelNotFound", kind="Accepted")
    assert name in condition(found, "Accepted")["message"]
    bench.hub.gated.add(name)
    bench.hub.repositories[name] = bench.hub.repositories["Qwen/Qwen3-8B"]
    site.api.edit(site.namespace, "missing", {"hub": {"revision": "main"}})
    found = site.until("missing", "ModelAccessDenied", kind="Accepted")
    assert "hub.tokenSecretRef" in condition(found, "Accepted")["message"]


def test_without_the_right_to_read_nodes_sizes_are_those_of_the_spec(
    bench: Workbench, api: Api, operators: Operators, namespace: str, product: str
) -> None:
    operators.may_be_denied = True
    operators.identity = bench.identity(namespaces=[namespace], nodes=False)
    operators()
    api.create_model(namespace, model("qwen", product=product, tensor=2))
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "qwen")))
    sizing = api.model(namespace, "qwen")["status"]["sizing"]
    assert sizing["tensorParallelSize"] == 2
    assert "may not read nodes" in sizing["reasons"][0]
