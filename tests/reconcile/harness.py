"""The operator without kopf: engine, queue and reconciler on a MemoryCluster, fed by its watch."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from tests.reconcile.virtual import eventually, loop_clock
from tests.reconcile.world import FakeExternal, FakeProber, FakeVLLM, World, is_so, model_of
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import Key
from vllm_operator.api.types import API_VERSION, KIND
from vllm_operator.app.handlers import CHILD_DELAY
from vllm_operator.app.operator import NODES_DELAY
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object, key_of
from vllm_operator.cluster.errors import ApiError
from vllm_operator.cluster.memory import MemoryCluster, Write
from vllm_operator.hub.hugging_face import AdapterFacts, HubFacts
from vllm_operator.hub.library import HubSource, Library
from vllm_operator.reconcile.engine import Engine
from vllm_operator.reconcile.events import EventRecorder
from vllm_operator.reconcile.gateway_watch import Opinion
from vllm_operator.reconcile.inspector import Inspector
from vllm_operator.reconcile.nodes import Nodes
from vllm_operator.reconcile.queue import WorkQueue
from vllm_operator.reconcile.reconciler import Reconciler, Timings
from vllm_operator.reconcile.sizer import Sizer
from vllm_operator.serving.adapters import AdapterLoader
from vllm_operator.serving.external import ExternalProber
from vllm_operator.serving.probe import Prober
from vllm_operator.workload.peers import read_peers
from vllm_operator.workload.settings import BuildSettings, GatewayRef

Deliver = Callable[[], None]
Channel = Callable[[str, Object, Deliver], None]
"""How a watch event comes to the operator: calls `deliver` once, later, twice or never."""

GATEWAY = GatewayRef("default", "gateway")
PEERS = read_peers(
    '[{"namespaceSelector":{},"podSelector":{"matchLabels":{"app":"gateway"}}},{"ipBlock":{"cidr":"10.0.0.0/8"}}]'
)
BEHIND = BuildSettings(default_gateway=GATEWAY, gateway_url="http://gateway.example", model_network_policy_from=PEERS)
"""Of an operator with the gateway for all models, whose pods only some may reach."""
LIST_AGAIN = 600.0
KEY = Key("default", "qwen")


def at_once(event: str, obj: Object, deliver: Deliver) -> None:
    deliver()


def _unasked(wake: Callable[[Key], None]) -> Library[HubFacts]:
    """A library of which nobody is to ask anything."""

    async def read(source: HubSource) -> HubFacts:
        raise AssertionError(f"asked for {source.repository}")

    return Library(read, wake=wake)


class Operator:
    """One replica that leads."""

    def __init__(
        self,
        cluster: MemoryCluster,
        *,
        settings: BuildSettings | None = None,
        timings: Timings | None = None,
        channel: Channel = at_once,
        workers: int = 4,
        library: Callable[[Callable[[Key], None]], Library[HubFacts]] | None = None,
        ranks: Callable[[HubSource], Awaitable[AdapterFacts]] | None = None,
        asks_hub: bool = True,
        gateway: Callable[[Key], Opinion] | None = None,
    ) -> None:
        settings = settings or BuildSettings(default_gateway=GATEWAY)
        self.nodes = Nodes(cluster, clock=lambda: asyncio.get_running_loop().time())
        self.cluster = cluster
        self.channel = channel
        self.queue = WorkQueue(jitter=lambda: 0.5)
        self.prober = FakeProber(cluster, self.queue.add)
        self.external = FakeExternal(self.queue.add)
        self.vllm = FakeVLLM(self.prober.adapters)
        self.results: list[str] = []
        self.reconciler = Reconciler(
            cluster,
            prober=cast(Prober, self.prober),
            external=cast(ExternalProber, self.external),
            loader=AdapterLoader(self.vllm.ask, look=self.prober.look, wake=self.queue.add),
            recorder=EventRecorder(cluster, loop_clock, instance="test"),
            sizer=Sizer(
                self.nodes,
                (library or _unasked)(self.queue.add),
                asks_hub=asks_hub and library is not None,
                inspector=Inspector(cluster, image="operator:1", clock=lambda: asyncio.get_running_loop().time()),
                settings=settings,
                adapters=ranks and Library(ranks, wake=self.queue.add, clock=lambda: asyncio.get_running_loop().time()),
            ),
            settings=settings,
            clock=loop_clock,
            timings=timings or Timings(),
            jitter=lambda: 0.5,
            wake=self.queue.add,
            gateway=gateway,
        )
        self.engine = Engine(
            self.reconciler, self.queue, workers=workers, observer=lambda result, _: self.results.append(result)
        )
        self._unwatch: Callable[[], None] | None = None
        self._listing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Operator":
        self._unwatch = self.cluster.watch(self._event)
        self.engine.start()
        self._listing = asyncio.create_task(self._list_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        assert self._unwatch is not None
        assert self._listing is not None
        self._unwatch()
        self._listing.cancel()
        with suppress(asyncio.CancelledError):
            await self._listing
        await self.engine.stop()

    def _event(self, event: str, obj: Object) -> None:
        key = model_of(obj)
        if obj["kind"] == "Gateway":
            for each in self.reconciler.models_of_gateway(key_of(obj)):
                self.queue.add(each)
        elif obj["kind"] == "Node":
            if self.nodes.changed(event, obj):
                for model, (status, _) in self.reconciler.states.items():
                    if status != "True":
                        self.queue.add(model, delay=NODES_DELAY)
        elif key is not None and obj["kind"] != "ControllerRevision":
            delay = 0.0 if obj["kind"] == KIND or event == "DELETED" else CHILD_DELAY
            self.channel(event, obj, lambda: self.queue.add(key, delay=delay))

    async def _list_for_ever(self) -> None:
        while True:
            with suppress(ApiError):
                known = {key_of(model) for model in await self.cluster.list(kinds.VLLM_MODEL)}
                self.engine.want(known | set(self.reconciler.states))
            await asyncio.sleep(LIST_AGAIN)

    async def until(
        self, kind: str, status: str, reason: Reason | None = None, *, key: Key = KEY, within: float = 120
    ) -> float:
        """Wait until a condition says this of the newest generation."""
        return await eventually(lambda: is_so(self.cluster, key, kind, status, reason), within=within)


def make_cluster(**options: Any) -> MemoryCluster:
    """A cluster with a gateway."""
    cluster = MemoryCluster(now=loop_clock, **options)
    cluster.put(kinds.GATEWAY, gateway())
    return cluster


def gateway() -> Object:
    return {
        "apiVersion": kinds.GATEWAY.api_version,
        "kind": "Gateway",
        "metadata": {"name": GATEWAY.name, "namespace": GATEWAY.namespace},
        "spec": {"gatewayClassName": "test", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
        "status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.1"}]},
    }


def make_model(spec: Object | None = None, *, key: Key = KEY) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": {"model": "Qwen/Qwen3-8B"} if spec is None else spec,
    }


def secret(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "type": "Opaque",
        "data": data,
    }


def change_spec(cluster: MemoryCluster, key: Key = KEY, **fields: Any) -> None:
    """Edit a model's spec as kubectl does; None removes a field."""

    def mutate(obj: Object) -> None:
        for name, value in fields.items():
            if value is None:
                obj["spec"].pop(name, None)
            else:
                obj["spec"][name] = value

    cluster.edit(kinds.VLLM_MODEL, key, mutate)


