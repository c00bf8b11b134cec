"""values.schema.json knows every key, and says clearly what is wrong with a value."""

import json
from typing import Any

import pytest
import yaml

from .support import CHART, helm_template

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

# Value → what the message must contain: where, and what would be right.
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"replica": 2}, ["replica", "not allowed"]),
    ({"replicas": "2"}, ["/replicas", "got string, want integer"]),
    ({"replicas": -1}, ["/replicas", "minimum"]),
    ({"image": {"tags": "1"}}, ["/image", "tags", "not allowed"]),
    ({"image": {"pullPolicy": "Sometimes"}}, ["/image/pullPolicy", "'Always'", "'IfNotPresent'", "'Never'"]),
    ({"image": {"digest": "0123"}}, ["/image/digest", "sha256"]),
    (
        {"image": {"repository": "https://registry.example.com/x"}},
        ['image.repository is "https://registry.example.com/x"', "without https://"],
    ),
    ({"image": {"repository": "registry.example.com/vllm-operator:1"}}, ["without a tag (that is image.tag)"]),
    ({"image": {"pullSecrets": ["registry"]}}, ["/image/pullSecrets/0", "want object"]),
    ({"watchNamespaces": "team-a"}, ["/watchNamespaces", "got string, want array"]),
    ({"watchNamespaces": ["Team_A"]}, ["/watchNamespaces/0", "pattern"]),
    ({"watchNamespaces": ["a", "a"]}, ["/watchNamespaces", "equal"]),
    ({"defaultGateway": "inference"}, ['defaultGateway is "inference"', "write NAMESPACE/NAME"]),
    ({"vllm": {"version": "v0.32.0"}}, ["/vllm/version", "pattern"]),
    ({"vllm": {"images": {"tpu": "x"}}}, ["/vllm/images", "tpu", "not allowed"]),
    ({"vllm": {"runAsUser": 0}}, ["/vllm/runAsUser", "minimum"]),
    ({"operator": {"workers": 0}}, ["/operator/workers", "minimum"]),
    ({"operator": {"probeInterval": "4s"}}, ["/operator/probeInterval", "got string"]),
    ({"operator": {"probeInterval": 10}}, ["/operator/probeInterval", "maximum"]),
    ({"operator": {"logLevel": "loud"}}, ["/operator/logLevel", "'debug'", "'info'", "'warning'", "'error'"]),
    ({"crds": {"keep": "yes"}}, ["/crds/keep", "got string, want boolean"]),
    ({"metrics": {"serviceMonitor": {"interval": "30"}}}, ["/metrics/serviceMonitor/interval", "pattern"]),
    ({"extraEnv": [{"name": "A", "value": 1}]}, ["/extraEnv/0/value", "got number, want string"]),
    ({"podDisruptionBudget": {"maxUnavailable": "half"}}, ["/podDisruptionBudget/maxUnavailable", "pattern"]),
    ({"podLabels": {"a": "b c"}}, ["/podLabels/a", "pattern"]),
    ({"fullnameOverride": "x" * 45}, ["/fullnameOverride", "maxLength"]),
    ({"gateway": {"enable": True}}, ["/gateway", "enable", "not allowed"]),
    ({"gateway": {"envoy": {"image": {"tags": "1"}}}}, ["/gateway/envoy/image", "tags", "not allowed"]),
    ({"gateway": {"envoy": {"image": {"tag": ""}}}}, ["/gateway/envoy/image/tag", "pattern"]),
    ({"gateway": {"envoy": {"logLevel": "loud"}}}, ["/gateway/envoy/logLevel", "'warning'"]),
    ({"gateway": {"envoy": {"command": "envoy"}}}, ["/gateway/envoy/command", "got string, want array"]),
    ({"gateway": {"envoy": {"concurrency": 0}}}, ["/gateway/envoy/concurrency", "minimum"]),
    ({"gateway": {"agent": {"resources": {"limit": {}}}}}, ["/gateway/agent/resources", "limit", "not allowed"]),
    ({"gateway": {"dashboard": {"labels": {"grafana_dashboard": 1}}}}, ["/gateway/dashboard/labels", "got number"]),
    ({"gateway": {"modelNetworkPolicy": {"from": [{}]}}}, ["/gateway/modelNetworkPolicy/from/0", "minProperties"]),
    ({"gateway": {"modelNetworkPolicy": {"from": [{"podselector": {}}]}}}, ["podselector", "not allowed"]),
    ({"gateway": {"largestBody": "64MB"}}, ["/gateway/largestBody", "pattern"]),
    ({"gateway": {"largestBody": 67108864}}, ["/gateway/largestBody", "got number, want string"]),
    ({"gateway": {"service": {"type": "ExternalName"}}}, ["/gateway/service/type", "'ClusterIP'"]),
    (
        {"gateway": {"route": {"parentRefs": [{"gateway": "x"}]}}},
        ["/gateway/route/parentRefs/0", "name", "not allowed"],
    ),
    ({"gateway": {"route": {"hostnames": ["https://llm"]}}}, ["/gateway/route/hostnames/0", "pattern"]),
    (
        {"gateway": {"enabled": True, "envoy": {"image": {"repository": "registry.example.com/envoy:1"}}}},
        ["gateway.envoy.image.repository", "without a tag (that is gateway.envoy.image.tag)"],
    ),
    ({"gateway": {"enabled": True, "largestBody": "4Gi"}}, ["gateway.largestBody is 4Gi: Envoy takes less than 4Gi"]),
]


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.rsplit("/", 1)[-1]] if reference else schema


