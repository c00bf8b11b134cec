"""What a real API server makes of the operator's own objects, the in-memory cluster makes of them too.

This is what makes drift comparison on the in-memory cluster an honest test.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workload.bundles import SETTINGS, build_bundle, build_revision
from tests.workload.test_golden import FILES, SETTINGS_BY_FILE
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.kinds import Kind

from .objects import deployment, model, obj, owner, service
from .worlds import MemoryWorld, RealWorld, World, comparable, differences

KINDS = {kind.kind: kind for kind in (*kinds.CHILD_KINDS, kinds.CONTROLLER_REVISION)}


def first_document(path: Path) -> Any:
    """The model of a golden file; its children follow it."""
    return next(iter(yaml.safe_load_all(path.read_text())))


async def both(real: RealWorld, *, steps: list[tuple[Kind, Object]]) -> None:
    """Apply the same to both clusters, step by step, and compare whole objects."""
    worlds: tuple[World, World] = (MemoryWorld(), real)
    for kind, wanted in steps:
        results = []
        for world in worlds:
            applied = copy.deepcopy(wanted)
            applied["metadata"]["namespace"] = world.namespace
            results.append(comparable(await world.cluster.apply(kind, applied)))
        assert differences(results[0], results[1]) == []


async def adopted(world: World, wanted: Object) -> Object:
    """The object, owned by a model that exists, so that the garbage collector leaves it alone."""
    made = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace, "owner"))
    result = copy.deepcopy(wanted)
    result["metadata"]["namespace"] = world.namespace
    result["metadata"]["ownerReferences"] = [
        {**reference, **owner(made)} for reference in result["metadata"]["ownerReferences"]
    ]
    return result


@pytest.mark.cluster
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_the_operators_children(path: Path, real: RealWorld) -> None:
    document = first_document(path)
    settings = SETTINGS_BY_FILE.get(path.stem, SETTINGS)
    children = build_bundle(document["spec"], settings, key=Key("team-a", document["metadata"]["name"]))
    children.append(build_revision(document["spec"]))
    worlds: tuple[World, World] = (MemoryWorld(), real)
    for child in children:
        kind = KINDS[child["kind"]]
        results = []
        for world in worlds:
            wanted = await adopted(world, child)
            if kind == kinds.DEPLOYMENT:
                wanted["spec"]["replicas"] = 0  # No pods: they would only cost time.
            first = await world.cluster.apply(kind, wanted)
            again = await world.cluster.apply(kind, wanted)
            assert again["spec" if "spec" in again else "data"] == first["spec" if "spec" in first else "data"]
            results.append(comparable(first))
        assert differences(results[0], results[1]) == []


FULL_CONTAINER: Object = {
    "image": "registry.example.com:5000/vllm",
    "command": ["vllm", "serve"],
    "args": ["--a", ""],
    "env": [
        {"name": "EMPTY", "value": ""},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": False}}},
        {"name": "FIELD", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "RESOURCE", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
    ],
    "envFrom": [{"secretRef": {"name": "s"}}, {"prefix": "P_", "configMapRef": {"name": "c", "optional": True}}],
    "ports": [{"containerPort": 8000}, {"containerPort": 9000, "protocol": "UDP", "name": "udp"}],
    "resources": {
        "limits": {"cpu": "1500m", "memory": "1024Mi", "nvidia.com/gpu": 2, "ephemeral-storage": "0.5Gi"},
        "requests": {"cpu": 0.5, "memory": "1000000k"},
    },
    "livenessProbe": {"tcpSocket": {"port": 8000}, "initialDelaySeconds": 0},
    "readinessProbe": {"httpGet": {"port": "http"}, "timeoutSeconds": 5},
    "startupProbe": {"grpc": {"port": 1}, "failureThreshold": 100},
    "lifecycle": {"preStop": {"sleep": {"seconds": 5}}, "postStart": {"httpGet": {"path": "/x", "port": 1}}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "volumeMounts": [
        {"name": "shm", "mountPath": "/dev/shm", "readOnly": False},
        {"name": "claim", "mountPath": "/claim", "readOnly": True, "subPath": "x"},
    ],
    "stdin": False,
}
FULL_POD: Object = {
    "serviceAccountName": "runner",
    "hostNetwork": False,
    "nodeSelector": {"a": "b"},
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "automountServiceAccountToken": False,
    "imagePullSecrets": [{"name": "pull"}],
    "securityContext": {"fsGroup": 1000, "runAsNonRoot": True},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "value": ""}],
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "qwen3"}},
        }
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]
            }
        }
    },
    "initContainers": [{"name": "first", "image": "busybox:latest", "resources": {}}],
    "volumes": [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2048Mi"}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "c", "readOnly": False}},
        {"name": "secret", "secret": {"secretName": "s", "items": [{"key": "a", "path": "b"}]}},
        {"name": "config", "configMap": {"name": "c", "optional": True}},
        {"name": "host", "hostPath": {"path": "/x"}},
        {"name": "down", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {
            "name": "mixed",
            "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "c"}}]},
        },
        {
            "name": "own",
            "ephemeral": {
                "volumeClaimTemplate": {
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Gi"}}}
                }
            },
        },
        {"name": "image", "image": {"reference": "models/x:v1"}},
        {"name": "nothing"},
    ],
}


@pytest.mark.cluster
async def test_a_deployment_with_everything(real: RealWorld) -> None:
    full = deployment("", container=FULL_CONTAINER)
    full["spec"]["template"]["spec"].update(copy.deepcopy(FULL_POD))
    full["metadata"].update(labels={}, annotations={"a": ""})
    rolling: Any = copy.deepcopy(full)
    rolling["spec"].update(
        strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}},
        minReadySeconds=0,
        paused=False,
        revisionHistoryLimit=0,
        progressDeadlineSeconds=1200,
    )
    bare = deployment("", container={"image": "vllm/vllm-openai@sha256:" + "0" * 64})
    await both(real, steps=[(kinds.DEPLOYMENT, full), (kinds.DEPLOYMENT, rolling), (kinds.DEPLOYMENT, bare)])


@pytest.mark.cluster
async def test_services(real: RealWorld) -> None:
    await both(
        real,
        steps=[
            (kinds.SERVICE, service("", "plain")),
            (kinds.SERVICE, service("", "headless", clusterIP="None", publishNotReadyAddresses=True)),
            (kinds.SERVICE, service("", "number", ports=[{"port": 80}, {"name": "b", "port": 81}][:1])),
            (kinds.SERVICE, service("", "external", type="ExternalName", externalName="a.example.com", ports=[])),
            (kinds.SERVICE, service("", "plain", ports=[{"name": "http", "port": 8000, "appProtocol": "http"}])),
        ],
    )


@pytest.mark.cluster
async def test_routes_and_budgets(real: RealWorld) -> None:
    backend = {"name": "qwen3", "port": 8000}
    rewrite = {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
    }
    rules = [
        {
            "matches": [{"path": {"value": "/a"}, "headers": [{"name": "x", "value": "y"}]}],
            "filters": [rewrite],
            "backendRefs": [backend],
            "timeouts": {"request": "0s"},
        },
        {"matches": [{"headers": [{"name": "x", "value": "y"}]}], "backendRefs": [backend]},
        {"backendRefs": [{**backend, "weight": 0}]},
    ]
    selector = {"matchLabels": {"a": "b"}}
    await both(
        real,
        steps=[
            (kinds.HTTP_ROUTE, obj(kinds.HTTP_ROUTE, "", "bare", spec={"parentRefs": [{"name": "main"}]})),
            (
                kinds.HTTP_ROUTE,
                obj(kinds.HTTP_ROUTE, "", "full", spec={"hostnames": ["a.example.com"], "rules": rules}),
            ),
            (
                kinds.HTTP_ROUTE,
                obj(kinds.HTTP_ROUTE, "", "full", spec={"parentRefs": [{"name": "b", "namespace": "c"}]}),
            ),
            (
                kinds.POD_DISRUPTION_BUDGET,
                obj(kinds.POD_DISRUPTION_BUDGET, "", "b", spec={"maxUnavailable": 0, "selector": selector}),
            ),
            (
                kinds.POD_DISRUPTION_BUDGET,
                obj(kinds.POD_DISRUPTION_BUDGET, "", "b", spec={"minAvailable": "50%", "selector": selector}),
            ),
            (kinds.NETWORK_POLICY, obj(kinds.NETWORK_POLICY, "", "bare", spec={"podSelector": {}})),
            (
                kinds.NETWORK_POLICY,
                obj(
                    kinds.NETWORK_POLICY,
                    "",
                    "full",
                    spec={
                        "podSelector": selector,
                        "ingress": [
                            {"from": [{"podSelector": {}, "namespaceSelector": selector}], "ports": [{"port": 1}]},
                            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]},
                        ],
                        "egress": [
                            {"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}
                        ],
                    },
                ),
            ),
            (kinds.SECRET, obj(kinds.SECRET, "", "s", stringData={"a": "b"}, data={"c": "ZA=="})),
            (kinds.CONFIG_MAP, obj(kinds.CONFIG_MAP, "", "c", data={"a": ""})),
        ],
    )
