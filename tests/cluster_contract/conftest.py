"""Each test that asks for `world` runs on the in-memory cluster and on a real API server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

# The same server, found and prepared in the same way, as the CRD's contract tests use.
from tests.contract.conftest import bare_server, kubeconfig, server  # noqa: F401
from vllm_operator.cluster.kubernetes import KubernetesCluster

from .worlds import MemoryWorld, RealWorld, World


@pytest.fixture
def prepared_kubeconfig(kubeconfig: Path, server: object) -> str:  # noqa: F811
    """kubeconfig of a real API server that has this checkout's CRD."""
    return str(kubeconfig)


@pytest.fixture
async def real(request: pytest.FixtureRequest) -> AsyncIterator[RealWorld]:
    """A real API server; skipped with the reason where there is none, failed there on the project's CI."""
    async with await KubernetesCluster.connect(kubeconfig=request.getfixturevalue("prepared_kubeconfig")) as cluster:
        world = await RealWorld(cluster).open()
        try:
            yield world
        finally:
            await world.close()


@pytest.fixture(params=["memory", "real"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Both clusters, one after the other."""
    if request.param == "memory":
        yield MemoryWorld()
        return
    async with await KubernetesCluster.connect(kubeconfig=request.getfixturevalue("prepared_kubeconfig")) as cluster:
        real = await RealWorld(cluster).open()
        try:
            yield real
        finally:
            await real.close()
