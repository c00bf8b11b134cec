"""The cluster with the operator in it, once for all tests; a model that several tests share; a namespace for each test."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.apiserver import Object
from tests.cluster import ClusterError
from tests.cluster.progress import Progress
from tests.demo.installation import diagnosis

from .gateway import Gateway, running
from .world import LOAD_SECONDS, World, alone, brought_up, sample, unavailable

_measurements: list[str] = []
_worlds: list[World] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            # The first one brings the cluster up, which from nothing takes as long as `make demo`.
            item.add_marker(pytest.mark.timeout(1800))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _measurements:
        terminalreporter.section("measured")
        for line in _measurements:
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and _worlds and item.path.is_relative_to(Path(__file__).parent):
        world = _worlds[0]
        for namespace in [each for each in (*world.namespaces, world.shared_namespace) if each]:
            text = diagnosis(world.cluster, namespace, installation=world.operator)
            report.sections.append((f"namespace {namespace}", text))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        try:
            cluster, image = stack.enter_context(brought_up(Progress()))
        except ClusterError as error:
            if os.geteuid() != 0 or os.environ.get("VLLM_OPERATOR_CLUSTER", "local") != "local":
                unavailable(str(error))
            raise
        world = stack.enter_context(alone(cluster, image))
        stack.callback(_worlds.clear)
        _worlds.append(world)
        began = time.monotonic()
        world.reinstall()
        world.wait_for_leader()
        _measurements.append(f"helm install until the operator leads: {time.monotonic() - began:.1f} s")
        yield world


@pytest.fixture
def namespace(world: World) -> Iterator[str]:
    """A namespace of the test's own."""
    name = world.make_namespace()
    yield name
    world.delete_namespace(name)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note a measurement; all are listed at the end of the run."""
    return lambda line: _measurements.append(f"{request.node.name}: {line}")


@dataclass(frozen=True)
class Served:
    """A model that serves, shared by tests that put it back as it was."""

    namespace: str
    name: str
    url: str
    document: Object
    """What it is put back to after each test; a test may change it."""


@pytest.fixture(scope="session")
def _shared(world: World) -> Iterator[Served]:
    world.shared_namespace = namespace = world.make_namespace()
    world.namespaces.remove(namespace)
    began = time.monotonic()
    document = sample()
    world.apply(namespace, document)
    model = world.wait_ready(namespace, document["metadata"]["name"])
    _measurements.append(f"kubectl apply until Ready: {time.monotonic() - began:.1f} s")
    yield Served(namespace, document["metadata"]["name"], model["status"]["url"], document)
    world.delete_namespace(namespace)
    world.shared_namespace = ""


@pytest.fixture
def served(world: World, _shared: Served) -> Iterator[Served]:
    """The shared model, Ready before the test and put back after it."""
    if world.api.find("models", _shared.namespace, _shared.name) is None:
        world.apply(_shared.namespace, _shared.document)
    world.wait_ready(_shared.namespace, _shared.name)
    yield _shared
    if world.api.find("models", _shared.namespace, _shared.name) is not None:
        words = ("replace", "--namespace", _shared.namespace, "-f", "-")
        world.cluster.kubectl(*words, stdin=json.dumps(_shared.document))


@pytest.fixture(scope="package")
def gateway(world: World) -> Iterator[Gateway]:
    """The gateway for all models, which may ask servers on this machine's own network too."""
    document = sample()
    document["spec"]["engine"]["toolCallParser"] = "hermes"
    with running(world, document, seconds=LOAD_SECONDS, externalNetworks=["10.244.0.0/24"]) as found:
        yield found
