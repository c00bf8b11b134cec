"""Sizes are decided from the model and the nodes, pinned, and decided anew only for what does not serve."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.reconcile.harness import KEY, Operator, World, make_cluster, make_model, secret, settle
from tests.reconcile.virtual import eventually, virtual
from tests.sizing.published import configs, published
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.memory import MemoryCluster
from vllm_operator.hub.errors import (
    GatedModelError,
    HubError,
    HubUnavailableError,
    InvalidModelError,
    ModelNotFoundError,
)
from vllm_operator.hub.hugging_face import HubFacts
from vllm_operator.hub.library import HubSource, Library

MODELS = kinds.VLLM_MODEL
QWEN = "Qwen/Qwen3-8B"


def node(name: str, product: str, memory_mib: int, gpus: int, **spec: Any) -> Object:
    """A node as GPU feature discovery labels it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory_mib)},
        },
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "64", "nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


L40S = node("l40s", "NVIDIA-L40S", 46068, 4)
H100 = node("h100", "NVIDIA-H100-80GB-HBM3", 81559, 8)


class Shelf:
    """Answers for the hub: facts, or what goes wrong."""

    def __init__(self) -> None:
        self.error: HubError | None = None
        self.asked: list[HubSource] = []
        self.delay = 0.1

    async def __call__(self, source: HubSource) -> HubFacts:
        self.asked.append(source)
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return HubFacts(published(source.repository), "c0ffee")


def library(shelf: Shelf) -> Callable[[Callable[[Key], None]], Library[HubFacts]]:
    """Makes a library in the loop's time, given what wakes a model."""
    return lambda wake: Library(shelf, wake=wake, clock=lambda: asyncio.get_running_loop().time())


def status(cluster: MemoryCluster) -> Object:
    found = cluster.peek(MODELS, KEY)
    assert found is not None
    return found.get("status") or {}


def pod_spec(cluster: MemoryCluster) -> Object:
    found = cluster.peek(kinds.DEPLOYMENT, KEY)
    assert found is not None
    result: Object = found["spec"]["template"]["spec"]
    return result


@virtual
async def test_the_pool_is_chosen_and_pinned() -> None:
    cluster = make_cluster()
    World(cluster)
    for each in (L40S, H100):
        cluster.put(kinds.NODE, each)
    cluster.put(MODELS, make_model({"model": QWEN}))
    async with Operator(cluster, library=library(Shelf())) as operator:
        await operator.until("Ready", "True")
        assert pod_spec(cluster)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L40S"}
        sizing = status(cluster)["sizing"]
        assert (sizing["pool"], sizing["maxModelLen"], sizing["revision"]) == ("NVIDIA-L40S", 40960, "c0ffee")
        assert [other["pool"] for other in sizing["alternatives"]] == ["NVIDIA-H100-80GB-HBM3"]
        await settle(cluster)


@virtual
async def test_nothing_fits_until_a_node_comes() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, node("t4", "Tesla-T4", 15360, 1))
    cluster.put(MODELS, make_model({"model": "Qwen/Qwen3-32B"}))
    async with Operator(cluster, library=library(Shelf())) as operator:
        await operator.until("Accepted", "False", Reason.DOES_NOT_FIT)
        await operator.until("Stalled", "True", Reason.DOES_NOT_FIT)
        assert not cluster.objects(kinds.DEPLOYMENT)
        cluster.put(kinds.NODE, H100)
        await operator.until("Ready", "True", within=30)


@virtual
async def test_new_nodes_change_nothing_that_serves() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN}))
    async with Operator(cluster, library=library(Shelf())) as operator:
        await operator.until("Ready", "True")
        before = pod_spec(cluster)
        cluster.put(kinds.NODE, L40S)
        cluster.remove(kinds.NODE, Key("", "h100"))
        await settle(cluster)
        assert pod_spec(cluster) == before


