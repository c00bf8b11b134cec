"""Builders of a model's children, but for the pod template."""

import copy
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from vllm_operator.api.names import (
    ANNOTATION_INPUTS,
    ANNOTATION_REFERENCES,
    ENGINE_KEY,
    LABEL_ENGINE_KEY,
    PORT,
    PORT_NAME,
    Key,
    child_labels,
    engine_key_secret,
    selector_labels,
)
from vllm_operator.api.types import API_VERSION, KIND, Rollout, Route, VLLMModelSpec
from vllm_operator.workload.names import by_gateway_alone, served_model_names, service_url
from vllm_operator.workload.pods import startup_seconds
from vllm_operator.workload.references import pod_references
from vllm_operator.workload.settings import BuildSettings

__all__ = [
    "build_controller_revision",
    "build_deployment",
    "build_engine_key",
    "build_http_route",
    "build_network_policy",
    "build_pod_disruption_budget",
    "build_service",
    "owner_reference",
    "revision_inputs",
    "served_model_names",
    "service_url",
    "sizing_inputs",
]

DEFAULT_REVISION_HISTORY_LIMIT = 10
_MAX_INT32 = 2**31 - 1

JSONObject = dict[str, Any]


def owner_reference(name: str, uid: str) -> JSONObject:
    """The reference by which a child goes when its model goes."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": name,
        "uid": uid,
        "controller": True,
    }


def revision_inputs(spec: VLLMModelSpec, *, adapters: Any = None) -> JSONObject:
    """The part of a spec that decides what the pods are: how many there are and how they are reached is no part of it.

    `adapters`: what stands for spec.adapters, since the pods are the same whichever these are; None: they themselves.
    """
    document: JSONObject = spec.model_dump(by_alias=True, exclude_none=True, mode="json")
    for field in ("replicas", "suspend", "autoscaling", "route"):
        document.pop(field, None)
    if adapters is not None:
        document["adapters"] = adapters
    # Who may ask is the gateway's business, and the pods' only by the key that vLLM asks for.
    key = document.pop("auth", {}).get("apiKeySecretRef")
    return {**document, "auth": {"apiKeySecretRef": key}} if key else document


SIZING_FIELDS = (
    "model",
    "hub",
    "modelFacts",
    "engine",
    "accelerator",
    "parallelism",
    "scheduling",
    "resources",
    "podTemplate",
)


def sizing_inputs(spec: VLLMModelSpec) -> JSONObject:
    """The part of a spec that decides about GPUs and context. An edit of the rest, or of a Secret, moves no model to other GPUs."""
    return {field: value for field, value in revision_inputs(spec).items() if field in SIZING_FIELDS}


def build_deployment(
    key: Key, uid: str, spec: VLLMModelSpec, *, template: Mapping[str, Any], references_hash: str
) -> JSONObject:
    """The Deployment, without spec.replicas: who sets that depends on what scales the model.

    `references_hash` is the hash of the content of what the template refers to; a changed content rolls out by it.
    """
    rollout = spec.rollout or Rollout()
    pod: JSONObject = copy.deepcopy(dict(template))
    if pod_references(template):
        pod["metadata"].setdefault("annotations", {})[ANNOTATION_REFERENCES] = references_hash
    min_ready = rollout.min_ready_seconds or 0
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(key, uid),
        "spec": {
            "selector": {"matchLabels": selector_labels(key.name)},
            "strategy": _strategy(rollout),
            # the API server leaves a 0 out
            **({"minReadySeconds": min_ready} if min_ready else {}),
            "revisionHistoryLimit": rollout.revision_history_limit or DEFAULT_REVISION_HISTORY_LIMIT,
            # pulling and scheduling come before the budget begins
            "progressDeadlineSeconds": min(int(startup_seconds(spec)) + 300 + min_ready, _MAX_INT32),
            "template": pod,
        },
    }


def _strategy(rollout: Rollout) -> JSONObject:
    """The Deployment's strategy. Auto begins as Surge; yielding an old pod is done by whoever sees that none fits."""
    if rollout.strategy == "Recreate":
        return {"type": "Recreate"}
    surge = 1 if rollout.max_surge is None else rollout.max_surge
    unavailable = rollout.max_unavailable
    if unavailable is None:
        # both 0 is refused by the API server: without a pod more, it must be a pod less
        unavailable = 1 if surge in (0, "0%") else 0
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}


