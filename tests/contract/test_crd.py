"""What a real API server makes of the CRD: every rule in force, errors that help, kubectl as users know it."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.apiserver import ApiError, Object
from tests.schema_fields import BASE, Field, refused_fields, spec_fields, variants, with_value
from vllm_operator.api.crd import CRD_NAME, crd
from vllm_operator.api.types import API_VERSION, GROUP, KIND, POD_FIELDS, VLLMModel

from .conftest import Kubectl, Server, model, models_path

pytestmark = pytest.mark.cluster

CRD_PATH = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A valid object, its invalid neighbour, and what the error says."""

    id: str
    good: Object
    bad: Object
    where: str
    """Path of the field in the error."""
    says: str
    """Part of the error's text."""


def pair(
    path: str, good: Any, bad: Any, says: str, *, where: str | None = None, beside: Mapping[str, Any] = BASE
) -> Pair:
    """Return a pair that differs in one field."""
    return Pair(
        id=f"{path.removeprefix('spec.')}={json.dumps(bad)[:40]}",
        good=model(with_value(beside, path, good)),
        bad=model(with_value(beside, path, bad)),
        where=where or path.replace("[]", "[0]"),
        says=says,
    )


def specs(id: str, good: Mapping[str, Any], bad: Mapping[str, Any], *, where: str, says: str) -> Pair:
    """Return a pair of specs; spec.model is added where it is not given."""
    return Pair(id=id, good=model({**BASE, **good}), bad=model({**BASE, **bad}), where=where, says=says)


def named(good: str, bad: str) -> Pair:
    """Return a pair of names."""
    return Pair(
        id=f"name={bad}",
        good=model(dict(BASE), name=good),
        bad=model(dict(BASE), name=bad),
        where=KIND,
        says="metadata.name must be at most 63 characters",
    )


ENV = "spec.engine.env[]"
SECRET = {"secretKeyRef": {"name": "a", "key": "b"}}
OUTSIDE = {"url": "https://api.example.com"}
CONFIG_MAP = {"configMapKeyRef": {"name": "a", "key": "b"}}

