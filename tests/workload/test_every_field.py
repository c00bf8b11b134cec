"""Every field of the API does something: it changes what is built, or it is refused by name. There is no third case."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.schema_fields import Field, spec_fields, variants
from tests.sizing.published import pool, published
from tests.workload.bundles import build_bundle, parse
from vllm_operator.api.conditions import Reason
from vllm_operator.api.crd import crd
from vllm_operator.api.errors import Refusal
from vllm_operator.hub.read import facts_by_hand
from vllm_operator.reconcile.adapters import wanted_adapters
from vllm_operator.sizing.decide import Known
from vllm_operator.sizing.pools import Pools
from vllm_operator.sizing.wanted import read_bytes
from vllm_operator.workload.settings import BuildSettings

FIELDS = spec_fields(crd())


POOLS = Pools(
    tuple(replace(pool(name, 2, 2), node_selector=(("nvidia.com/gpu.product", name),)) for name in ("L40S", "H200"))
)
BEHIND = BuildSettings(gateway_url="http://gateway.example")
SIZED = re.compile(r"spec\.(accelerator\.minMemory|modelFacts)\b.*")
"""Fields that only mean something where the model and the GPUs are known."""


def _built(field: Field, spec: Mapping[str, Any]) -> object:
    known = None
    if SIZED.fullmatch(field.path):
        given = spec.get("modelFacts")
        weights = read_bytes(str(given["weights"])) if given and "weights" in given else None
        facts = facts_by_hand(given["config"], weights_bytes=weights) if given else published("Qwen/Qwen3-8B")
        known = Known(facts=facts, pools=POOLS)
    try:
        if field.path.startswith("spec.adapters"):
            # Which adapters these are is no matter of the pods: what is to be loaded is the other half.
            return build_bundle(spec, BEHIND, known=known), wanted_adapters(parse(spec), {})
        return build_bundle(spec, known=known)
    except Refusal as refusal:
        return refusal


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_field_changes_what_is_built_or_is_refused_by_name(field: Field) -> None:
    first, second = (_built(field, spec) for spec in variants(field))
    refusals = [result for result in (first, second) if isinstance(result, Refusal)]
    if not refusals:
        assert first != second, f"{field.path} has no effect"
        return
    assert len(refusals) == 2, f"{field.path} is refused for one value only: {refusals[0].message}"
    for refusal in refusals:
        # What only the gateway heeds is looked at in tests/gateway/test_gather.py.
        assert refusal.reason in (Reason.NOT_IMPLEMENTED, Reason.NEEDS_GATEWAY), refusal.message
        (named,) = re.findall(r"^spec\.[A-Za-z.]+", refusal.message)
        plain = re.sub(r"\[\]|\.\*", "", field.path)
        assert plain == named.rstrip(".") or plain.startswith(named.rstrip(".") + ".") or named.startswith(plain), (
            f"{field.path} is refused in the name of {named}"
        )


def test_fields_are_found() -> None:
    assert len(FIELDS) > 200
