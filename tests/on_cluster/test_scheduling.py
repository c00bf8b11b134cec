"""What the scheduler does with a model's pods, and what the operator says of it."""

import json
from functools import partial
from typing import Any

from vllm_operator.api.names import FIELD_MANAGER, LABEL_MODEL
from vllm_operator.cluster import kinds

from .api import UNSERVED, Api, condition, model, settled, wait_until
from .conftest import Log, Operators
from .workbench import Workbench


def _owned_by(obj: dict[str, Any], owner: dict[str, Any]) -> bool:
    return any(each["uid"] == owner["metadata"]["uid"] for each in obj["metadata"]["ownerReferences"])


def test_tensor_2_gets_a_node_with_2_gpus_and_is_never_called_ready(
    bench: Workbench, api: Api, operators: Operators, namespace: str
) -> None:
    product = bench.gpu_nodes(gpus=2)
    operators()
    api.create_model(namespace, model("qwen", product=product, tensor=2))
    wait_until(
        lambda: f"the model to be scheduled: {api.model(namespace, 'qwen').get('status')}",
        lambda: settled(api.model(namespace, "qwen")),
    )
    found = api.model(namespace, "qwen")
    ready = condition(found)
    assert ready["status"] == "False"
    assert ready["reason"] in UNSERVED, ready
    assert condition(found, "Scheduled")["status"] == "True"
    assert condition(found, "WorkloadAvailable")["status"] == "True", "kwok calls its pods ready"
    assert found["status"]["gpus"] == 2
    (pod,) = api.items(kinds.POD, namespace, f"{LABEL_MODEL}=qwen")
    assert pod["spec"]["nodeName"].startswith(product.lower())
    container = next(each for each in pod["spec"]["containers"] if each["name"] == "vllm")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    assert "--tensor-parallel-size=2" in words or words[words.index("--tensor-parallel-size") + 1] == "2"
    deployment = api.deployment(namespace, "qwen")
    service = api.get(kinds.SERVICE, namespace, "qwen")
    (revision,) = api.items(kinds.CONTROLLER_REVISION, namespace, f"{LABEL_MODEL}=qwen")
    for child in (deployment, service, revision):
        assert _owned_by(child, found)
    assert api.find(kinds.POD_DISRUPTION_BUDGET, namespace, "qwen") is None, "one replica needs no budget"
    # An endpoint is made for the ready pod, so it is our probe alone that tells that nobody listens.
    events = api.items(kinds.EVENT, namespace)
    assert not [each for each in events if each.get("reason") == "Ready"], "it was called Ready"


def test_name_of_63_characters(api: Api, operators: Operators, namespace: str, product: str) -> None:
    name = "m" * 31 + "-" + "n" * 31
    assert len(name) == 63
    operators()
    api.create_model(namespace, model(name, product=product, replicas=2))
    wait_until(f"{name} to be rolled out", lambda: settled(api.model(namespace, name)))
    for kind in (kinds.DEPLOYMENT, kinds.SERVICE, kinds.POD_DISRUPTION_BUDGET):
        assert api.find(kind, namespace, name) is not None, kind
    api.edit(namespace, name, {"engine": {"maxModelLen": 4096}})
    wait_until(
        "its second revision",
        lambda: len(api.items(kinds.CONTROLLER_REVISION, namespace, f"{LABEL_MODEL}={name}")) == 2,
    )
    wait_until(f"{name} to be rolled out again", lambda: settled(api.model(namespace, name)))


def test_two_models_with_the_same_served_name(api: Api, operators: Operators, namespace: str, product: str) -> None:
    operators()
    for name in ("one", "two"):
        api.create_model(namespace, model(name, product=product, servedModelNames=["chat"]))
    for name in ("one", "two"):
        wait_until(f"{name} to be rolled out", partial(_settled, api, namespace, name))
        assert api.model(namespace, name)["status"]["servedModelNames"] == ["chat"]
        selector = api.get(kinds.SERVICE, namespace, name)["spec"]["selector"]
        assert selector[LABEL_MODEL] == name, "neither Service takes the other's pods"
    api.delete(kinds.VLLM_MODEL, namespace, "one")
    wait_until("one's children to go", lambda: api.find(kinds.DEPLOYMENT, namespace, "one") is None)
    assert api.find(kinds.DEPLOYMENT, namespace, "two") is not None
    assert settled(api.model(namespace, "two"))


def _settled(api: Api, namespace: str, name: str) -> bool:
    return settled(api.model(namespace, name))


def _max_surge(api: Api, namespace: str, name: str) -> Any:
    return api.deployment(namespace, name)["spec"]["strategy"]["rollingUpdate"]["maxSurge"]


def _pod_names(api: Api, namespace: str, name: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in api.items(kinds.POD, namespace, f"{LABEL_MODEL}={name}")}


