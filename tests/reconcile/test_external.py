"""Models that run elsewhere: no pods, and a status that says how their endpoints are."""

from dataclasses import replace
from typing import Any

import pytest

from tests.reconcile.harness import KEY, Operator, change_spec, children, make_cluster, make_model, ours, secret, settle
from tests.reconcile.virtual import eventually, run_virtual
from tests.reconcile.world import World, condition, is_so
from vllm_operator.api.conditions import Reason
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.memory import MemoryCluster
from vllm_operator.serving.external import ExternalResult, ExternalState
from vllm_operator.workload.settings import BuildSettings

WITH = BuildSettings(gateway_url="http://gateway.example")
URL = "https://api.example.com/v1"
SPEC: Object = {"model": "vendor/large", "servedModelNames": ["large"], "external": {"url": URL}}


def status(cluster: MemoryCluster) -> Object:
    model = cluster.peek(kinds.VLLM_MODEL, KEY)
    assert model is not None
    return dict(model["status"])


def test_it_has_no_pods_and_is_ready() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(SPEC))
            await operator.until("Ready", "True")
            for kind in ("Scheduled", "WorkloadAvailable"):
                assert is_so(cluster, KEY, kind, "True", Reason.EXTERNAL)
            assert is_so(cluster, KEY, "RouteReady", "True", Reason.BY_GATEWAY)
            assert not children(cluster)
            assert operator.external.targets[KEY].names == ("vendor/large",)
            said = status(cluster)
            assert said["maxModelLen"] == 2048
            assert said["capabilities"] == {"tools": True}
            assert said["external"]["models"] == ["vendor/large"]
            assert (said["servedModelNames"], said["replicaSummary"]) == (["large"], "external")
            assert said["url"] == WITH.gateway_url
            await settle(cluster)
            writes = len(ours(cluster.writes))
            await settle(cluster)
            assert len(ours(cluster.writes)) == writes
            cluster.remove(kinds.VLLM_MODEL, KEY)
            await eventually(lambda: KEY not in operator.external.targets, within=5)

    run_virtual(main)


def test_it_needs_the_gateway() -> None:
    async def main() -> None:
        cluster = make_cluster()
        async with Operator(cluster) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(SPEC))
            await operator.until("Accepted", "False", Reason.NEEDS_GATEWAY)

    run_virtual(main)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ExternalState.NOT_ALLOWED, Reason.ADDRESS_NOT_ALLOWED),
        (ExternalState.UNREACHABLE, Reason.UNREACHABLE),
        (ExternalState.TLS_FAILED, Reason.TLS_FAILED),
        (ExternalState.KEY_REJECTED, Reason.API_KEY_REJECTED),
        (ExternalState.UNHEALTHY, Reason.HEALTH_CHECK_FAILED),
        (ExternalState.NOT_OPENAI, Reason.NOT_OPENAI),
        (ExternalState.MODEL_NOT_LISTED, Reason.MODEL_NOT_LISTED),
    ],
)
def test_what_is_wrong_is_told_apart(state: ExternalState, reason: Reason) -> None:
    async def main() -> None:
        cluster = make_cluster()
        async with Operator(cluster, settings=WITH) as operator:
            operator.external.answers["api.example.com"] = ExternalResult(state, "it is so")
            cluster.put(kinds.VLLM_MODEL, make_model(SPEC))
            await operator.until("Ready", "False", reason)
            assert condition(cluster, KEY, "Serving")["message"] == "it is so"
            assert is_so(cluster, KEY, "Reconciling", "True", reason)
            target = operator.external.targets[KEY]
            operator.external.answers.clear()
            operator.external.answer(KEY, target)
            await operator.until("Ready", "True")
        # Another operator, that has asked nobody yet, takes nothing back, and does not ask about tools again.
        writes = len(ours(cluster.writes))
        async with Operator(cluster, settings=WITH) as operator:
            await settle(cluster)
            assert is_so(cluster, KEY, "Ready", "True", None)
            assert operator.external.asked_for_tools == []
        assert len(ours(cluster.writes)) == writes

    run_virtual(main)


