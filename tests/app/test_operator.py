"""The operator put together, on a cluster in memory and without kopf's watches."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import pytest

from tests.app.test_settings import parser
from tests.reconcile.harness import KEY, make_model
from tests.reconcile.world import is_so
from vllm_operator.api.conditions import Reason
from vllm_operator.app import operator as app
from vllm_operator.app.settings import read_settings
from vllm_operator.cluster import kinds
from vllm_operator.cluster.kubernetes import KubernetesCluster
from vllm_operator.cluster.memory import MemoryCluster
from vllm_operator.reconcile import gateway_watch
from vllm_operator.reconcile.lease import LeaderElection


class Connected(MemoryCluster):
    """As the real one is entered and left."""

    async def __aenter__(self) -> "Connected":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


@asynccontextmanager
async def operator(monkeypatch: pytest.MonkeyPatch, *flags: str) -> AsyncIterator[Connected]:
    cluster = Connected(namespaces=("default", "system"))

    async def connect(**_: object) -> Connected:
        return cluster

    async def watch(self: app.Operator, _: object) -> None:
        await self._stop.wait()

    monkeypatch.setattr(KubernetesCluster, "connect", connect)
    monkeypatch.setattr(app.Operator, "_watch", watch)
    monkeypatch.setattr(gateway_watch, "INTERVAL", 0.02)
    cluster.put(kinds.VLLM_MODEL, make_model())
    always = ("--no-leader-election", "--http-address=127.0.0.1:0", "--hub-endpoint=off", "--default-accelerator=cpu")
    running = app.Operator(read_settings(parser().parse_args([*always, *flags])))
    task = asyncio.create_task(running.run())
    try:
        yield cluster
    finally:
        running.stop()
        assert await task == 0


async def until_said(cluster: Connected, status: str, reason: Reason) -> None:
    async with asyncio.timeout(10):
        while not is_so(cluster, KEY, "RouteReady", status, reason):
            await asyncio.sleep(0.01)


async def test_the_leader_looks_at_the_gateways_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--gateway-url=http://gateway.example", "--gateway-pods=system/app=gateway")
    async with operator(monkeypatch, *flags) as cluster:
        await until_said(cluster, "False", Reason.GATEWAY_NOT_READY)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--gateway-url=http://gateway.example"], Reason.BY_GATEWAY),
        (["--gateway-pods=system/app=gateway"], Reason.NO_GATEWAY),
    ],
    ids=["no pods", "no gateway"],
)
async def test_nobody_looks_where_there_is_nothing_to_see(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], reason: Reason
) -> None:
    async with operator(monkeypatch, *flags) as cluster:
        await until_said(cluster, "True", reason)
        # The model's own, once in each pass.
        assert cluster.requests["list", "Pod"] == cluster.requests["list", "ControllerRevision"]


async def test_a_replica_that_does_not_lead_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--gateway-url=http://gateway.example", "--gateway-pods=system/app=gateway", "--leader-election")
    held = asyncio.Event()

    async def wait_for_ever(_: object) -> None:
        held.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(LeaderElection, "acquire", wait_for_ever)
    async with operator(monkeypatch, *flags) as cluster:
        async with asyncio.timeout(10):
            await held.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert cluster.requests["list", "Pod"] == 0
