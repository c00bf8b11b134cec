"""What only the in-memory cluster has: faults, watches, counters and a clock."""

import asyncio
import random
from datetime import UTC, datetime

import pytest

from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.cluster.memory import (
    Call,
    Fault,
    MemoryCluster,
    Write,
    fail_times,
    http_error,
    outage,
    random_faults,
)

from .objects import deployment, model, owner, service, status

KEY = Key("default", "qwen3")


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


async def test_watchers_hear_of_each_change_once(cluster: MemoryCluster) -> None:
    heard: list[tuple[str, str, str]] = []
    end = cluster.watch(lambda event, obj: heard.append((event, obj["kind"], obj["metadata"]["resourceVersion"])))
    await cluster.apply(kinds.SERVICE, service("default"))
    await cluster.apply(kinds.SERVICE, service("default"))
    await cluster.apply(kinds.SERVICE, service("default", sessionAffinity="ClientIP"))
    cluster.edit(kinds.SERVICE, KEY, lambda live: live["metadata"].update(labels={"a": "b"}))
    cluster.remove(kinds.SERVICE, KEY)
    end()
    cluster.put(kinds.SERVICE, service("default"))
    assert heard == [(event, "Service", str(number)) for number, event in enumerate(
        ["ADDED", "MODIFIED", "MODIFIED", "DELETED"], start=1
    )]  # fmt: skip


async def test_writes_and_requests_are_counted(cluster: MemoryCluster) -> None:
    await cluster.get(kinds.SERVICE, KEY)
    await cluster.list(kinds.SERVICE)
    await cluster.apply(kinds.SERVICE, service("default"))
    await cluster.apply(kinds.SERVICE, service("default"))
    await cluster.delete(kinds.SERVICE, KEY)
    await cluster.delete(kinds.SERVICE, KEY)
    with pytest.raises(ApiError):
        await cluster.apply(kinds.SERVICE, service("default", bogus=1))
    assert cluster.writes == [
        Write("apply", kinds.SERVICE, KEY, changed=True),
        Write("apply", kinds.SERVICE, KEY, changed=False),
        Write("delete", kinds.SERVICE, KEY, changed=True),
        Write("delete", kinds.SERVICE, KEY, changed=False),
    ]
    assert cluster.requests == {
        ("get", "Service"): 1,
        ("list", "Service"): 1,
        ("apply", "Service"): 3,
        ("delete", "Service"): 2,
    }
    cluster.put(kinds.SERVICE, service("default"))
    assert len(cluster.writes) == 4


async def test_returned_objects_are_copies(cluster: MemoryCluster) -> None:
    wanted = service("default")
    made = await cluster.apply(kinds.SERVICE, wanted)
    made["spec"]["type"] = wanted["spec"]["selector"]["app"] = "spoiled"
    cluster.objects(kinds.SERVICE)[0]["spec"]["type"] = "spoiled"
    found = await cluster.get(kinds.SERVICE, KEY)
    assert found is not None
    assert found["spec"]["type"] == "ClusterIP"
    assert found["spec"]["selector"] == {"app": "qwen3"}
    assert (await cluster.apply(kinds.SERVICE, service("default")))["spec"] == found["spec"]


async def test_the_clock_is_given() -> None:
    cluster = MemoryCluster(now=lambda: datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC))
    made = await cluster.apply(kinds.SERVICE, service("default"))
    assert made["metadata"]["creationTimestamp"] == "2026-05-04T03:02:01Z"


@pytest.mark.parametrize("after", [False, True])
async def test_a_fault_before_or_after_the_write(cluster: MemoryCluster, after: bool) -> None:
    cluster.faults = fail_times(1, 503, verb="apply", after=after)
    with pytest.raises(ApiError) as caught:
        await cluster.apply(kinds.SERVICE, service("default"))
    assert (caught.value.category, caught.value.status) == (Category.TRANSIENT, 503)
    assert (cluster.peek(kinds.SERVICE, KEY) is not None) is after
    assert [write.changed for write in cluster.writes] == ([True] if after else [])
    await cluster.apply(kinds.SERVICE, service("default"))
    assert [write.changed for write in cluster.writes] == ([True, False] if after else [True])


async def test_a_hook_sees_verb_kind_key_and_attempt(cluster: MemoryCluster) -> None:
    seen: list[Call] = []

    def hook(call: Call) -> Fault | None:
        seen.append(call)
        return Fault(http_error(409)) if call.attempt == 2 else None

    cluster.faults = hook
    await cluster.apply(kinds.SERVICE, service("default"))
    with pytest.raises(ApiError) as caught:
        await cluster.apply(kinds.SERVICE, service("default"))
    assert caught.value.category is Category.CONFLICT
    await cluster.list(kinds.SERVICE, namespace="default")
    assert seen == [
        Call("apply", kinds.SERVICE, KEY, 1),
        Call("apply", kinds.SERVICE, KEY, 2),
        Call("list", kinds.SERVICE, Key("default", ""), 1),
    ]


async def test_a_delay_is_waited_for_with_the_given_sleep() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    cluster = MemoryCluster(sleep=sleep, faults=lambda call: Fault(delay=30.0))
    assert await cluster.get(kinds.SERVICE, KEY) is None
    assert slept == [30.0]


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (0, Category.TRANSIENT), (400, Category.INVALID), (403, Category.DENIED), (404, Category.NOT_FOUND),
        (409, Category.CONFLICT), (422, Category.INVALID), (429, Category.TRANSIENT), (500, Category.TRANSIENT),
    ],
)  # fmt: skip
async def test_fail_times_by_status(cluster: MemoryCluster, code: int, category: Category) -> None:
    cluster.faults = fail_times(2, code, kind=kinds.SERVICE)
    await cluster.apply(kinds.VLLM_MODEL, model("default"))
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await cluster.get(kinds.SERVICE, KEY)
        assert (caught.value.category, caught.value.status) == (category, code)
    assert await cluster.get(kinds.SERVICE, KEY) is None


