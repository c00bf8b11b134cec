"""The operator's process against a real control plane with simulated GPU nodes.

Each test has a namespace and a ServiceAccount of its own, with exactly the rules of the chart, and starts the operator itself;
afterwards no request of the operator may have been denied and its log may speak of no bug.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.cluster import ClusterError, LocalCluster

from .api import Api, Audit, Request
from .operator_process import OperatorProcess
from .workbench import Identity, Workbench, on_ci


@pytest.fixture(scope="session")
def cluster() -> LocalCluster:
    try:
        return LocalCluster.running() or LocalCluster.load().up(profile="control-plane")
    except ClusterError as error:
        (pytest.fail if on_ci() else pytest.skip)(f"no local cluster: {error}")
        raise


@pytest.fixture(scope="session")
def bench(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    workbench = Workbench(cluster, tmp_path_factory.mktemp("on_cluster"))
    yield workbench
    workbench.close()


@pytest.fixture(scope="session")
def api(bench: Workbench) -> Api:
    return bench.api


@pytest.fixture(scope="session")
def audit(bench: Workbench) -> Audit:
    return bench.audit


@pytest.fixture(scope="session")
def product(bench: Workbench) -> str:
    """Simulated nodes with GPUs for all."""
    return bench.gpu_nodes(gpus=200, count=4)


@pytest.fixture
def namespace(bench: Workbench) -> str:
    return bench.namespace()


class Operators:
    """Makes a test's operators and judges them at the end."""

    def __init__(self, bench: Workbench, namespaces: Sequence[str]) -> None:
        self.bench = bench
        self.namespaces = tuple(namespaces)
        self.identity: Identity = bench.identity(namespaces=namespaces)
        self.lease = f"lease-{uuid.uuid4().hex[:6]}"
        self.mark = bench.audit.mark()
        self.all: list[OperatorProcess] = []
        self.may_be_denied = False

    def __call__(
        self, *flags: str, replica: str = "a", server: str | None = None, supervised: bool = False, start: bool = True
    ) -> OperatorProcess:
        operator = self.bench.operator(
            self.identity,
            *flags,
            namespaces=self.namespaces,
            lease=self.lease,
            replica=replica,
            server=server,
            supervised=supervised,
        )
        self.all.append(operator)
        return operator.start() if start else operator

    def requests(self, mark: int | None = None) -> list[Request]:
        """The operator's requests since a mark, or since the test began, but for its lease."""
        return self.bench.audit.since(self.mark if mark is None else mark, self.identity.user)

    def writes(self, mark: int | None = None) -> list[Request]:
        return [request for request in self.requests(mark) if request.is_write]

    def rest(self, *, quiet: float = 5.0, timeout: float = 120.0) -> None:
        """Wait until the operator has written nothing for a while."""
        self.bench.audit.wait_for_rest(self.identity.user, quiet=quiet, timeout=timeout)

    def judge(self) -> None:
        """Stop all; nothing may have been denied, and no log may speak of a bug."""
        for operator in self.all:
            operator.stop()
        for operator in self.all:
            assert not operator.bugs(), f"{operator.log}: {operator.bugs()[:5]}"
        if not self.may_be_denied:
            denied = sorted({str(request) for request in self.requests() if request.denied})
            assert not denied, f"denied: {denied[:10]}"

    def abandon(self) -> None:
        for operator in self.all:
            operator.stop(timeout=10)


@pytest.fixture
def operators(bench: Workbench, namespace: str, request: pytest.FixtureRequest) -> Iterator[Operators]:
    """Operators of the test's own namespace, with the chart's rules as Roles in it."""
    found = Operators(bench, [namespace])
    yield from _judged(found, request)


@pytest.fixture
def cluster_operators(bench: Workbench, request: pytest.FixtureRequest) -> Iterator[Operators]:
    """Operators of all namespaces, with the chart's rules as a ClusterRole, as the chart installs it by default."""
    others = bench.other_operators()
    if others:
        (pytest.fail if on_ci() else pytest.skip)(f"another operator works in this cluster: {', '.join(others)}")
    found = Operators(bench, [])
    yield from _judged(found, request)


def _judged(found: Operators, request: pytest.FixtureRequest) -> Iterator[Operators]:
    failures = request.session.testsfailed
    try:
        yield found
        if request.session.testsfailed == failures:
            found.judge()
    finally:
        found.abandon()


Log = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Log:
    """Print a measured figure whatever the verdict."""

    def write(line: str) -> None:
        with capsys.disabled():
            print(f"\n    {request.node.name}: {line}", flush=True)

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
