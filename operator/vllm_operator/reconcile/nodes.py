"""Nodes with GPUs, as the planner needs them: read when somebody asks, and again after one of them has changed."""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from vllm_operator.api.names import content_hash
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Cluster, Object
from vllm_operator.cluster.errors import ApiError, Category

KEPT = 300.0
"""Seconds after which nodes are read again though nothing was heard: watches can lose events."""


class Nodes:
    """The cluster's nodes. Kept small: of a node that offers no GPU nothing is kept."""

    def __init__(self, cluster: Cluster, *, clock: Callable[[], float] = monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._lock = asyncio.Lock()
        self._found: list[Object] | None = None
        self._read_at: float | None = None
        self._known: dict[str, str] = {}

    async def read(self) -> list[Object] | None:
        """Nodes that offer GPUs; None when the operator may not read nodes. Raises ApiError."""
        async with self._lock:
            if self._read_at is None or self._clock() - self._read_at > KEPT:
                started = self._clock()
                try:
                    nodes = await self._cluster.list(kinds.NODE)
                    self._found = [small for node in nodes if (small := _reduced(node)) is not None]
                except ApiError as error:
                    if error.category is not Category.DENIED:
                        raise
                    self._found = None
                self._read_at = started
            return self._found

    def changed(self, event: str | None, node: Mapping[str, Any]) -> bool:
        """Take note of an event; whether what the node offers has changed by it."""
        name = str((node.get("metadata") or {}).get("name"))
        small = _reduced(node)
        digest = None if small is None else content_hash(small)
        if event == "DELETED":
            known = self._known.pop(name, digest)
            digest = None
        else:
            known = self._known.get(name)
            if digest is not None:
                self._known[name] = digest
            else:
                self._known.pop(name, None)
        if known == digest:
            return False
        self._read_at = None
        return True


def _reduced(node: Mapping[str, Any]) -> Object | None:
    """What decides about pools; None for a node that offers nothing but CPUs. Heartbeats and images are left out."""
    metadata, spec, status = node.get("metadata") or {}, node.get("spec") or {}, node.get("status") or {}
    offered = {
        resource: quantity
        for resource, quantity in (status.get("allocatable") or {}).items()
        if "/" in resource and str(quantity) != "0"
    }
    if not offered:
        return None
    return {
        "metadata": {"name": metadata.get("name"), "labels": metadata.get("labels") or {}},
        "spec": {"unschedulable": bool(spec.get("unschedulable")), "taints": spec.get("taints") or []},
        "status": {
            "allocatable": offered,
            "conditions": [
                {"type": each.get("type"), "status": each.get("status")}
                for each in status.get("conditions") or []
                if each.get("type") == "Ready"
            ],
        },
    }
