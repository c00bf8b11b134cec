"""The gateway's agent: beside each Envoy, it tells it what the cluster says. It writes nothing but log and metrics.

Models, EndpointSlices and Secrets → state → Envoy's configuration. While the API server is away Envoy serves on as it was told last.
"""

import argparse
import asyncio
import faulthandler
import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vllm_operator import __version__
from vllm_operator.api.endpoint import Network
from vllm_operator.api.names import LABEL_API_KEYS, LABEL_ENGINE_KEY, LABEL_MODEL, Key
from vllm_operator.app.http import HealthServer
from vllm_operator.app.settings import (
    SettingsError,
    add_external_argument,
    add_log_arguments,
    flag_adder,
    read_address,
    read_external_networks,
    read_log_format,
    read_log_level,
    read_namespaces,
    read_number,
)
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.errors import ApiError
from vllm_operator.cluster.kinds import Kind
from vllm_operator.cluster.kubernetes import KubernetesCluster
from vllm_operator.cluster.reflector import Reflector
from vllm_operator.gateway.bootstrap import build_bootstrap
from vllm_operator.gateway.gather import (
    Found,
    Gathered,
    SecretRef,
    decode,
    external_host,
    gather,
    keep_model,
    keep_secret,
    keep_slice,
    named_secrets,
)
from vllm_operator.gateway.render import CLUSTER, cluster_name, render
from vllm_operator.gateway.state import MEBIBYTE, Endpoint, GatewayState
from vllm_operator.gateway.status import describe_rejected, describe_status, healthy_pods
from vllm_operator.gateway.xds import XdsServer
from vllm_operator.serving.external import ExternalState, LookupFailed, look_up

log = logging.getLogger(__name__)

GATHER_DELAY = 0.02
"""Seconds that a change waits for others: a roll-out's come in groups."""
NAMED_SECRETS = 15.0
"""Seconds between two looks at Secrets that models name: they have no label to be watched by."""
HOSTS = 15.0
"""Seconds between two looks at where the hosts of external models are."""
AT_ONCE = 1.0
"""Seconds within which a new model's Secrets are read, and its host is looked up."""
UNREADY_LOOK = 1.0
"""Seconds between looks at whether pods still answer that are sent requests though Kubernetes calls them unready."""
STUCK_AFTER = 60.0
"""Seconds that telling Envoy may take before the agent is started anew."""
DRAIN_AT_LEAST = 5.0
"""Seconds that a leaving gateway goes on for at least: so long may it take until everybody knows that it leaves."""
IDLE_CONNECTIONS = 20.0
"""Seconds that connections without a request keep a leaving gateway at most."""
DRAIN_LOOK = 0.25


@dataclass(frozen=True)
class AgentSettings:
    """How the agent runs."""

    namespaces: tuple[str, ...]
    host: str
    port: int
    admin_port: int
    xds_port: int
    external_networks: tuple[Network, ...]
    largest_body: int
    log_format: str
    log_level: str


def add_bootstrap_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """What Envoy is started with."""
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="where the configuration is written to"
    )
    parser.add_argument("--port", default="8000", metavar="N", help="port of the gateway [default: 8000]")
    parser.add_argument(
        "--node",
        default=environment.get("POD_NAME") or "gateway",
        metavar="NAME",
        help="this Envoy's name [default: %(default)s]",
    )
    _add_shared_arguments(parser, environment)


def add_agent_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """How the agent runs."""
    add = flag_adder(parser, environment)
    add("namespaces", "", "namespaces whose models are served, separated by commas; none: all", metavar="A,B")
    paths = "/healthz, /readyz, /status, /rejected, /metrics and /metrics/envoy"
    add("http-address", "0.0.0.0:8081", f"where {paths} are served", metavar="HOST:PORT")
    add_external_argument(parser, environment)
    _add_shared_arguments(parser, environment)
    add_log_arguments(parser, environment)


def _add_shared_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    add = flag_adder(parser, environment)
    add("admin-port", "9901", "port of Envoy's administration interface, on loopback", metavar="N")
    add("xds-port", "9902", "port on loopback where Envoy asks for its configuration", metavar="N")
    add("largest-body", "64Mi", "largest body of a request, e.g. 64Mi", metavar="SIZE")


