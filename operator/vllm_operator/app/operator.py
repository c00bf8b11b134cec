"""The running operator: everything put together, started and stopped in order."""

import asyncio
import logging
import random
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import kopf

from vllm_operator import __version__
from vllm_operator.api.names import CONTAINER, Key
from vllm_operator.app import handlers
from vllm_operator.app.http import HealthServer
from vllm_operator.app.metrics import Metrics
from vllm_operator.app.settings import Settings
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import key_of
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.cluster.kinds import Kind
from vllm_operator.cluster.kubernetes import KubernetesCluster
from vllm_operator.hub.library import Library, adapter_reader, hub_reader
from vllm_operator.reconcile.engine import Engine
from vllm_operator.reconcile.events import EventRecorder
from vllm_operator.reconcile.gateway_watch import GatewayWatch
from vllm_operator.reconcile.inspector import Inspector
from vllm_operator.reconcile.lease import LeaderElection
from vllm_operator.reconcile.nodes import Nodes
from vllm_operator.reconcile.queue import WorkQueue
from vllm_operator.reconcile.reconciler import Reconciler
from vllm_operator.reconcile.sizer import Sizer
from vllm_operator.serving.adapters import AdapterLoader, http_ask
from vllm_operator.serving.external import ExternalProber
from vllm_operator.serving.probe import Prober
from vllm_operator.serving.startup import LOG_BYTES

log = logging.getLogger(__name__)

LOST_LEASE_GRACE = 3.0
"""Seconds that passes under way get when the lease is lost: less than renew deadline and lease duration lie apart."""
STOP_GRACE = 15.0
"""Seconds that passes under way get when the process is asked to end."""
STUCK_AFTER = 180.0
"""Seconds without any progress, though there is work, after which /healthz fails."""
NODES_DELAY = 2.0
"""Seconds that models wait after a change of a node: nodes come and go in groups."""
LIST_AGAIN = 600.0
"""Seconds between two lists of all models: a watch can lose a deletion, or an addition after a 410."""


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


