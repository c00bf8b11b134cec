"""The pod template."""

import dataclasses
from typing import Any

import pytest

from tests.workload.bundles import SETTINGS, container, pod, pod_template
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.sizing.cpu import NODE_AFFINITY
from vllm_operator.workload.pods import escape_expansion

MODEL = {"model": "Qwen/Qwen3-8B"}


def environment(spec: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container(spec)["env"]}


def test_restricted_pod_security_standard_when_a_user_is_set() -> None:
    settings = dataclasses.replace(SETTINGS, run_as_user=2000)
    security = pod(MODEL, settings)["securityContext"]
    assert security == {
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsNonRoot": True,
        "runAsUser": 2000,
        "runAsGroup": 2000,
        "fsGroup": 2000,
        "fsGroupChangePolicy": "OnRootMismatch",
    }
    variables = {variable["name"]: variable.get("value") for variable in container(MODEL, settings)["env"]}
    assert (variables["HOME"], variables["USER"]) == ("/var/cache/vllm", "vllm")


def test_all_but_the_user_is_restricted_by_default() -> None:
    assert pod(MODEL)["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert container(MODEL)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(MODEL)["automountServiceAccountToken"] is False
    assert pod(MODEL)["enableServiceLinks"] is False


def test_secrets_reach_vllm_by_reference_only() -> None:
    spec = {
        **MODEL,
        "hub": {"tokenSecretRef": {"name": "hub", "key": "token"}, "endpoint": "https://mirror"},
        "auth": {"apiKeySecretRef": {"name": "keys", "key": "k"}},
    }
    variables = environment(spec)
    assert variables["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert variables["VLLM_API_KEY"] == {"secretKeyRef": {"name": "keys", "key": "k"}}
    assert variables["HF_ENDPOINT"] == "https://mirror"
    assert not {"token", "keys", "hub"} & set(container(spec)["command"])


def test_the_users_variables_win_and_keep_their_order() -> None:
    given = [{"name": "Z", "value": "1"}, {"name": "HF_HOME", "value": "/x"}, {"name": "A", "value": "$(Z)"}]
    names = [variable["name"] for variable in container({**MODEL, "engine": {"env": given}})["env"]]
    assert names == ["HF_HOME", "VLLM_CACHE_ROOT", "VLLM_NO_USAGE_STATS", "Z", "A"]
    assert environment({**MODEL, "engine": {"env": given}})["HF_HOME"] == "/x"


def test_an_empty_value_is_left_out_as_the_api_server_does() -> None:
    assert {"name": "A"} in container({**MODEL, "engine": {"env": [{"name": "A", "value": ""}]}})["env"]


@pytest.mark.parametrize(
    ("budget", "attempts"), [(None, 360), ("1m", 12), ("61s", 13), ("1h30m", 1080), ("24h", 17280)]
)
def test_startup_budget(budget: str | None, attempts: int) -> None:
    spec = {**MODEL, **({"startup": {"budget": budget}} if budget else {})}
    probe = container(spec)["startupProbe"]
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (5, attempts)


@pytest.mark.parametrize(
    ("rollout", "sleep", "grace"),
    [
        ({}, 15, 120),
        ({"drainSeconds": 0}, None, 120),
        ({"drainSeconds": 60, "terminationGracePeriodSeconds": 300}, 60, 300),
        ({"terminationGracePeriodSeconds": 16}, 15, 16),
        ({"terminationGracePeriodSeconds": 10}, 5, 10),
        ({"terminationGracePeriodSeconds": 1}, None, 1),
    ],
)
def test_termination(rollout: dict[str, Any], sleep: int | None, grace: int) -> None:
    spec = {**MODEL, "rollout": rollout}
    lifecycle = None if sleep is None else {"preStop": {"sleep": {"seconds": sleep}}}
    assert container(spec).get("lifecycle") == lifecycle
    assert pod(spec)["terminationGracePeriodSeconds"] == grace


@pytest.mark.parametrize(
    ("spec", "resources"),
    [
        ({}, {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}),
        ({"accelerator": {"type": "cpu"}}, None),
        (
            {
                "accelerator": {"type": "cpu"},
                "resources": {"requests": {"cpu": "2000m"}, "limits": {"memory": "2048Mi"}},
            },
            {"requests": {"cpu": "2"}, "limits": {"memory": "2Gi"}},
        ),
        (
            {"accelerator": {"count": 8}, "resources": {"limits": {"nvidia.com/gpu": 8, "memory": 2**30}}},
            {
                "requests": {"nvidia.com/gpu": "8"},
                "limits": {"nvidia.com/gpu": "8", "memory": "1073741824"},
            },
        ),
        (
            {"accelerator": {"resourceName": "nvidia.com/mig-1g.10gb"}},
            {"requests": {"nvidia.com/mig-1g.10gb": "1"}, "limits": {"nvidia.com/mig-1g.10gb": "1"}},
        ),
    ],
)
def test_resources(spec: dict[str, Any], resources: dict[str, Any] | None) -> None:
    assert container({**MODEL, **spec}).get("resources") == resources


@pytest.mark.parametrize(
    ("accelerator", "keys"),
    [
        ({}, ["nvidia.com/gpu"]),
        ({"type": "amd"}, ["amd.com/gpu"]),
        ({"resourceName": "nvidia.com/mig-1g.10gb"}, ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"]),
        ({"type": "cpu"}, []),
    ],
)
def test_tolerations(accelerator: dict[str, Any], keys: list[str]) -> None:
    spec = {**MODEL, "accelerator": accelerator}
    wanted = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]
    assert pod(spec).get("tolerations", []) == wanted
    own = {"key": "team", "operator": "Exists"}
    assert pod({**spec, "scheduling": {"tolerations": [own]}})["tolerations"] == [own, *wanted]
    if wanted:
        assert pod({**spec, "scheduling": {"tolerations": [wanted[0]]}})["tolerations"] == wanted


def test_node_selectors_are_joined() -> None:
    spec = {**MODEL, "accelerator": {"product": "NVIDIA-L4"}, "scheduling": {"nodeSelector": {"zone": "a"}}}
    assert pod(spec)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4", "zone": "a"}


def test_spread_constraints_count_the_models_own_pods() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    (built,) = pod({**MODEL, "scheduling": {"topologySpreadConstraints": [constraint]}})["topologySpreadConstraints"]
    assert built["labelSelector"] == {
        "matchLabels": {"app.kubernetes.io/managed-by": "vllm-operator", "vllm-operator.io/model": "qwen3-8b"}
    }
    own = {**constraint, "labelSelector": {"matchLabels": {"a": "b"}}}
    (built,) = pod({**MODEL, "scheduling": {"topologySpreadConstraints": [own]}})["topologySpreadConstraints"]
    assert built["labelSelector"] == {"matchLabels": {"a": "b"}}


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        (None, {"emptyDir": {}}),
        ({"emptyDir": {"sizeLimit": "1024Gi", "medium": ""}}, {"emptyDir": {"sizeLimit": "1Ti"}}),
        ({"emptyDir": {"medium": "Memory"}}, {"emptyDir": {"medium": "Memory"}}),
        ({"hostPath": {"path": "/c"}}, {"hostPath": {"path": "/c", "type": "DirectoryOrCreate"}}),
        ({"hostPath": {"path": "/c", "type": ""}}, {"hostPath": {"path": "/c", "type": ""}}),
        ({"persistentVolumeClaim": {"claimName": "c"}}, {"persistentVolumeClaim": {"claimName": "c"}}),
    ],
)
def test_cache(cache: dict[str, Any] | None, volume: dict[str, Any]) -> None:
    spec = {**MODEL, **({"cache": cache} if cache is not None else {})}
    assert pod(spec)["volumes"][0] == {"name": "cache", **volume}


