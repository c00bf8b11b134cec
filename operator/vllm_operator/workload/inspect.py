"""The Job that reads what a model in a volume is: the operator's own image, in the model's namespace, with the volume read-only."""

from typing import Any

from vllm_operator.api.names import LABEL_MANAGED_BY, MANAGED_BY, Key, child_labels, content_hash
from vllm_operator.api.types import Engine, Scheduling, VLLMModelSpec
from vllm_operator.sizing.plan import RESOURCE_NAMES
from vllm_operator.workload.children import owner_reference
from vllm_operator.workload.source import ModelSource

DEADLINE_SECONDS = 600
KEPT_SECONDS = 300
USER = 65532
"""Of the operator's image (Dockerfile)."""

JSONObject = dict[str, Any]


def inspect_job_name(key: Key, uid: str, source: ModelSource, *, image: str) -> str:
    """Name of the Job: another one for another model of the name, another path, another operator."""
    digest = content_hash({"uid": uid, "in": source.claim or source.image, "path": source.path, "image": image})
    return f"{key.name[:38].rstrip('-')}-inspect-{digest[:10]}"


def build_inspect_job(key: Key, uid: str, spec: VLLMModelSpec, source: ModelSource, *, image: str) -> JSONObject:
    """The Job. Its pod carries no label of the model's pods: the Service must not send requests to it."""
    scheduling, engine = spec.scheduling or Scheduling(), spec.engine or Engine()
    # The volume may only be reachable from GPU nodes.
    tolerations: list[JSONObject] = [
        *(item.model_dump(by_alias=True, exclude_none=True, mode="json") for item in scheduling.tolerations or ()),
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
        "containers": [
            {
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
                "volumeMounts": [source.mount()],
            }
        ],
        "volumes": [source.volume()],
    }
    if engine.image_pull_secrets:
        pod["imagePullSecrets"] = [
            item.model_dump(by_alias=True, exclude_none=True, mode="json") for item in engine.image_pull_secrets
        ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": inspect_job_name(key, uid, source, image=image),
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
