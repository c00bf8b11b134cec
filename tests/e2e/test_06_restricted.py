"""A model with an API key, in a namespace that takes non-root pods only. Two pods of it run during a roll-out."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.apiserver import Object

from . import node
from .api import OWNED, eventually
from .traffic import Traffic, complete
from .world import World, sample

Measured = Callable[[str], None]
KEYS = ("sk-first-0f6c1d", "sk-second-9b27ae")
USER = 2000


def secret(key: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "api-key"}, "stringData": {"key": key}}


@pytest.fixture(scope="module")
def restricted(world: World) -> Iterator[str]:
    """A namespace that enforces the restricted Pod Security Standard, and an operator that makes pods for it."""
    world.reinstall(vllm={"runAsUser": USER})
    world.wait_for_leader()
    standard = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = world.make_namespace(labels=standard)
    yield namespace
    world.delete_namespace(namespace)
    world.reinstall()
    world.wait_for_leader()


def test_non_root_with_a_key(world: World, restricted: str, measured: Measured) -> None:
    document = sample(auth={"apiKeySecretRef": {"name": "api-key", "key": "key"}})
    name = document["metadata"]["name"]
    world.apply(restricted, document)
    said = world.wait_condition(restricted, name, "Accepted", "False", "ReferenceNotFound")
    assert "api-key" in said["message"]
    world.apply(restricted, secret(KEYS[0]))
    model = world.wait_ready(restricted, name)
    url = model["status"]["url"]
    assert complete(url, name).status == 401
    assert complete(url, name, key="wrong").status == 401
    assert complete(url, name, key=KEYS[0]).good

    pod = world.pod(restricted, name)
    users = {line.split()[1] for pid in node.processes(pod) for line in status(pid) if line.startswith("Uid:")}
    assert users == {str(USER)}

    # Another content of the Secret is another revision.
    with world.recorder(restricted, name) as recorder:
        began = time.monotonic()
        world.apply(restricted, secret(KEYS[1]))
        eventually(
            "a new pod with the new key",
            lambda: pod["metadata"]["uid"] not in {each["metadata"]["uid"] for each in world.pods(restricted, name)},
            seconds=300,
        )
        measured(f"the new key is what counts {time.monotonic() - began:.1f} s after the Secret's edit")
        world.wait_ready(restricted, name)
    reasons = dict.fromkeys(f"{each.status} {each.reason}" for each in recorder.sightings)
    measured(f"Ready meanwhile: {', '.join(reasons)}")
    assert not any("ApiKeyRejected" in reason for reason in reasons), reasons
    assert complete(url, name, key=KEYS[0]).status == 401
    assert complete(url, name, key=KEYS[1]).good
    assert_not_told(world, restricted, name)


def status(pid: int) -> list[str]:
    with open(f"/proc/{pid}/status") as file:
        return file.read().splitlines()


def assert_not_told(world: World, namespace: str, name: str) -> None:
    """No key stands anywhere but in the Secret."""
    places = {kind: json.dumps(world.api.list(kind, namespace)) for kind in (*OWNED, "models", "events")}
    places["the operator's log"] = world.operator.logs(tail=-1)
    places["the log of vLLM"] = world.cluster.kubectl("-n", namespace, "logs", f"deployment/{name}")
    commands = [f"/proc/{pid}/cmdline" for pid in node.processes(world.pod(namespace, name))]
    places["arguments"] = "".join(open(path).read() for path in commands)  # noqa: SIM115 (read at once)
    for place, text in places.items():
        for key in KEYS:
            assert key not in text, f"the API key stands in {place}"
        assert text, place


def test_deleted_while_the_operator_is_down(world: World, restricted: str, measured: Measured) -> None:
    operator = world.operator
    name = sample()["metadata"]["name"]
    assert world.api.find("models", restricted, name), "made by the test before"
    url = world.api.get("models", restricted, name)["status"]["url"]
    with Traffic(url, name, clients=1) as traffic:
        world.cluster.kubectl("-n", operator.namespace, "scale", "deployment", operator.release, "--replicas=0")
        eventually("no operator", lambda: not world.api.list("pods", operator.namespace), seconds=60)
        eventually("a reply", lambda: bool(traffic.replies), seconds=30)
        assert traffic.replies[-1].status == 401, "a model serves without the operator"
    began = time.monotonic()
    world.cluster.kubectl("-n", restricted, "delete", "vllm", name, "--timeout=30s")
    measured(f"the VLLMModel was gone after {time.monotonic() - began:.1f} s")
    eventually("everything it owned is gone", lambda: world.owned(restricted, name) == [], seconds=180)
    measured(f"all that it owned was gone after {time.monotonic() - began:.1f} s, without the operator")
    eventually("the gateway forgets it", lambda: complete(url, name).status == 404, seconds=30)
    world.cluster.kubectl("-n", operator.namespace, "scale", "deployment", operator.release, "--replicas=1")
    operator.rolled_out()
    world.wait_for_leader()
