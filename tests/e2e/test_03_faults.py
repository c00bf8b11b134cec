"""Ready tells the truth within ten seconds, and what is broken by hand is mended."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.apiserver import Object

from . import node
from .api import ReadyRecorder, eventually
from .conftest import Served
from .traffic import complete
from .world import World, sample

Measured = Callable[[str], None]
PROMISED_SECONDS = 10.0
PATIENCE_SECONDS = 45.0
"""How long a test waits before it calls a promise broken beyond doubt; what was measured is held against the promise."""


@pytest.fixture
def recorder(world: World, served: Served) -> Iterator[ReadyRecorder]:
    with world.recorder(served.namespace, served.name) as recorder:
        yield recorder


def assert_kept(sighting_at: float, began: float, reason: str, measured: Measured) -> None:
    seconds = sighting_at - began
    measured(f"Ready was false with {reason} after {seconds:.1f} s")
    assert seconds <= PROMISED_SECONDS


def test_vllm_hangs(world: World, served: Served, recorder: ReadyRecorder, measured: Measured) -> None:
    pids = node.processes(world.pod(served.namespace, served.name))
    assert pids
    node.pause(pids)
    began = time.monotonic()
    try:
        seen = recorder.turned("False", after=began, seconds=PATIENCE_SECONDS)
    finally:
        node.resume(pids)
    resumed = time.monotonic()
    assert seen.reason in ("HealthCheckFailed", "Unreachable"), seen
    assert_kept(seen.at, began, seen.reason, measured)
    back = recorder.turned("True", after=resumed, seconds=60)
    measured(f"Ready again {back.at - resumed:.1f} s after vLLM went on")
    assert complete(served.url, served.name).good
    restarts = world.pod(served.namespace, served.name)["status"]["containerStatuses"][0]["restartCount"]
    assert restarts == 0


def test_the_engine_dies(world: World, served: Served, recorder: ReadyRecorder, measured: Measured) -> None:
    pod = world.pod(served.namespace, served.name)
    pids = node.processes(pod)
    began = time.monotonic()
    node.kill(pids)
    seen = recorder.turned("False", after=began, seconds=PATIENCE_SECONDS)
    assert_kept(seen.at, began, seen.reason, measured)
    world.wait_ready(served.namespace, served.name)
    back = recorder.turned("True", after=seen.at, seconds=10)
    measured(f"Ready again after {back.at - began:.1f} s, by the kubelet's restart")
    reasons = [each.reason for each in recorder.since(began)]
    measured(f"reasons on the way: {', '.join(dict.fromkeys(reasons))}")


def test_the_pod_is_deleted(world: World, served: Served, recorder: ReadyRecorder, measured: Measured) -> None:
    pod = world.pod(served.namespace, served.name)["metadata"]["name"]
    began = time.monotonic()
    world.api.delete("pods", served.namespace, pod)
    seen = recorder.turned("False", after=began, seconds=PATIENCE_SECONDS)
    assert seen.reason not in ("", "Ready")
    assert_kept(seen.at, began, seen.reason, measured)
    world.wait_ready(served.namespace, served.name)
    back = recorder.turned("True", after=seen.at, seconds=10)
    measured(f"Ready again after {back.at - began:.1f} s, by another pod")
    assert complete(served.url, served.name).good


def gateway(name: str, *, routes_from: str, port: int) -> Object:
    listener = {
        "name": "http",
        "protocol": "HTTP",
        "port": port,
        "allowedRoutes": {"namespaces": {"from": routes_from}},
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name},
        "spec": {"gatewayClassName": "traefik", "listeners": [listener]},
    }


def port_of(world: World) -> int:
    return int(world.cluster.gateway_url.rpartition(":")[2])


def test_the_gateway_is_deleted(world: World, served: Served, recorder: ReadyRecorder, measured: Measured) -> None:
    pod = world.pod(served.namespace, served.name)["metadata"]["uid"]
    own = gateway("own", routes_from="Same", port=port_of(world))
    world.apply(served.namespace, own)
    world.edit(served.namespace, served.name, {"route": {"parentRefs": [{"name": "own"}]}})
    world.wait_condition(served.namespace, served.name, "RouteReady", "True")
    world.wait_condition(served.namespace, served.name, "Ready", "True")
    began = time.monotonic()
    world.api.delete("gateways", served.namespace, "own")
    seen = recorder.turned("False", after=began, seconds=PATIENCE_SECONDS)
    assert seen.reason == "GatewayNotFound", seen
    assert "own" in seen.message
    assert_kept(seen.at, began, seen.reason, measured)
    again = time.monotonic()
    world.apply(served.namespace, own)
    back = recorder.turned("True", after=again, seconds=PATIENCE_SECONDS)
    measured(f"Ready again {back.at - again:.1f} s after the Gateway came back")
    world.edit(served.namespace, served.name, {"route": None})
    world.wait_ready(served.namespace, served.name)
    world.api.delete("gateways", served.namespace, "own")
    assert world.pod(served.namespace, served.name)["metadata"]["uid"] == pod, "a route's edit restarts no pod"


def test_the_gateway_refuses_the_route(
    world: World, served: Served, namespace: str, recorder: ReadyRecorder, measured: Measured
) -> None:
    world.apply(namespace, gateway("private", routes_from="Same", port=port_of(world)))
    began = time.monotonic()
    refs = [{"name": "private", "namespace": namespace}]
    world.edit(served.namespace, served.name, {"route": {"parentRefs": refs}})
    said = world.wait_condition(served.namespace, served.name, "Ready", "False", "RouteRejected")
    seen = next(each for each in recorder.since(began) if each.reason == "RouteRejected")
    assert f"{namespace}/private" in said["message"]
    assert_kept(seen.at, began, f"{seen.reason} ({said['message']})", measured)
    world.edit(served.namespace, served.name, {"route": {"parentRefs": [{"name": "nowhere", "namespace": namespace}]}})
    said = world.wait_condition(served.namespace, served.name, "Ready", "False", "GatewayNotFound")
    assert f"{namespace}/nowhere" in said["message"]


def test_a_served_name_is_missing(world: World, served: Served, namespace: str, measured: Measured) -> None:
    command = ["vllm", "serve", "/models/tiny-qwen3", "--served-model-name", "another", "--port", "8000"]
    command += ["--max-model-len", "512", "--enforce-eager"]
    container = {"name": "vllm", "command": command}
    document = sample(podTemplate={"spec": {"containers": [container]}}, route={"enabled": False})
    world.apply(namespace, document)
    said = world.wait_condition(namespace, "tiny-cpu", "Ready", "False", "ModelNotListed", seconds=300)
    measured(f"said: {said['message']}")
    assert "tiny-cpu" in said["message"]


def broken(
    world: World, served: Served, break_it: Callable[[], object], mended: Callable[[], Any], *, what: str
) -> float:
    """Break something and return the seconds until it is as it was; the pod that serves stays."""
    pod = world.pod(served.namespace, served.name)["metadata"]["uid"]
    break_it()
    began = time.monotonic()
    eventually(what, mended, seconds=PATIENCE_SECONDS, interval=0.02)
    seconds = time.monotonic() - began
    eventually(
        "only the pod from before is left",
        lambda: [each["metadata"]["uid"] for each in world.pods(served.namespace, served.name, leaving=False)] == [pod],
        seconds=180,
    )
    return seconds


@pytest.mark.parametrize("kind", ["services", "httproutes"])
def test_a_deleted_child_comes_back(world: World, served: Served, kind: str, measured: Measured) -> None:
    before = world.api.get(kind, served.namespace, served.name)["metadata"]["uid"]

    def back() -> bool:
        found = world.api.find(kind, served.namespace, served.name)
        return found is not None and found["metadata"]["uid"] != before

    seconds = broken(
        world, served, lambda: world.api.delete(kind, served.namespace, served.name), back, what=f"{kind} are back"
    )
    measured(f"back after {seconds:.2f} s")
    world.wait_condition(served.namespace, served.name, "Ready", "True")
    eventually("it answers", lambda: complete(served.url, served.name).good, seconds=30)


def test_a_deleted_disruption_budget_comes_back(world: World, namespace: str, measured: Measured) -> None:
    # Two replicas that find no node: what matters here is the object.
    document = sample(replicas=2, scheduling={"nodeSelector": {"no": "node"}})
    world.apply(namespace, document)
    first: Object = eventually(
        "a PodDisruptionBudget", lambda: world.api.find("poddisruptionbudgets", namespace, "tiny-cpu"), seconds=30
    )
    world.api.delete("poddisruptionbudgets", namespace, "tiny-cpu")
    began = time.monotonic()
    second: Object = eventually(
        "another one", lambda: world.api.find("poddisruptionbudgets", namespace, "tiny-cpu"), seconds=PATIENCE_SECONDS
    )
    measured(f"back after {time.monotonic() - began:.2f} s")
    assert first["metadata"]["uid"] != second["metadata"]["uid"]


def test_edits_of_the_deployment_are_put_back(world: World, served: Served, measured: Measured) -> None:
    def kubectl(*words: str) -> str:
        return world.cluster.kubectl("-n", served.namespace, *words)

    def deployment() -> Object:
        return world.api.get("deployments", served.namespace, served.name)

    image = deployment()["spec"]["template"]["spec"]["containers"][0]["image"]
    audit = world.audit()
    with world.recorder(served.namespace, served.name) as recorder:
        seconds = broken(
            world,
            served,
            lambda: kubectl("scale", "deployment", served.name, "--replicas=2"),
            lambda: deployment()["spec"]["replicas"] == 1,
            what="one replica",
        )
        measured(f"kubectl scale put back after {seconds:.2f} s")
        seconds = broken(
            world,
            served,
            lambda: kubectl("set", "image", f"deployment/{served.name}", "vllm=example.org/wrong:1"),
            lambda: deployment()["spec"]["template"]["spec"]["containers"][0]["image"] == image,
            what="the image is as it was",
        )
        measured(f"kubectl set image put back after {seconds:.2f} s")
        world.wait_condition(served.namespace, served.name, "Ready", "True")
    reasons = dict.fromkeys(f"{each.status} {each.reason}" for each in recorder.sightings)
    measured(f"Ready meanwhile: {', '.join(reasons)}")
    # Twice written to, and to nothing else. That the record has it also shows that elsewhere "no writes" means something.
    assert [f"{each.verb} {each.resource}" for each in audit.child_writes(served.namespace)] == [
        "patch deployments"
    ] * 2
    assert complete(served.url, served.name).good


def test_an_edit_of_the_service_is_put_back(world: World, served: Served, measured: Measured) -> None:
    def ports() -> list[Object]:
        found: list[Object] = world.api.get("services", served.namespace, served.name)["spec"]["ports"]
        return found

    before = ports()
    edited = {"spec": {"ports": [{**before[0], "port": 9999}]}}
    seconds = broken(
        world,
        served,
        lambda: world.api.patch("services", served.namespace, served.name, edited),
        lambda: ports() == before,
        what="the Service's port is as it was",
    )
    measured(f"the Service's port put back after {seconds:.2f} s")
    world.wait_condition(served.namespace, served.name, "Ready", "True")
    eventually("it answers", lambda: complete(served.url, served.name).good, seconds=30)


def test_a_deleted_deployment_comes_back(world: World, served: Served, measured: Measured) -> None:
    with world.recorder(served.namespace, served.name) as recorder:
        began = time.monotonic()
        world.api.delete("deployments", served.namespace, served.name)
        eventually(
            "a Deployment",
            lambda: world.api.find("deployments", served.namespace, served.name),
            seconds=PATIENCE_SECONDS,
        )
        measured(f"back after {time.monotonic() - began:.2f} s")
        seen = recorder.turned("False", after=began, seconds=PATIENCE_SECONDS)
        assert_kept(seen.at, began, seen.reason, measured)
        world.wait_ready(served.namespace, served.name)
    assert complete(served.url, served.name).good