PAIRS = [
    # spec.model, spec.hub
    pair(
        "spec.model",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3 8B",
        "write a Hugging Face id (Qwen/Qwen3-8B), hf://org/name@revision",
    ),
    pair("spec.model", "hf://org/name@main", "hf://name", "write a Hugging Face id"),
    pair("spec.model", "pvc://claim/some/path", "pvc://Claim/some/path", "write a Hugging Face id"),
    pair("spec.model", "oci://ghcr.io/org/model:v1", "https://ghcr.io/org/model", "write a Hugging Face id"),
    pair("spec.model", "/models/qwen", "models/qwen/", "write a Hugging Face id"),
    pair("spec.model", "a", "", "spec.model"),
    Pair(id="no model", good=model(dict(BASE)), bad=model({}), where="spec.model", says="Required value"),
    specs(
        "revision twice",
        {"model": "hf://org/name", "hub": {"revision": "v1"}},
        {"model": "hf://org/name@v1", "hub": {"revision": "v1"}},
        where="spec",
        says="the revision is given twice: in hub.revision and in model",
    ),
    specs(
        "hub without hub",
        {"model": "org/name", "hub": {"revision": "v1"}},
        {"model": "pvc://claim/name", "hub": {"revision": "v1"}},
        where="spec",
        says="hub is only for Hugging Face models",
    ),
    pair(
        "spec.hub.endpoint",
        "https://hub.example.com/m",
        "https://me:secret@hub.example.com",
        "write a URL that begins with",
    ),
    pair("spec.hub.revision", "refs/pr/1", "a b", "write a branch, tag or commit"),
    pair(
        "spec.hub.tokenSecretRef",
        {"name": "a", "key": "b"},
        {"name": "a"},
        "Required",
        where="spec.hub.tokenSecretRef.key",
    ),
    pair("spec.hub.tokenSecretRef.name", "hf-token", "hf_token", "write an object's name: lower-case letters"),
    pair("spec.hub.tokenSecretRef.key", "token.txt", "to/ken", "write a key of letters, digits"),
    # spec.servedModelNames
    pair("spec.servedModelNames", ["a", "b"], ["a", "a"], "Duplicate value", where="spec.servedModelNames[1]"),
    pair("spec.servedModelNames", ["a"], [], "at least 1 item"),
    pair("spec.servedModelNames[]", "org/a:v1", "a b", "write letters, digits, - . _ / :"),
    # spec.engine
    pair("spec.engine.version", "0.32.0", "v0.32.0", "write a version of vLLM without leading v"),
    pair("spec.engine.image", "ghcr.io/org/vllm:v1", "ghcr.io/org/vllm v1", "write an image reference without spaces"),
    pair("spec.engine.imagePullPolicy", "Never", "Sometimes", 'supported values: "Always", "IfNotPresent", "Never"'),
    pair(
        "spec.engine.imagePullSecrets",
        [{"name": "a"}, {"name": "b"}],
        [{"name": "a"}, {"name": "a"}],
        "Duplicate value",
        where="spec.engine.imagePullSecrets[1]",
    ),
    pair("spec.engine.executable", ["vllm", "serve"], [], "at least 1 item"),
    pair(
        "spec.engine.maxModelLen",
        "32k",
        "32kb",
        "write a number of tokens, auto, or a number with k (1000) or K (1024)",
    ),
    pair("spec.engine.maxModelLen", "auto", "max", "write a number of tokens"),
    pair("spec.engine.maxModelLen", -1, 0, "write a number of tokens"),
    pair("spec.engine.maxModelLen", "1.5k", "1.5K", "write a number of tokens"),
    pair("spec.engine.dtype", "bfloat16", "bf16", "supported values"),
    pair("spec.engine.gpuMemoryUtilization", 1, 1.01, "should be less than or equal to 1"),
    pair("spec.engine.gpuMemoryUtilization", 0.01, 0, "should be greater than 0"),
    pair("spec.engine.maxNumSeqs", 1, 0, "should be greater than or equal to 1"),
    pair("spec.engine.seed", 2**63 - 1, -1, "should be greater than or equal to 0"),
    pair("spec.engine.trustRemoteCode", True, "true", "must be of type boolean"),
    pair("spec.engine.quantization", "fp8", "fp8\n--host", "must not contain line breaks"),
    pair("spec.engine.hfOverrides", {"a": {"b": [1]}}, "a", "must be of type object"),
    pair(
        "spec.engine.args",
        {"model-impl": "vllm", "some-switch": True, "a-list": [1, "x"], "an-object": {"a": 0.5}},
        {"model": "other"},
        "are set by the operator: use spec.model, spec.servedModelNames, spec.auth and spec.parallelism",
    ),
    pair("spec.engine.args", {"api-server-count": 2}, {"api_key": "secret"}, "are set by the operator"),
    pair("spec.engine.args", {"tp-x": 1}, {"tp": 2}, "are set by the operator"),
    pair("spec.engine.args", {"headless-x": True}, {"headless": True}, "are set by the operator"),
    pair(
        "spec.engine.args",
        {f"option-{number}": 1 for number in range(128)},
        {f"option-{number}": 1 for number in range(129)},
        "must have at most 128",
    ),
    pair(
        ENV,
        {"name": "A", "value": "b"},
        {"name": "A", "value": "b", "valueFrom": SECRET},
        "set value or valueFrom, not both",
    ),
    pair(
        ENV,
        {"name": "HF_TOKEN", "valueFrom": SECRET},
        {"name": "HF_TOKEN", "value": "hf_x"},
        "a key or token is never written",
    ),
    pair(
        f"{ENV}.valueFrom", SECRET, {}, "set exactly one of secretKeyRef, configMapKeyRef, fieldRef, resourceFieldRef"
    ),
    pair(f"{ENV}.valueFrom", CONFIG_MAP, {**CONFIG_MAP, **SECRET}, "set exactly one of"),
    pair(f"{ENV}.name", "A_1", "1_A", "write letters, digits, - . _, not beginning with a digit"),
    pair(
        "spec.engine.env",
        [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
        [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        "Duplicate value",
        where="spec.engine.env[1]",
    ),
    # spec.accelerator, spec.parallelism, spec.replicas, spec.autoscaling
    pair(
        "spec.accelerator",
        {"type": "nvidia", "count": 1},
        {"type": "cpu", "count": 1},
        "type cpu takes no product, minMemory",
    ),
    pair("spec.accelerator.product", "NVIDIA-H100-80GB-HBM3", "NVIDIA H100", "write a label's value"),
    pair("spec.accelerator.minMemory", "80Gi", "80GiB", "write a quantity, e.g. 500m, 4, 16Gi"),
    pair("spec.accelerator.minMemory", 1, "-1Gi", "write a quantity"),
    pair("spec.accelerator.resourceName", "nvidia.com/gpu", "gpu", "write an extended resource as domain/name"),
    specs(
        "count is not the product",
        {"accelerator": {"count": 8}, "parallelism": {"tensor": 2, "pipeline": 2, "data": 2}},
        {"accelerator": {"count": 4}, "parallelism": {"tensor": 2, "pipeline": 2, "data": 2}},
        where="spec",
        says="accelerator.count must be parallelism.tensor × pipeline × data",
    ),
    pair("spec.parallelism.tensor", 64, 65, "should be less than or equal to 64"),
    pair("spec.replicas", 0, -1, "should be greater than or equal to 0"),
    pair("spec.replicas", 2, "2", "must be of type integer"),
    pair(
        "spec.autoscaling",
        {"minReplicas": 2, "maxReplicas": 2},
        {"minReplicas": 3, "maxReplicas": 2},
        "minReplicas must not exceed maxReplicas",
    ),
    pair(
        "spec.autoscaling",
        {"maxReplicas": 2},
        {"minReplicas": 1},
        "Required value",
        where="spec.autoscaling.maxReplicas",
    ),
    # spec.scheduling, spec.resources, spec.cache, spec.sharedMemory
    pair("spec.scheduling.tolerations[].operator", "Exists", "NotEqual", "supported values"),
    pair("spec.scheduling.topologySpreadConstraints[].maxSkew", 1, 0, "should be greater than or equal to 1"),
    pair("spec.scheduling.serviceAccountName", "vllm", "VLLM", "write an object's name"),
    pair("spec.resources.limits.*", "16Gi", "lots", "write a quantity", where="spec.resources.limits[memory]"),
    pair(
        "spec.cache",
        {"hostPath": {"path": "/mnt"}},
        {"hostPath": {"path": "/mnt"}, "emptyDir": {}},
        "set exactly one of persistentVolumeClaim, emptyDir, hostPath",
    ),
    pair("spec.cache", {"emptyDir": {}}, {}, "set exactly one of persistentVolumeClaim, emptyDir, hostPath"),
    pair("spec.cache.hostPath.path", "/mnt/cache", "mnt/cache", "write an absolute path"),
    pair("spec.cache.persistentVolumeClaim.subPath", "a/b", "../b", "write a relative path"),
    pair("spec.sharedMemory.sizeLimit", "8Gi", "8 Gi", "write a quantity"),
    # spec.startup, spec.rollout
    pair("spec.startup.budget", "1m", "59s", "write a duration from 1m to 24h"),
    pair("spec.startup.budget", "24h", "24h1s", "write a duration from 1m to 24h"),
    pair("spec.startup.budget", "30m", "30", "write a duration from 1m to 24h"),
    pair("spec.startup.budget", "1h30m", "1d", "write a duration from 1m to 24h"),
    pair(
        "spec.rollout",
        {"strategy": "Surge", "maxSurge": 1},
        {"strategy": "Recreate", "maxSurge": 1},
        "strategy Recreate takes no",
    ),
    pair(
        "spec.rollout", {"maxSurge": 0, "maxUnavailable": 1}, {"maxSurge": 0, "maxUnavailable": 0}, "cannot both be 0"
    ),
    pair(
        "spec.rollout",
        {"maxSurge": "0%", "maxUnavailable": "1%"},
        {"maxSurge": "0%", "maxUnavailable": 0},
        "cannot both be 0",
    ),
    pair("spec.rollout.maxSurge", "25%", "25", "write a count, e.g. 1, or a percentage from 0% to 100%"),
    pair("spec.rollout.maxSurge", 0, -1, "write a count"),
    pair("spec.rollout.maxUnavailable", "100%", "101%", "write a count"),
    pair(
        "spec.rollout",
        {"drainSeconds": 29, "terminationGracePeriodSeconds": 30},
        {"drainSeconds": 30, "terminationGracePeriodSeconds": 30},
        "drainSeconds must be less than terminationGracePeriodSeconds",
    ),
    # spec.route, spec.auth
    pair(
        "spec.route.pathPrefix", "/team/qwen", "/team/qwen/", "write a path that begins with / and does not end with it"
    ),
    pair("spec.route.hostnames[]", "*.example.com", "https://example.com", "write a host name"),
    pair(
        "spec.route.parentRefs[]",
        {"name": "gw", "namespace": "a"},
        {"namespace": "a"},
        "Required value",
        where="spec.route.parentRefs[0].name",
    ),
    pair("spec.route.parentRefs[].namespace", "a-b", "a.b", "write a name of lower-case letters"),
    pair("spec.route.timeouts.request", "1h30m", "90 minutes", "write a duration, e.g. 30s, 15m, 1h30m"),
    pair(
        "spec.route.timeouts",
        {"request": "30s", "backendRequest": "30s"},
        {"request": "30s", "backendRequest": "1m"},
        "backendRequest must not exceed request",
    ),
    pair(
        "spec.auth.apiKeySecretRef",
        {"name": "a", "key": "b"},
        {"key": "b"},
        "Required",
        where="spec.auth.apiKeySecretRef.name",
    ),
    # adapters
    pair(
        "spec.adapters",
        [{"name": "a", "source": "org/a"}, {"name": "b", "source": "org/a"}],
        [{"name": "a", "source": "org/a"}, {"name": "a", "source": "org/b"}],
        "Duplicate value",
        where="spec.adapters[1]",
    ),
    pair(
        "spec.adapters",
        [{"name": "a", "source": "hf://org/a"}],
        [{"name": "a", "source": "org/a@v1"}],
        "without a revision",
        where="spec.adapters[0].source",
    ),
    # models that run elsewhere
    pair("spec.external.url", "https://api.example.com", "api.example.com", "write a URL that begins with"),
    specs(
        "an external model's name",
        {"model": "gpt-4o", "external": OUTSIDE},
        {"model": "hf://a/b", "external": OUTSIDE},
        where="spec",
        says="with external, model is the endpoint's own name of it",
    ),
    *(
        specs(
            f"an external model with {field}",
            {"external": OUTSIDE, "auth": {"mode": "keys"}},
            {"external": OUTSIDE, field: value},
            where="spec",
            says=f"an external model has no pods: remove {', '.join(POD_FIELDS)}",
        )
        for field, value in (("engine", {}), ("accelerator", {"type": "cpu"}), ("podTemplate", {}), ("adapters", []))
    ),
    *(
        specs(
            f"an external model with {json.dumps(fields)}",
            {"external": OUTSIDE, "route": {"enabled": True, "weight": 1}},
            {"external": OUTSIDE, **fields},
            where="spec",
            says="an external model is reached through the gateway for all models",
        )
        for fields in (
            {"route": {"enabled": False}},
            {"route": {"parentRefs": [{"name": "a"}]}},
            {"auth": {"apiKeySecretRef": {"name": "a", "key": "b"}}},
        )
    ),
    pair("spec.defaults.topP", 1, 0, "should be greater than 0"),
    pair("spec.podTemplate.metadata.labels.*", "a", "a" * 64, "Too long", where="spec.podTemplate.metadata.labels"),
    pair("spec.podTemplate.spec", {"hostIPC": True}, [], "must be of type object"),
    # metadata.name
    named("a" * 63, "a" * 64),
    named("model-8b", "8b-model"),
    named("model-8b", "model.8b"),
]


def test_the_definition_is_accepted_and_established(server: Server) -> None:
    found = server.request("GET", CRD_PATH)
    conditions = {condition["type"]: condition for condition in found["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True", conditions
    # Present and false when the schema is not structural.
    assert "NonStructuralSchema" not in conditions, conditions


def test_the_server_keeps_the_definition_as_it_was_written(server: Server) -> None:
    """Otherwise a GitOps controller would see a difference that never goes away."""

    def lost(wanted: Any, found: Any, path: str) -> list[str]:
        if isinstance(wanted, dict) and isinstance(found, dict):
            return [line for key, value in wanted.items() for line in lost(value, found.get(key), f"{path}.{key}")]
        if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
            return [
                line
                for number, (value, other) in enumerate(zip(wanted, found, strict=True))
                for line in lost(value, other, f"{path}[{number}]")
            ]
        return [] if wanted == found else [f"{path}: {wanted!r} became {found!r}"]

    assert lost(crd()["spec"], server.request("GET", CRD_PATH)["spec"], "spec") == []


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.id)
def test_the_neighbour_is_refused_in_words(server: Server, kubectl: Kubectl, case: Pair) -> None:
    server.create(case.good, namespace="default")
    # What the server takes, the operator can read.
    VLLMModel.model_validate(case.good)
    result = kubectl("create", "--dry-run=server", "-n", "default", "-f", "-", stdin=json.dumps(case.bad))
    assert result.returncode != 0, f"accepted: {case.bad}"
    assert case.where in result.stderr
    assert case.says in result.stderr
    # A pattern is no help to somebody who has made a typing error.
    assert "should match" not in result.stderr


def test_there_are_enough_pairs() -> None:
    assert len(PAIRS) >= 40
    assert len({case.id for case in PAIRS}) == len(PAIRS)


def test_every_rule_has_a_pair() -> None:
    """Each message of the CRD is provoked by one of the pairs."""

    def messages(schema: Mapping[str, Any]) -> set[str]:
        found = {rule["message"] for rule in schema.get("x-kubernetes-validations", ())}
        below = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
        return found.union(*(messages(child) for child in below if isinstance(child, Mapping)))

    root = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    provoked = [case.says for case in PAIRS]
    silent = {message for message in messages(root) if not any(says in message for says in provoked)}
    assert silent == {"must not contain a zero byte"}  # JSON has it, but no kubectl lets it through


@pytest.mark.parametrize("field", refused_fields(crd()), ids=str)
def test_options_that_the_operator_owns_are_refused(server: Server, field: Field) -> None:
    value = True if field.type == "boolean" else "x"
    spec = {**BASE, "engine": {"args": {field.path.removeprefix("spec.engine.args."): value}}}
    with pytest.raises(ApiError) as caught:
        server.create(model(spec), namespace="default")
    assert caught.value.status == 422
    assert "are set by the operator" in caught.value.message


@pytest.mark.parametrize("field", spec_fields(crd()), ids=str)
def test_every_field_can_be_set(server: Server, field: Field) -> None:
    """The server takes both variants and keeps every value as it was written."""
    for spec in variants(field):
        kept = server.create(model(spec), namespace="default")["spec"]
        assert kept == {"replicas": 1, **spec}


def test_only_replicas_is_defaulted(server: Server) -> None:
    assert server.create(model(dict(BASE)), namespace="default")["spec"] == {**BASE, "replicas": 1}


@pytest.mark.parametrize(
    ("spec", "unknown"),
    [
        ({**BASE, "modle": "x"}, "spec.modle"),
        ({**BASE, "engine": {"maxmodellen": 8192}}, "spec.engine.maxmodellen"),
        ({**BASE, "engine": {"env": [{"name": "A", "val": "b"}]}}, "spec.engine.env[0].val"),
        ({**BASE, "podTemplate": {"metadata": {"finalizers": ["a/b"]}}}, "spec.podTemplate.metadata.finalizers"),
    ],
)
def test_an_unknown_field_is_an_error(server: Server, kubectl: Kubectl, spec: Object, unknown: str) -> None:
    result = kubectl("create", "--dry-run=server", "-n", "default", "-f", "-", stdin=json.dumps(model(spec)))
    assert result.returncode != 0
    assert f'unknown field "{unknown}"' in result.stderr


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("vllmmodel", "A model served by vLLM."),
        ("vllmmodel.spec", "The model: a Hugging Face id (Qwen/Qwen3-8B)"),
        ("vllmmodel.spec.engine.maxModelLen", "Context length in tokens"),
        ("vllmmodel.spec.engine.dtype", "bfloat16"),
        ("vllmmodel.spec.cache", "Set exactly one field."),
        ("vllmmodel.spec.scheduling.tolerations.effect", "every effect when left out"),
        ("vllmmodel.status.conditions", "CrashLoopBackOff"),
    ],
)
def test_kubectl_explain_describes_fields(server: Server, kubectl: Kubectl, path: str, says: str) -> None:
    assert says in " ".join(kubectl.output("explain", path).split())


def test_every_field_is_described(server: Server) -> None:
    """The descriptions are kubectl explain's: none may be empty."""
    for field in spec_fields(crd()):
        below_a_list_or_map = field.path.endswith(("[]", ".*"))
        assert below_a_list_or_map or field.schema.get("description"), field.path


def _applied_status(server: Server, name: str, namespace: str) -> None:
    """Report a served model, as the operator does."""
    condition = {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1, "message": "It is served."}
    server.apply(
        models_path(namespace, name, "status"),
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "status": {
                "observedGeneration": 1,
                "conditions": [
                    {"type": "Accepted", "status": "True", "reason": "Accepted", **condition},
                    {"type": "Ready", "status": "False", "reason": "Starting", **condition},
                ],
                "url": "http://gateway.example.com/team/qwen",
                "replicas": 2,
                "readyReplicas": 1,
                "replicaSummary": "1/2",
                "selector": "vllm-operator.io/model=qwen3-8b",
                "gpus": 4,
                "maxModelLen": 40960,
                "sizing": {"tensorParallelSize": 2},
            },
        },
    )


