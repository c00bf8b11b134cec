"""Every field of VLLMModel's spec, as the CRD has it, with two valid values of each.

A test that must hold for *every* field (changing it changes a child, or is refused) takes its cases from here:

    for field in spec_fields(crd()):
        spec_a, spec_b = variants(field)    # both valid, different in that field only

A field that is added to the API and for which no two values can be derived raises LookupError until somebody writes
samples for it into SAMPLES: nothing is skipped silently.

Paths are written as in the reference documentation: `spec.scheduling.tolerations[].key`, `spec.resources.limits.*`.
"""

import copy
import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vllm_operator.api.crd import crd

Spec = dict[str, Any]
Kind = Literal["leaf", "free", "object", "list", "map"]

BASE: Mapping[str, Any] = MappingProxyType({"model": "Qwen/Qwen3-8B"})
"""The smallest valid spec; every variant is this and one more field (with what that field needs)."""

REFUSED = re.compile(r"spec\.engine\.args\..*")
"""Declared in the schema only to be refused by a CEL rule, so that no valid spec has them. See `refused_fields`."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A node of the spec's schema.

    `type` is OpenAPI's, or `int-or-string`. A `free` object is one whose fields the CRD does not check.
    """

    path: str
    kind: Kind
    type: str
    schema: Mapping[str, Any]
    required: bool

    @property
    def enum(self) -> tuple[Any, ...]:
        """The only values there are; empty when any value within the bounds will do."""
        return tuple(self.schema.get("enum", ()))

    @property
    def bounds(self) -> dict[str, Any]:
        """Bounds by OpenAPI's names, e.g. minimum, exclusiveMinimum, maxLength, maxItems."""
        return {
            key: value
            for key, value in self.schema.items()
            if re.match(r"(exclusive)?(min|max)[A-Z]?", key, re.IGNORECASE)
        }

    @property
    def pattern(self) -> str | None:
        """The pattern of a text, whether it is one of OpenAPI or a CEL rule."""
        if "pattern" in self.schema:
            return str(self.schema["pattern"])
        for rule in self.schema.get("x-kubernetes-validations", ()):
            if found := re.search(r"self\.matches\((['\"])(.*?)\1\)", rule["rule"]):
                return found[2].replace("\\\\", "\\")
        return None

    @property
    def checked(self) -> bool:
        """Whether a text must satisfy more than its length, so that values cannot be made up."""
        return "pattern" in self.schema or "format" in self.schema or bool(self.schema.get("x-kubernetes-validations"))

    def __str__(self) -> str:
        return self.path


