"""What the operator does for the gateway for all models: names and keys of vLLM, and what a model says of it."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest

from tests.reconcile.harness import (
    BEHIND,
    KEY,
    PEERS,
    Operator,
    change_spec,
    children,
    make_cluster,
    make_model,
    secret,
    settle,
)
from tests.reconcile.virtual import eventually, run_virtual
from tests.reconcile.world import World, condition, is_so
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.errors import classify
from vllm_operator.cluster.memory import Fault, MemoryCluster
from vllm_operator.workload.settings import BuildSettings, GatewayRef

WITHOUT = BuildSettings(default_gateway=GatewayRef("default", "gateway"))
WITH = replace(WITHOUT, gateway_url="http://gateway.example")
SECRET = Key(KEY.namespace, "qwen-engine-key")


def container(cluster: MemoryCluster) -> Object:
    deployment = cluster.peek(kinds.DEPLOYMENT, KEY)
    assert deployment is not None
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def asks_for(cluster: MemoryCluster) -> str | None:
    """Secret whose key vLLM asks for."""
    variables = {each["name"]: each for each in container(cluster)["env"]}
    return variables["VLLM_API_KEY"]["valueFrom"]["secretKeyRef"]["name"] if "VLLM_API_KEY" in variables else None


def served(cluster: MemoryCluster) -> list[str]:
    command: list[str] = container(cluster)["command"]
    rest = command[command.index("--served-model-name") + 1 :]
    return rest[: next((place for place, word in enumerate(rest) if word.startswith("--")), None)]


def key_value(cluster: MemoryCluster) -> str:
    found = cluster.peek(kinds.SECRET, SECRET)
    assert found is not None
    return base64.b64decode(found["data"]["api-key"]).decode()


def test_vllm_gets_a_key_and_a_name_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> str:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("Ready", "True")
            assert asks_for(cluster) == SECRET.name
            assert served(cluster) == ["qwen"], "the gateway asks by a name that it knows"
            value = key_value(cluster)
            assert len(value) >= 32
            assert operator.prober.keys_used[KEY] == {value}
            found = cluster.peek(kinds.SECRET, SECRET)
            model = cluster.peek(kinds.VLLM_MODEL, KEY)
            assert found is not None
            assert model is not None
            assert found["metadata"]["ownerReferences"][0]["uid"] == model["metadata"]["uid"]
            assert found["metadata"]["labels"]["vllm-operator.io/engine-key"] == "true"
            assert model["status"]["url"] == WITH.gateway_url
            assert is_so(cluster, KEY, "RouteReady", "True", Reason.BY_GATEWAY)
            assert '"model": "default/qwen"' in condition(cluster, KEY, "RouteReady")["message"]
            assert not cluster.objects(kinds.HTTP_ROUTE)
            await settle(cluster)
            everything = str([obj for kind in list(cluster._objects) if kind is not kinds.SECRET
                              for obj in cluster.objects(kind)])  # fmt: skip
            assert value not in everything
            return value

    with caplog.at_level("INFO"):
        value = run_virtual(main)
    assert "made the key" in caplog.text
    assert value not in caplog.text


@pytest.mark.parametrize(("first", "second"), [(WITHOUT, WITH), (WITH, WITHOUT)], ids=["on", "off"])
def test_switching_the_gateway_restarts_nothing(first: BuildSettings, second: BuildSettings) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=first) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)
        before = container(cluster)
        async with Operator(cluster, settings=second) as operator:
            await settle(cluster)
            await operator.until("Ready", "True")
            assert container(cluster) == before
            assert len(cluster.objects(kinds.CONTROLLER_REVISION)) == 1
            # It probes with the key that the pods have, whatever would be decided today.
            assert operator.prober.keys_used[KEY] == ({key_value(cluster)} if first is WITH else {None})
            # The next edit brings what would be decided today.
            change_spec(cluster, engine={"maxNumSeqs": 8})
            await eventually(lambda: container(cluster) != before, within=30)
            await operator.until("Ready", "True")
            assert asks_for(cluster) == (SECRET.name if second is WITH else None)
            await settle(cluster)

    run_virtual(main)


def test_a_deleted_key_is_made_anew_and_rolls_out() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("Ready", "True")
            first, pods = key_value(cluster), {pod["metadata"]["name"] for pod in cluster.objects(kinds.POD)}
            cluster.remove(kinds.SECRET, SECRET)
            await eventually(lambda: cluster.peek(kinds.SECRET, SECRET) is not None, within=31)
            await settle(cluster)
            assert key_value(cluster) != first
            assert not pods & {pod["metadata"]["name"] for pod in cluster.objects(kinds.POD)}
            assert operator.prober.keys_used[KEY] == {key_value(cluster)}

    run_virtual(main)


def test_a_foreign_secret_of_that_name_is_left_alone() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.put(kinds.SECRET, secret(SECRET.name, other="eA=="))
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("Accepted", "False", Reason.CHILD_CONFLICT)
            assert "qwen-engine-key" in condition(cluster, KEY, "Accepted")["message"]
            assert not children(cluster)

    run_virtual(main)


@pytest.mark.parametrize(
    "spec",
    [
        {"auth": {"apiKeySecretRef": {"name": "mine", "key": "key"}}},
        {"engine": {"env": [{"name": "VLLM_API_KEY", "value": "public"}]}},
        {"route": {"parentRefs": [{"name": "gateway"}]}},
        {"route": {"enabled": False}},
    ],
    ids=["a key of the user's", "a variable of the user's", "a route of its own", "no route at all"],
)
def test_no_key_is_made_where_callers_need_another(spec: dict[str, Any]) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.put(kinds.SECRET, secret("mine", key="c2VzYW1lLW9wZW4="))
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model({"model": "a/b", **spec}))
            await operator.until("WorkloadAvailable", "True")
            assert cluster.peek(kinds.SECRET, SECRET) is None
            assert len(cluster.objects(kinds.HTTP_ROUTE)) == ("parentRefs" in spec.get("route", {}))

    run_virtual(main)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"route": {"weight": 1}}, "spec.route.weight"),
        ({"route": {"balance": "session"}}, "spec.route.balance"),
        ({"route": {"fallback": "x"}}, "spec.route.fallback"),
        ({"auth": {"mode": "none"}}, "spec.auth.mode"),
        ({"auth": {"callers": []}}, "spec.auth.callers"),
    ],
)
def test_fields_of_the_gateway_need_one(spec: dict[str, Any], field: str) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=WITHOUT) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model({"model": "a/b", **spec}))
            await operator.until("Accepted", "False", Reason.NEEDS_GATEWAY)
            assert condition(cluster, KEY, "Accepted")["message"].startswith(f"{field}: ")
        async with Operator(cluster, settings=WITH) as operator:
            await operator.until("Ready", "True")

    run_virtual(main)


def test_who_may_ask_is_no_business_of_the_pods() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("Ready", "True")
            before = children(cluster)
            change_spec(cluster, auth={"mode": "none", "callers": [{"namespace": "team-a"}]}, route={"weight": 3})
            await operator.until("Ready", "True")
            await settle(cluster)
            assert children(cluster) == before

    run_virtual(main)


def test_two_models_of_one_name_say_who_has_it() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        second = Key("other", "second")
        cluster.add_namespace("other")
        async with Operator(cluster, settings=WITH) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model({"model": "a/b", "servedModelNames": ["chat"]}))
            await operator.until("Ready", "True")
            await asyncio.sleep(5)  # creationTimestamp has seconds.
            cluster.put(kinds.VLLM_MODEL, make_model({"model": "a/b", "servedModelNames": ["chat", "x"]}, key=second))
            await operator.until("RouteReady", "True", Reason.NAME_TAKEN, key=second)
            said = condition(cluster, second, "RouteReady")["message"]
            assert said.endswith("names that other models have: chat (default/qwen)")
            assert '"model": "other/second" only' in said
            assert is_so(cluster, KEY, "RouteReady", "True", Reason.BY_GATEWAY)
            await operator.until("Ready", "True", key=second)
            # The older one lets go of it, by an edit or by its end: the younger one knows at once.
            change_spec(cluster, servedModelNames=["other"])
            await operator.until("RouteReady", "True", Reason.BY_GATEWAY, key=second, within=20)
            change_spec(cluster, servedModelNames=["chat"])
            await operator.until("RouteReady", "True", Reason.NAME_TAKEN, key=second, within=20)
            cluster.remove(kinds.VLLM_MODEL, KEY)
            await operator.until("RouteReady", "True", Reason.BY_GATEWAY, key=second, within=20)
            await settle(cluster)

    run_virtual(main)


def test_models_that_share_a_name_by_weight_have_it_both() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        second = Key(KEY.namespace, "second")
        async with Operator(cluster, settings=WITH) as operator:
            for key in (KEY, second):
                spec = {"model": "a/b", "servedModelNames": ["chat"], "route": {"weight": 1}}
                cluster.put(kinds.VLLM_MODEL, make_model(spec, key=key))
            for key in (KEY, second):
                await operator.until("Ready", "True", key=key)
            await settle(cluster)
            for key in (KEY, second):
                assert is_so(cluster, key, "RouteReady", "True", Reason.BY_GATEWAY)

    run_virtual(main)


def policy(cluster: MemoryCluster) -> Object | None:
    return cluster.peek(kinds.NETWORK_POLICY, KEY)


@pytest.mark.parametrize(
    ("spec", "guarded"),
    [
        ({}, True),
        ({"auth": {"apiKeySecretRef": {"name": "mine", "key": "key"}}}, True),
        ({"engine": {"env": [{"name": "VLLM_API_KEY", "value": "public"}]}}, True),
        ({"route": {"weight": 1}}, True),
        ({"route": {"parentRefs": [{"name": "gateway"}]}}, False),
        ({"route": {"enabled": False}}, False),
    ],
    ids=[
        "nothing said",
        "a key of the user's",
        "a variable",
        "a share of a name",
        "a route of its own",
        "no route at all",
    ],
)
def test_only_the_gateway_reaches_pods_that_requests_reach_by_it_alone(spec: dict[str, Any], guarded: bool) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.put(kinds.SECRET, secret("mine", key="c2VzYW1lLW9wZW4="))
        async with Operator(cluster, settings=BEHIND) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model({"model": "a/b", **spec}))
            await operator.until("Ready", "True")
            await settle(cluster)
            found = policy(cluster)
            assert (found is not None) == guarded
            if found is not None:
                deployment = cluster.peek(kinds.DEPLOYMENT, KEY)
                assert deployment is not None
                assert found["spec"]["podSelector"] == deployment["spec"]["selector"]
                assert found["spec"]["ingress"] == [{"from": [peer.as_json() for peer in PEERS]}]
            # What a route of its own has to do with it is seen by an edit at once.
            change_spec(cluster, route=None if not guarded else {"enabled": False})
            await eventually(lambda: (policy(cluster) is not None) != guarded, within=5)

    run_virtual(main)


@pytest.mark.parametrize("without", [WITH, WITHOUT], ids=["no policies", "no gateway"])
@pytest.mark.parametrize("refused", [False, True], ids=["accepted", "refused"])
def test_switching_policies_on_and_off_restarts_nothing(without: BuildSettings, refused: bool) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=without) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)
        before = container(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            await eventually(lambda: policy(cluster) is not None, within=5)
            await settle(cluster)
            assert container(cluster) == before
        if refused:
            # Whatever a spec says: a policy that is left lets nobody in once the gateway is gone.
            change_spec(cluster, autoscaling={"maxReplicas": 2})
        async with Operator(cluster, settings=without) as operator:
            await eventually(lambda: policy(cluster) is None, within=5)
            await settle(cluster)
            assert is_so(cluster, KEY, "Ready", "False" if refused else "True")
            assert container(cluster) == before

    run_virtual(main)


def test_other_peers_come_into_the_policy() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        for peers in (PEERS, PEERS[:1]):
            async with Operator(cluster, settings=replace(BEHIND, model_network_policy_from=peers)) as operator:
                if policy(cluster) is None:
                    cluster.put(kinds.VLLM_MODEL, make_model())
                await operator.until("Ready", "True")
                await settle(cluster)
            found = policy(cluster)
            assert found is not None
            assert found["spec"]["ingress"] == [{"from": [peer.as_json() for peer in peers]}]

    run_virtual(main)


@pytest.mark.parametrize("settings", [BEHIND, WITH], ids=["wanted", "not wanted"])
def test_a_foreign_policy_of_that_name_is_left_alone(settings: BuildSettings) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        theirs = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata}
        cluster.put(kinds.NETWORK_POLICY, {**theirs, "spec": {"podSelector": {}}})
        before = policy(cluster)
        async with Operator(cluster, settings=settings) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            if settings is BEHIND:
                await operator.until("Accepted", "False", Reason.CHILD_CONFLICT)
                assert 'NetworkPolicy "qwen"' in condition(cluster, KEY, "Accepted")["message"]
            else:
                await operator.until("Ready", "True")
            await settle(cluster)
            assert policy(cluster) == before

    run_virtual(main)


@pytest.mark.parametrize("settings", [BEHIND, WITH, WITHOUT], ids=["wanted", "not wanted", "no gateway"])
def test_without_the_right_only_the_policy_is_lacking(settings: BuildSettings) -> None:
    message = 'User "x" cannot get resource "networkpolicies" in API group "networking.k8s.io"'
    denied = classify(403, {"kind": "Status", "reason": "Forbidden", "message": message})

    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.faults = lambda call: Fault(denied) if call.kind is kinds.NETWORK_POLICY else None
        async with Operator(cluster, settings=settings) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model())
            if settings is BEHIND:
                await operator.until("Accepted", "False", Reason.PERMISSION_DENIED)
                assert message in condition(cluster, KEY, "Accepted")["message"]
                await operator.until("Serving", "True")
            else:
                await operator.until("Ready", "True")
            assert cluster.peek(kinds.SERVICE, KEY) is not None
            assert set(operator.results) == {"ok"}
            cluster.faults = None
            await operator.until("Ready", "True", within=80 if settings is BEHIND else 1)
            assert (policy(cluster) is not None) == (settings is BEHIND)

    run_virtual(main)