@pytest.fixture
def reported(server: Server, namespace: str) -> str:
    """The namespace of a model that has a status."""
    server.create(model({**BASE, "replicas": 2}), namespace=namespace, dry_run=False)
    _applied_status(server, "qwen3-8b", namespace)
    return namespace


def test_kubectl_get_shows_the_columns(kubectl: Kubectl, reported: str) -> None:
    header, row = kubectl.output("get", "vllm", "-n", reported).splitlines()
    assert header.split() == ["NAME", "MODEL", "READY", "REPLICAS", "GPUS", "TP", "CONTEXT", "URL", "REASON", "AGE"]
    assert row.split()[:-1] == [
        "qwen3-8b",
        "Qwen/Qwen3-8B",
        "False",
        "1/2",
        "4",
        "2",
        "40960",
        "http://gateway.example.com/team/qwen",
        "Starting",
    ]


@pytest.mark.parametrize("name", ["vllmmodels", "vllmmodel", "vllm", f"vllmmodels.{GROUP}"])
def test_every_name_of_the_kind_works(kubectl: Kubectl, reported: str, name: str) -> None:
    assert kubectl.output("get", name, "-n", reported, "-o", "name") == f"vllmmodel.{GROUP}/qwen3-8b\n"


def test_kubectl_get_all_includes_models(kubectl: Kubectl, reported: str) -> None:
    assert f"vllmmodel.{GROUP}/qwen3-8b" in kubectl.output("get", "all", "-n", reported)


