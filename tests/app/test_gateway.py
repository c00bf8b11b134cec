"""The gateway's agent, without a cluster: what it says when something cannot be told to Envoy, or is refused by it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from vllm_operator.api.names import LABEL_API_KEYS, LABEL_ENGINE_KEY, LABEL_MODEL
from vllm_operator.app import gateway as app
from vllm_operator.app.gateway import AgentSettings, GatewayAgent
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.reflector import Reflector
from vllm_operator.gateway import xds
from vllm_operator.gateway.gather import keep_model, keep_slice
from vllm_operator.gateway.render import CLUSTER, ROUTES
from vllm_operator.gateway.state import GatewayState

SETTINGS = AgentSettings(
    (),
    "127.0.0.1",
    0,
    admin_port=9,
    xds_port=0,
    external_networks=(),
    largest_body=1,
    log_format="text",
    log_level="info",
)
BAD, GOOD = "evil.example.com", "10.0.0.1"
UNTOLD = f"the gateway cannot serve it: '{BAD}:8000' is no address of a pod"


def model(name: str) -> Object:
    return keep_model(
        {"metadata": {"namespace": "ml", "name": name, "creationTimestamp": "1"}, "spec": {"model": "a/b"}}
    )


def pods(name: str, address: str, *, ready: bool = True) -> Object:
    labels = {LABEL_MODEL: name, "kubernetes.io/service-name": name}
    return keep_slice(
        {
            "metadata": {"namespace": "ml", "name": name, "labels": labels},
            "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
            "ports": [{"name": "http", "port": 8000}],
        }
    )


class Cluster:
    """What the agent's reflectors have seen."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.unready: set[str] = set()
        self.synced = asyncio.Event()

    def reflectors(self) -> Any:
        def reflector(found: Callable[[], list[Object]]) -> list[Reflector]:
            class Seen(SimpleNamespace):
                @property
                def objects(self) -> dict[int, Object]:
                    return dict(enumerate(found()))

            return [cast(Reflector, Seen(synced=self.synced))]

        return {
            kinds.VLLM_MODEL: reflector(lambda: [model(name) for name in self.addresses]),
            kinds.ENDPOINT_SLICE: reflector(
                lambda: [pods(*each, ready=each[0] not in self.unready) for each in self.addresses.items()]
            ),
            LABEL_API_KEYS: reflector(list),
            LABEL_ENGINE_KEY: reflector(list),
        }


class Running:
    """An agent that tells, and an Envoy of which only the administration interface is there."""

    def __init__(self, agent: GatewayAgent, client: httpx.AsyncClient, cluster: Cluster) -> None:
        self.agent = agent
        self.cluster = cluster
        self.clusters: list[str] | None = []
        """Clusters that Envoy uses; None: it does not answer."""
        self.healthy: set[str] = set()
        """Models whose pod answers Envoy."""
        self._client = client

    def envoy(self, request: httpx.Request) -> httpx.Response:
        if self.clusters is None:
            raise httpx.ConnectError("away", request=request)
        if request.url.path == "/clusters":
            return httpx.Response(200, json={"cluster_statuses": [*map(self._cluster, self.clusters)]})
        return httpx.Response(200, text="")

    def _cluster(self, name: str) -> Object:
        model = name.rpartition("/")[2]
        status = {"failed_active_health_check": model not in self.healthy, "eds_health_status": "HEALTHY"}
        address = {"socket_address": {"address": self.cluster.addresses.get(model, ""), "port_value": 8000}}
        return {"name": name, "host_statuses": [{"address": address, "health_status": status}]}

    def endpoints(self, name: str) -> list[str]:
        """Pods of a model that Envoy was told of."""
        (found,) = [each for each in (self.agent._told or GatewayState()).models if each.key.name == name]
        return [each.address for each in found.endpoints]

    async def until(self, look: Callable[[], bool]) -> None:
        """Wait for something that the agent does."""
        async with asyncio.timeout(5):
            while not look():
                await asyncio.sleep(0.01)

    async def get(self, path: str) -> httpx.Response:
        return await self._client.get(f"http://127.0.0.1:{self.agent._health.port}{path}")

    async def tell(self, **addresses: str) -> None:
        """Have it tell of models with a pod at these addresses, and wait until it has."""
        self.cluster.addresses = addresses
        self.cluster.synced.set()
        self.agent._changed.set()
        async with asyncio.timeout(5):
            while {each.key.name for each in (self.agent._told.models if self.agent._told else ())} != addresses.keys():
                await asyncio.sleep(0.01)

    def refuse(self, kind: str, *names: str) -> None:
        """Have Envoy refuse something that is published."""
        server = self.agent._server
        server._rejected["n", kind, names] = xds.Rejection(kind, names, server._version(kind, names))


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(xds, "TAKEN_WITHIN", 0.01)
    async with httpx.AsyncClient(trust_env=False) as client:
        agent = GatewayAgent(SETTINGS)
        await agent._client.aclose()
        found = Running(agent, client, Cluster())
        agent._reflectors = found.cluster.reflectors()
        async with httpx.AsyncClient(transport=httpx.MockTransport(found.envoy)) as agent._client:
            await agent._health.start()
            tasks = [asyncio.create_task(work) for work in (agent._tell_for_ever(), agent._look_at_envoy())]
            try:
                yield found
                assert not any(task.done() for task in tasks), "the agent goes on"
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await agent._health.stop()