async def settle(cluster: MemoryCluster, *, quiet: float = 400.0, within: float = 7200.0) -> None:
    """Wait until nothing has changed for `quiet` seconds: longer than a resync."""
    loop = asyncio.get_running_loop()
    started = since = loop.time()
    version = cluster.resource_version
    while loop.time() - since < quiet:
        assert loop.time() - started < within, "it never comes to rest"
        await asyncio.sleep(5)
        if cluster.resource_version != version:
            version, since = cluster.resource_version, loop.time()


OURS = (*kinds.CHILD_KINDS, kinds.CONTROLLER_REVISION)


def children(cluster: MemoryCluster) -> dict[str, Object]:
    """All that we own, without what differs from run to run."""
    found: dict[str, Object] = {}
    for kind in OURS:
        for obj in cluster.objects(kind):
            metadata = {
                name: value
                for name, value in obj["metadata"].items()
                if name in ("labels", "annotations", "name", "namespace", "ownerReferences")
            }
            body = {name: value for name, value in obj.items() if name not in ("status", "metadata")}
            if kind is kinds.SERVICE:
                body["spec"] = {k: v for k, v in obj["spec"].items() if k not in ("clusterIP", "clusterIPs")}
            found[f"{kind.kind} {key_of(obj)}"] = {**body, "metadata": metadata}
    return found


def ours(writes: list[Write]) -> list[Write]:
    """Writes but for events."""
    return [write for write in writes if write.kind is not kinds.EVENT]


__all__ = [
    "BEHIND",
    "GATEWAY",
    "KEY",
    "OURS",
    "PEERS",
    "Operator",
    "World",
    "at_once",
    "change_spec",
    "children",
    "make_cluster",
    "make_model",
    "ours",
    "random",
    "secret",
    "settle",
]
