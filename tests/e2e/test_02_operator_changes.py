"""The operator restarts, is upgraded and fails over while a model serves: the model does not notice."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

from tests.cluster import operator_image
from tests.cluster.progress import Progress
from tests.demo.installation import REPOSITORY, local_values

from . import node
from .api import eventually
from .conftest import Served
from .world import World, without_pods

Measured = Callable[[str], None]
WATCHED_SECONDS = 10.0
"""How long nothing may be written after the new operator has looked at the model."""
REST_SECONDS = 35.0
"""More than the operator's interval for looking at references and all of its probes'."""


@contextmanager
def undisturbed(world: World, served: Served, measured: Measured) -> Iterator[None]:
    """The pod stays as it is, Ready stays true, and no child is written to: during the change and for a while after it."""
    before = world.pod(served.namespace, served.name)
    audit = world.audit()
    began = time.monotonic()
    with world.recorder(served.namespace, served.name) as recorder:
        yield
        taken = time.monotonic()
        # By its name, and from the beginning: it may have looked before this test learnt that it leads.
        leader = world.leader()
        eventually(
            "the new operator has looked at the model",
            lambda: audit.looked_at(served.namespace, served.name, by=leader) > 0,
            seconds=60,
        )
        settled = world.audit()
        end = time.monotonic() + WATCHED_SECONDS
        eventually("the time to watch is over", lambda: time.monotonic() > end, seconds=WATCHED_SECONDS + 5)
    after = world.pod(served.namespace, served.name)
    writes = ", ".join(map(str, audit.writes(served.namespace))) or "none"
    measured(f"another operator leads after {taken - began:.1f} s; writes in the model's namespace: {writes}")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    restarts = [each["restartCount"] for each in after["status"]["containerStatuses"]]
    assert restarts == [each["restartCount"] for each in before["status"]["containerStatuses"]]
    assert recorder.always_true, recorder.sightings
    assert audit.child_writes(served.namespace) == []
    assert settled.writes(served.namespace) == []


def test_restarted(world: World, served: Served, measured: Measured) -> None:
    with undisturbed(world, served, measured):
        old = world.leader()
        world.api.delete("pods", world.operator.namespace, old)
        world.wait_for_leader(other_than=old)


@pytest.fixture(scope="module")
def changed_image(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of an operator whose code has other defaults."""
    folder = tmp_path_factory.mktemp("changed")
    for name in ("Dockerfile", "requirements.lock", "pyproject.toml", "README.md"):
        copy(REPOSITORY / name, folder)
    for file in REPOSITORY.glob("LICENSE*"):
        copy(file, folder)
    copytree(REPOSITORY / "operator", folder / "operator", ignore=ignore_patterns("__pycache__"))
    rooms = folder / "operator" / "vllm_operator"
    replace(rooms / "engine" / "termination.py", "DEFAULT_GRACE_SECONDS = 120", "DEFAULT_GRACE_SECONDS = 77")
    replace(rooms / "workload" / "pods.py", "PROBE_PERIOD_SECONDS = 5", "PROBE_PERIOD_SECONDS = 7")
    replace(rooms / "workload" / "settings.py", 'vllm_version: str = "0.32.0"', 'vllm_version: str = "0.99.0"')
    return operator_image.ensure(Progress(), tag="localhost/vllm-operator:changed", dockerfile=folder / "Dockerfile")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
    file.write_text(text.replace(old, new))


def test_upgraded_to_other_defaults(
    world: World, served: Served, changed_image: str, namespace: str, measured: Measured
) -> None:
    other = "example.org/vllm-cpu:{version}"
    try:
        with undisturbed(world, served, measured):
            old = world.leader()
            image = local_values(changed_image)["image"]
            world.reinstall(image=image, vllm={"images": {"cpu": other}, "runAsUser": 1234})
            world.wait_for_leader(other_than=old)
        # The new defaults do hold, for models that come now.
        fresh = without_pods("fresh")
        del fresh["spec"]["engine"]["image"]
        world.apply(namespace, fresh)
        eventually("a Deployment", lambda: world.api.find("deployments", namespace, "fresh"), seconds=30)
        pod = world.api.get("deployments", namespace, "fresh")["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == "example.org/vllm-cpu:0.99.0"
        assert pod["containers"][0]["readinessProbe"]["periodSeconds"] == 7
        assert pod["terminationGracePeriodSeconds"] == 77
        assert pod["securityContext"]["runAsUser"] == 1234
    finally:
        with undisturbed(world, served, measured):  # and back again
            old = world.leader()
            world.reinstall()
            world.wait_for_leader(other_than=old)


def test_failed_over(world: World, served: Served, measured: Measured) -> None:
    world.reinstall(replicas=2)
    try:
        eventually("two operators", lambda: len(world.operator_pods()) == 2, seconds=60)
        with undisturbed(world, served, measured):
            old = world.wait_for_leader()
            pod = world.api.get("pods", world.operator.namespace, old)
            # Dead in the middle of whatever it did, the lease not given back, and nobody starts it again.
            pids = node.processes(pod)
            assert pids
            world.api.delete("pods", world.operator.namespace, old, force=True)
            node.kill(pids)
            world.wait_for_leader(other_than=old)
    finally:
        world.reinstall()
        world.wait_for_leader()


def test_nothing_is_written_at_rest(world: World, served: Served, measured: Measured) -> None:
    audit = world.audit()
    end = time.monotonic() + REST_SECONDS
    eventually("the time to watch is over", lambda: time.monotonic() > end, seconds=REST_SECONDS + 5, interval=1)
    requests = [each for each in audit.requests() if each.namespace == served.namespace]
    measured(
        f"{len(requests)} requests about a model in {REST_SECONDS:g} s at rest, of which {len(audit.writes(served.namespace))} write"
    )
    assert audit.writes(served.namespace) == []
