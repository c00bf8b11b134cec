"""Secrets and ConfigMaps that a pod template reads: their content is an input of the model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, order=True)
class Reference:
    """A Secret or ConfigMap in the model's namespace, or one key of it."""

    kind: Literal["Secret", "ConfigMap"]
    name: str
    key: str | None
    """None: all of its data."""
    optional: bool
    """True: the pod starts without it."""


def pod_references(pod_template: Mapping[str, Any]) -> frozenset[Reference]:
    """What a pod template reads. imagePullSecrets are left out: the kubelet reads them, the model does not change by them."""
    spec = pod_template.get("spec") or {}
    found: set[Reference] = set()
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            found.update(_of_container(container))
    for volume in spec.get("volumes") or ():
        found.update(_of_source(volume, secret_name="secretName"))
        projected = volume.get("projected") or {}
        for source in projected.get("sources") or ():
            found.update(_of_source(source, secret_name="name"))
    return frozenset(found)


def _of_container(container: Mapping[str, Any]) -> Iterator[Reference]:
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        if selector := source.get("secretKeyRef"):
            yield Reference("Secret", selector.get("name", ""), selector.get("key"), bool(selector.get("optional")))
        if selector := source.get("configMapKeyRef"):
            yield Reference("ConfigMap", selector.get("name", ""), selector.get("key"), bool(selector.get("optional")))
    for source in container.get("envFrom") or ():
        if selector := source.get("secretRef"):
            yield Reference("Secret", selector.get("name", ""), None, bool(selector.get("optional")))
        if selector := source.get("configMapRef"):
            yield Reference("ConfigMap", selector.get("name", ""), None, bool(selector.get("optional")))


def _of_source(source: Mapping[str, Any], *, secret_name: str) -> Iterator[Reference]:
    """Of a volume, or of one source of a projected volume; the two name a Secret differently."""
    if secret := source.get("secret"):
        yield from _of_items("Secret", secret.get(secret_name, ""), secret)
    if config_map := source.get("configMap"):
        yield from _of_items("ConfigMap", config_map.get("name", ""), config_map)


def _of_items(kind: Literal["Secret", "ConfigMap"], name: str, source: Mapping[str, Any]) -> Iterator[Reference]:
    optional = bool(source.get("optional"))
    items = source.get("items")
    if not items:
        yield Reference(kind, name, None, optional)
        return
    for item in items:
        yield Reference(kind, name, item.get("key"), optional)
