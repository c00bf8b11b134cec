"""The Helm chart renders what it promises, for many values."""

import re
from typing import Any

import pytest
import yaml

from .support import (
    CHART,
    NAMESPACE,
    KubernetesObject,
    environment,
    helm_template,
    identity,
    of_kind,
    of_the_operator,
    only,
    program,
    render,
    run,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "some namespaces": {"watchNamespaces": ["team-a", "team-b"], "defaultGateway": "gateways/inference/https"},
    "everything on": {
        "replicas": 3,
        "commonLabels": {"team": "platform"},
        "image": {
            "repository": "registry.example.com:5000/platform/vllm-operator",
            "digest": "sha256:" + "0" * 64,
            "pullSecrets": [{"name": "registry"}],
        },
        "vllm": {
            "version": "0.32.0",
            "images": {
                "nvidia": "registry.example.com/vllm-openai:v{version}",
                "cpu": "registry.example.com/vllm-cpu:{version}",
            },
            "runAsUser": 2000,
            "defaultAccelerator": "amd",
        },
        "operator": {
            "workers": 32,
            "probeInterval": 0.5,
            "resyncInterval": 86400,
            "referenceInterval": 60,
            "yieldAfter": 0,
            "logFormat": "text",
        },
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "podLabels": {"sidecar.istio.io/inject": "false"},
        "podAnnotations": {"example.com/note": "yes"},
        "deploymentAnnotations": {"example.com/owner": "platform"},
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
        "extraArgs": ["--log-level", "debug"],
        "serviceAccount": {"annotations": {"example.com/role": "reader"}},
        "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "networkPolicy": {
            "enabled": True,
            "restrictEgress": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "extraEgress": [{"ports": [{"port": 16443, "protocol": "TCP"}]}],
        },
    },
    "as little as possible": {
        "crds": {"install": False},
        "rbac": {"create": False, "aggregateRoles": False},
        "serviceAccount": {"create": False, "name": "already-there"},
        "leaderElection": {"enabled": False},
        "metrics": {"service": {"enabled": False}},
        "resources": {"requests": None, "limits": None},
    },
    "long names": {"fullnameOverride": "a" * 43 + "b"},
}
VARIANTS |= {
    "gateway": {"gateway": {"enabled": True}},
    "gateway, some namespaces": VARIANTS["some namespaces"] | {"gateway": {"enabled": True}},
    "gateway, everything on": VARIANTS["everything on"]
    | {
        "gateway": {
            "enabled": True,
            "replicas": 3,
            "largestBody": "512Mi",
            "envoy": {
                "image": {"repository": "registry.example.com/mirror/envoy", "digest": "sha256:" + "1" * 64},
                "command": ["/usr/local/bin/envoy"],
                "logLevel": "info",
                "concurrency": 4,
                "resources": {"limits": {"memory": "2Gi"}},
            },
            "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"example.com/lb": "inner"}},
            "route": {
                "parentRefs": [{"namespace": "gateways", "name": "inference", "sectionName": "https"}],
                "hostnames": ["llm.example.com", "*.llm.example.com"],
            },
            "networkPolicyFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}],
            "externalNetworks": ["10.20.0.0/16", "fd00:1::/64"],
            "modelNetworkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
            "terminationGracePeriodSeconds": 600,
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"pool": "front"},
            "tolerations": [{"key": "front", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
            ],
            "podLabels": {"sidecar.istio.io/inject": "false"},
            "podAnnotations": {"example.com/note": "yes"},
            "serviceAccount": {"annotations": {"example.com/role": "gateway"}},
            "dashboard": {"enabled": True, "labels": {"folder": "models"}},
        }
    },
    "gateway, as little as possible": VARIANTS["as little as possible"]
    | {
        "gateway": {
            "enabled": True,
            "replicas": 1,
            "envoy": {"resources": {"requests": None, "limits": None}},
            "agent": {"resources": {"requests": None, "limits": None}},
            "serviceAccount": {"create": False, "name": "already-there-too"},
        }
    },
    "gateway, long names": VARIANTS["long names"] | {"gateway": {"enabled": True}},
}
LONG_RELEASE = "a-release-name-as-long-as-helm-allows-it-to-be-really"

