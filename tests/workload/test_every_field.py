"""Every field of the API does something: it changes what is built, or it is refused by name. There is no third case."""

import re

import pytest

from tests.schema_fields import Field, spec_fields, variants
from tests.workload.bundles import build_bundle
from vllm_operator.api.conditions import Reason
from vllm_operator.api.crd import crd
from vllm_operator.api.errors import Refusal

FIELDS = spec_fields(crd())


def _built(spec: object) -> object:
    try:
        return build_bundle(spec)  # type: ignore[arg-type]
    except Refusal as refusal:
        return refusal


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_field_changes_what_is_built_or_is_refused_by_name(field: Field) -> None:
    first, second = (_built(spec) for spec in variants(field))
    refusals = [result for result in (first, second) if isinstance(result, Refusal)]
    if not refusals:
        assert first != second, f"{field.path} has no effect"
        return
    assert len(refusals) == 2, f"{field.path} is refused for one value only: {refusals[0].message}"
    for refusal in refusals:
        assert refusal.reason is Reason.NOT_IMPLEMENTED, refusal.message
        (named,) = re.findall(r"^spec\.[A-Za-z.]+", refusal.message)
        plain = re.sub(r"\[\]|\.\*", "", field.path)
        assert plain == named.rstrip(".") or plain.startswith(named.rstrip(".") + ".") or named.startswith(plain), (
            f"{field.path} is refused in the name of {named}"
        )


def test_fields_are_found() -> None:
    assert len(FIELDS) > 200