def read_agent_settings(arguments: argparse.Namespace) -> AgentSettings:
    """Settings from parsed arguments. Raises SettingsError."""
    host, port = read_address("--http-address", arguments.http_address)
    return AgentSettings(
        namespaces=read_namespaces(arguments.namespaces),
        host=host,
        port=port,
        admin_port=_port("--admin-port", arguments.admin_port),
        xds_port=_port("--xds-port", arguments.xds_port),
        external_networks=read_external_networks(arguments.external_networks),
        largest_body=_size("--largest-body", arguments.largest_body),
        log_format=read_log_format(arguments.log_format),
        log_level=read_log_level(arguments.log_level),
    )


def _port(flag: str, text: str) -> int:
    return read_number(flag, text, least=1, most=65535)


def _size(flag: str, text: str) -> int:
    units = {"Ki": 1024, "Mi": MEBIBYTE, "Gi": 1024 * MEBIBYTE}
    digits, unit = (text[:-2], text[-2:]) if text[-2:] in units else (text, "")
    if not digits.isdecimal() or not 1024 <= int(digits) * units.get(unit, 1) <= 1024 * MEBIBYTE:
        raise SettingsError(f"{flag} is {text!r}; write a size from 1Ki to 1Gi, e.g. 64Mi")
    return int(digits) * units.get(unit, 1)


def write_bootstrap(arguments: argparse.Namespace) -> None:
    """Write Envoy's configuration file. Raises SettingsError."""
    document = build_bootstrap(
        port=_port("--port", arguments.port),
        admin_port=_port("--admin-port", arguments.admin_port),
        agent_port=_port("--xds-port", arguments.xds_port),
        largest_body=_size("--largest-body", arguments.largest_body),
        node=arguments.node,
        address="::" if Path("/proc/net/if_inet6").exists() else "0.0.0.0",
    )
    arguments.output.write_text(json.dumps(document, indent=1))