@pytest.mark.parametrize(
    ("word", "escaped"),
    [
        ("$(HF_TOKEN)", "$$(HF_TOKEN)"),
        ("$HOME", "$HOME"),
        ("a$$b", "a$$$$b"),
        ("$$(X)", "$$$$(X)"),
        ("$", "$"),
        ("$ (X)", "$ (X)"),
    ],
)
def test_the_kubelet_expands_nothing_in_the_command(word: str, escaped: str) -> None:
    assert escape_expansion(word) == escaped
    assert expand(escaped) == word
    assert escaped in container({**MODEL, "engine": {"args": {"response-role": word}}})["command"]


def expand(text: str) -> str:
    """What the kubelet does, with every variable set to `!`."""
    result, index = "", 0
    while index < len(text):
        if text[index] == "$" and index + 1 < len(text):
            if text[index + 1] == "$":
                result, index = result + "$", index + 2
                continue
            end = text.find(")", index)
            if text[index + 1] == "(" and end > 0:
                result, index = result + "!", end + 1
                continue
        result, index = result + text[index], index + 1
    return result


REFUSED: list[tuple[dict[str, Any], Reason, str]] = [
    (
        {"accelerator": {"product": "NVIDIA-L4"}, "scheduling": {"nodeSelector": {"nvidia.com/gpu.product": "A"}}},
        Reason.INVALID_SPEC,
        "spec.scheduling.nodeSelector nvidia.com/gpu.product",
    ),
    (
        {"resources": {"limits": {"nvidia.com/gpu": 2}}},
        Reason.INVALID_SPEC,
        "spec.resources.limits.nvidia.com/gpu is 2",
    ),
    ({"resources": {"limits": {"memory": "1GB"}}}, Reason.INVALID_SPEC, "spec.resources.limits.memory is '1GB'"),
    (
        {"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}}},
        Reason.INVALID_SPEC,
        "spec.resources.requests.cpu is 1500m",
    ),
    ({"sharedMemory": {"sizeLimit": "x"}}, Reason.INVALID_SPEC, "spec.sharedMemory.sizeLimit"),
    ({"cache": {"emptyDir": {"sizeLimit": ""}}}, Reason.INVALID_SPEC, "spec.cache.emptyDir.sizeLimit"),
    ({"cache": {"emptyDir": {}, "hostPath": {"path": "/x"}}}, Reason.INVALID_SPEC, "spec.cache has 2"),
    (
        {"cache": {"persistentVolumeClaim": {"claimName": "c", "subPath": "a/../.."}}},
        Reason.INVALID_SPEC,
        "spec.cache.persistentVolumeClaim.subPath",
    ),
    ({"startup": {"budget": "5s"}}, Reason.INVALID_SPEC, "spec.startup.budget is 5s"),
    ({"rollout": {"drainSeconds": 200}}, Reason.INVALID_SPEC, "spec.rollout.drainSeconds is 200"),
    (
        {"engine": {"env": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}},
        Reason.INVALID_SPEC,
        "spec.engine.env A",
    ),
]
BROKEN: list[tuple[dict[str, Any], str]] = [
    (
        {"metadata": {"labels": {"vllm-operator.io/model": "other"}}},
        "spec.podTemplate.metadata.labels vllm-operator.io/model",
    ),
    ({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}}, "app.kubernetes.io/managed-by"),
    ({"metadata": {"annotations": {"vllm-operator.io/references-hash": "x"}}}, "references-hash"),
    ({"spec": {"containers": None}}, "removes the containers"),
    ({"spec": {"containers": [{"name": "vllm", "$patch": "delete"}]}}, "removes the container 'vllm'"),
    ({"spec": {"containers": [{"$patch": "replace"}, {"name": "x", "image": "y"}]}}, "removes the container 'vllm'"),
    ({"spec": {"$patch": "replace", "nodeName": "x"}}, "removes the containers"),
    ({"spec": {"containers": [{"name": "vllm", "ports": None}]}}, "no port named 'http'"),
    (
        {"spec": {"containers": [{"name": "vllm", "ports": [{"containerPort": 8000, "name": "x"}]}]}},
        "no port named 'http'",
    ),
    ({"spec": {"containers": [{"name": "vllm", "resources": {"limits": {"memory": "1GB"}}}]}}, "limits.memory"),
    ({"spec": {"restartPolicy": "Never"}}, "restartPolicy"),
    ({"spec": {"containers": "x"}}, "spec.podTemplate.spec.containers is 'x'"),
]