every_variant = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())


def _pod(objects: list[KubernetesObject]) -> dict[str, Any]:
    pod: dict[str, Any] = only(of_the_operator(objects), "Deployment")["spec"]["template"]["spec"]
    return pod


def _pods(objects: list[KubernetesObject]) -> list[dict[str, Any]]:
    return [thing["spec"]["template"]["spec"] for thing in of_kind(objects, "Deployment")]


def test_lint() -> None:
    result = run([program("helm"), "lint", "--strict", str(CHART)])
    assert result.returncode == 0, result.stdout + result.stderr


@every_variant
def test_every_object_is_complete(values: dict[str, Any]) -> None:
    for release in ("vllm-operator", LONG_RELEASE):
        objects = render(values, release=release)
        assert len({identity(thing) for thing in objects}) == len(objects), "two objects of the same name"
        for thing in objects:
            metadata = thing["metadata"]
            limit = 253 if thing["kind"] == "CustomResourceDefinition" else 63
            assert len(metadata["name"]) <= limit
            assert not metadata["name"].endswith("-")
            labels = metadata["labels"]
            for label in ("name", "instance", "version", "managed-by", "part-of"):
                assert labels[f"app.kubernetes.io/{label}"], label
            assert all(len(value) <= 63 for value in labels.values())