def _compare(schema: dict[str, Any], values: object, path: str) -> None:
    schema = _resolve(schema)
    if not (isinstance(values, dict) and "properties" in schema):
        return
    assert schema.get("additionalProperties") is False, f"{path or 'the top'} takes any key"
    # A dependency is handed "global" by Helm; resource claims are a Kubernetes field that has no default here.
    unlisted = set(schema["properties"]) - set(values) - {"global", "claims"}
    assert not unlisted, f"in the schema but not in values.yaml: {path} {sorted(unlisted)}"
    assert not set(values) - set(schema["properties"]), f"in values.yaml but not in the schema: {path}"
    for key, value in values.items():
        _compare(schema["properties"][key], value, f"{path}.{key}")


def test_schema_and_values_list_the_same_keys() -> None:
    _compare(SCHEMA, yaml.safe_load((CHART / "values.yaml").read_text()), "")


@pytest.mark.parametrize(("values", "parts"), REFUSED, ids=[json.dumps(values)[:60] for values, _ in REFUSED])
def test_bad_values_are_refused_with_a_readable_message(values: dict[str, Any], parts: list[str]) -> None:
    result = helm_template(values)
    assert result.returncode != 0, "helm took the value"
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"global": {"anything": 1}},
        {"defaultGateway": "gateways/inference"},
        {"defaultGateway": "gateways/inference/https"},
        {"image": {"repository": "localhost:5000/a/b_c", "tag": "v1.2.3-rc.1"}},
        {"vllm": {"runAsUser": 2000, "version": "0.32.0rc1"}},
        {"podDisruptionBudget": {"maxUnavailable": "50%"}, "replicas": 2},
        {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
        {"operator": {"workers": None}},
        {"gateway": {"enabled": True, "largestBody": "341Mi"}},
        {"gateway": {"enabled": True, "largestBody": "1Gi", "envoy": {"resources": {"limits": {"memory": "4G"}}}}},
        {"gateway": {"enabled": True, "largestBody": "1Gi", "envoy": {"resources": {"limits": None}}}},
        {"gateway": {"enabled": True, "replicas": 0, "route": {"parentRefs": [{"name": "x"}]}}},
    ],
    ids=json.dumps,
)
def test_good_values_are_taken(values: dict[str, Any]) -> None:
    result = helm_template(values)
    assert result.returncode == 0, result.stderr