@virtual
async def test_what_has_no_node_is_planned_anew_when_its_pool_is_gone() -> None:
    cluster = make_cluster()
    world = World(cluster, room=0)
    cluster.put(kinds.NODE, L40S)
    cluster.put(MODELS, make_model({"model": QWEN}))
    async with Operator(cluster, library=library(Shelf())) as operator:
        await operator.until("Scheduled", "False", Reason.UNSCHEDULABLE)
        first = status(cluster)["revision"]
        # Another pool alone is no reason: the one that was chosen may have room again soon.
        cluster.put(kinds.NODE, H100)
        await settle(cluster)
        assert status(cluster)["revision"] == first
        cluster.remove(kinds.NODE, Key("", "l40s"))
        await eventually(
            lambda: pod_spec(cluster)["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3", within=60
        )
        world.room = 10
        world.wake()
        await operator.until("Ready", "True")
        assert status(cluster)["sizing"]["pool"] == "NVIDIA-H100-80GB-HBM3"
        assert status(cluster)["revision"] != first
        await settle(cluster)


@virtual
async def test_what_has_no_node_moves_to_a_pool_that_serves_it_better() -> None:
    cluster = make_cluster()
    world = World(cluster, room=0)
    cluster.put(kinds.NODE, node("l4", "NVIDIA-L4", 23034, 1))
    cluster.put(MODELS, make_model({"model": QWEN}))
    shelf = Shelf()
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Scheduled", "False", Reason.UNSCHEDULABLE)
        sizing = status(cluster)["sizing"]
        assert sizing["pool"] == "NVIDIA-L4"
        assert sizing["maxModelLen"] < 40960
        cluster.put(kinds.NODE, H100)
        await eventually(
            lambda: pod_spec(cluster)["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3", within=60
        )
        assert status(cluster)["sizing"]["maxModelLen"] == 40960
        world.room = 10
        world.wake()
        await operator.until("Ready", "True")


@virtual
async def test_a_hub_that_is_away_leaves_a_plan_that_waits_for_its_node() -> None:
    cluster = make_cluster()
    World(cluster, room=0)
    cluster.put(kinds.NODE, L40S)
    cluster.put(MODELS, make_model({"model": QWEN}))
    shelf = Shelf()
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Scheduled", "False", Reason.UNSCHEDULABLE)
    shelf.error = HubUnavailableError("cannot reach it")
    async with Operator(cluster, library=library(shelf)) as operator:
        await settle(cluster)
        await operator.until("Accepted", "True")
        assert status(cluster)["sizing"]["pool"] == "NVIDIA-L40S"


@virtual
async def test_a_hub_that_is_away_is_waited_for() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN}))
    shelf = Shelf()
    shelf.error = HubUnavailableError("cannot reach it")
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Accepted", "Unknown", Reason.HUB_UNAVAILABLE)
        await operator.until("Reconciling", "True", Reason.HUB_UNAVAILABLE)
        await settle(cluster)
        asked = len(shelf.asked)
        assert asked < 20, "the pause between two tries grows"
        shelf.error = None
        await operator.until("Ready", "True", within=600)


@virtual
async def test_a_hub_that_goes_away_later_is_not_missed() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN}))
    shelf = Shelf()
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Ready", "True")
    shelf.error = HubUnavailableError("cannot reach it")
    async with Operator(cluster, library=library(shelf)) as operator:
        await settle(cluster)
        await operator.until("Ready", "True")
    assert len(shelf.asked) == 1, "a decision that is pinned needs no facts"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelNotFoundError("no such model"), Reason.MODEL_NOT_FOUND),
        (GatedModelError("accept the licence"), Reason.MODEL_ACCESS_DENIED),
        (InvalidModelError("no JSON"), Reason.INVALID_MODEL),
    ],
)
@virtual
async def test_what_the_hub_refuses(error: HubError, reason: Reason) -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN}))
    shelf = Shelf()
    shelf.error = error
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Accepted", "False", reason)
        assert not cluster.objects(kinds.DEPLOYMENT)
        shelf.error = None  # somebody accepts the licence
        await operator.until("Ready", "True", within=300)


@virtual
async def test_a_pod_that_has_its_own_way_to_the_hub_is_not_refused() -> None:
    cluster = make_cluster()
    World(cluster)
    spec = {"model": QWEN, "engine": {"env": [{"name": "HF_TOKEN", "value": "x"}]}}
    cluster.put(MODELS, make_model(spec))
    shelf = Shelf()
    shelf.error = GatedModelError("it is gated")
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Ready", "True")
        assert "it is gated" in status(cluster)["sizing"]["reasons"][0]


