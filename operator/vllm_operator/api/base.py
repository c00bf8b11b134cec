"""The base of every type of the API, and the string types that carry their bounds and patterns.

Every string, list and map is bounded: the API server multiplies the estimated cost of a CEL rule by these
bounds and refuses a CRD whose rules could cost too much.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

JSON_EXTRA = dict[str, Any]

PATTERN_MESSAGE = "x-vllm-operator-pattern-message"
"""Key beside a `pattern`: what to write instead, in words. Does not reach the CRD; see `explained`."""


class Model(BaseModel):
    """A frozen object of the API: camelCase on the wire, snake_case in Python, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def rules(*pairs: tuple[str, str]) -> JSON_EXTRA:
    """CEL rules for a schema: each pair is (rule, message shown to the user when it is false)."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def explained(message: str) -> JSON_EXTRA:
    """What to write when the text does not match the field's pattern.

    In the CRD the pattern becomes a CEL rule with this message, instead of the API server's own `should match '^(…)$'`.
    """
    return {PATTERN_MESSAGE: message}


def list_map(*keys: str) -> JSON_EXTRA:
    """A list merged by these keys, so that two field managers can each own elements of it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: JSON_EXTRA = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: JSON_EXTRA = {"x-kubernetes-list-type": "atomic"}

NAME_MESSAGE = (
    "write an object's name: lower-case letters, digits, dashes and dots, beginning and ending with a letter or digit"
)
LABEL_NAME_MESSAGE = (
    "write a name of lower-case letters, digits and dashes, beginning and ending with a letter or digit"
)
DATA_KEY_MESSAGE = "write a key of letters, digits, dashes, dots and underscores"
DURATION_MESSAGE = "write a duration, e.g. 30s, 15m, 1h30m"

ObjectName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        json_schema_extra=explained(NAME_MESSAGE),
    ),
]
"""Name of a Kubernetes object (RFC 1123 subdomain)."""

NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

Namespace = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        pattern=NAMESPACE_PATTERN,
        json_schema_extra=explained(LABEL_NAME_MESSAGE),
    ),
]
"""Name of a namespace (RFC 1123 label)."""

DataKey = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", json_schema_extra=explained(DATA_KEY_MESSAGE)),
]
"""Key in the data of a Secret or ConfigMap."""

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
LabelMap = Annotated[dict[str, LabelValue], Field(max_length=64)]
AnnotationMap = Annotated[dict[str, Annotated[str, Field(max_length=8192)]], Field(max_length=64)]

DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
Duration = Annotated[
    str,
    Field(
        max_length=32,
        pattern=DURATION_PATTERN,
        examples=["30s", "15m", "1h30m"],
        json_schema_extra=explained(DURATION_MESSAGE),
    ),
]
"""Duration as Gateway API writes it (GEP-2257), e.g. 30s, 15m, 1h30m."""

Quantity = Annotated[
    int | str,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "maxLength": 64,
            # No pattern: the API server estimates a rule on an int-or-string as if it were 3 MiB long, so that a match
            # against a quantity's long pattern would cost more than its budget.
            **rules(
                (
                    "type(self) == int ? self >= 0 : isQuantity(self) && !self.startsWith('-')",
                    "write a quantity, e.g. 500m, 4, 16Gi; not negative",
                )
            ),
        }
    ),
]
"""Kubernetes quantity, e.g. 500m, 4, 16Gi."""

IntOrPercent = Annotated[
    int | str,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "maxLength": 4,
            **rules(
                (
                    "type(self) == int ? self >= 0 : self.matches('^(100|[1-9]?[0-9])%$')",
                    "write a count, e.g. 1, or a percentage from 0% to 100%; not negative",
                )
            ),
        }
    ),
]
"""A count, or a percentage such as 25%."""

FreeObject = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True, "maxProperties": 64})
]
"""An object whose fields are not checked by this schema but by whoever reads it."""


def parse_duration(text: str) -> float:
    """Seconds of a Duration, e.g. `1h30m` → 5400.0. Raises ValueError for anything the pattern refuses."""
    import re

    if not re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", text):
        raise ValueError(f"not a duration: {text!r} (write e.g. 30s, 15m, 1h30m)")
    unit = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(int(number) * unit[suffix] for number, suffix in re.findall(r"([0-9]+)(ms|h|m|s)", text))
