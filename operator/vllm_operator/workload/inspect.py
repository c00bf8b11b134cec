"""The Job that reads what a model in a volume or a bucket is: the operator's own image, in the model's namespace."""

from typing import Any

from vllm_operator.api.base import Model
from vllm_operator.api.names import CONTAINER, LABEL_MANAGED_BY, MANAGED_BY, Key, child_labels, content_hash
from vllm_operator.api.types import Engine, Scheduling, VLLMModelSpec
from vllm_operator.sizing.plan import RESOURCE_NAMES
from vllm_operator.workload.children import owner_reference
from vllm_operator.workload.shapes import check_shape
from vllm_operator.workload.source import ModelSource

DEADLINE_SECONDS = 600
KEPT_SECONDS = 300
USER = 65532
"""Of the operator's image (Dockerfile)."""
BUCKET_VARIABLES = ("AWS_", "GOOGLE_", "RUNAI_STREAMER_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_")
"""What the names of variables begin with that say how to open a bucket."""
SMALL_VOLUMES = frozenset({"secret", "configMap", "projected"})
"""Kinds of volumes that hold keys and certificates."""

JSONObject = dict[str, Any]


def build_inspect_job(key: Key, uid: str, spec: VLLMModelSpec, source: ModelSource, *, image: str) -> JSONObject:
    """The Job. Its name is another one for another model of the name, and for a Job that would do anything else.

    Its pod carries no label of the model's pods: the Service must not send requests to it.
    """
    pod = _build_pod(spec, source, image=image)
    digest = content_hash({"uid": uid, "pod": pod})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{key.name[:38].rstrip('-')}-inspect-{digest[:10]}",
            "namespace": key.namespace,
            "labels": child_labels(key.name),
            "ownerReferences": [owner_reference(key.name, uid)],
        },
        "spec": {
            "backoffLimit": 1,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {
                "metadata": {"labels": {LABEL_MANAGED_BY: MANAGED_BY, "app.kubernetes.io/component": "inspect"}},
                "spec": pod,
            },
        },
    }


def _build_pod(spec: VLLMModelSpec, source: ModelSource, *, image: str) -> JSONObject:
    scheduling, engine = spec.scheduling or Scheduling(), spec.engine or Engine()
    container: JSONObject = {
        "name": "inspect",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["inspect", source.path],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    # The volume may only be reachable from GPU nodes.
    tolerations: list[JSONObject] = [
        *(_plain(item) for item in scheduling.tolerations or ()),
        *({"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in RESOURCE_NAMES.values()),
    ]
    pod: JSONObject = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "tolerations": tolerations,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if (volume := source.volume()) is not None:
        container["volumeMounts"], pod["volumes"] = [source.mount()], [volume]
    if source.kind == "bucket":
        _give_access(pod, container, spec)
    if engine.image_pull_secrets:
        pod["imagePullSecrets"] = [_plain(item) for item in engine.image_pull_secrets]
    return pod


def _give_access(pod: JSONObject, container: JSONObject, spec: VLLMModelSpec) -> None:
    """Give the pod what vLLM's pod has to open a bucket with: variables, small files with keys, the service account.

    Raises Refusal when podTemplate is not of its shape.
    """
    scheduling, engine = spec.scheduling or Scheduling(), spec.engine or Engine()
    template = (spec.pod_template.spec if spec.pod_template else None) or {}
    check_shape(template)
    own: JSONObject = next((each for each in template.get("containers") or () if each.get("name") == CONTAINER), {})
    variables = {item.name: _plain(item) for item in engine.env or ()}
    variables |= {item["name"]: item for item in own.get("env") or () if "name" in item}
    container["env"] = [item for name, item in variables.items() if name.upper().startswith(BUCKET_VARIABLES)]
    if own.get("envFrom"):
        container["envFrom"] = own["envFrom"]
    volumes = {item["name"]: item for item in template.get("volumes") or () if SMALL_VOLUMES & item.keys()}
    mounts = [item for item in own.get("volumeMounts") or () if item.get("name") in volumes]
    if mounts:
        container["volumeMounts"] = [{**item, "readOnly": True} for item in mounts]
        pod["volumes"] = [volumes[name] for name in dict.fromkeys(item["name"] for item in mounts)]
    account = template.get("serviceAccountName") or scheduling.service_account_name
    if account:
        pod["serviceAccountName"] = account


def _plain(item: Model) -> JSONObject:
    return item.model_dump(by_alias=True, exclude_none=True, mode="json")