def test_kubectl_scale_sets_replicas(server: Server, kubectl: Kubectl, reported: str) -> None:
    kubectl.output("scale", "vllm/qwen3-8b", "--replicas=5", "-n", reported)
    found = server.get("qwen3-8b", namespace=reported)
    assert found["spec"]["replicas"] == 5
    path = models_path(reported, "qwen3-8b", "scale")
    scale = server.request("GET", path)
    assert scale["status"] == {"replicas": 2, "selector": "vllm-operator.io/model=qwen3-8b"}
    refused = kubectl("scale", "vllm/qwen3-8b", "--replicas=1001", "-n", reported)
    assert refused.returncode != 0
    assert "should be less than or equal to 1000" in refused.stderr


def test_status_and_spec_are_written_apart(server: Server, reported: str) -> None:
    """Writing status leaves the generation alone, writing spec leaves status alone."""
    before = server.get("qwen3-8b", namespace=reported)
    assert before["metadata"]["generation"] == 1
    changed = model({**BASE, "replicas": 3})
    changed["status"] = {"url": "http://example.com"}
    path = models_path(reported, "qwen3-8b")
    server.apply(path, copy.deepcopy(changed))
    after = server.get("qwen3-8b", namespace=reported)
    assert after["metadata"]["generation"] == 2
    assert after["status"] == before["status"]


