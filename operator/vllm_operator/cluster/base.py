"""What the operator asks of an API server; held by the real client and by the in-memory twin to one contract suite."""

from collections.abc import Mapping
from typing import Any, Protocol

from vllm_operator.api.names import Key
from vllm_operator.cluster.kinds import Kind

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


class Cluster(Protocol):
    """An API server. Every call raises ApiError when it fails."""

    async def get(self, kind: Kind, key: Key) -> Object | None:
        """The object as it is now (a quorum read), or None when there is none."""
        ...

    async def list(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """All objects of the kind with these labels; in all namespaces when namespace is None."""
        ...

    async def apply(self, kind: Kind, obj: Object) -> Object:
        """Server-side apply as the operator's field manager, with force; returns the object as it is then.

        Fields that the operator applied before and that `obj` lacks are removed.
        """
        ...

    async def apply_status(self, kind: Kind, obj: Object) -> Object:
        """Server-side apply to the status subresource. The object must exist: NOT_FOUND otherwise."""
        ...

    async def create(self, kind: Kind, obj: Object) -> Object:
        """Make an object; CONFLICT (reason AlreadyExists) when it exists."""
        ...

    async def replace(self, kind: Kind, obj: Object) -> Object:
        """Write an object; CONFLICT when its metadata.resourceVersion is not the newest."""
        ...

    async def overwrite(self, kind: Kind, obj: Object) -> Object:
        """Make the spec of an object that exists exactly this, and own it as by apply.

        Takes away what others have put there, which apply cannot: a field that excludes one of ours, or an element of a list
        whose key somebody has changed.
        """
        ...

    async def delete(self, kind: Kind, key: Key, *, uid: str | None = None) -> bool:
        """Delete an object and, in the background, what it owns; False when it is gone already.

        With `uid` only that very object is deleted: CONFLICT when another one has its name now.
        """
        ...

    async def read_log(self, pod: Key, container: str, *, most: int) -> str:
        """The first `most` bytes of what a container has written since it was started last. NOT_FOUND when there is no such pod."""
        ...


def key_of(obj: Object) -> Key:
    """Namespace and name of an object."""
    metadata = obj["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])
