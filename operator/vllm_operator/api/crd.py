"""The CustomResourceDefinition of VLLMModel, derived from the pydantic types. Pure.

Pydantic writes JSON Schema 2020-12; the API server wants a *structural* OpenAPI v3.0 schema: no `$ref`, no `null`, no
`additionalProperties: false`, boolean `exclusiveMinimum`, and `x-kubernetes-int-or-string` instead of a union. A
construct that this module does not know raises SchemaError, so that nothing is silently lost on the way.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from vllm_operator.api.base import PATTERN_MESSAGE
from vllm_operator.api.conditions import ConditionType, Reason
from vllm_operator.api.types import GROUP, KIND, PLURAL, VERSION, VLLMModel, VLLMModelSpec, VLLMModelStatus

Schema = dict[str, Any]

SINGULAR = "vllmmodel"
SHORT_NAMES = ("vllm",)
CRD_NAME = f"{PLURAL}.{GROUP}"

DEFAULTED = frozenset({"spec.replicas"})
"""Fields that the API server defaults: `kubectl scale` needs a number to read. All other defaults are the operator's,
so that `kubectl get -o yaml` shows what the user wrote and a new operator version may choose better."""

_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "default",
    "items",
    "properties",
    "additionalProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
"""Every key of a schema that may reach the CRD, in the order in which it is written."""

_DROPPED = frozenset({"title", "examples", "$defs", "const", PATTERN_MESSAGE})
_LARGEST_INT64 = 2**63 - 1


class SchemaError(ValueError):
    """A type of the API uses something that a structural schema cannot say."""


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition as the API server takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": list(SHORT_NAMES),
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": printer_columns(),
                    "schema": {"openAPIV3Schema": root_schema()},
                }
            ],
        },
    }


def printer_columns() -> list[dict[str, Any]]:
    """Return the columns of `kubectl get vllmmodels`."""
    ready = '.status.conditions[?(@.type=="Ready")]'
    columns = (
        ("Model", "string", ".spec.model"),
        ("Ready", "string", f"{ready}.status"),
        ("Replicas", "string", ".status.replicaSummary"),
        ("GPUs", "integer", ".status.gpus"),
        ("TP", "integer", ".status.sizing.tensorParallelSize"),
        ("Context", "integer", ".status.maxModelLen"),
        ("URL", "string", ".status.url"),
        ("Reason", "string", f"{ready}.reason"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    return [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in columns]


def root_schema() -> Schema:
    """Return the schema of a whole VLLMModel."""
    extra = VLLMModel.model_config.get("json_schema_extra")
    assert isinstance(extra, dict)
    status = model_schema(VLLMModelStatus, path="status")
    status["properties"]["conditions"]["description"] = conditions_description()
    return {
        "description": one_paragraph(VLLMModel.__doc__ or ""),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": "Version of the schema of this object.", "type": "string"},
            "kind": {"description": "Kind of this object.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": model_schema(VLLMModelSpec, path="spec"),
            "status": status,
        },
        **extra,
    }


def conditions_description() -> str:
    """Return the description of status.conditions: every type and every reason there is."""
    types = ", ".join(ConditionType)
    reasons = ", ".join(sorted(Reason))
    return (
        f"How the model is. Types: {types}. Ready is the summary; Reconciling and Stalled are there only while they "
        f"are true. Reasons: {reasons}."
    )


def model_schema(model: type[BaseModel], *, path: str) -> Schema:
    """Return the structural schema of a pydantic model; `path` is where it stands in the resource, e.g. `spec`."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(raw, raw.get("$defs", {}), path)


def one_paragraph(text: str) -> str:
    """Return a docstring as one paragraph without line breaks."""
    return " ".join(text.split())