def test_two_managers_share_lists(server: Server, kubectl: Kubectl, reported: str) -> None:
    """env is merged by name: one manager's variable does not take away another's."""
    for manager, variable in (("one", "A"), ("two", "B")):
        body = model({"engine": {"env": [{"name": variable, "value": manager}]}})
        kubectl.output(
            "apply", "--server-side", f"--field-manager={manager}", "-n", reported, "-f", "-", stdin=json.dumps(body)
        )
    env = server.get("qwen3-8b", namespace=reported)["spec"]["engine"]["env"]
    assert sorted(entry["name"] for entry in env) == ["A", "B"]


def test_a_condition_has_one_status(server: Server, reported: str) -> None:
    """A status that is not True, False or Unknown is a bug of the operator that the server stops."""
    path = models_path(reported, "qwen3-8b", "status")
    body = {
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "Perhaps",
                    "reason": "Starting",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ]
        }
    }
    with pytest.raises(ApiError) as caught:
        server.request("PATCH", path, body=body, content_type="application/merge-patch+json")
    assert 'supported values: "True", "False", "Unknown"' in caught.value.message


def test_a_generated_file_is_what_the_server_takes(server: Server, kubectl: Kubectl) -> None:
    """`kubectl apply --server-side -f crds/` is how the definition is installed by hand."""
    result = kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "crds/vllm-operator.io_vllmmodels.yaml"
    )
    assert result.returncode == 0, result.stderr
