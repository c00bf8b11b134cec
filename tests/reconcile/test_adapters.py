"""LoRA adapters: what rolls out, what is loaded while pods run, and what the status says of it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.reconcile.harness import BEHIND, KEY, Operator, change_spec, make_cluster, make_model, ours, secret, settle
from tests.reconcile.virtual import eventually, run_virtual
from tests.reconcile.world import World, condition, is_so
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.memory import MemoryCluster
from vllm_operator.hub.errors import HubUnavailableError
from vllm_operator.hub.hugging_face import AdapterFacts, HubFacts
from vllm_operator.hub.library import HubSource, Library
from vllm_operator.reconcile import reconciler
from vllm_operator.reconcile.adapters import WantedAdapter, describe_adapters
from vllm_operator.reconcile.observe import PodObservation
from vllm_operator.serving.adapters import Change, Failure
from vllm_operator.serving.probe import ProbeResult, ProbeState
from vllm_operator.workload.settings import BuildSettings

SPEC: Object = {"model": "/models/base"}
SQL: Object = {"name": "sql", "source": "/adapters/sql", "rank": 8}
LAW: Object = {"name": "law", "source": "pvc://adapters/law", "rank": 8}


def model(cluster: MemoryCluster) -> Object:
    found = cluster.peek(kinds.VLLM_MODEL, KEY)
    assert found is not None
    return found


def said(cluster: MemoryCluster) -> dict[str, tuple[str, str]]:
    """Adapter → state, and pods that have it."""
    return {
        each["name"]: (each["state"], each["pods"])
        for each in (model(cluster).get("status") or {}).get("adapters") or ()
    }


def pod_uids(cluster: MemoryCluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in cluster.objects(kinds.POD)}


def command(cluster: MemoryCluster) -> list[str]:
    deployment = cluster.peek(kinds.DEPLOYMENT, KEY)
    assert deployment is not None
    return list(deployment["spec"]["template"]["spec"]["containers"][0]["command"])


def having(*adapters: Object, **fields: Any) -> Object:
    return {**SPEC, "adapters": list(adapters), **fields}


async def until_loaded(cluster: MemoryCluster, *names: str, pods: int = 1) -> None:
    await eventually(lambda: said(cluster) == dict.fromkeys(names, ("Loaded", f"{pods}/{pods}")), within=60)


def test_the_first_rolls_out_and_others_restart_nothing() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(SPEC))
            await operator.until("Ready", "True")
            plain = command(cluster)
            assert "--enable-lora" not in plain
            assert "adapters" not in model(cluster)["status"]
            before = pod_uids(cluster)

            change_spec(cluster, adapters=[SQL])
            await until_loaded(cluster, "sql")
            (uid,) = pods = pod_uids(cluster)
            assert not pods & before, "vLLM has to be started with other options"
            assert [word for word in command(cluster) if word not in plain] == [
                *("--enable-lora", "--max-lora-rank", "8", "--max-loras", "4", "--max-cpu-loras", "16")
            ]
            assert operator.vllm.adapters[uid] == {"sql": "/adapters/sql"}
            status = model(cluster)["status"]
            assert status["adapters"] == [{**SQL, "state": "Loaded", "pods": "1/1"}]
            (pod,) = cluster.objects(kinds.POD)
            assert status["adapterPods"] == [{"name": pod["metadata"]["name"]}]

            rolled_out = command(cluster)
            other = {**SQL, "name": "other", "rank": 4}
            change_spec(cluster, adapters=[SQL, other])
            await until_loaded(cluster, "sql", "other")
            change_spec(cluster, adapters=[{**other, "source": "/adapters/newer"}])
            await until_loaded(cluster, "other")
            assert operator.vllm.adapters[uid] == {"other": "/adapters/newer"}
            change_spec(cluster, adapters=[])
            await eventually(lambda: "adapters" not in model(cluster)["status"], within=60)
            assert operator.vllm.adapters[uid] == {}
            change_spec(cluster, adapters=[SQL])
            await until_loaded(cluster, "sql")
            assert (pod_uids(cluster), command(cluster)) == (pods, rolled_out)

            asked, writes = len(operator.vllm.asked), len(ours(cluster.writes))
            await settle(cluster)
            assert (len(operator.vllm.asked), len(ours(cluster.writes))) == (asked, writes), "at rest nothing is done"

            change_spec(cluster, adapters=None)
            await eventually(lambda: command(cluster) == plain, within=60)
            await eventually(lambda: "adapters" not in model(cluster)["status"], within=120)
            await operator.until("Ready", "True")

    run_virtual(main)


@pytest.mark.parametrize(
    "change",
    [{**SQL, "rank": 9}, {**SQL, "name": "law", "source": "pvc://adapters/law"}],
    ids=["a higher rank", "another volume"],
)
def test_what_the_pods_do_not_take_rolls_out(change: Object) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(having(SQL)))
            await until_loaded(cluster, "sql")
            before = pod_uids(cluster)
            change_spec(cluster, adapters=[change])
            await until_loaded(cluster, change["name"])
            await eventually(lambda: not pod_uids(cluster) & before, within=60)
            await operator.until("Ready", "True")
            # Going back needs nothing else: pods that take more take less, too.
            now = pod_uids(cluster)
            change_spec(cluster, adapters=[SQL])
            await until_loaded(cluster, "sql")
            assert pod_uids(cluster) == now

    run_virtual(main)


def test_an_empty_list_makes_ready_for_the_first() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(having()))
            await operator.until("Ready", "True")
            pods = pod_uids(cluster)
            change_spec(cluster, adapters=[SQL])
            await until_loaded(cluster, "sql")
            assert pod_uids(cluster) == pods

    run_virtual(main)


def test_an_empty_list_of_an_operator_that_knew_no_adapters_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        with monkeypatch.context() as before:
            before.setattr(reconciler, "decide_lora", lambda *arguments: None)
            async with Operator(cluster, settings=BEHIND) as operator:
                cluster.put(kinds.VLLM_MODEL, make_model(having()))
                await operator.until("Ready", "True")
        assert "--enable-lora" not in command(cluster)
        writes = len(ours(cluster.writes))
        async with Operator(cluster, settings=BEHIND):
            await settle(cluster)
            assert len(ours(cluster.writes)) == writes

    run_virtual(main)


def test_pods_that_come_later_get_them() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(having(SQL)))
            await until_loaded(cluster, "sql")
            change_spec(cluster, replicas=2)
            await until_loaded(cluster, "sql", pods=2)
            # A container that was started again has none, and is ready before it has been asked.
            (first, *_) = cluster.objects(kinds.POD)
            where = Key("default", first["metadata"]["name"])
            del operator.vllm.adapters[first["metadata"]["uid"]]
            operator.prober.ask_again(KEY)
            await eventually(lambda: said(cluster) == {"sql": ("Loading", "1/2")}, within=10)
            lacking = {"name": where.name, "lacks": ["sql"]}
            assert lacking in model(cluster)["status"]["adapterPods"]
            await until_loaded(cluster, "sql", pods=2)

    run_virtual(main)


def test_what_a_pod_refuses_is_told_and_tried_again() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            operator.vllm.refused["/adapters/sql"] = "LoRA rank 64 is greater than max_lora_rank 8."
            cluster.put(kinds.VLLM_MODEL, make_model(having({**SQL, "name": "fine", "source": "/adapters/fine"}, SQL)))
            both = {"fine": ("Loaded", "1/1"), "sql": ("Failed", "0/1")}
            await eventually(lambda: said(cluster) == both, within=60)
            (pod,) = cluster.objects(kinds.POD)
            name = pod["metadata"]["name"]
            failed = next(each for each in model(cluster)["status"]["adapters"] if each["name"] == "sql")
            assert failed["message"] == f"pod {name}: LoRA rank 64 is greater than max_lora_rank 8."
            assert is_so(cluster, KEY, "Ready", "True"), "the model itself serves"
            events = {each["reason"] for each in cluster.objects(kinds.EVENT)}
            assert {"AdapterFailed", "AdapterLoaded"} <= events
            asked = len(operator.vllm.asked)
            await settle(cluster, quiet=590.0)
            assert 2 <= len(operator.vllm.asked) - asked <= 6, "less and less often"
            operator.vllm.refused.clear()
            await eventually(lambda: said(cluster)["sql"] == ("Loaded", "1/1"), within=400)
            assert "message" not in model(cluster)["status"]["adapters"][1]

    run_virtual(main)


def test_a_pod_of_before_that_has_no_room_is_no_failure() -> None:
    """While a higher rank rolls out."""

    def pod(name: str, *, new: bool) -> PodObservation:
        return PodObservation(
            name, name, "10.0.0.1", new, leaving=False, ready=True, scheduled=True, unschedulable=None,
            unschedulable_since=None, trouble=None, restarts=0, takes_adapters=True,
        )  # fmt: skip

    wanted = [WantedAdapter("sql", "/adapters/sql", "/adapters/sql", 64)]
    probes = {
        "old": ProbeResult(ProbeState.OK),
        "new": ProbeResult(ProbeState.OK, adapters=(("sql", "/adapters/sql"),)),
    }
    refused = {"sql": Failure(Change("load", "sql", "/adapters/sql"), "no room", 1, 0.0)}

    def state(failing: str) -> tuple[str, str]:
        pods = [pod("new", new=True), pod("old", new=False)]
        fields = describe_adapters(wanted, {}, pods, probes, {failing: refused}, static=())
        (found,) = fields["adapters"]
        assert fields["adapterPods"] == [{"name": "new"}, {"name": "old", "lacks": ["sql"]}]
        return found["state"], found["pods"]

    assert state("old") == ("Loading", "1/2")
    assert state("new") == ("Failed", "1/2")


def test_what_the_user_loads_himself_is_left_alone() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            given = {"args": {"lora-modules": ["mine=/adapters/mine"]}}
            cluster.put(kinds.VLLM_MODEL, make_model(having(SQL, engine=given)))
            await until_loaded(cluster, "sql")
            (uid,) = pod_uids(cluster)
            operator.vllm.adapters[uid] |= {"mine": "/adapters/mine", "resolved": "by a plugin"}
            operator.prober.ask_again(KEY)
            change_spec(cluster, adapters=[])
            await eventually(lambda: "sql" not in operator.vllm.adapters[uid], within=60)
            assert operator.vllm.adapters[uid] == {"mine": "/adapters/mine", "resolved": "by a plugin"}

    run_virtual(main)


def test_an_operator_that_starts_takes_nothing_back() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(having(SQL)))
            await until_loaded(cluster, "sql")
            there = operator.vllm.adapters
        writes = len(ours(cluster.writes))
        async with Operator(cluster, settings=BEHIND) as operator:
            operator.vllm.adapters |= there
            await settle(cluster)
            assert operator.vllm.asked == []
            assert len(ours(cluster.writes)) == writes

    run_virtual(main)


def test_while_the_spec_is_refused_what_was_loaded_goes_on() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(having(SQL)))
            await until_loaded(cluster, "sql")
            change_spec(cluster, adapters=[{**SQL, "name": KEY.name}])
            await operator.until("Accepted", "False", Reason.INVALID_SPEC)
            assert said(cluster) == {"sql": ("Loaded", "1/1")}
            (uid,) = pod_uids(cluster)
            assert operator.vllm.adapters[uid] == {"sql": "/adapters/sql"}

    run_virtual(main)


@pytest.mark.parametrize(
    ("fields", "settings", "reason", "words"),
    [
        ({}, BuildSettings(), Reason.NEEDS_GATEWAY, "spec.adapters"),
        ({"route": {"enabled": False}}, BEHIND, Reason.INVALID_SPEC, "load adapters of his own"),
        ({"route": {"parentRefs": [{"name": "other"}]}}, BEHIND, Reason.INVALID_SPEC, "load adapters of his own"),
        ({"engine": {"args": {"lora-modules": ["sql=/a"]}}}, BEHIND, Reason.INVALID_SPEC, "engine.args.lora-modules"),
        ({"servedModelNames": ["sql"]}, BEHIND, Reason.INVALID_SPEC, "of the model already"),
        ({"engine": {"args": {"max-lora-rank": 1}}}, BEHIND, Reason.INVALID_ENGINE_ARGS, "has rank 8"),
        ({"engine": {"args": {"enable-lora": False}}}, BEHIND, Reason.INVALID_ENGINE_ARGS, "spec.adapters need it"),
        ({"engine": {"args": {"api-server-count": 2}}}, BEHIND, Reason.INVALID_ENGINE_ARGS, "one API server"),
    ],
)
def test_what_cannot_be_is_refused(fields: Object, settings: BuildSettings, reason: Reason, words: str) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=settings) as operator:
            cluster.put(kinds.VLLM_MODEL, make_model(having(SQL, **fields)))
            await operator.until("Accepted", "False", reason)
            assert words in condition(cluster, KEY, "Accepted")["message"]

    run_virtual(main)


def test_names_that_others_have_are_told() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND) as operator:
            older = Key("default", "older")
            cluster.put(kinds.VLLM_MODEL, make_model({**SPEC, "servedModelNames": ["sql"]}, key=older))
            await operator.until("Ready", "True", key=older)
            cluster.put(kinds.VLLM_MODEL, make_model(having(SQL)))
            await until_loaded(cluster, "sql")
            await operator.until("RouteReady", "True", Reason.NAME_TAKEN)
            assert "sql (default/older)" in condition(cluster, KEY, "RouteReady")["message"]
            cluster.remove(kinds.VLLM_MODEL, older)
            await operator.until("RouteReady", "True", Reason.BY_GATEWAY)

    run_virtual(main)


class Hub:
    """A hub with adapters."""

    def __init__(self, rank: int | None) -> None:
        self.rank = rank
        """None: it does not answer."""
        self.asked: list[HubSource] = []

    async def read(self, source: HubSource) -> AdapterFacts:
        self.asked.append(source)
        if self.rank is None:
            raise HubUnavailableError("away")
        return AdapterFacts(self.rank)


def no_models(wake: Callable[[Key], None]) -> Library[HubFacts]:
    """A hub that says nothing of models: their sizes are given."""

    async def read(source: HubSource) -> HubFacts:
        raise HubUnavailableError("away")

    return Library(read, wake=wake)


def hub_model() -> Object:
    adapter = {"name": "sql", "source": "org/sql"}
    token = {"tokenSecretRef": {"name": "hub", "key": "token"}, "endpoint": "https://mirror.example"}
    fixed = {"parallelism": {"tensor": 1}}
    return make_model({"model": "org/base", "hub": token, **fixed, "adapters": [adapter]})


def test_the_hub_tells_the_rank_once() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.put(kinds.SECRET, secret("hub", token="aGZfeA=="))
        hub = Hub(24)
        async with Operator(cluster, settings=BEHIND, library=no_models, ranks=hub.read) as operator:
            cluster.put(kinds.VLLM_MODEL, hub_model())
            await until_loaded(cluster, "sql")
            assert command(cluster)[command(cluster).index("--max-lora-rank") + 1] == "32"
            assert hub.asked == [HubSource("org/sql", None, "https://mirror.example", "hf_x")]
            (uid,) = pod_uids(cluster)
            assert operator.vllm.adapters[uid] == {"sql": "org/sql"}, "vLLM downloads it itself"
            assert model(cluster)["status"]["adapters"][0]["rank"] == 24
            there = operator.vllm.adapters
        hub.rank = 64
        writes = len(ours(cluster.writes))
        async with Operator(cluster, settings=BEHIND, library=no_models, ranks=hub.read) as operator:
            operator.vllm.adapters |= there
            await settle(cluster)
            assert len(hub.asked) == 1, "the status knows it"
            assert len(ours(cluster.writes)) == writes

    run_virtual(main)


def test_a_hub_that_is_away_keeps_nothing() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.put(kinds.SECRET, secret("hub", token="aGZfeA=="))
        hub = Hub(None)
        async with Operator(cluster, settings=BEHIND, library=no_models, ranks=hub.read) as operator:
            cluster.put(kinds.VLLM_MODEL, hub_model())
            await until_loaded(cluster, "sql")
            assert command(cluster)[command(cluster).index("--max-lora-rank") + 1] == "16"
            before = pod_uids(cluster)
            hub.rank = 8
            await eventually(lambda: "rank" in model(cluster)["status"]["adapters"][0], within=900)
            await operator.until("Ready", "True")
            assert pod_uids(cluster) == before

    run_virtual(main)
