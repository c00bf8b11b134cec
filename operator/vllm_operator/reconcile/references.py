"""Reading what a model refers to. Contents are turned into digests at once: they go into the hash, never into logs, events
or status.
"""

import asyncio
import hashlib
import json
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Cluster, Object
from vllm_operator.workload.references import Reference


@dataclass(frozen=True)
class LoadedReferences:
    """What was found."""

    digests: dict[str, str] = field(default_factory=dict)
    """`Secret/name/key` (or `Secret/name` for all of it) → digest of the content."""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict, repr=False)
    """(kind, name) → object. Never shown."""

    def secret_value(self, name: str, key: str) -> str | None:
        """A value of a Secret that was loaded, decoded."""
        secret = self.objects.get(("Secret", name))
        encoded = (secret or {}).get("data", {}).get(key)
        return None if encoded is None else b64decode(encoded).decode(errors="replace").strip()

    def config_map_value(self, name: str, key: str) -> str | None:
        """A value of a ConfigMap that was loaded."""
        config_map = self.objects.get(("ConfigMap", name)) or {}
        if key in config_map.get("binaryData", {}):
            return b64decode(config_map["binaryData"][key]).decode(errors="replace")
        value = config_map.get("data", {}).get(key)
        return None if value is None else str(value)


async def load_references(cluster: Cluster, namespace: str, references: Iterable[Reference]) -> LoadedReferences:
    """Read every Secret and ConfigMap once.

    Raises Refusal (ReferenceNotFound), naming all that is missing, and ApiError when the API server fails.
    """
    wanted = sorted(references, key=lambda reference: (reference.kind, reference.name, reference.key or ""))
    names = sorted({(reference.kind, reference.name) for reference in wanted})
    found = await asyncio.gather(*(_get(cluster, kind, Key(namespace, name)) for kind, name in names))
    objects: dict[tuple[str, str], Object] = {
        name: obj for name, obj in zip(names, found, strict=True) if obj is not None
    }
    digests: dict[str, str] = {}
    missing: list[str] = []
    for reference in wanted:
        obj = objects.get((reference.kind, reference.name))
        label = f"{reference.kind}/{reference.name}" + (f"/{reference.key}" if reference.key else "")
        data = {**(obj or {}).get("binaryData", {}), **(obj or {}).get("data", {})}
        if obj is None and not reference.optional:
            missing.append(f'{reference.kind} "{reference.name}" does not exist in namespace "{namespace}"')
        elif obj is not None and reference.key is not None and reference.key not in data and not reference.optional:
            missing.append(f'{reference.kind} "{reference.name}" has no key "{reference.key}"')
        content = data if reference.key is None else data.get(reference.key)
        digests[label] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    if missing:
        raise Refusal(Reason.REFERENCE_NOT_FOUND, "; ".join(sorted(set(missing))))
    return LoadedReferences(digests, objects)


async def _get(cluster: Cluster, kind: str, key: Key) -> Object | None:
    return await cluster.get({"Secret": kinds.SECRET, "ConfigMap": kinds.CONFIG_MAP}[kind], key)