@pytest.mark.parametrize(("spec", "reason", "part"), REFUSED, ids=[str(case[0])[:70] for case in REFUSED])
def test_refused(spec: dict[str, Any], reason: Reason, part: str) -> None:
    with pytest.raises(Refusal) as caught:
        pod_template({**MODEL, **spec})
    assert caught.value.reason is reason
    assert part in caught.value.message


@pytest.mark.parametrize(("template", "part"), BROKEN, ids=[str(case[0])[:70] for case in BROKEN])
def test_pod_template_that_breaks_the_pod_is_refused(template: dict[str, Any], part: str) -> None:
    with pytest.raises(Refusal) as caught:
        pod_template({**MODEL, "podTemplate": template})
    assert caught.value.reason is Reason.INVALID_POD_TEMPLATE
    assert part in caught.value.message


def test_the_own_labels_may_be_repeated() -> None:
    labels = {"vllm-operator.io/model": "qwen3-8b", "team": "a"}
    built = pod_template({**MODEL, "podTemplate": {"metadata": {"labels": labels}}})["metadata"]["labels"]
    assert built == {**pod_template(MODEL)["metadata"]["labels"], "team": "a"}


def test_pod_template_has_the_last_word() -> None:
    patch = {
        "containers": [{"name": "vllm", "image": "x", "command": ["y"], "resources": {"limits": {"memory": "1024Mi"}}}]
    }
    built = container({**MODEL, "podTemplate": {"spec": patch}})
    assert (built["image"], built["command"]) == ("x", ["y"])
    assert built["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "1Gi"}


CPU: dict[str, Any] = {"model": "a/b", "accelerator": {"type": "cpu"}}


@pytest.mark.parametrize(
    ("cpu", "parallelism", "threads"),
    [("4", {}, "4"), ("2500m", {}, "2"), ("500m", {}, "1"), ("8", {"tensor": 2}, "4")],
)
def test_threads_on_cpus_follow_the_limit(cpu: str, parallelism: dict[str, int], threads: str) -> None:
    spec = {**CPU, "resources": {"limits": {"cpu": cpu}}, "parallelism": parallelism}
    env = {variable["name"]: variable.get("value") for variable in container(spec)["env"]}
    assert (env["OMP_NUM_THREADS"], env["VLLM_CPU_OMP_THREADS_BIND"]) == (threads, "nobind")


def test_threads_are_left_alone_without_a_limit_and_on_gpus_and_where_the_user_sets_them() -> None:
    limits = {"limits": {"cpu": "4"}}
    for spec in (CPU, {"model": "a/b", "resources": limits}):
        assert "OMP_NUM_THREADS" not in {variable["name"] for variable in container(spec)["env"]}
    own = {**CPU, "resources": limits, "engine": {"env": [{"name": "OMP_NUM_THREADS", "value": "3"}]}}
    assert {"name": "OMP_NUM_THREADS", "value": "3"} in container(own)["env"]


def test_cpus_are_chosen_by_their_labels_and_beside_an_affinity_of_the_users_own() -> None:
    assert pod(CPU)["affinity"] == {"nodeAffinity": NODE_AFFINITY}
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}
    beside = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    assert pod({**CPU, "scheduling": {"affinity": beside}})["affinity"] == {"nodeAffinity": NODE_AFFINITY, **beside}


def test_a_node_affinity_of_the_users_own_takes_its_place() -> None:
    term = {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
    own = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    assert pod({**CPU, "scheduling": {"affinity": own}})["affinity"] == own


def test_gpus_need_no_affinity() -> None:
    assert "affinity" not in pod({"model": "a/b"})
    assert pod({"model": "a/b", "scheduling": {"affinity": {}}})["affinity"] == {}