class Operator:
    """One replica of the operator."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._watching = asyncio.Event()
        self._queue = WorkQueue()
        self._reconciler: Reconciler | None = None
        self._engine: Engine | None = None
        self._nodes: Nodes | None = None
        self._gateway: GatewayWatch | None = None
        self._metrics = Metrics(self._states, lambda: len(self._queue), self._sizing_errors)
        self._health = HealthServer(
            self._metrics.registry,
            sick=self._sick,
            ready=self._watching.is_set,
            host=settings.http_host,
            port=settings.http_port,
        )

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stop.set()

    def handle_signals(self) -> None:
        """Have SIGTERM and SIGINT ask for an orderly end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def run(self) -> int:
        """Run until asked to stop; the process's exit status."""
        settings = self._settings
        log.info("vllm-operator %s starts as %s", __version__, settings.identity)
        await self._health.start()
        # No connection is kept: httpcore looks at all idle ones for each idle one at each request, so that the probes of a few
        # hundred pods would take a whole core.
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=0)
        async with (
            await KubernetesCluster.connect(observer=self._metrics.observe_request) as cluster,
            httpx.AsyncClient(limits=limits, trust_env=False, follow_redirects=False) as client,
        ):
            library = Library(hub_reader(settings.hub_endpoint), wake=self._wake)
            adapters = Library(adapter_reader(settings.hub_endpoint), wake=self._wake)
            self._nodes = Nodes(cluster)
            prober = Prober(
                client,
                self._wake,
                interval=settings.probe_interval,
                read_log=lambda pod: cluster.read_log(pod, CONTAINER, most=LOG_BYTES),
            )
            loader = AdapterLoader(http_ask(client), look=prober.look, wake=self._wake)
            external = ExternalProber(self._wake, clock=utc_now, networks=settings.external_networks)
            if settings.build.gateway_url and settings.gateway_pods is not None:
                self._gateway = GatewayWatch(
                    cluster, client, settings.gateway_pods, models=self._states, wake=self._wake
                )
            recorder = EventRecorder(cluster, utc_now, instance=settings.identity)
            self._reconciler = Reconciler(
                cluster,
                prober=prober,
                external=external,
                loader=loader,
                recorder=recorder,
                sizer=Sizer(
                    self._nodes,
                    library,
                    inspector=await self._inspector(cluster),
                    settings=settings.build,
                    asks_hub=bool(settings.hub_endpoint),
                    adapters=adapters,
                ),
                settings=settings.build,
                clock=utc_now,
                timings=settings.timings,
                on_write=self._metrics.observe_write,
                wake=self._wake,
                gateway=None if self._gateway is None else self._gateway.opinion,
            )
            self._engine = Engine(
                self._reconciler, self._queue, workers=settings.workers, observer=self._metrics.observe_pass
            )
            try:
                return await self._run(cluster, prober, external, loader)
            finally:
                await self._engine.stop()
                await prober.close()
                await external.close()
                await loader.close()
                await library.close()
                await adapters.close()
                await self._health.stop()
                log.info("stopped")

    async def _inspector(self, cluster: KubernetesCluster) -> Inspector | None:
        """What reads models in volumes, if the operator knows its own image."""
        image, own = self._settings.inspect_image, self._settings.own_pod
        if not image and own is not None:
            try:
                pod = await cluster.get(kinds.POD, own)
            except ApiError as error:
                log.warning("the operator's own image is not known, so that no model in a volume is read: %s", error)
                return None
            containers = pod["spec"]["containers"] if pod is not None else []
            image = next((each["image"] for each in containers if each["name"] == "operator"), "")
        return Inspector(cluster, image=image) if image else None

    async def _run(
        self, cluster: KubernetesCluster, prober: Prober, external: ExternalProber, loader: AdapterLoader
    ) -> int:
        settings = self._settings
        election = LeaderElection(
            cluster, Key(settings.lease_namespace, settings.lease_name), settings.identity, clock=utc_now
        )
        watch = asyncio.create_task(self._watch(cluster), name="watch")
        work = asyncio.create_task(self._lead(cluster, election), name="lead")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({watch, work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in (watch, work) if task.done()]
            if ended and not self._stop.is_set():
                log.error(
                    "%s ended: the process ends, to be started anew", ended[0].get_name(), exc_info=ended[0].exception()
                )
                return 1
            log.info("stopping: passes under way are finished")
            return 0
        finally:
            asked = self._stop.is_set()
            self._stop.set()
            assert self._engine is not None
            # Without the lease another replica works a few seconds from now: nothing of ours may be under way then.
            await self._engine.stop(grace=STOP_GRACE if asked else LOST_LEASE_GRACE)
            # Renewing goes on until here, and must not take the lease again once it is given up.
            work.cancel()
            stopping.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
            await election.release()
            # kopf ends by itself on the flag, but waits for every task of the loop, whoever's: the probes would cost 5 s.
            await prober.close()
            await external.close()
            await loader.close()
            await asyncio.wait({watch}, timeout=10)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, cluster: KubernetesCluster) -> None:
        """Watch by kopf until stopped."""
        await _installed(cluster, self._settings.namespaces)
        registry = kopf.OperatorRegistry()
        handlers.register(
            registry,
            want_model=self._want_model,
            want=lambda key, delay: self._queue.add(key, delay=delay, urgent=delay == 0),
            want_gateway=self._want_gateway,
            want_nodes=self._want_nodes if await _may_watch(cluster, kinds.NODE, ()) else None,
            gateway_api=await _may_watch(cluster, kinds.HTTP_ROUTE, self._settings.namespaces),
            network_policies=await _may_watch(cluster, kinds.NETWORK_POLICY, self._settings.namespaces),
        )
        ready = asyncio.Event()
        noted = asyncio.create_task(self._note_watching(ready))
        try:
            others = asyncio.all_tasks()
            tasks = await kopf.spawn_tasks(
                # Otherwise kopf asks for the user's name, and the image's user has only a number. (Its type is kopf's own.)
                identity=self._settings.identity,  # type: ignore[arg-type]
                registry=registry,
                settings=handlers.kopf_settings(),
                clusterwide=not self._settings.namespaces,
                namespaces=list(self._settings.namespaces),
                stop_flag=self._stop,
                ready_flag=ready,
            )
            # kopf has just taken SIGTERM and SIGINT for itself: it would end first, as if it had failed.
            self.handle_signals()
            await kopf.run_tasks(tasks, ignored=others)
        finally:
            noted.cancel()

    async def _note_watching(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._watching.set()

    async def _lead(self, cluster: KubernetesCluster, election: LeaderElection) -> None:
        """Work while holding the lease; returns when it is lost."""
        assert self._engine is not None
        if self._settings.leader_election:
            await election.acquire()
        self._metrics.leader.set(1)
        self._engine.start()
        tasks = {
            asyncio.create_task(self._list_for_ever(cluster), name="list"),
            asyncio.create_task(election.hold() if self._settings.leader_election else self._stop.wait(), name="hold"),
        }
        if self._gateway is not None:
            tasks.add(asyncio.create_task(self._gateway.run(), name="gateway"))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # All but holding only end by a bug, which must not go unseen.
        finally:
            self._metrics.leader.set(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _list_for_ever(self, cluster: KubernetesCluster) -> None:
        """Want every model at the start, and again from time to time: watches can lose events."""
        while True:
            known = set(self._reconciler.states) if self._reconciler else set()
            try:
                for namespace in self._settings.namespaces or (None,):
                    known |= {key_of(model) for model in await cluster.list(kinds.VLLM_MODEL, namespace=namespace)}
            except ApiError as error:
                log.warning("models cannot be listed, tried again in 5 s: %s", error)
                await asyncio.sleep(5)
                continue
            for key in known:
                self._queue.add(key)
            await asyncio.sleep(LIST_AGAIN * (0.9 + 0.2 * random.random()))

    def _wake(self, key: Key) -> None:
        """Something that a model waits for has come, or what was known of it has changed."""
        self._queue.add(key, urgent=True)

    def _want_model(self, key: Key, uid: str, version: str) -> None:
        """A model has changed. Most changes are our own writes of its status: they leave what is wanted as it is."""
        if self._reconciler is None or self._reconciler.reported.get(key) != (uid, version):
            self._queue.add(key, urgent=True)

    def _want_nodes(self, event: str | None, node: Mapping[str, Any]) -> None:
        """A node has changed: what does not serve may be planned otherwise now."""
        if self._nodes is not None and self._nodes.changed(event, node):
            for key, (status, _) in self._states().items():
                if status != "True":
                    self._queue.add(key, delay=NODES_DELAY)

    def _want_gateway(self, gateway: Key) -> None:
        if self._reconciler is not None:
            for key in self._reconciler.models_of_gateway(gateway):
                self._queue.add(key)

    def _states(self) -> dict[Key, tuple[str, str]]:
        return dict(self._reconciler.states) if self._reconciler else {}

    def _sizing_errors(self) -> dict[Key, float]:
        return dict(self._reconciler.sizing_errors) if self._reconciler else {}

    def _sick(self) -> str | None:
        """Why the process should be restarted. Only a replica that leads has work to get stuck in."""
        if self._engine is None or not self._engine.running:
            return None
        stuck = self._queue.stuck_for()
        return f"no progress for {stuck:.0f} s, though there is work" if stuck > STUCK_AFTER else None


async def _installed(cluster: KubernetesCluster, namespaces: tuple[str, ...]) -> None:
    """Wait until the CRD is there: kopf looks for kinds only once."""
    while True:
        try:
            await cluster.list(kinds.VLLM_MODEL, namespace=namespaces[0] if namespaces else None)
        except ApiError as error:
            missing = error.category is Category.NOT_INSTALLED
            log.warning(
                "waiting for %s", "the CRD vllmmodels.vllm-operator.io" if missing else f"the API server: {error}"
            )
            await asyncio.sleep(2)
        else:
            return


_DISPENSABLE = {
    kinds.NODE: "nodes may not be read: sizes come from the specs, unchecked",
    kinds.NETWORK_POLICY: "NetworkPolicies may not be read: models get none",
}
"""Kinds that the operator does without where it may not read them → what that means."""


async def _may_watch(cluster: KubernetesCluster, kind: Kind, namespaces: tuple[str, ...]) -> bool:
    """Whether the kind is there and may be listed: kopf complains at every start about what it does not find."""
    try:
        await cluster.list(kind, namespace=namespaces[0] if namespaces else None)
    except ApiError as error:
        if error.category is Category.NOT_INSTALLED:
            log.info("the API server has no %s; restart the operator after installing it", kind)
            return False
        if error.category is Category.DENIED and kind in _DISPENSABLE:
            log.info(_DISPENSABLE[kind])
            return False
        log.warning("%s cannot be listed: %s", kind.plural, error)
    return True