async def rejected(running: Running) -> Any:
    answer = await running.get("/rejected")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    return answer.json()


async def metric(running: Running, name: str) -> float:
    lines = (await running.get("/metrics")).text.splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"vllm_gateway_{name} ")]
    return float(value)


async def test_nothing_is_said_before_anything_is_told(running: Running) -> None:
    """What an operator has heard before stands meanwhile: Envoy goes on as it was."""
    assert (await running.get("/rejected")).status_code == 503
    await running.tell(a=GOOD)
    assert await rejected(running) == {"all": None, "models": {}}


async def test_one_model_that_cannot_be_told_is_named_and_hides_no_other(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        await running.tell(bad=BAD, good=GOOD)
        await running.tell(bad=BAD, good=GOOD, late=GOOD)
    assert [record.getMessage() for record in caplog.records] == [f"ml/bad: {UNTOLD}"], "once"
    assert set(running.agent._server.published[CLUSTER]) == {"model/ml/good", "model/ml/late"}
    assert await rejected(running) == {"all": None, "models": {"ml/bad": UNTOLD}}
    said = (await running.get("/status")).json()
    assert said["rejected"] == [f"ml/bad: {UNTOLD}"]
    assert {each["model"]: each["waiting"] for each in said["models"]} == {
        "ml/bad": UNTOLD,
        "ml/good": None,
        "ml/late": None,
    }
    assert (await metric(running, "models"), await metric(running, "models_serving")) == (3, 2)
    async with asyncio.timeout(5):
        while await metric(running, "rejected") != 1:
            await asyncio.sleep(0.05)
    await running.tell(good=GOOD)
    assert await rejected(running) == {"all": None, "models": {}}


async def test_what_envoy_refuses_is_named_by_model_where_it_can_be(running: Running) -> None:
    await running.tell(a=GOOD, b=GOOD)
    running.clusters = ["xds", "model/ml/a"]
    running.refuse(CLUSTER)
    assert (await rejected(running))["models"]["ml/b"] == "Envoy has not taken it"
    running.clusters = None
    assert await rejected(running) == {"all": None, "models": {}}
    running.refuse(ROUTES, "others")
    assert "routes of models" in (await rejected(running))["all"]


async def test_pods_that_answer_are_asked_though_kubernetes_calls_them_unready(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an API server was away for a minute; and only as long as they answer."""
    monkeypatch.setattr(app, "UNREADY_LOOK", 0.05)
    await running.tell(a=GOOD, b="10.0.0.2")
    running.clusters, running.healthy = ["model/ml/a", "model/ml/b"], {"a"}
    running.cluster.unready = {"a", "b"}
    running.agent._changed.set()
    await running.until(lambda: running.endpoints("b") == [])
    assert running.endpoints("a") == [GOOD]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "ml/a: Kubernetes calls no pod of it ready; those that answer are sent requests"
    ]
    running.clusters = None
    running.cluster.unready = {"a"}
    running.agent._changed.set()
    await running.until(lambda: running.endpoints("b") == ["10.0.0.2"])
    assert running.endpoints("a") == [GOOD], "Envoy does not say that it answers no more"
    running.clusters, running.healthy = ["model/ml/a", "model/ml/b"], {"b"}
    await running.until(lambda: running.endpoints("a") == [])
    assert running.endpoints("b") == ["10.0.0.2"]
