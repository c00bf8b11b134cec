"""What cannot work is said, with the words of whoever knows why, and leaves alone what serves."""

from collections.abc import Callable

import pytest

from tests.cluster import ClusterError

from .api import condition, eventually
from .conftest import Served
from .traffic import complete
from .world import World, sample, without_pods

Measured = Callable[[str], None]


def assert_still_serves(world: World, served: Served, pod: str) -> None:
    """The pod of before is there, ready and reached through the gateway."""
    pods = {each["metadata"]["uid"]: each for each in world.pods(served.namespace, served.name, leaving=False)}
    assert pod in pods
    assert any(each["type"] == "Ready" and each["status"] == "True" for each in pods[pod]["status"]["conditions"])
    for _ in range(5):
        assert complete(served.url, served.name).good


def test_an_image_that_cannot_be_pulled(world: World, served: Served, measured: Measured) -> None:
    pod = world.pod(served.namespace, served.name)["metadata"]["uid"]
    world.edit(served.namespace, served.name, {"engine": {"image": "registry.invalid/vllm:none"}})
    said = world.wait_condition(
        served.namespace, served.name, "WorkloadAvailable", "False", "ImagePullFailed", seconds=90
    )
    measured(f"said: {said['message']}")
    assert "registry.invalid/vllm:none" in said["message"]
    assert world.wait_condition(served.namespace, served.name, "Ready", "False")["reason"] == "ImagePullFailed"
    assert world.wait_condition(served.namespace, served.name, "Serving", "True")
    assert_still_serves(world, served, pod)


def test_an_image_name_that_is_none(world: World, served: Served, measured: Measured) -> None:
    pod = world.pod(served.namespace, served.name)["metadata"]["uid"]
    world.edit(served.namespace, served.name, {"engine": {"image": "registry.example.com/UPPER:case"}})
    said = world.wait_condition(served.namespace, served.name, "Ready", "False", "ImagePullFailed", seconds=90)
    measured(f"said: {said['reason']}: {said['message']}")
    assert_still_serves(world, served, pod)


def test_an_option_that_makes_vllm_crash(world: World, served: Served, measured: Measured) -> None:
    pod = world.pod(served.namespace, served.name)["metadata"]["uid"]
    world.edit(served.namespace, served.name, {"engine": {"args": {"kv-cache-dtype": "fp7"}}})
    said = world.wait_condition(
        served.namespace, served.name, "WorkloadAvailable", "False", "CrashLoopBackOff", seconds=180
    )
    measured(f"said: {said['message']}")
    assert "--kv-cache-dtype: invalid choice: 'fp7'" in said["message"], "the end of vLLM's log is in the message"
    assert world.wait_condition(served.namespace, served.name, "Ready", "False")["reason"] == "CrashLoopBackOff"
    assert_still_serves(world, served, pod)


def test_no_node_has_that_many_gpus(world: World, namespace: str, measured: Measured) -> None:
    document = sample(accelerator={"type": "nvidia", "count": 64}, scheduling=None)
    world.apply(namespace, document)
    said = world.wait_condition(namespace, "tiny-cpu", "Ready", "False", "Unschedulable")
    measured(f"said: {said['message']}")
    assert "Insufficient nvidia.com/gpu" in said["message"]
    assert world.wait_condition(namespace, "tiny-cpu", "Scheduled", "False", "Unschedulable")


def test_a_secret_that_comes_later(world: World, namespace: str, measured: Measured) -> None:
    document = without_pods("waits", model="Qwen/Qwen3-8B", hub={"tokenSecretRef": {"name": "token", "key": "token"}})
    world.apply(namespace, document)
    said = world.wait_condition(namespace, "waits", "Accepted", "False", "ReferenceNotFound")
    measured(f"said: {said['message']}")
    assert "token" in said["message"]
    assert world.api.find("deployments", namespace, "waits") is None
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "token"},
        "stringData": {"token": "hf_made_up"},
    }
    world.apply(namespace, secret)
    world.wait_condition(namespace, "waits", "Accepted", "True", seconds=30)
    assert eventually("a Deployment", lambda: world.api.find("deployments", namespace, "waits"), seconds=10)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"model": ""}, "spec.model"),
        ({"replicas": -1}, "spec.replicas"),
        ({"engine": {"maxModelLen": "much"}}, "spec.engine.maxModelLen"),
        ({"engine": {"dytpe": "half"}}, "dytpe"),
    ],
)
def test_kubectl_says_what_is_wrong(world: World, namespace: str, spec: dict[str, object], field: str) -> None:
    document = sample() | {"spec": {"model": "Qwen/Qwen3-8B"} | spec}
    with pytest.raises(ClusterError, match=field.replace(".", r"\.")):
        world.apply(namespace, document)


def test_what_is_not_built_yet_is_refused(world: World, namespace: str, measured: Measured) -> None:
    world.apply(namespace, without_pods("later", autoscaling={"maxReplicas": 2}))
    said = world.wait_condition(namespace, "later", "Accepted", "False", "NotImplemented")
    measured(f"said: {said['message']}")
    assert "autoscaling" in said["message"]
    model = world.api.get("models", namespace, "later")
    assert condition(model, "Stalled").get("status") == "True"
