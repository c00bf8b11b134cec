"""The two clusters that one contract holds for, and what tests do to them besides what the operator does.

Memory is vllm_operator.cluster.memory.MemoryCluster; real is KubernetesCluster on a real API server. Both are driven
through the same hands: another field manager, a controller that writes status, namespaces that come and go.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from vllm_operator.api.names import Key
from vllm_operator.cluster.base import Cluster, Object
from vllm_operator.cluster.errors import ApiError
from vllm_operator.cluster.kinds import Kind
from vllm_operator.cluster.kubernetes import KubernetesCluster
from vllm_operator.cluster.memory import MemoryCluster

NAMESPACE = Kind("v1", "Namespace", "namespaces")
HOLD = "vllm-operator.io/contract-test"
"""Finalizer that keeps a namespace Terminating."""


class World(Protocol):
    """A cluster, a namespace of the test's own in it, and other people's hands."""

    name: str
    namespace: str

    @property
    def cluster(self) -> Cluster:
        """The cluster, as the operator has it."""
        ...

    async def edit(self, kind: Kind, key: Key, mutate: Callable[[Object], object], *, manager: str = ...) -> Object:
        """Change an object by hand."""
        ...

    async def apply_as(self, kind: Kind, obj: Object, manager: str, *, force: bool = ...) -> Object:
        """Server-side apply by somebody else."""
        ...

    async def set_status(self, kind: Kind, key: Key, status: Object) -> Object:
        """Write a status as a controller does."""
        ...

    async def terminating_namespace(self) -> str:
        """A namespace that stays Terminating to the end of the test."""
        ...


class MemoryWorld:
    """The in-memory cluster."""

    name = "memory"

    def __init__(self) -> None:
        self.namespace = "contract"
        self.cluster = MemoryCluster(namespaces=(self.namespace,))

    async def edit(
        self, kind: Kind, key: Key, mutate: Callable[[Object], object], *, manager: str = "kubectl"
    ) -> Object:
        return self.cluster.edit(kind, key, mutate, manager=manager)

    async def apply_as(self, kind: Kind, obj: Object, manager: str, *, force: bool = True) -> Object:
        return self.cluster.apply_as(kind, obj, manager, force=force)

    async def set_status(self, kind: Kind, key: Key, status: Object) -> Object:
        return self.cluster.set_status(kind, key, status)

    async def terminating_namespace(self) -> str:
        self.cluster.add_namespace("going")
        self.cluster.terminate_namespace("going")
        return "going"

    async def close(self) -> None:
        return None


class RealWorld:
    """A real API server. Each world has a namespace of its own and removes it."""

    name = "real"

    def __init__(self, cluster: KubernetesCluster) -> None:
        self.cluster = cluster
        self.namespace = ""
        self._namespaces: list[str] = []

    async def open(self) -> "RealWorld":
        """Make the world's namespace."""
        self.namespace = await self._new_namespace()
        return self

    async def close(self) -> None:
        """Remove the world's namespaces, and what holds them."""
        for namespace in self._namespaces:
            held = Kind("v1", "ConfigMap", "configmaps")
            for obj in await self.cluster.list(held, namespace=namespace):
                if obj["metadata"].get("finalizers"):
                    await self.send(
                        "PATCH",
                        held.path(namespace, obj["metadata"]["name"]),
                        {"metadata": {"finalizers": None}},
                        content_type="application/merge-patch+json",
                    )
            await self.send("DELETE", f"/api/v1/namespaces/{namespace}")

    async def send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Object:
        """Send any request, as nobody in particular."""
        answer: Object = await self.cluster._request(
            method, NAMESPACE, path, query=query, body=body, content_type=content_type
        )
        return answer

    async def _new_namespace(self) -> str:
        name = f"cluster-contract-{uuid.uuid4().hex[:10]}"
        await self.send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self._namespaces.append(name)
        return name

    async def edit(
        self, kind: Kind, key: Key, mutate: Callable[[Object], object], *, manager: str = "kubectl"
    ) -> Object:
        async def once() -> Object | None:
            path = kind.path(key.namespace, key.name)
            obj = await self.send("GET", path)
            mutate(obj)
            try:
                return await self.send("PUT", path, obj, fieldManager=manager)
            except ApiError as error:
                if error.status == 409:  # A controller wrote in between, as it may.
                    return None
                raise

        edited: Object = await eventually("an edit without a conflict", once)
        return edited

    async def apply_as(self, kind: Kind, obj: Object, manager: str, *, force: bool = True) -> Object:
        return await self.send(
            "PATCH",
            kind.path(obj["metadata"]["namespace"], obj["metadata"]["name"]),
            obj,
            content_type="application/apply-patch+yaml",
            fieldManager=manager,
            force=str(force).lower(),
        )

    async def set_status(self, kind: Kind, key: Key, status: Object) -> Object:
        path = kind.path(key.namespace, key.name)
        obj = await self.send("GET", path)
        return await self.send("PUT", f"{path}/status", {**obj, "status": status}, fieldManager="controller")

    async def terminating_namespace(self) -> str:
        name = await self._new_namespace()
        await self.send(
            "POST",
            f"/api/v1/namespaces/{name}/configmaps",
            {"metadata": {"name": "holds", "finalizers": [HOLD]}},
        )
        await self.send("DELETE", f"/api/v1/namespaces/{name}")

        async def terminating() -> bool:
            found = await self.send("GET", f"/api/v1/namespaces/{name}")
            return bool(found["status"]["phase"] == "Terminating")

        await eventually("the namespace to be Terminating", terminating)
        return name


async def eventually(what: str, look: Callable[[], Awaitable[Any]], *, within: float = 30.0) -> Any:
    """Look until there is something to see, and return it; AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {within} s in vain for {what}"
        await asyncio.sleep(0.02)


def comparable(obj: Object) -> Object:
    """An object without what differs between any two clusters: identities, times, addresses, controllers' doings."""
    metadata = {
        name: value
        for name, value in obj["metadata"].items()
        if name not in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "namespace", "generation")
    }
    if "ownerReferences" in metadata:
        metadata["ownerReferences"] = [{**one, "uid": "…"} for one in metadata["ownerReferences"]]
    annotations = {
        name: value
        for name, value in metadata.pop("annotations", {}).items()
        if name != "deployment.kubernetes.io/revision"
    }
    result = {**obj, "metadata": {**metadata, **({"annotations": annotations} if annotations else {})}}
    if obj["kind"] in ("Deployment", "PodDisruptionBudget"):
        result.pop("status", None)
    if obj["kind"] == "Service":
        spec = {**obj["spec"]}
        if spec.get("clusterIP") not in (None, "None"):
            spec |= {"clusterIP": "…", "clusterIPs": ["…"]}
        result["spec"] = spec
    return result


def differences(memory: Any, real: Any, path: str = "") -> list[str]:
    """Where two objects differ, one line each."""
    if isinstance(memory, dict) and isinstance(real, dict):
        return [
            line
            for name in sorted(memory.keys() | real.keys())
            for line in differences(memory.get(name, "(none)"), real.get(name, "(none)"), f"{path}.{name}")
        ]
    if isinstance(memory, list) and isinstance(real, list) and len(memory) == len(real):
        return [
            line
            for number, (one, other) in enumerate(zip(memory, real, strict=True))
            for line in differences(one, other, f"{path}[{number}]")
        ]
    return [] if memory == real else [f"{path}: in memory {memory!r}, in reality {real!r}"]
