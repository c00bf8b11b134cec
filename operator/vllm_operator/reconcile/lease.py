"""Leader election by a Lease, so that two replicas of the operator are safe.

As client-go's: the holder renews; others take over when the lease has not moved for its duration, by their own clock, so that
skewed clocks do no harm. A leader that cannot renew stops before others may start.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime

from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Cluster, Object
from vllm_operator.cluster.errors import ApiError, Category

log = logging.getLogger(__name__)


class LeaderElection:
    """Holds a Lease, or waits for it."""

    def __init__(
        self,
        cluster: Cluster,
        lease: Key,
        identity: str,
        *,
        clock: Callable[[], datetime],
        duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry: float = 2.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._lease = lease
        self._identity = identity
        self._clock = clock
        self._duration = duration
        self._renew_deadline = renew_deadline
        self._retry = retry
        self._jitter = jitter
        self._seen: tuple[str, float] | None = None
        """The lease's (holder, renewTime, …) as last seen, and when it was first seen so, by the loop's clock."""
        self._ours: Object | None = None
        """The lease as we wrote it last; None when another write may have come after it."""
        self.leading = False
        self.last_renewal = 0.0
        """Loop time of the last successful renewal."""

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        log.info("waiting for the lease %s as %s", self._lease, self._identity)
        while not await self._try():
            await asyncio.sleep(self._retry * (1 + 0.2 * self._jitter()))
        self.leading = True
        log.info("holding the lease %s", self._lease)

    async def hold(self) -> None:
        """Renew until it fails for longer than the deadline, or somebody else holds the lease; then return."""
        while self.leading:
            deadline = self.last_renewal + self._renew_deadline
            try:
                # Neither the pause nor a request that hangs may outlast the deadline: others may start soon after it.
                async with asyncio.timeout_at(deadline):
                    await asyncio.sleep(self._retry)
                    renewed = self.leading and await self._try()
            except TimeoutError:
                renewed = False
            if self.leading and not renewed and (self._taken() or _now() >= deadline):
                self.leading = False
                log.error("lost the lease %s", self._lease)

    def _taken(self) -> bool:
        return self._seen is not None and self._seen[0].partition("|")[0] not in ("", self._identity)

    async def release(self) -> None:
        """Give the lease up, so that another replica need not wait for it to run out."""
        if not self.leading:
            return
        self.leading = False
        self._ours = None
        try:
            lease = await self._cluster.get(kinds.LEASE, self._lease)
            if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.replace(kinds.LEASE, {**lease, "spec": spec})
                log.info("released the lease %s", self._lease)
        except ApiError as error:
            log.warning("the lease %s is not released: %s", self._lease, error)

    async def _try(self) -> bool:
        """Take or renew the lease; False when it is another's or the API server does not answer."""
        asked = _now()
        try:
            async with asyncio.timeout(self._renew_deadline * 0.3):  # A hung try leaves time for another.
                if not await self._renew():
                    lease = await self._cluster.get(kinds.LEASE, self._lease)
                    if lease is None:
                        self._ours = await self._cluster.create(kinds.LEASE, self._body(None))
                    elif self._may_take(lease):
                        self._ours = await self._cluster.replace(kinds.LEASE, self._body(lease))
                    else:
                        return False
        except (ApiError, TimeoutError) as error:
            log.warning("the lease %s cannot be written: %s", self._lease, str(error) or type(error).__name__)
            return False
        self._seen = None
        self.last_renewal = asked
        return True

    async def _renew(self) -> bool:
        """Write our own lease again without reading it; False when it is not as we left it.

        With a slow API server one request is in time where two are not.
        """
        ours, self._ours = self._ours, None
        if ours is None:
            return False
        try:
            self._ours = await self._cluster.replace(kinds.LEASE, self._body(ours))
        except ApiError as error:
            if error.category not in (Category.CONFLICT, Category.NOT_FOUND):
                raise
        return self._ours is not None

    def _may_take(self, lease: Object) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        state = f"{holder}|{spec.get('renewTime')}|{lease['metadata'].get('resourceVersion')}"
        if self._seen is None or self._seen[0] != state:
            self._seen = (state, _now())
        expired = _now() - self._seen[1] > (spec.get("leaseDurationSeconds") or self._duration)
        return holder in ("", self._identity) or expired

    def _body(self, lease: Object | None) -> Object:
        now = self._clock().isoformat(timespec="microseconds").replace("+00:00", "Z")
        before = (lease or {}).get("spec") or {}
        kept = before.get("holderIdentity") == self._identity
        transitions = (before.get("leaseTransitions") or 0) + (0 if kept or lease is None else 1)
        metadata = (lease or {}).get("metadata") or {"name": self._lease.name, "namespace": self._lease.namespace}
        return {
            "apiVersion": kinds.LEASE.api_version,
            "kind": kinds.LEASE.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._duration),
                "acquireTime": before.get("acquireTime") if kept else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }


def _now() -> float:
    return asyncio.get_running_loop().time()
