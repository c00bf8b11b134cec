"""Objects that the contract suite writes."""

from typing import Any

from vllm_operator.api.types import API_VERSION, KIND
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.kinds import Kind


def obj(kind: Kind, namespace: str, name: str, **rest: Any) -> Object:
    """An object of any kind; `labels`, `annotations`, `ownerReferences` and `finalizers` go into its metadata."""
    metadata: Object = {"name": name, "namespace": namespace}
    for part in ("labels", "annotations", "ownerReferences", "finalizers", "uid", "resourceVersion"):
        if part in rest:
            metadata[part] = rest.pop(part)
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **rest}


def model(namespace: str, name: str = "qwen3", *, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    """A VLLMModel."""
    metadata: Object = {"name": name, "namespace": namespace, **({"labels": labels} if labels else {})}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"model": "Qwen/Qwen3-8B", **spec}}


def status(namespace: str, name: str = "qwen3", **fields: Any) -> Object:
    """A VLLMModel's status, as it is applied."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "status": fields,
    }


def condition(type_: str = "Ready", value: str = "True", reason: str = "Serving") -> Object:
    """One condition."""
    return {
        "type": type_, "status": value, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def deployment(namespace: str, name: str = "qwen3", *, container: Object | None = None, **spec: Any) -> Object:
    """A Deployment without replicas, so that no controller makes pods."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "vllm", "image": "vllm/vllm-openai:v0.11.0", **(container or {})}]},
            },
            **spec,
        },
    }


def service(namespace: str, name: str = "qwen3", **spec: Any) -> Object:
    """A Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 8000, "targetPort": "http"}], **spec},
    }


def first_container(deployment: Object) -> Object:
    """The Deployment's first container."""
    found: Object = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def owner(of: Object) -> Object:
    """A reference to an owner."""
    return {
        "apiVersion": of["apiVersion"],
        "kind": of["kind"],
        "name": of["metadata"]["name"],
        "uid": of["metadata"]["uid"],
    }