def test_what_is_said_by_hand_wins() -> None:
    async def main() -> None:
        cluster = make_cluster()
        async with Operator(cluster, settings=WITH) as operator:
            given = {"url": URL, "capabilities": {"maxModelLen": 100, "tools": False}}
            cluster.put(kinds.VLLM_MODEL, make_model({**SPEC, "external": given}))
            await operator.until("Ready", "True")
            said = status(cluster)
            assert (said["maxModelLen"], said["capabilities"]) == (100, {"tools": False})
            assert operator.external.asked_for_tools == []
            assert "askedAt" not in said["external"]

    run_virtual(main)


def test_a_refresh_asks_anew() -> None:
    async def main() -> None:
        cluster = make_cluster()
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(SPEC))
            await operator.until("Ready", "True")
            await eventually(lambda: status(cluster).get("capabilities") == {"tools": True}, within=5)
            operator.external.tools = False

            def annotate(obj: Object) -> None:
                obj["metadata"]["annotations"] = {"vllm-operator.io/refresh": "1"}

            cluster.edit(kinds.VLLM_MODEL, KEY, annotate)
            await eventually(lambda: status(cluster).get("capabilities") == {"tools": False}, within=5)
            assert operator.external.asked_for_tools == [KEY, KEY]
            # So does another key, which is seen as references are.
            cluster.put(kinds.SECRET, secret("there", token="c2stb25l"))
            change_spec(cluster, external={"url": URL, "apiKeySecretRef": {"name": "there", "key": "token"}})
            await eventually(lambda: len(operator.external.asked_for_tools) == 3, within=5)
            assert operator.external.targets[KEY].api_key == "sk-one"
            cluster.put(kinds.SECRET, secret("there", token="c2stdHdv"))
            await eventually(lambda: operator.external.targets[KEY].api_key == "sk-two", within=60)
            await settle(cluster)
            everything = str([obj for kind in list(cluster._objects) if kind is not kinds.SECRET
                              for obj in cluster.objects(kind)])  # fmt: skip
            assert "sk-one" not in everything
            assert "sk-two" not in everything

    run_virtual(main)


def test_a_secret_that_is_missing_is_named() -> None:
    async def main() -> None:
        cluster = make_cluster()
        async with Operator(cluster, settings=WITH) as operator:
            external = {"url": URL, "caSecretRef": {"name": "ca", "key": "ca.crt"}}
            cluster.put(kinds.VLLM_MODEL, make_model({**SPEC, "external": external}))
            await operator.until("Accepted", "False", Reason.REFERENCE_NOT_FOUND)
            assert '"ca" does not exist' in condition(cluster, KEY, "Accepted")["message"]
            cluster.put(kinds.SECRET, secret("ca", **{"ca.crt": "UEVN"}))
            await operator.until("Ready", "True")
            assert operator.external.targets[KEY].ca == "PEM"

    run_virtual(main)


@pytest.mark.parametrize("field", [{"suspend": True}, {"replicas": 0}], ids=str)
def test_it_can_be_switched_off(field: dict[str, Any]) -> None:
    async def main() -> None:
        cluster = make_cluster()
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(SPEC))
            await operator.until("Ready", "True")
            change_spec(cluster, **field)
            await operator.until("Ready", "False")
            assert KEY not in operator.external.targets
            change_spec(cluster, suspend=False, replicas=1)
            await operator.until("Ready", "True")

    run_virtual(main)


def test_from_pods_to_elsewhere_and_back() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=replace(WITH)) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model({"model": "vendor/large"}))
            await operator.until("Ready", "True")
            assert children(cluster)
            change_spec(cluster, external={"url": URL})
            await operator.until("Ready", "True")
            assert not children(cluster), "nothing is left of the pods"
            assert status(cluster)["replicaSummary"] == "external"
            assert "revision" not in status(cluster)
            change_spec(cluster, external=None)
            await operator.until("WorkloadAvailable", "True", Reason.AVAILABLE)
            await operator.until("Ready", "True")
            assert "external" not in status(cluster)
            await settle(cluster)

    run_virtual(main)
