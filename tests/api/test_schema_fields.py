"""tests/schema_fields.py itself: no field is left out, and every spec that it makes is valid."""

import copy
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from tests import schema_fields
from tests.schema_fields import BASE, Field, example_values, refused_fields, spec_fields, variants, with_value
from vllm_operator.api.crd import crd
from vllm_operator.api.types import OWNED_SPELLINGS, VLLMModelSpec

FIELDS = spec_fields(crd())


def attributes(model: type[BaseModel], path: str) -> Iterator[str]:
    """Yield the path of every attribute of the pydantic types, by another way than the CRD's."""

    def below(annotation: Any, here: str) -> Iterator[str]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from attributes(annotation, here)
            return
        suffix = {"list": "[]", "dict": ".*"}.get(getattr(get_origin(annotation), "__name__", ""), "")
        for argument in get_args(annotation):
            yield from below(argument, here + suffix)

    for name, info in model.model_fields.items():
        here = f"{path}.{info.alias or name}"
        yield here
        yield from below(info.annotation, here)


def test_no_field_is_left_out() -> None:
    paths = {field.path for field in FIELDS}
    assert set(attributes(VLLMModelSpec, "spec")) <= paths
    assert len(paths) == len(FIELDS)


def test_what_is_refused_is_exactly_what_the_operator_owns() -> None:
    refused = {field.path for field in refused_fields(crd())}
    assert refused == {f"spec.engine.args.{name}" for name in OWNED_SPELLINGS}


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_variants_are_valid_and_differ_in_one_field(field: Field) -> None:
    spec_a, spec_b = variants(field)
    read_a, read_b = VLLMModelSpec.model_validate(spec_a), VLLMModelSpec.model_validate(spec_b)
    assert read_a != read_b
    assert read_a.model_dump(by_alias=True, exclude_unset=True) == spec_a
    value_a, value_b = example_values(field)
    assert with_value(spec_b, field.path, value_a) == spec_a
    assert with_value(spec_a, field.path, value_b) == spec_b


def test_the_tables_name_fields_that_exist() -> None:
    paths = {field.path for field in FIELDS}
    for table in (schema_fields.SAMPLES, schema_fields.MAP_KEYS, schema_fields.SIBLINGS, schema_fields.NEEDS):
        assert set(table) <= paths
    for parent, names in schema_fields.EXCLUSIVE:
        assert {f"{parent}.{name}" for name in names} <= paths


def _with_field(name: str, schema: dict[str, Any]) -> Field:
    definition = copy.deepcopy(crd())
    properties = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties[name] = schema
    return next(field for field in spec_fields(definition) if field.path == f"spec.{name}")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 5, "pattern": "^a$"},
        {"type": "string", "maxLength": 5, "x-kubernetes-validations": [{"rule": "self == 'a'", "message": "a"}]},
        {"type": "object", "maxProperties": 5, "x-kubernetes-preserve-unknown-fields": True},
        {"x-kubernetes-int-or-string": True, "maxLength": 5},
        {"type": "string", "enum": ["one"]},
        {"type": "number", "minimum": 0},
        {"type": "integer", "minimum": 1, "maximum": 1},
    ],
    ids=str,
)
def test_a_new_field_without_samples_is_an_error(schema: dict[str, Any]) -> None:
    field = _with_field("brandNew", schema)
    with pytest.raises(LookupError, match=r"spec\.brandNew: add two valid values to SAMPLES"):
        example_values(field)


def test_an_element_gets_what_it_requires() -> None:
    spec = with_value(BASE, "spec.engine.env[].valueFrom.secretKeyRef.optional", True)
    assert spec == {
        "model": "Qwen/Qwen3-8B",
        "engine": {
            "env": [
                {
                    "name": "EXAMPLE_A",
                    "valueFrom": {"secretKeyRef": {"name": "example-a", "key": "key-a", "optional": True}},
                }
            ]
        },
    }


def test_an_alternative_takes_the_others_away() -> None:
    spec = with_value(BASE, "spec.cache.emptyDir.sizeLimit", "1Gi")
    assert with_value(spec, "spec.cache.hostPath.path", "/mnt")["cache"] == {"hostPath": {"path": "/mnt"}}


def test_what_is_there_stays() -> None:
    spec = with_value(BASE, "spec.resources.limits.*", "1Gi")
    spec = with_value(spec, "spec.resources.requests.*", "2Gi")
    assert spec == {**BASE, "resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}}
    assert BASE == {"model": "Qwen/Qwen3-8B"}


def test_bounds_and_patterns_can_be_read() -> None:
    fields = {field.path: field for field in FIELDS}
    utilization = fields["spec.engine.gpuMemoryUtilization"]
    assert utilization.bounds == {"minimum": 0, "exclusiveMinimum": True, "maximum": 1}
    assert fields["spec.engine.dtype"].enum[0] == "auto"
    assert fields["spec.route.timeouts.request"].pattern == "^([0-9]{1,5}(h|m|s|ms)){1,4}$"
    assert fields["spec.engine.executable[]"].pattern == r"^[^\x00]+$"
    assert fields["spec.model"].required
    assert fields["spec.engine.args"].kind == "free"