def test_surge_yields_when_no_gpu_is_free(bench: Workbench, api: Api, operators: Operators, namespace: str) -> None:
    product = bench.gpu_nodes(gpus=2)
    operators("--yield-after", "2")
    api.create_model(namespace, model("tight", product=product, tensor=2))
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "tight")))
    assert _max_surge(api, namespace, "tight") == 1
    before = _pod_names(api, namespace, "tight")
    strategies: set[Any] = set()
    reasons: set[str] = set()

    def rolled_out() -> bool:
        strategies.add(_max_surge(api, namespace, "tight"))
        found = api.model(namespace, "tight")
        reasons.add(condition(found, "Scheduled").get("reason", ""))
        pods = _pod_names(api, namespace, "tight")
        return settled(found) and len(pods) == 1 and not pods & before

    api.edit(namespace, "tight", {"engine": {"maxModelLen": 4096}})
    wait_until(lambda: f"the roll-out: {api.model(namespace, 'tight')['status']}", rolled_out)
    assert "Unschedulable" in reasons, "the scheduler was given its time"
    assert 0 in strategies, "an old pod went first"
    wait_until("the strategy to be surge again", lambda: _max_surge(api, namespace, "tight") == 1)
    events = {event["reason"] for event in api.items(kinds.EVENT, namespace) if event["regarding"]["name"] == "tight"}
    assert {"Unschedulable", "Yielding"} & events, events


def test_surge_without_a_gpu_waits_when_told_to(
    bench: Workbench, api: Api, operators: Operators, namespace: str
) -> None:
    product = bench.gpu_nodes(gpus=2)
    operators("--yield-after", "1")
    api.create_model(namespace, model("tight", product=product, tensor=2, rollout={"strategy": "Surge"}))
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "tight")))
    before = _pod_names(api, namespace, "tight")
    api.edit(namespace, "tight", {"engine": {"maxModelLen": 4096}})
    wait_until("two pods", lambda: len(_pod_names(api, namespace, "tight")) == 2)
    wait_until(
        "Unschedulable to be said",
        lambda: condition(api.model(namespace, "tight")).get("reason") == "Unschedulable",
    )
    # Ten times the patience after which Auto would yield.
    operators.rest(quiet=10)
    found = api.model(namespace, "tight")
    assert condition(found)["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition(found)["message"]
    assert condition(found)["status"] == "False"
    assert before <= _pod_names(api, namespace, "tight"), "the old pod is left alone"
    assert _max_surge(api, namespace, "tight") == 1
    # A spare GPU ends the wait.
    bench.cluster.kubectl(
        "patch",
        "node",
        f"{product.lower()}-0",
        "--subresource=status",
        "--type=merge",
        "-p",
        '{"status":{"allocatable":{"nvidia.com/gpu":"4"},"capacity":{"nvidia.com/gpu":"4"}}}',
    )
    wait_until("the roll-out to end", lambda: settled(api.model(namespace, "tight")))


def test_apply_twice_and_by_another_manager(
    api: Api, operators: Operators, namespace: str, product: str, say: Log
) -> None:
    operators()
    body = model("gitops", product=product, replicas=2)
    path = kinds.VLLM_MODEL.path(namespace, "gitops")
    api.apply(path, body, manager="argocd-controller", force=False)
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "gitops")))
    operators.rest()
    before, deployment = api.model(namespace, "gitops"), api.deployment(namespace, "gitops")
    mark = operators.bench.audit.mark()
    # Again, without force: a conflict would be an error.
    again = api.apply(path, body, manager="argocd-controller", force=False)
    assert again["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    kubectl = operators.bench.cluster.kubectl
    said = kubectl(
        "apply", "--server-side", "--field-manager=kustomize-controller", "-n", namespace, "-f", "-", stdin=_json(body)
    )
    assert "serverside-applied" in said
    edited = {**body, "spec": {**body["spec"], "replicas": 3}}
    edited["metadata"] = {**body["metadata"], "labels": {"team": "a"}}
    api.apply(path, edited, manager="argocd-controller", force=True)
    wait_until("3 replicas", lambda: api.deployment(namespace, "gitops")["spec"]["replicas"] == 3)
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "gitops")))
    operators.rest()
    after = api.deployment(namespace, "gitops")
    assert after["spec"]["template"] == deployment["spec"]["template"], "replicas alone restart no pod"
    on_models = [request for request in operators.writes() if request.resource == "vllmmodels"]
    assert on_models
    assert {request.subresource for request in on_models} == {"status"}
    owners = {entry["manager"] for entry in after["metadata"]["managedFields"]}
    assert FIELD_MANAGER in owners
    ours = [e for e in api.model(namespace, "gitops")["metadata"]["managedFields"] if e["manager"] == FIELD_MANAGER]
    assert all(entry.get("subresource") == "status" for entry in ours)
    finalizers = api.model(namespace, "gitops")["metadata"].get("finalizers")
    annotations = api.model(namespace, "gitops")["metadata"].get("annotations")
    assert not finalizers
    assert not annotations
    say(f"{len(on_models)} writes to the model, all to /status; {len(operators.writes(mark))} writes after the edits")


def test_kubectl_apply_twice(api: Api, operators: Operators, namespace: str, product: str) -> None:
    operators()
    kubectl = operators.bench.cluster.kubectl
    body = _json(model("twice", product=product))
    assert "created" in kubectl("apply", "-n", namespace, "-f", "-", stdin=body)
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "twice")))
    operators.rest()
    mark = operators.bench.audit.mark()
    before = api.model(namespace, "twice")["metadata"]["resourceVersion"]
    assert "unchanged" in kubectl("apply", "-n", namespace, "-f", "-", stdin=body)
    operators.rest()
    assert api.model(namespace, "twice")["metadata"]["resourceVersion"] == before
    assert operators.writes(mark) == []


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body)
