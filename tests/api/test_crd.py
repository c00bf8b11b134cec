"""The CRD that is generated: structural, bounded, and as the rest of the project expects it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from vllm_operator.api.base import Model, explained
from vllm_operator.api.conditions import ConditionType, Reason
from vllm_operator.api.crd import (
    DEFAULTED,
    Schema,
    SchemaError,
    cel_string,
    crd,
    model_schema,
    one_paragraph,
    root_schema,
)
from vllm_operator.api.types import OWNED_OPTIONS, OWNED_SPELLINGS

UNBOUNDED = frozenset({"apiVersion", "kind", "metadata"})
"""Fields of the root whose bounds are the API server's own."""


def nodes(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every node of a schema, the first included."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def all_nodes() -> list[tuple[str, Mapping[str, Any]]]:
    """Return every node of spec and status."""
    properties = root_schema()["properties"]
    return [*nodes(properties["spec"], "spec"), *nodes(properties["status"], "status")]


def test_names_and_scope() -> None:
    spec = crd()["spec"]
    assert crd()["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}" == "vllmmodels.vllm-operator.io"
    assert spec["scope"] == "Namespaced"
    assert spec["names"] == {
        "kind": "VLLMModel",
        "listKind": "VLLMModelList",
        "plural": "vllmmodels",
        "singular": "vllmmodel",
        "shortNames": ["vllm"],
        "categories": ["all"],
    }


def test_one_version_with_status_and_scale() -> None:
    (version,) = crd()["spec"]["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"]["status"] == {}
    scale = version["subresources"]["scale"]
    assert set(scale) == {"specReplicasPath", "statusReplicasPath", "labelSelectorPath"}
    schema = version["schema"]["openAPIV3Schema"]
    for path, kind in zip(scale.values(), ("integer", "integer", "string"), strict=True):
        assert at(schema, path)["type"] == kind


def at(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return the node at a JSON path, through a filter on conditions."""
    for step in re.findall(r"\.([A-Za-z]+)|(\[)", path):
        schema = schema["items"] if step[1] else schema["properties"][step[0]]
    return schema


def test_printer_columns_show_fields_that_exist() -> None:
    (version,) = crd()["spec"]["versions"]
    columns = {column["name"]: column for column in version["additionalPrinterColumns"]}
    assert list(columns) == ["Model", "Ready", "Replicas", "GPUs", "TP", "Context", "URL", "Reason", "Age"]
    assert columns["Age"]["jsonPath"] == ".metadata.creationTimestamp"
    for name, column in columns.items():
        if name != "Age":
            path = re.sub(r"\[\?\(.*?\)\]", "[", column["jsonPath"])
            assert at(version["schema"]["openAPIV3Schema"], path)["type"] == column["type"]


def test_it_fits_into_a_last_applied_annotation() -> None:
    """`kubectl apply` without --server-side keeps the object in an annotation of at most 256 KiB."""
    assert len(json.dumps(crd())) < 256 * 1024


def test_it_is_structural() -> None:
    for path, node in all_nodes():
        assert not {"$ref", "anyOf", "oneOf", "allOf", "const", "title", "nullable", "examples"} & set(node), path
        assert node.get("additionalProperties") is not False, path
        typed = "type" in node
        if node.get("x-kubernetes-int-or-string"):
            assert not typed, path
        elif not node.get("x-kubernetes-preserve-unknown-fields"):
            assert typed, path
        for key in ("exclusiveMinimum", "exclusiveMaximum"):
            assert node.get(key, True) is True, f"{path}: OpenAPI v3.0 has {key} as a boolean"
        if "exclusiveMinimum" in node:
            assert "minimum" in node, path


def test_everything_is_bounded() -> None:
    """The API server multiplies a rule's cost by the bounds of what stands around it, or by megabytes without them."""
    for path, node in all_nodes():
        kind = node.get("type")
        if node.get("x-kubernetes-int-or-string") or (kind == "string" and not {"enum", "format"} & set(node)):
            assert "maxLength" in node, f"{path}: a text without maxLength"
        elif kind == "array":
            assert "maxItems" in node, f"{path}: a list without maxItems"
        elif kind == "object" and "properties" not in node:
            assert "maxProperties" in node, f"{path}: a map without maxProperties"


def test_a_free_object_is_meant_to_be_one() -> None:
    free = {path for path, node in all_nodes() if node.get("x-kubernetes-preserve-unknown-fields")}
    assert free == {
        "spec.modelFacts.config",
        "spec.engine.hfOverrides",
        "spec.engine.speculativeConfig",
        "spec.engine.compilationConfig",
        "spec.engine.args",
        "spec.scheduling.affinity",
        "spec.defaults.chatTemplateKwargs",
        "spec.podTemplate.spec",
    }


def test_only_replicas_has_a_default() -> None:
    assert {path: node["default"] for path, node in all_nodes() if "default" in node} == {"spec.replicas": 1}
    assert {"spec.replicas"} == DEFAULTED


def test_lists_say_how_they_are_merged() -> None:
    for path, node in all_nodes():
        if node.get("type") != "array":
            continue
        merged = node["x-kubernetes-list-type"]
        if merged == "map":
            keys = node["x-kubernetes-list-map-keys"]
            assert set(keys) <= set(node["items"]["required"]), path
        elif merged == "set":
            assert node["items"]["type"] == "string", path
        else:
            assert merged == "atomic", path


def test_descriptions_are_paragraphs() -> None:
    for path, node in all_nodes():
        if path.endswith(("[]", ".*")):
            continue
        description = node["description"]
        assert description == one_paragraph(description), path
        assert description.endswith(".") or description == "--pipeline-parallel-size.", path
        assert "``" not in description, path


def test_rules_have_messages() -> None:
    for path, node in [*all_nodes(), ("", root_schema())]:
        for rule in node.get("x-kubernetes-validations", ()):
            assert set(rule) == {"rule", "message"}, path
            assert rule["message"], path
            assert len(rule["message"]) <= 2048, path
            # The API server writes no full stop after a message, and may add text.
            assert not rule["message"].endswith("."), path


def test_no_pattern_without_words() -> None:
    """A pattern in an error helps nobody; in the spec, each is a rule with a message."""
    for path, node in all_nodes():
        assert "pattern" not in node or path.startswith("status."), path


def test_conditions_list_every_type_and_reason() -> None:
    description = root_schema()["properties"]["status"]["properties"]["conditions"]["description"]
    for word in [*ConditionType, *Reason]:
        assert re.search(rf"\b{word}\b", description), word


def test_name_is_checked_at_the_root() -> None:
    schema = root_schema()
    assert schema["properties"]["metadata"] == {"type": "object"}
    assert "self.metadata.name" in schema["x-kubernetes-validations"][0]["rule"]
    assert schema["required"] == ["spec"]


def test_every_spelling_of_an_owned_option_is_refused() -> None:
    args = at(root_schema(), ".spec.engine.args")
    assert set(args["properties"]) == set(OWNED_SPELLINGS)
    (rule,) = args["x-kubernetes-validations"]
    for name in OWNED_OPTIONS:
        for spelling in (name, name.replace("-", "_")):
            assert f"!has(self.{spelling.replace('-', '__dash__')})" in rule["rule"]


def test_the_result_is_the_same_each_time() -> None:
    assert json.dumps(crd()) == json.dumps(crd())


class Leaf(Model):
    """A leaf. It has a second sentence."""

    name: Annotated[str, Field(max_length=5)] | None = None
    """Its
    name."""


class Tree(Model):
    """A tree."""

    described: Leaf | None = None
    """A leaf that is described."""
    plain: Leaf | None = None
    choice: Literal["a"] | None = None
    share: Annotated[float, Field(gt=0, lt=1.0)] | None = None
    large: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    small: Annotated[int, Field(ge=0, le=5)] | None = None
    text: Annotated[str, Field(max_length=3, pattern=r"^a\.'\"$", json_schema_extra=explained("write a."))] | None = (
        None
    )


def tree() -> Schema:
    """Return the properties of a schema made for these tests."""
    properties: Schema = model_schema(Tree, path="spec")["properties"]
    return properties


def test_references_are_inlined_and_described_by_both() -> None:
    described = tree()["described"]
    assert described["description"] == "A leaf that is described. It has a second sentence."
    assert described["properties"] == {"name": {"description": "Its name.", "type": "string", "maxLength": 5}}
    assert tree()["plain"]["description"] == "A leaf. It has a second sentence."


def test_a_single_literal_is_an_enum() -> None:
    assert tree()["choice"] == {"type": "string", "enum": ["a"]}


def test_numbers_are_written_as_the_server_gives_them_back() -> None:
    assert tree()["share"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }
    assert [type(tree()["share"][key]) for key in ("minimum", "maximum")] == [int, int]
    assert tree()["large"] == {"type": "integer", "format": "int64", "minimum": 0}
    assert tree()["small"] == {"type": "integer", "minimum": 0, "maximum": 5}


def test_an_explained_pattern_becomes_a_rule() -> None:
    assert tree()["text"] == {
        "type": "string",
        "maxLength": 3,
        "x-kubernetes-validations": [{"rule": r"""self.matches("^a\\.'\\\"$")""", "message": "write a."}],
    }


def test_cel_strings_are_quoted() -> None:
    assert cel_string(r'a"\d') == r'"a\"\\d"'


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (int | list[str], "union"),
        (dict[str, Any], "x-kubernetes-preserve-unknown-fields"),
        (Annotated[str, Field(json_schema_extra={"pattern": r"^(?=a)"})], "RE2"),
        (Annotated[str, Field(json_schema_extra={"pattern": r"^a\Z"})], "RE2"),
        (Annotated[str, Field(pattern=r"^\d$")], "ASCII"),
        (Annotated[str, Field(pattern="^[^\x00]$")], "control characters"),
        (Annotated[str, Field(json_schema_extra={"x-other": 1})], "x-other"),
        (Annotated[int, Field(multiple_of=2)], "multipleOf"),
        (Annotated[int, Field(gt=1, ge=1)], "both"),
    ],
    ids=str,
)
def test_what_a_structural_schema_cannot_say_is_an_error(annotation: Any, says: str) -> None:
    class Odd(Model):
        field: annotation

    with pytest.raises(SchemaError, match=says) as caught:
        model_schema(Odd, path="spec")
    assert "spec.field" in str(caught.value)
