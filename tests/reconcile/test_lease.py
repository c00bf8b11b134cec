"""Leader election: never two at once, and a short gap."""

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reconcile.virtual import eventually, loop_clock, run_virtual
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.memory import Call, Fault, MemoryCluster, http_error, random_faults
from vllm_operator.reconcile.lease import LeaderElection

LEASE = Key("default", "vllm-operator")
pytestmark = pytest.mark.looptime(start=1000, noop_cycles=0)


class Replica:
    """An elector with its own way to the API server, that competes for ever and says when it believes to lead."""

    def __init__(self, cluster: MemoryCluster, name: str, leaders: set[str]) -> None:
        self.name = name
        self.election = LeaderElection(cluster, LEASE, name, clock=loop_clock, jitter=lambda: 0.5)
        self.leaders = leaders
        self.terms = 0
        self.task = asyncio.create_task(self._compete())

    async def _compete(self) -> None:
        while True:
            await self.election.acquire()
            self.terms += 1
            self.leaders.add(self.name)
            assert len(self.leaders) == 1, f"two leaders: {self.leaders}"
            try:
                await self.election.hold()
            finally:
                self.leaders.discard(self.name)

    async def crash(self) -> None:
        """Vanish without a word."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_one_leads_and_the_other_waits() -> None:
    cluster, leaders = MemoryCluster(), set[str]()
    one, two = Replica(cluster, "one", leaders), Replica(cluster, "two", leaders)
    await asyncio.sleep(600)
    assert leaders == {"one"}
    assert (one.terms, two.terms) == (1, 0)
    lease = cluster.peek(kinds.LEASE, LEASE)
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "one"
    assert lease["spec"]["leaseTransitions"] == 0
    await one.crash()
    await two.crash()


async def test_a_crashed_leader_is_replaced_when_the_lease_has_run_out() -> None:
    cluster, leaders = MemoryCluster(), set[str]()
    one, two = Replica(cluster, "one", leaders), Replica(cluster, "two", leaders)
    await asyncio.sleep(60)
    await one.crash()
    took = await eventually(lambda: leaders == {"two"}, within=20)
    assert took >= 12, "the lease had not run out"
    lease = cluster.peek(kinds.LEASE, LEASE)
    assert lease is not None
    assert lease["spec"]["leaseTransitions"] == 1
    await two.crash()


async def test_a_release_spares_the_wait() -> None:
    cluster, leaders = MemoryCluster(), set[str]()
    one, two = Replica(cluster, "one", leaders), Replica(cluster, "two", leaders)
    await asyncio.sleep(60)
    await one.crash()
    await one.election.release()
    assert await eventually(lambda: leaders == {"two"}, within=5) < 3
    before = cluster.peek(kinds.LEASE, LEASE)
    await one.election.release()
    assert cluster.peek(kinds.LEASE, LEASE) == before, "what is not ours is not released"
    await two.crash()


async def test_releasing_while_holding_does_not_take_it_again() -> None:
    cluster, leaders = MemoryCluster(), set[str]()
    one = Replica(cluster, "one", leaders)
    election = one.election
    await eventually(lambda: election.leading, within=5)
    await one.crash()
    election.leading = True
    holding = asyncio.create_task(election.hold())
    await asyncio.sleep(1)
    await election.release()
    await asyncio.wait_for(holding, 5)
    lease = cluster.peek(kinds.LEASE, LEASE)
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""


HANGS: list[tuple[str, Callable[[float], Fault]]] = [
    ("errors at once", lambda since: Fault(http_error(500))),
    ("hangs", lambda since: Fault(delay=1e6)),
    ("slow errors", lambda since: Fault(http_error(0), delay=3.7)),
    ("errors, then hangs at the last moment", lambda since: Fault(http_error(500), delay=0 if since < 9 else 1e6)),
    ("writes are done, answers are lost", lambda since: Fault(http_error(0), after=True)),
]


@pytest.mark.parametrize("fault", [hang[1] for hang in HANGS], ids=[hang[0] for hang in HANGS])
async def test_a_leader_that_cannot_renew_stops_before_another_may_start(fault: Callable[[float], Fault]) -> None:
    cluster, leaders = MemoryCluster(), set[str]()
    one = Replica(cluster, "one", leaders)
    await asyncio.sleep(61.3)
    renewed = one.election.last_renewal
    cluster.faults = lambda call: fault(now() - renewed)
    await eventually(lambda: not leaders, within=15, step=0.01)
    assert now() - renewed <= 10.1, "others may start after 15 s; what is under way needs some of the rest"
    await one.crash()


async def test_a_lease_taken_by_another_is_given_up_at_once() -> None:
    cluster, leaders = MemoryCluster(), set[str]()
    one = Replica(cluster, "one", leaders)
    await asyncio.sleep(60)
    cluster.edit(kinds.LEASE, LEASE, lambda lease: lease["spec"].update(holderIdentity="another"))
    assert await eventually(lambda: not leaders, within=5) < 2.5
    await one.crash()


async def test_a_deleted_lease_is_made_again() -> None:
    cluster, leaders = MemoryCluster(), set[str]()
    one = Replica(cluster, "one", leaders)
    await asyncio.sleep(60)
    cluster.remove(kinds.LEASE, LEASE)
    await asyncio.sleep(5)
    assert cluster.peek(kinds.LEASE, LEASE) is not None
    assert leaders == {"one"}
    await one.crash()


async def test_a_renewal_is_one_request() -> None:
    """An API server that takes two seconds for each answer leaves time for one, not for two."""
    cluster, leaders = MemoryCluster(), set[str]()
    one = Replica(cluster, "one", leaders)
    await eventually(lambda: leaders, within=5)
    cluster.faults = lambda call: Fault(delay=2.0)
    await asyncio.sleep(600)
    assert (leaders, one.terms) == ({"one"}, 1)
    await one.crash()


async def test_skewed_clocks_do_no_harm() -> None:
    """A lease that was renewed long ago by its own words is not taken before it has stood still for its duration."""
    cluster, leaders = MemoryCluster(), set[str]()
    spec = {"holderIdentity": "another", "leaseDurationSeconds": 15, "renewTime": "1990-01-01T00:00:00.000000Z"}
    metadata = {"name": LEASE.name, "namespace": LEASE.namespace}
    cluster.put(
        kinds.LEASE,
        {"apiVersion": kinds.LEASE.api_version, "kind": "Lease", "metadata": metadata, "spec": spec},
    )
    one = Replica(cluster, "one", leaders)
    assert await eventually(lambda: leaders, within=20) >= 15
    await one.crash()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.1, 0.5, 0.8]))
def test_never_two_leaders_whatever_fails(seed: int, rate: float) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        cluster, leaders = MemoryCluster(), set[str]()
        failing = random_faults(rng, rate)

        def hook(call: Call) -> Fault | None:
            if rng.random() < 0.2:
                return Fault(delay=rng.choice((0.5, 4.0, 30.0)))
            return failing(call)

        cluster.faults = hook
        replicas = [Replica(cluster, name, leaders) for name in ("one", "two", "three")]
        for _ in range(20):
            await asyncio.sleep(rng.uniform(1, 60))
            crashed = rng.randrange(3)
            if rng.random() < 0.3:
                await replicas[crashed].crash()
                replicas[crashed] = Replica(cluster, f"{replicas[crashed].name}+", leaders)
            ended = [replica.task for replica in replicas if replica.task.done()]
            assert not ended, ended[0].exception()
        cluster.faults = None
        await eventually(lambda: len(leaders) == 1, within=40)
        for replica in replicas:
            await replica.crash()

    run_virtual(main)