@virtual
async def test_the_token_is_the_models_own_and_is_not_shown() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(kinds.SECRET, secret("hf", token="aGZfc2VjcmV0"))
    cluster.put(MODELS, make_model({"model": QWEN, "hub": {"tokenSecretRef": {"name": "hf", "key": "token"}}}))
    shelf = Shelf()
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Ready", "True")
    (source,) = shelf.asked
    assert source.token == "hf_secret"
    assert "hf_secret" not in repr(source)


@virtual
async def test_reading_takes_long() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN}))
    shelf = Shelf()
    shelf.delay = 20.0
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Accepted", "Unknown", Reason.READING_MODEL)
        await operator.until("Ready", "True", within=60)


@virtual
async def test_facts_by_hand() -> None:
    cluster = make_cluster()
    World(cluster)
    for each in (L40S, H100):
        cluster.put(kinds.NODE, each)
    facts = {"config": configs()["Qwen/Qwen3-32B"], "weights": "62Gi"}
    cluster.put(MODELS, make_model({"model": "pvc://models/qwen", "modelFacts": facts}))
    shelf = Shelf()
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Ready", "True")
        sizing = status(cluster)["sizing"]
        assert (sizing["pool"], sizing["tensorParallelSize"], sizing["maxModelLen"]) == ("NVIDIA-L40S", 2, 40960)
        assert not shelf.asked
        facts = {"config": {"architectures": ["X"]}}
        cluster.edit(MODELS, KEY, lambda obj: obj["spec"].update(modelFacts=facts))
        await operator.until("Accepted", "False", Reason.INVALID_SPEC)


@virtual
async def test_an_estimate_that_is_off_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN}))
    async with Operator(cluster, library=library(Shelf())) as operator:
        operator.prober.kv_cache_tokens = 100_000
        await operator.until("Ready", "True")
        sizing = status(cluster)["sizing"]
        error = sizing["kvCacheTokens"] / 100_000 - 1
        assert sizing["measured"] == {"kvCacheTokens": 100_000, "errorPercent": round(100 * error)}
        assert operator.reconciler.sizing_errors == {KEY: pytest.approx(error, abs=0.01)}
        await settle(cluster)
        warnings = [record for record in caplog.records if "please report it" in record.getMessage()]
        assert len(warnings) == 1
        cluster.remove(MODELS, KEY)
        await eventually(lambda: not operator.reconciler.sizing_errors, within=10)


@virtual
async def test_a_rotated_key_rolls_out_without_hub_and_moves_nothing() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(kinds.SECRET, secret("api", key="b25l"))
    spec = {"model": QWEN, "auth": {"apiKeySecretRef": {"name": "api", "key": "key"}}}
    cluster.put(MODELS, make_model(spec))
    shelf = Shelf()
    async with Operator(cluster, library=library(shelf)) as operator:
        await operator.until("Ready", "True")
        first = status(cluster)["revision"]
        shelf.error = HubUnavailableError("cannot reach it")
        cluster.put(kinds.NODE, L40S)  # would be the better choice now
        cluster.put(kinds.SECRET, secret("api", key="dHdv"))
        await eventually(lambda: status(cluster)["revision"] != first, within=60)
        await operator.until("Ready", "True")
        assert status(cluster)["sizing"]["pool"] == "NVIDIA-H100-80GB-HBM3"
    assert len(shelf.asked) == 1


@virtual
async def test_a_hub_of_the_models_own_is_asked_even_if_the_operators_is_off() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model({"model": QWEN, "hub": {"endpoint": "https://mirror.example.com"}}))
    shelf = Shelf()
    async with Operator(cluster, library=library(shelf), asks_hub=False) as operator:
        await operator.until("Ready", "True")
        assert status(cluster)["sizing"]["pool"] == "NVIDIA-H100-80GB-HBM3"
    assert [source.endpoint for source in shelf.asked] == ["https://mirror.example.com"]