async def test_random_faults_are_repeatable_and_cover_both_sides_of_a_write() -> None:
    async def history(seed: int) -> list[str]:
        cluster = MemoryCluster(faults=random_faults(random.Random(seed), 0.5))
        told = []
        for number in range(200):
            before = cluster.resource_version
            try:
                await cluster.apply(kinds.VLLM_MODEL, model("default", replicas=number + 1))
                told.append("done")
            except ApiError as error:
                lost = cluster.resource_version != before
                told.append("lost" if lost else f"refused {error.status} {error.category.value}")
        return told

    first = await history(1)
    assert first == await history(1)
    assert first != await history(2)
    assert set(first) == {"done", "lost"} | {f"refused {code} transient" for code in (0, 429, 500, 503)}


async def test_an_outage_lasts_until_it_is_ended(cluster: MemoryCluster) -> None:
    out = outage()
    cluster.faults = out
    for _ in range(3):
        with pytest.raises(ApiError) as caught:
            await cluster.list(kinds.SERVICE)
        assert caught.value.status == 0
    out.on = False
    assert await cluster.list(kinds.SERVICE) == []


async def test_calls_let_others_run(cluster: MemoryCluster) -> None:
    """Between a read and the write that follows, somebody else can write: as on a network."""
    order: list[str] = []

    async def worker(name: str) -> None:
        for step in range(3):
            await cluster.get(kinds.SERVICE, KEY)
            order.append(f"{name}{step}")

    await asyncio.gather(worker("a"), worker("b"))
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_two_that_take_a_lease_at_once(cluster: MemoryCluster) -> None:
    made = await cluster.create(
        kinds.LEASE, {"metadata": {"namespace": "default", "name": "lease"}, "spec": {"holderIdentity": ""}}
    )

    async def take(name: str) -> str:
        try:
            await cluster.replace(kinds.LEASE, {**made, "spec": {"holderIdentity": name}})
        except ApiError as error:
            return error.category.value
        return "taken"

    assert sorted(await asyncio.gather(take("a"), take("b"))) == ["conflict", "taken"]


async def test_kinds_come_and_go(cluster: MemoryCluster) -> None:
    cluster.uninstall(kinds.HTTP_ROUTE)
    with pytest.raises(ApiError) as caught:
        await cluster.list(kinds.HTTP_ROUTE)
    assert caught.value.category is Category.NOT_INSTALLED
    cluster.install(kinds.HTTP_ROUTE)
    assert await cluster.list(kinds.HTTP_ROUTE) == []


async def test_a_namespaces_life(cluster: MemoryCluster) -> None:
    cluster.add_namespace("team")
    made = await cluster.apply(kinds.SERVICE, service("team"))
    held = model("team")
    held["metadata"]["finalizers"] = ["example.com/holds"]
    await cluster.apply(kinds.VLLM_MODEL, held)
    cluster.terminate_namespace("team")
    assert await cluster.get(kinds.SERVICE, Key("team", "qwen3")) is None
    found = await cluster.get(kinds.VLLM_MODEL, Key("team", "qwen3"))
    assert found is not None
    assert found["metadata"]["deletionTimestamp"]
    # What is there can still be written: only new content is refused.
    await cluster.apply_status(kinds.VLLM_MODEL, status("team", revision="r"))
    cluster.remove_namespace("team")
    assert await cluster.list(kinds.VLLM_MODEL, namespace="team") == []
    with pytest.raises(ApiError) as caught:
        await cluster.apply(kinds.SERVICE, service("team"))
    assert caught.value.category is Category.TERMINATING
    assert made["metadata"]["uid"]


def test_the_hands_work_without_an_event_loop(cluster: MemoryCluster) -> None:
    made = cluster.put(kinds.VLLM_MODEL, {**model("default"), "status": {"revision": "r"}})
    assert made["status"] == {"revision": "r"}
    child = deployment("default")
    child["metadata"]["ownerReferences"] = [owner(made)]
    cluster.put(kinds.DEPLOYMENT, child)
    cluster.set_status(kinds.DEPLOYMENT, KEY, {"availableReplicas": 1})
    assert cluster.objects(kinds.DEPLOYMENT)[0]["status"] == {"availableReplicas": 1}
    cluster.remove(kinds.VLLM_MODEL, KEY)
    assert cluster.objects(kinds.DEPLOYMENT) == []


async def test_which_fields_are_ours(cluster: MemoryCluster) -> None:
    await cluster.apply(kinds.SERVICE, service("default"))
    port = '.spec.ports[port=8000,protocol="TCP"]'
    assert cluster.owned_fields(kinds.SERVICE, KEY) == [
        port, f"{port}.name", f"{port}.port", f"{port}.targetPort", ".spec.selector",
    ]  # fmt: skip


async def test_applying_a_thousand_objects_again_changes_nothing(cluster: MemoryCluster) -> None:
    """Applying the same again, as a resync does, costs next to nothing and changes nothing."""
    for number in range(1000):
        await cluster.apply(kinds.DEPLOYMENT, deployment("default", f"m{number}"))
    before = cluster.resource_version
    for number in range(1000):
        await cluster.apply(kinds.DEPLOYMENT, deployment("default", f"m{number}"))
    assert cluster.resource_version == before
    assert len(await cluster.list(kinds.DEPLOYMENT)) == 1000
