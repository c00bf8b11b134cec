"""Revisions pin decisions: what was decided for a spec is kept in a ControllerRevision owned by the model.

The same inputs give the same revision, so a new operator version, with other defaults, changes no pod; and drift repair
knows what to put back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_operator.api.names import ANNOTATION_INPUTS, content_hash
from vllm_operator.cluster.base import Object


@dataclass(frozen=True)
class Pinned:
    """What a revision keeps."""

    name: str
    number: int
    inputs_hash: str
    data: Mapping[str, Any]
    uid: str | None = None
    """Of the object; None when it was just made."""

    @property
    def deployment(self) -> Object:
        """The Deployment, without replicas."""
        return dict(self.data["deployment"])

    @property
    def template_hash(self) -> str:
        """Hash of its pod template."""
        return str(self.data["templateHash"])


def inputs_hash(name: str, spec_inputs: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    """Hash of all that decides about the pods: the spec and the contents that it refers to."""
    return content_hash({"name": name, "spec": spec_inputs, "references": digests}, length=32)


def read_revisions(objects: Sequence[Object], *, uid: str) -> list[Pinned]:
    """A model's revisions, oldest first; those of an earlier model of the same name do not count."""
    mine = [
        Pinned(
            name=obj["metadata"]["name"],
            number=int(obj["revision"]),
            inputs_hash=(obj["metadata"].get("annotations") or {}).get(ANNOTATION_INPUTS, ""),
            data=obj.get("data") or {},
            uid=obj["metadata"]["uid"],
        )
        for obj in objects
        if is_owned(obj, uid) and "deletionTimestamp" not in obj["metadata"] and "deployment" in (obj.get("data") or {})
    ]
    return sorted(mine, key=lambda pinned: (pinned.number, pinned.name))


def find(revisions: Sequence[Pinned], wanted: str) -> Pinned | None:
    """The revision for these inputs."""
    return next((pinned for pinned in reversed(revisions) if pinned.inputs_hash == wanted), None)


def next_number(revisions: Sequence[Pinned]) -> int:
    """Number of the next revision."""
    return max((pinned.number for pinned in revisions), default=0) + 1


def superfluous(revisions: Sequence[Pinned], *, current: str, limit: int) -> list[Pinned]:
    """The oldest revisions beyond `limit`, never the current one."""
    old = [pinned for pinned in revisions if pinned.name != current]
    return old[: max(0, len(old) - limit)]


def is_owned(obj: Object, uid: str) -> bool:
    """Whether the object's controller is the model with this uid."""
    return any(
        owner.get("uid") == uid and owner.get("controller") for owner in obj["metadata"].get("ownerReferences") or []
    )