def build_service(key: Key, uid: str) -> JSONObject:
    """The Service: one stable address for a model's ready pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(key, uid),
        "spec": {
            "type": "ClusterIP",
            "selector": selector_labels(key.name),
            "ports": [
                {"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME, "protocol": "TCP", "appProtocol": "http"}
            ],
        },
    }


def build_engine_key(key: Key, uid: str, value: str) -> JSONObject:
    """The Secret with the key that the model's vLLM asks for."""
    metadata = _metadata(key, uid)
    metadata |= {
        "name": engine_key_secret(key.name),
        "labels": {**metadata["labels"], LABEL_ENGINE_KEY: "true"},
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {ENGINE_KEY: b64encode(value.encode()).decode()},
    }


def build_pod_disruption_budget(key: Key, uid: str, *, replicas: int) -> JSONObject | None:
    """The PodDisruptionBudget, or None where it could only forbid every drain: with one replica or none."""
    if replicas <= 1:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(key, uid),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector_labels(key.name)},
            # a pod that does not serve must not keep a node from being drained
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def build_network_policy(key: Key, uid: str, spec: VLLMModelSpec, settings: BuildSettings) -> JSONObject | None:
    """The NetworkPolicy by which only the gateway and those that the settings name reach the pods; None where others are to, too.

    vLLM asks for its key under some paths only: /tokenize, /pooling, /invocations and others answer everybody who reaches it.
    """
    if not settings.model_network_policy_from or not by_gateway_alone(spec, settings):
        return None
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(key, uid),
        "spec": {
            "podSelector": {"matchLabels": selector_labels(key.name)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [peer.as_json() for peer in settings.model_network_policy_from]}],
        },
    }


def build_http_route(key: Key, uid: str, spec: VLLMModelSpec, settings: BuildSettings) -> JSONObject | None:
    """The HTTPRoute, or None when it is switched off or there is no gateway to attach to."""
    route = spec.route or Route()
    if route.enabled is False:
        return None
    if route.parent_refs:
        parents = [parent.model_dump(by_alias=True, exclude_none=True, mode="json") for parent in route.parent_refs]
    elif settings.default_gateway is not None and not settings.gateway_url:
        gateway = settings.default_gateway
        parents = [{"namespace": gateway.namespace, "name": gateway.name}]
        if gateway.section is not None:
            parents[0]["sectionName"] = gateway.section
    else:
        return None
    prefix = route.path_prefix or f"/{key.namespace}/{key.name}"
    rule: JSONObject = {"matches": [{"path": {"type": "PathPrefix", "value": prefix}}]}
    if prefix != "/":
        rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}
        rule["filters"] = [{"type": "URLRewrite", "urlRewrite": rewrite}]
    rule["backendRefs"] = [{"name": key.name, "port": PORT}]
    if route.timeouts is not None:
        timeouts = route.timeouts.model_dump(by_alias=True, exclude_none=True, mode="json")
        if timeouts:
            rule["timeouts"] = timeouts
    document: JSONObject = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _metadata(key, uid),
        "spec": {"parentRefs": parents, "rules": [rule]},
    }
    if route.hostnames:
        document["spec"]["hostnames"] = list(route.hostnames)
    return document


def build_controller_revision(
    key: Key, uid: str, *, name: str, inputs_hash: str, revision: int, data: Mapping[str, Any]
) -> JSONObject:
    """The ControllerRevision that keeps what was decided for these inputs. Its data is immutable to the API server."""
    metadata = _metadata(key, uid)
    metadata["name"] = name
    metadata["annotations"] = {ANNOTATION_INPUTS: inputs_hash}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata,
        "revision": revision,
        "data": copy.deepcopy(dict(data)),
    }


def _metadata(key: Key, uid: str) -> JSONObject:
    return {
        "name": key.name,
        "namespace": key.namespace,
        "labels": child_labels(key.name),
        "ownerReferences": [owner_reference(key.name, uid)],
    }