def _affinity(zone: str) -> Spec:
    """Return an affinity for the nodes of a zone."""
    expression = {"key": "example.com/zone", "operator": "In", "values": [zone]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


_QUANTITIES = ("1Gi", "2Gi")
_NAMES = ("example-a", "example-b")
_LABEL_KEYS = ("example.com/a", "example.com/b")
_DURATIONS = ("30s", "1m30s")


@functools.cache
def _config(model: str) -> Spec:
    """Return the config.json of a published model."""
    config: Spec = json.loads((Path(__file__).parent / "data" / "models.json").read_text())[model]
    return config


SAMPLES: Mapping[str, tuple[Any, Any]] = {
    "spec.model": ("Qwen/Qwen3-8B", "Qwen/Qwen3-14B"),
    "spec.hub.revision": ("main", "v1.0"),
    "spec.hub.endpoint": ("https://hub-a.example.com", "http://hub-b.example.com:8080/mirror"),
    "spec.modelFacts.config": (_config("Qwen/Qwen3-8B"), _config("Qwen/Qwen3-32B")),
    "spec.modelFacts.weights": ("16Gi", "64Gi"),
    "spec.servedModelNames[]": ("qwen3-8b", "team/qwen3:latest"),
    "spec.auth.callers[].name": ("team-a", "team-b"),
    "spec.auth.callers[].namespace": ("namespace-a", "namespace-b"),
    "spec.engine.version": ("0.31.0", "0.32.0rc1"),
    "spec.engine.image": ("registry.example.com/vllm:a", "registry.example.com/vllm:b"),
    "spec.engine.executable": (["vllm", "serve"], ["python3", "-m", "vllm.entrypoints.openai.api_server"]),
    "spec.engine.executable[]": ("vllm", "/opt/vllm/bin/vllm"),
    "spec.engine.maxModelLen": (8192, "32k"),
    "spec.engine.quantization": ("fp8", "awq"),
    "spec.engine.kvCacheDtype": ("auto", "fp8"),
    "spec.engine.gpuMemoryUtilization": (0.8, 0.95),
    "spec.engine.maxNumSeqs": (64, 128),
    "spec.engine.maxNumBatchedTokens": (8192, 16384),
    "spec.engine.blockSize": (16, 32),
    "spec.engine.cpuOffloadGB": (4, 8.5),
    "spec.engine.tokenizer": ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"),
    "spec.engine.tokenizerMode": ("auto", "slow"),
    "spec.engine.loadFormat": ("auto", "dummy"),
    "spec.engine.convert": ("embed", "classify"),
    "spec.engine.toolCallParser": ("hermes", "qwen3_coder"),
    "spec.engine.reasoningParser": ("qwen3", "deepseek_r1"),
    "spec.engine.hfOverrides": ({"rope_theta": 10000}, {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
    "spec.engine.speculativeConfig": (
        {"method": "ngram", "num_speculative_tokens": 3},
        {"method": "ngram", "num_speculative_tokens": 5},
    ),
    "spec.engine.compilationConfig": ({"mode": 3}, {"cudagraph_capture_sizes": [1, 2, 4]}),
    "spec.engine.args": (
        {"max-num-queued-reqs": 2, "disable-log-stats": True},
        {"limit-mm-per-prompt": {"image": 2}, "lora-modules": ["a", "b"]},
    ),
    "spec.engine.env[].name": ("EXAMPLE_A", "EXAMPLE_B"),
    "spec.engine.env[].valueFrom.fieldRef.apiVersion": ("v1", "v1beta1"),
    "spec.engine.env[].valueFrom.fieldRef.fieldPath": ("status.podIP", "metadata.name"),
    "spec.engine.env[].valueFrom.resourceFieldRef.containerName": ("vllm", "sidecar"),
    "spec.engine.env[].valueFrom.resourceFieldRef.resource": ("limits.memory", "requests.memory"),
    "spec.engine.env[].valueFrom.resourceFieldRef.divisor": ("1Mi", "1Gi"),
    "spec.accelerator.type": ("nvidia", "amd"),
    "spec.accelerator.product": ("NVIDIA-L4", "NVIDIA-H100-80GB-HBM3"),
    "spec.accelerator.minMemory": ("20Gi", "80Gi"),
    "spec.accelerator.resourceName": ("nvidia.com/mig-3g.40gb", "example.com/gpu"),
    "spec.autoscaling.maxReplicas": (2, 3),
    "spec.autoscaling.scaleDownDelay": _DURATIONS,
    "spec.resources.requests.*": _QUANTITIES,
    "spec.resources.limits.*": _QUANTITIES,
    "spec.scheduling.affinity": (_affinity("a"), _affinity("b")),
    "spec.scheduling.tolerations[].key": _LABEL_KEYS,
    "spec.scheduling.topologySpreadConstraints[].topologyKey": (
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ),
    "spec.scheduling.topologySpreadConstraints[].labelSelector.matchExpressions[].key": _LABEL_KEYS,
    "spec.scheduling.topologySpreadConstraints[].matchLabelKeys[]": _LABEL_KEYS,
    "spec.cache.persistentVolumeClaim.subPath": ("models", "team/models"),
    "spec.cache.emptyDir.sizeLimit": _QUANTITIES,
    "spec.cache.hostPath.path": ("/var/cache/vllm", "/mnt/models"),
    "spec.cache.hostPath.type": ("DirectoryOrCreate", "Directory"),
    "spec.sharedMemory.sizeLimit": _QUANTITIES,
    "spec.startup.budget": ("10m", "1h30m"),
    "spec.rollout.strategy": ("Surge", "Recreate"),
    "spec.rollout.maxSurge": (2, "50%"),
    "spec.rollout.maxUnavailable": (1, "25%"),
    "spec.rollout.drainSeconds": (5, 30),
    "spec.rollout.terminationGracePeriodSeconds": (300, 600),
    "spec.route.parentRefs[].group": ("gateway.networking.k8s.io", "example.com"),
    "spec.route.parentRefs[].kind": ("Gateway", "ListenerSet"),
    "spec.route.hostnames[]": ("llm.example.com", "*.example.com"),
    "spec.route.pathPrefix": ("/qwen", "/team/qwen3"),
    "spec.route.timeouts.request": _DURATIONS,
    "spec.route.timeouts.backendRequest": _DURATIONS,
    "spec.adapters[].name": ("sql", "team/sql:v2"),
    "spec.adapters[].source": ("org/sql-lora", "pvc://adapters/sql"),
    "spec.external.url": ("https://api-a.example.com", "https://api-b.example.com/openai"),
    "spec.defaults.chatTemplateKwargs": ({"enable_thinking": True}, {"enable_thinking": False}),
    "spec.podTemplate.spec": ({"hostname": "a"}, {"hostname": "b"}),
}
"""Two valid values of fields whose values cannot be derived, or for which two derived ones would mean the same."""

_NAME_FIELDS = re.compile(
    r".*(SecretRef|KeyRef|imagePullSecrets\[\]|parentRefs\[\])\.name"
    r"|.*\.(sectionName|namespace|claimName|priorityClassName|runtimeClassName|schedulerName|serviceAccountName|fallback)"
)
"""Fields that hold the name of an object."""

_KEY_FIELDS = re.compile(r".*(SecretRef|KeyRef)\.key")
"""Fields that hold a key in a Secret's or ConfigMap's data."""

MAP_KEYS: Mapping[str, str] = {
    "spec.resources.requests": "memory",
    "spec.resources.limits": "memory",
    "spec.external.modelNames": "qwen3-8b",
}
"""The key that stands for `*` below a map; a label's key where none is given."""

SIBLINGS: Mapping[str, Mapping[str, Any]] = {
    # No rule of the CRD, but of the pod that comes out of it.
    "spec.scheduling.topologySpreadConstraints[].labelSelector.matchExpressions[]": {"values": ["a"]},
}
"""What stands in an object besides its required fields, for Kubernetes to accept what is built from it."""

NEEDS: Mapping[str, Mapping[str, Any]] = {
    "spec.engine.env[].name": {"value": "example"},
    "spec.scheduling.tolerations[].operator": {"key": "example.com/a"},
    "spec.scheduling.tolerations[].value": {"key": "example.com/a", "operator": "Equal"},
    "spec.scheduling.tolerations[].effect": {"key": "example.com/a", "operator": "Exists"},
    "spec.scheduling.tolerations[].tolerationSeconds": {
        "key": "example.com/a",
        "operator": "Exists",
        "effect": "NoExecute",
    },
    "spec.scheduling.topologySpreadConstraints[].matchLabelKeys": {"labelSelector": {"matchLabels": {"app": "a"}}},
    "spec.scheduling.topologySpreadConstraints[].minDomains": {"whenUnsatisfiable": "DoNotSchedule"},
}
"""What stands beside a field, for it to mean something."""

EXCLUSIVE: tuple[tuple[str, frozenset[str]], ...] = (
    ("spec.cache", frozenset({"persistentVolumeClaim", "emptyDir", "hostPath"})),
    ("spec.engine.env[]", frozenset({"value", "valueFrom"})),
    (
        "spec.engine.env[].valueFrom",
        frozenset({"secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef"}),
    ),
)
"""Objects in which setting one of these fields takes the others away."""


def spec_fields(definition: Mapping[str, Any]) -> list[Field]:
    """Return every node below .spec of the CRD, parents first: leaves, objects, lists and maps."""
    return [field for field in _all_fields(definition) if not REFUSED.fullmatch(field.path)]


def refused_fields(definition: Mapping[str, Any]) -> list[Field]:
    """Return the fields that are declared for a rule to refuse them."""
    return [field for field in _all_fields(definition) if REFUSED.fullmatch(field.path)]


def example_values(field: Field) -> tuple[Any, Any]:
    """Return two different valid values. Raises LookupError for a field that needs samples and has none."""
    first, second = _example_values(field)
    if first == second:
        raise LookupError(f"{field.path}: the two values are the same: {first!r}")
    return copy.deepcopy(first), copy.deepcopy(second)


def variants(field: Field, base: Mapping[str, Any] = BASE) -> tuple[Spec, Spec]:
    """Return two valid specs that differ in this field only."""
    first, second = example_values(field)
    return with_value(base, field.path, first), with_value(base, field.path, second)


def with_value(spec: Mapping[str, Any], path: str, value: Any) -> Spec:
    """Return the spec with the value at this path.

    Objects on the way that are not there are made with the fields they require; a list is entered at its first element,
    a map at the key that MAP_KEYS names. Alternatives of a field on the way are taken away.
    """
    result: Spec = copy.deepcopy(dict(spec))
    here = "spec"
    node: Any = result
    for step in _steps(path)[:-1]:
        node, here = _enter(node, here, step)
    last = _steps(path)[-1]
    for name, needed in NEEDS.get(path, {}).items():
        node.setdefault(name, copy.deepcopy(needed))
    _set(node, here, last, copy.deepcopy(value))
    return result


def _steps(path: str) -> list[str]:
    """Return the steps of a path below `spec`: names of fields, `[]` and `*`."""
    return re.findall(r"[^.\[\]]+|\[\]", path.removeprefix("spec."))


def _join(path: str, step: str) -> str:
    return path + step if step == "[]" else f"{path}.{step}"


def _enter(node: Any, here: str, step: str) -> tuple[Any, str]:
    """Step down one level, making what is not there. Return the node below and its path."""
    below = _join(here, step)
    if step == "[]":
        if not node:
            node.append(_smallest(_fields()[below]))
        return node[0], below
    key = MAP_KEYS.get(here, "example.com/key") if step == "*" else step
    if key not in node:
        _set(node, here, step, _smallest(_fields()[below]))
    return node[key], below


def _set(node: Any, here: str, step: str, value: Any) -> None:
    """Set what is directly below a node, and take its alternatives away."""
    if step == "[]":
        node[:1] = [value]
        return
    key = MAP_KEYS.get(here, "example.com/key") if step == "*" else step
    for parent, names in EXCLUSIVE:
        if parent == here and key in names:
            for other in names - {key}:
                node.pop(other, None)
    node[key] = value


def _smallest(field: Field) -> Any:
    """Return what an object has to have at least; lists and maps are empty, to be filled by the caller."""
    if field.kind == "list":
        return []
    if field.kind == "object":
        required = {
            name: example_values(_fields()[f"{field.path}.{name}"])[0] for name in field.schema.get("required", ())
        }
        return {**required, **copy.deepcopy(dict(SIBLINGS.get(field.path, {})))}
    return {}


@functools.cache
def _fields() -> dict[str, Field]:
    return {field.path: field for field in spec_fields(crd())}


def _all_fields(definition: Mapping[str, Any]) -> list[Field]:
    (version,) = definition["spec"]["versions"]
    return list(_below(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec"))


def _below(schema: Mapping[str, Any], path: str) -> Iterator[Field]:
    """Yield the nodes below one."""
    for name, child in schema.get("properties", {}).items():
        yield from _at(child, f"{path}.{name}", required=name in schema.get("required", ()))
    if "items" in schema:
        yield from _at(schema["items"], f"{path}[]", required=False)
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from _at(schema["additionalProperties"], f"{path}.*", required=False)


def _at(schema: Mapping[str, Any], path: str, *, required: bool) -> Iterator[Field]:
    """Yield a node and those below it."""
    kind, type_ = _kind(schema, path)
    yield Field(path=path, kind=kind, type=type_, schema=schema, required=required)
    yield from _below(schema, path)


def _kind(schema: Mapping[str, Any], path: str) -> tuple[Kind, str]:
    if schema.get("x-kubernetes-int-or-string"):
        return "leaf", "int-or-string"
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return "free", "object"
    type_ = schema["type"]
    if type_ == "array":
        return "list", type_
    if type_ == "object":
        if "properties" not in schema and "additionalProperties" not in schema:
            raise LookupError(f"{path}: an object without fields")
        return ("map" if "additionalProperties" in schema else "object"), type_
    return "leaf", type_


def _example_values(field: Field) -> tuple[Any, Any]:
    path = field.path
    if path in SAMPLES:
        return SAMPLES[path]
    if field.kind == "list":
        first, second = example_values(_fields()[f"{path}[]"])
        return [first], [second]
    if field.kind == "map":
        key = MAP_KEYS.get(path, "example.com/key")
        first, second = example_values(_fields()[f"{path}.*"])
        return {key: first}, {key: second}
    if field.kind == "object":
        return _example_objects(field)
    if field.enum:
        if len(field.enum) > 1:
            return field.enum[0], field.enum[1]
    elif field.type == "boolean":
        return True, False
    elif field.type in ("integer", "number"):
        return _example_numbers(field)
    elif field.type == "string" and _NAME_FIELDS.fullmatch(path):
        return _NAMES
    elif field.type == "string" and _KEY_FIELDS.fullmatch(path):
        return "key-a", "key-b"
    elif field.type == "string" and not field.checked and field.schema["maxLength"] >= 9:
        return "example-a", "example-b"
    raise LookupError(f"{path}: add two valid values to SAMPLES in tests/schema_fields.py")


def _example_objects(field: Field) -> tuple[Spec, Spec]:
    """Return two objects that differ in one field: one that is required, or else the first."""
    name = next(iter([*field.schema.get("required", ()), *field.schema["properties"]]))
    child = f"{field.path}.{name}"
    beside = {**_smallest(field), **copy.deepcopy(dict(NEEDS.get(child, {})))}
    first, second = example_values(_fields()[child])
    return {**beside, name: first}, {**beside, name: second}


def _example_numbers(field: Field) -> tuple[Any, Any]:
    """Return two numbers within the bounds."""
    least, most = field.schema.get("minimum"), field.schema.get("maximum")
    if field.type == "integer":
        first = max(1, least if least is not None else 1)
        if most is None or first + 1 <= most:
            return first, first + 1
    elif least is not None and most is not None:
        return least + (most - least) / 4, least + (most - least) / 2
    raise LookupError(f"{field.path}: add two valid values to SAMPLES in tests/schema_fields.py")