def _structural(raw: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """Return the structural form of one node of pydantic's schema and of all below it."""
    node = _normalised(_inlined(raw, definitions, path), path)
    known = {"anyOf", "allOf", "$ref"} | _DROPPED | set(_KEPT)
    if unknown := sorted(set(node) - known):
        raise SchemaError(f"{path}: the CRD generator does not know {', '.join(unknown)}")

    result: Schema = {}
    for key in _KEPT:
        if key not in node:
            continue
        value = node[key]
        if key == "default":
            if path in DEFAULTED:
                result[key] = value
        elif key == "description":
            result[key] = one_paragraph(value)
        elif key == "properties":
            result[key] = {name: _structural(child, definitions, f"{path}.{name}") for name, child in value.items()}
        elif key == "items":
            result[key] = _structural(value, definitions, f"{path}[]")
        elif key == "additionalProperties":
            if isinstance(value, Mapping):
                result[key] = _structural(value, definitions, f"{path}.*")
            # `false` is what the API server does anyway; `true` is said by x-kubernetes-preserve-unknown-fields.
            elif value and "x-kubernetes-preserve-unknown-fields" not in node:
                raise SchemaError(f"{path}: an object with any field must say x-kubernetes-preserve-unknown-fields")
        else:
            result[key] = value
    return result


def _inlined(raw: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the node with `$ref` replaced by what it refers to and `anyOf: [X, null]` by X."""
    node = dict(raw)
    while True:
        if "$ref" in node:
            target = dict(definitions[node.pop("$ref").removeprefix("#/$defs/")])
            described = _described(node.get("description", ""), target.get("description", ""))
            node = {**target, **node, "description": described}
        elif "anyOf" in node and any(choice == {"type": "null"} for choice in node["anyOf"]):
            choices = [choice for choice in node.pop("anyOf") if choice != {"type": "null"}]
            if len(choices) == 1:
                node = {**choices[0], **node}
            else:
                node["anyOf"] = choices
        elif "anyOf" in node and node.get("x-kubernetes-int-or-string"):
            node.pop("anyOf")
        elif "anyOf" in node or "allOf" in node or "oneOf" in node:
            raise SchemaError(f"{path}: a union has no structural schema; use one type, or x-kubernetes-int-or-string")
        else:
            return node


def _normalised(node: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the node in the words of OpenAPI v3.0."""
    result = dict(node)
    if "const" in result:
        result["enum"] = [result["const"]]
    if "enum" in result and "type" not in result:
        result["type"] = "string"
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in result:
            if inclusive in result:
                raise SchemaError(f"{path}: has both {exclusive} and {inclusive}")
            result[inclusive] = result[exclusive]
            result[exclusive] = True
    if result.get("type") == "integer":
        # The API server reads bounds as float64, where the largest int64 has no exact value; the format says the same.
        if result.get("maximum") == _LARGEST_INT64:
            del result["maximum"]
        if result.get("maximum", _LARGEST_INT64) > 2**31 - 1:
            result["format"] = "int64"
    for bound in ("minimum", "maximum"):
        # 1.0 and 1 are one number to the API server, which gives back 1: write what it gives back, so nothing differs.
        if isinstance(result.get(bound), float) and result[bound].is_integer():
            result[bound] = int(result[bound])
    if "pattern" in result:
        _check_re2(result["pattern"], path)
        if message := result.get(PATTERN_MESSAGE):
            rule = {"rule": f"self.matches({cel_string(result.pop('pattern'))})", "message": message}
            result["x-kubernetes-validations"] = [rule, *result.get("x-kubernetes-validations", ())]
        elif any(result["pattern"] in rule["rule"] for rule in result.get("x-kubernetes-validations", ())):
            # A rule of the field's own checks the pattern and says so in words.
            del result["pattern"]
    return result


def cel_string(text: str) -> str:
    """Return the text as a literal of CEL (whose escapes include JSON's)."""
    return json.dumps(text, ensure_ascii=False)


def _check_re2(pattern: str, path: str) -> None:
    """Raise for what Python's `re` has and RE2, by which the API server checks patterns, has not."""
    if re.search(r"\(\?(?!:|P<|i\))|\\[1-9Z]|[*+?}]\+", pattern):
        raise SchemaError(f"{path}: not RE2 (look-around, back-reference, \\Z or possessive quantifier): {pattern}")
    if re.search(r"(?<!\\)(\\\\)*\\[dswDSWbB]", pattern):
        raise SchemaError(
            f"{path}: write [0-9] and the like: \\d, \\s, \\w mean ASCII to RE2 and Unicode to pydantic: {pattern}"
        )
    if any(ord(character) < 32 for character in pattern):
        raise SchemaError(f"{path}: write control characters of a pattern as \\x00, in a raw string")


def _described(field: str, target: str) -> str:
    """Return the field's description, and after it what the type's own description adds to its first sentence."""
    own, type_s = _sentences(field), _sentences(target)
    if not own:
        return " ".join(type_s)
    more = type_s[1:]
    kept = [sentence for sentence in own if not any(other.startswith(sentence.rstrip(".")) for other in more)]
    return " ".join([*kept, *(sentence for sentence in more if sentence not in kept)])


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=\.)(?<!e\.g\.)\s+(?=[A-Z`])", one_paragraph(text)) if sentence]