@every_variant
def test_the_security_context_satisfies_the_restricted_standard(values: dict[str, Any]) -> None:
    for pod in _pods(render(values)):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 65532
        assert security["seccompProfile"]["type"] == "RuntimeDefault"
        assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        allowed_volumes = {
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        }
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= allowed_volumes
        for each in pod["containers"] + pod.get("initContainers", []):
            own = each["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert not own.get("privileged")


@every_variant
def test_no_secret_is_made_or_mounted(values: dict[str, Any]) -> None:
    objects = render(values)
    assert not of_kind(objects, "Secret")
    for pod in _pods(objects):
        assert not any("secret" in volume for volume in pod["volumes"])


def test_a_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "ab" * 32
    image = _pod(render({"image": {"repository": "r.example.com/o", "tag": "x", "digest": digest}}))["containers"][0][
        "image"
    ]
    assert image == f"r.example.com/o@{digest}"


def test_the_tag_defaults_to_the_chart_version() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert _pod(render())["containers"][0]["image"] == f"vllm-operator:{version}"


def test_selectors_are_never_changed_by_values() -> None:
    """A Deployment's selector is immutable, so these two labels are fixed for ever, whatever labels are added."""
    expected = {"app.kubernetes.io/name": "vllm-operator", "app.kubernetes.io/instance": "vllm-operator"}
    hostile = {"app.kubernetes.io/name": "other", "app.kubernetes.io/instance": "other"}
    for values in (
        {},
        {"commonLabels": hostile | {"a": "b"}, "podLabels": hostile, "replicas": 2, "networkPolicy": {"enabled": True}},
    ):
        objects = render(values)
        deployment = only(objects, "Deployment")
        assert deployment["spec"]["selector"]["matchLabels"] == expected
        assert expected.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        assert only(objects, "Service")["spec"]["selector"] == expected
        for kind, field in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
            for thing in of_kind(objects, kind):
                assert thing["spec"][field]["matchLabels"] == expected


def test_rollout_starts_the_new_pod_first() -> None:
    strategy = only(render(), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_probes_and_ports_agree() -> None:
    objects = render()
    container = _pod(objects)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert only(objects, "Service")["spec"]["ports"][0]["targetPort"] in ports
    assert environment(only(objects, "Deployment"))["VLLM_OPERATOR_HTTP_ADDRESS"].endswith(f":{ports['http']}")


def test_the_pod_writes_to_tmp_only() -> None:
    container = _pod(render())["containers"][0]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_default_settings_are_left_to_the_operator() -> None:
    assert environment(only(render(), "Deployment")) == {
        "VLLM_OPERATOR_HTTP_ADDRESS": "0.0.0.0:8080",
        "VLLM_OPERATOR_LEADER_ELECTION": "true",
        "VLLM_OPERATOR_LEASE_NAME": "vllm-operator",
        "VLLM_OPERATOR_LOG_FORMAT": "json",
        "VLLM_OPERATOR_LOG_LEVEL": "info",
        "VLLM_OPERATOR_CLUSTER_DOMAIN": "cluster.local",
    }


def test_every_setting_reaches_the_operator() -> None:
    values = VARIANTS["everything on"] | {"watchNamespaces": ["a", "b"], "defaultGateway": "gateways/inference"}
    values["vllm"] = values["vllm"] | {
        "images": {kind: f"{kind}:{{version}}" for kind in ("nvidia", "amd", "intel", "cpu")}
    }
    assert environment(only(render(values), "Deployment")) == {
        "VLLM_OPERATOR_HTTP_ADDRESS": "0.0.0.0:8080",
        "VLLM_OPERATOR_LEADER_ELECTION": "true",
        "VLLM_OPERATOR_LEASE_NAME": "vllm-operator",
        "VLLM_OPERATOR_LOG_FORMAT": "text",
        "VLLM_OPERATOR_LOG_LEVEL": "info",
        "VLLM_OPERATOR_CLUSTER_DOMAIN": "cluster.local",
        "VLLM_OPERATOR_NAMESPACES": "a,b",
        "VLLM_OPERATOR_DEFAULT_GATEWAY": "gateways/inference",
        "VLLM_OPERATOR_VLLM_VERSION": "0.32.0",
        "VLLM_OPERATOR_IMAGE_NVIDIA": "nvidia:{version}",
        "VLLM_OPERATOR_IMAGE_AMD": "amd:{version}",
        "VLLM_OPERATOR_IMAGE_INTEL": "intel:{version}",
        "VLLM_OPERATOR_IMAGE_CPU": "cpu:{version}",
        "VLLM_OPERATOR_VLLM_RUN_AS_USER": "2000",
        "VLLM_OPERATOR_DEFAULT_ACCELERATOR": "amd",
        "VLLM_OPERATOR_WORKERS": "32",
        "VLLM_OPERATOR_PROBE_INTERVAL": "0.5",
        "VLLM_OPERATOR_RESYNC_INTERVAL": "86400",
        "VLLM_OPERATOR_REFERENCE_INTERVAL": "60",
        "VLLM_OPERATOR_YIELD_AFTER": "0",
        "TZ": "UTC",
    }


def test_extra_things_are_added() -> None:
    deployment = only(render(VARIANTS["everything on"]), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["run", "--log-level", "debug"]
    assert {"name": "ca", "configMap": {"name": "ca"}} in pod["volumes"]
    assert {"name": "ca", "mountPath": "/etc/ca", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert deployment["spec"]["template"]["metadata"]["annotations"]["example.com/note"] == "yes"
    assert deployment["metadata"]["annotations"] == {"example.com/owner": "platform"}
    [constraint] = pod["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    assert constraint["labelSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize(("replicas", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_disruption_budget_only_where_it_does_not_block_drains(replicas: int, expected: int) -> None:
    assert len(of_kind(render({"replicas": replicas}), "PodDisruptionBudget")) == expected


def test_optional_objects_are_off_by_default() -> None:
    kinds = {thing["kind"] for thing in render()}
    assert not kinds & {"ServiceMonitor", "NetworkPolicy", "PodDisruptionBudget"}


def test_service_monitor_finds_the_service() -> None:
    objects = render(VARIANTS["everything on"])
    monitor, service = only(objects, "ServiceMonitor"), only(objects, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_network_policy() -> None:
    open_egress = only(render({"networkPolicy": {"enabled": True}}), "NetworkPolicy")["spec"]
    assert open_egress["policyTypes"] == ["Ingress"]
    assert open_egress["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    closed = only(render(VARIANTS["everything on"]), "NetworkPolicy")["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "from" in closed["ingress"][0]
    assert {port["port"] for rule in closed["egress"] for port in rule["ports"]} == {53, 443, 6443, 8000, 16443}


def test_the_definition_is_kept_on_uninstall() -> None:
    keep = only(render(), "CustomResourceDefinition")["metadata"]["annotations"]
    assert keep["helm.sh/resource-policy"] == "keep"
    dropped = only(render({"crds": {"keep": False}}), "CustomResourceDefinition")["metadata"]
    assert "helm.sh/resource-policy" not in dropped.get("annotations", {})
    more = only(render({"crds": {"annotations": {"a/b": "c"}}}), "CustomResourceDefinition")["metadata"]["annotations"]
    assert {"helm.sh/resource-policy": "keep", "a/b": "c"}.items() <= more.items()
    assert not of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition")


def test_the_definition_survives_templating() -> None:
    """Helm reads the definition into floating point numbers and writes it again: nothing of it may change on the way."""
    [file] = (CHART / "files" / "crds").glob("*.yaml")
    assert only(render(), "CustomResourceDefinition")["spec"] == yaml.safe_load(file.read_text())["spec"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replicas": 2, "leaderElection": {"enabled": False}}, "leaderElection.enabled is false"),
        ({"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}}, "Set both to true"),
        ({"networkPolicy": {"restrictEgress": True}}, "nothing would be restricted"),
        ({"networkPolicy": {"enabled": True, "extraEgress": [{}]}}, "there is nothing to add to"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name must name a ServiceAccount that exists"),
        ({"gateway": {"route": {"parentRefs": [{"name": "x"}]}}}, "gateway.enabled is false"),
        ({"gateway": {"dashboard": {"enabled": True}}}, "gateway.enabled is false"),
        ({"gateway": {"enabled": True, "route": {"hostnames": ["x"]}}}, "gateway.route.parentRefs is empty"),
        ({"gateway": {"enabled": True, "networkPolicyFrom": [{}]}}, "networkPolicy.enabled is false"),
        (
            {"gateway": {"enabled": True, "modelNetworkPolicy": {"enabled": False, "from": [{"podSelector": {}}]}}},
            "drop from",
        ),
        ({"gateway": {"enabled": True, "serviceAccount": {"create": False}}}, "gateway.serviceAccount.name must name"),
        ({"gateway": {"enabled": True, "serviceAccount": {"name": "vllm-operator"}}}, "each other's rights"),
        ({"gateway": {"enabled": True, "largestBody": "342Mi"}}, "limits.memory is 1Gi"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict[str, Any], sentence: str) -> None:
    result = helm_template(values)
    assert result.returncode != 0
    assert sentence in result.stderr


def test_notes_name_the_next_command() -> None:
    """Notes are shown only with an installation, so a dry run on the client's side is asked for them."""
    result = run(
        [program("helm"), "install", "vllm-operator", str(CHART), "--namespace", NAMESPACE, "--dry-run=client"]
    )
    assert result.returncode == 0, result.stderr
    notes = result.stdout.split("NOTES:", 1)[1]
    assert f"kubectl --namespace {NAMESPACE} rollout status deployment/vllm-operator" in notes
    # Meant to be pasted into a shell, which finds the end of the text only when EOF stands at the beginning of its line.
    [example] = re.findall(r"<<'EOF'\n(.*?)\nEOF\n", notes, flags=re.DOTALL)
    assert yaml.safe_load(example)["kind"] == "VLLMModel"