class AgentMetrics:
    """The agent's own metrics; Envoy's are its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm_gateway_{name}", text, registry=self.registry)

        self.models = gauge("models", "Models that the gateway knows.")
        self.serving = gauge("models_serving", "Models that have a pod to be sent requests.")
        self.keys = gauge("keys", "Keys of callers.")
        self.problems = gauge("key_problems", "Keys in Secrets that cannot be one.")
        self.rejected = gauge(
            "rejected",
            "Resources that Envoy has not taken, going on with what it had, and models of which it could not be told.",
        )
        self.names_taken = gauge("names_taken", "Served names that a model wants and an older one has.")
        self.publish = Histogram(
            "vllm_gateway_publish_seconds",
            "Seconds from a change until Envoy uses it.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.requests = Counter(
            "vllm_gateway_api_requests", "Requests to the API server.", ["verb", "kind", "code"], registry=self.registry
        )
        Gauge("vllm_gateway_build_info", "The agent's version.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)

    def observe_request(self, verb: str, kind: str, status: int, seconds: float) -> None:
        """Count a request to the API server."""
        self.requests.labels(verb, kind, str(status)).inc()


class GatewayAgent:
    """One agent."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._admin = f"http://127.0.0.1:{settings.admin_port}"
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._metrics = AgentMetrics()
        self._client = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._server = XdsServer(warming=self._warming)
        self._reflectors: dict[Kind | str, list[Reflector]] = {}
        self._named: dict[SecretRef, str] = {}
        self._hosts: dict[str, Found] = {}
        self._told: GatewayState | None = None
        self._kept: frozenset[Key] = frozenset()
        """Models of which no pod is ready, and some answer."""
        self._look_again: asyncio.TimerHandle | None = None
        self._problems: tuple[str, ...] = ()
        self._taken_names: dict[Key, dict[str, Key]] = {}
        self._untold: Mapping[Key, str] = {}
        self._telling_since: float | None = None
        self._envoy_ready = False
        self._health = HealthServer(
            self._metrics.registry,
            sick=self._sick,
            ready=lambda: self._told is not None and self._envoy_ready,
            host=settings.host,
            port=settings.port,
            more=[
                web.get("/metrics/envoy", self._envoy_metrics),
                web.get("/status", self._status),
                web.get("/rejected", self._rejected),
            ],
        )

    def stop(self) -> None:
        """Ask for the end."""
        self._stop.set()

    async def run(self) -> int:
        """Run until asked to stop; the process's exit status."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        log.info("vllm-operator gateway %s starts", __version__)
        await self._health.start()
        runner = web.AppRunner(self._server.application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", settings.xds_port).start()
        async with await KubernetesCluster.connect(observer=self._metrics.observe_request) as cluster, self._client:
            self._reflectors = self._reflect(cluster)
            tasks = {
                asyncio.create_task(work, name=name)
                for name, work in (
                    ("tell", self._tell_for_ever()),
                    ("named secrets", self._read_named(cluster)),
                    ("hosts", self._look_up_hosts()),
                    ("envoy", self._look_at_envoy()),
                    ("watchdog", self._watch_itself()),
                    *(
                        (f"watch {kind}", each.run())
                        for kind, reflectors in self._reflectors.items()
                        for each in reflectors
                    ),
                )
            }
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in done if task is not stopping]
            if not failed:
                await self._drain()  # Envoy is told of changes to the last.
            for task in failed:
                log.error("%s ended: the agent ends, to be started anew", task.get_name(), exc_info=task.exception())
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
        await runner.cleanup()
        await self._health.stop()
        log.info("stopped")
        return 1 if failed else 0

    def _reflect(self, cluster: KubernetesCluster) -> dict[Kind | str, list[Reflector]]:
        def every(kind: Kind, selector: str, keep: Callable[[Object], Object]) -> list[Reflector]:
            return [
                Reflector(cluster, kind, namespace=namespace, selector=selector, keep=keep, on_change=self._changed.set)
                for namespace in self._settings.namespaces or (None,)
            ]

        return {
            kinds.VLLM_MODEL: every(kinds.VLLM_MODEL, "", keep_model),
            kinds.ENDPOINT_SLICE: every(kinds.ENDPOINT_SLICE, LABEL_MODEL, keep_slice),
            LABEL_API_KEYS: every(kinds.SECRET, LABEL_API_KEYS, keep_secret),
            LABEL_ENGINE_KEY: every(kinds.SECRET, LABEL_ENGINE_KEY, keep_secret),
        }

    def _objects(self, kind: Kind | str) -> Iterable[Object]:
        return (each for reflector in self._reflectors[kind] for each in reflector.objects.values())

    def _gather(self, answering: Mapping[Key, frozenset[Endpoint]]) -> Gathered:
        named = dict(self._named)
        for secret in self._objects(LABEL_ENGINE_KEY):
            metadata = secret["metadata"]
            for name, text in secret["data"].items():
                if value := decode(text):
                    named[Key(metadata["namespace"], metadata["name"]), name] = value
        return gather(
            self._objects(kinds.VLLM_MODEL),
            self._objects(kinds.ENDPOINT_SLICE),
            self._objects(LABEL_API_KEYS),
            named,
            largest_body=self._settings.largest_body,
            found=self._hosts,
            answering=answering,
        )

    async def _gather_surely(self) -> Gathered:
        """What is known; where no pod of a model is ready, Envoy is asked which of those that it has answer."""
        if self._look_again is not None:
            self._look_again.cancel()
        found = self._gather({})
        if found.unsure:
            found = self._gather(await self._answering(found.unsure))
        kept = frozenset(model.key for model in found.state.models if model.key in found.unsure and model.endpoints)
        for key in sorted(kept - self._kept):
            log.warning("%s: Kubernetes calls no pod of it ready; those that answer are sent requests", key)
        self._kept = kept
        if kept:
            self._look_again = asyncio.get_running_loop().call_later(UNREADY_LOOK, self._changed.set)
        return found

    async def _answering(self, models: frozenset[Key]) -> dict[Key, frozenset[Endpoint]]:
        """The pods of these models that Envoy has and gets answers from; while it does not say, those that it was told of."""
        clusters = await self._clusters(models)
        if clusters is None:
            told = self._told.models if self._told is not None else ()
            return {model.key: frozenset(model.endpoints) for model in told if model.key in models}
        healthy = healthy_pods(clusters)
        return {key: healthy.get(cluster_name(key), frozenset()) for key in models}

    async def _tell_for_ever(self) -> None:
        """Tell Envoy what has changed. Nothing before all is known: what is missing would be taken for gone."""
        for reflectors in self._reflectors.values():
            for each in reflectors:
                await each.synced.wait()
        self._changed.set()
        while True:
            await self._changed.wait()
            began = time.monotonic()
            await asyncio.sleep(GATHER_DELAY)
            self._changed.clear()
            found = await self._gather_surely()
            for problem in found.problems:
                if problem not in self._problems:
                    log.warning("%s", problem)
            self._problems = found.problems
            self._metrics.problems.set(len(found.problems))
            if found.state == self._told:
                continue
            self._telling_since = began
            resources = render(found.state)
            for key, names in resources.names.taken.items():
                if names != self._taken_names.get(key):
                    taken = ", ".join(f"{name} ({owner})" for name, owner in sorted(names.items()))
                    log.warning("%s: names that older models have: %s", key, taken)
            self._taken_names = dict(resources.names.taken)
            for key, text in resources.problems.items():
                if text != self._untold.get(key):
                    log.error("%s: %s", key, text)
            self._untold = resources.problems
            await self._server.publish(resources)
            self._told, self._telling_since = found.state, None
            self._metrics.publish.observe(time.monotonic() - began)
            self._note(found.state)

    def _note(self, state: GatewayState) -> None:
        serving = [model for model in state.models if model.waiting is None and model.key not in self._untold]
        self._metrics.models.set(len(state.models))
        self._metrics.serving.set(len(serving))
        self._metrics.keys.set(len(state.keys))
        self._metrics.names_taken.set(sum(map(len, self._taken_names.values())))
        log.info("told Envoy of %d models, %d serve, and %d keys", len(state.models), len(serving), len(state.keys))

    async def _read_named(self, cluster: KubernetesCluster) -> None:
        """Read the Secrets that models name, by name."""
        loop = asyncio.get_running_loop()
        read_at: dict[SecretRef, float] = {}
        while True:
            wanted = {each for model in self._objects(kinds.VLLM_MODEL) for each in named_secrets(model)}
            due = {each for each in wanted if loop.time() >= read_at.get(each, 0) + NAMED_SECRETS}
            found = {each: value for each, value in self._named.items() if each in wanted}
            for secret, name in sorted(due):
                try:
                    obj = await cluster.get(kinds.SECRET, secret)
                except ApiError as error:
                    log.warning("Secret %s cannot be read: %s", secret, error)
                else:
                    value = decode((obj or {}).get("data", {}).get(name) or "")
                    found.pop((secret, name), None)
                    if value:
                        found[secret, name] = value
                read_at[secret, name] = loop.time()
            if found != self._named:
                self._named = found
                self._changed.set()
            read_at = {each: at for each, at in read_at.items() if each in wanted}
            await asyncio.sleep(AT_ONCE)

    async def _look_up_hosts(self) -> None:
        """Know where the hosts of external models are. Where one was stands while nobody can say where it is."""
        loop = asyncio.get_running_loop()
        looked: dict[str, float] = {}
        while True:
            wanted = {host for model in self._objects(kinds.VLLM_MODEL) if (host := external_host(model))}
            due = sorted(each for each in wanted if loop.time() >= looked.get(each, 0) + HOSTS)
            answers = await asyncio.gather(*(self._look_up(host) for host in due))
            hosts = {host: where for host, where in self._hosts.items() if host in wanted} | dict(
                zip(due, answers, strict=True)
            )
            looked = {host: at for host, at in looked.items() if host in wanted} | dict.fromkeys(due, loop.time())
            if hosts != self._hosts:
                self._hosts = hosts
                self._changed.set()
            await asyncio.sleep(AT_ONCE)

    async def _look_up(self, host: str) -> Found:
        before = self._hosts.get(host, Found())
        try:
            # Names with many addresses give them in another order each time.
            return Found(tuple(sorted(await look_up(host, self._settings.external_networks))))
        except LookupFailed as failure:
            if str(failure) != before.problem:
                log.warning("%s", failure)
            kept = before.addresses if failure.state is ExternalState.UNREACHABLE else ()
            return Found(kept, str(failure))

    async def _look_at_envoy(self) -> None:
        """Know whether Envoy serves, and what it has not taken."""
        shown: set[tuple[str, tuple[str, ...], str]] = set()
        back = False
        while True:
            try:
                if not back:
                    # An agent that was ended alone has had Envoy turn requests away.
                    back = (await self._client.post(f"{self._admin}/healthcheck/ok")).status_code == 200
                answer = await self._client.get(f"{self._admin}/ready")
                self._envoy_ready = answer.status_code == 200
            except httpx.HTTPError:
                self._envoy_ready = False
            rejected = self._server.rejections()
            self._metrics.rejected.set(len(rejected) + len(self._untold))
            now = {(each.type, each.names, each.version) for each in rejected}
            for kind, names, _ in sorted(now - shown):
                log.error(
                    "Envoy has not taken %s %s; it goes on with what it had", kind.rpartition(".")[2], ", ".join(names)
                )
            shown = now
            await asyncio.sleep(1.0)

    async def _watch_itself(self) -> None:
        """End the process when it is stuck: it is started again, and Envoy serves on meanwhile."""
        try:
            while True:
                # From another thread, which writes where the agent hangs.
                faulthandler.dump_traceback_later(STUCK_AFTER, exit=True)
                if reason := self._sick():
                    raise RuntimeError(reason)
                await asyncio.sleep(STUCK_AFTER / 10)
        finally:
            faulthandler.cancel_dump_traceback_later()

    async def _warming(self) -> int:
        try:
            answer = await self._client.get(
                f"{self._admin}/stats",
                params={"filter": "^cluster_manager.warming_clusters$", "type": "Gauges", "usedonly": ""},
            )
        except httpx.HTTPError:
            return 0  # There is no Envoy yet, so that no request can find a cluster that is not ready.
        return sum(int(line.rpartition(":")[2]) for line in answer.text.splitlines())

    def _sick(self) -> str | None:
        since = self._telling_since
        if since is not None and time.monotonic() - since > STUCK_AFTER:
            return f"telling Envoy has taken more than {STUCK_AFTER:g} s"
        return None

    async def _envoy_metrics(self, _: web.Request) -> web.Response:
        """Envoy's own metrics: its administration interface can do more than tell, so that it is on loopback only."""
        try:
            answer = await self._client.get(f"{self._admin}/stats/prometheus", params={"usedonly": ""})
        except httpx.HTTPError as error:
            return web.Response(status=503, text=f"Envoy does not answer: {type(error).__name__}\n")
        return web.Response(body=answer.content, headers={"content-type": "text/plain; version=0.0.4"})

    async def _status(self, _: web.Request) -> web.Response:
        """What Envoy was told, how it finds the pods, and what it has not taken: for `kubectl vllm gateway`."""
        state = self._told or GatewayState()
        document = describe_status(state, await self._clusters() or [], self._server.rejections(), self._untold)
        return web.json_response({"version": __version__, **document, "problems": list(self._problems)})

    async def _rejected(self, _: web.Request) -> web.Response:
        """What is not as it was told to be, by model: for the operator, which shows it on the models."""
        if self._told is None:
            return web.Response(status=503, text="Envoy has been told nothing yet\n")
        rejections = self._server.rejections()
        clusters = await self._clusters() if any(each.type == CLUSTER for each in rejections) else []
        document = describe_rejected(
            rejections,
            self._untold,
            published=self._server.published[CLUSTER],
            used=None if clusters is None else [each["name"] for each in clusters],
        )
        return web.json_response(document)

    async def _clusters(self, models: Iterable[Key] | None = None) -> list[dict[str, Any]] | None:
        """The clusters that Envoy uses, of these models or all, as it shows them; None when it does not answer."""
        wanted = {"format": "json"}
        if models is not None:
            wanted["filter"] = f"^({'|'.join(sorted(re.escape(cluster_name(each)) for each in models))})$"
        try:
            answer = await self._client.get(f"{self._admin}/clusters", params=wanted)
            return answer.json().get("cluster_statuses") or []
        except (httpx.HTTPError, ValueError):
            return None

    async def _drain(self) -> None:
        """Wait until no request is under way any more: Envoy, a sidecar, is ended by the kubelet after the agent.

        New connections stay away since the pod is leaving; those that are there are closed after their next answer.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        log.info("leaving: requests under way are finished")
        try:
            await self._client.post(f"{self._admin}/healthcheck/fail")
            while True:
                requests, connections = await self._under_way()
                passed = loop.time() - began
                if passed > DRAIN_AT_LEAST and not requests and (not connections or passed > IDLE_CONNECTIONS):
                    break
                await asyncio.sleep(DRAIN_LOOK)
        except httpx.HTTPError as error:
            log.warning("Envoy does not answer: %s", type(error).__name__)
            return
        log.info("nothing is under way after %.1f s", loop.time() - began)

    async def _under_way(self) -> tuple[int, int]:
        """Requests and connections of callers."""
        answer = await self._client.get(
            f"{self._admin}/stats", params={"filter": "^http.models.downstream_(rq|cx)_active$", "type": "Gauges"}
        )
        values = dict(line.rsplit(": ", 1) for line in answer.text.splitlines())
        return (
            int(values.get("http.models.downstream_rq_active", 0)),
            int(values.get("http.models.downstream_cx_active", 0)),
        )
