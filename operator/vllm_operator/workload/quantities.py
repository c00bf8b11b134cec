"""Kubernetes quantities in the one form in which the API server gives them back.

What is applied must equal what is read, or every comparison would find a drift that nobody caused. The rules are those of
k8s.io/apimachinery/pkg/api/resource: ParseQuantity and Quantity.CanonicalizeBytes in quantity.go, the suffixes in
suffix.go. The API server also gives back a few other spellings as they are (+5, 5., 1.500, 1E3), since ParseQuantity takes
them for canonical; nothing is lost by writing these in the one form too.
"""

import re
from decimal import ROUND_UP, Context, Decimal

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal

_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<suffix>[KMGTPE]i|[numkMGTPE]?|[eE][+-]?[0-9]+)"
)
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_NANO = Decimal("1e-9")
_MILLI = Decimal("1e-3")
_MAXIMUM = Decimal(2**63 - 1)
# wide enough that 64 characters of digits (the API's limit) and 2^60 multiply without rounding
_EXACT = Context(prec=400)


def parse_quantity(text: int | str) -> Decimal:
    """The value of a quantity, e.g. `1536Mi` → 1610612736, rounded up to nano as the API server does.

    Raises ValueError for anything that is no quantity, and for more than 2^63 - 1, which Kubernetes does not promise to
    keep.
    """
    value, _ = _parse(str(text))
    return value


def canonical_quantity(text: int | str, *, milli: bool = False) -> str:
    """A quantity as the API server writes it: 1000m → 1, 1024Mi → 1Gi, 0.5 → 500m. Raises ValueError.

    `milli`: in a list of resources, where the API server rounds up to thousandths (SetDefaults_ResourceList).
    """
    value, form = _parse(str(text))
    if milli:
        value = value.quantize(_MILLI, rounding=ROUND_UP, context=_EXACT)
    if value == 0:
        return "0"
    if form == "binary" and abs(value) >= 1024 and value == value.to_integral_value(context=_EXACT):
        number, power = int(value), 0
        while number % 1024 == 0 and power < 60:
            number //= 1024
            power += 10
        return f"{number}{next((suffix for suffix, bits in _BINARY.items() if bits == power), '')}"
    number, exponent = int(_EXACT.scaleb(value, 9)), -9
    while number % 1000 == 0 and exponent < 18:
        number //= 1000
        exponent += 3
    if form == "exponent":
        return f"{number}e{exponent}" if exponent else str(number)
    return f"{number}{_DECIMAL_SUFFIX[exponent]}"


def checked_quantity(text: int | str, *, where: str, milli: bool = False) -> str:
    """canonical_quantity for a field of the spec: what is no quantity becomes a Refusal that names the field."""
    try:
        return canonical_quantity(text, milli=milli)
    except ValueError:
        raise Refusal(
            Reason.INVALID_SPEC, f"{where} is {str(text)[:80]!r}, which is no quantity: write e.g. 500m, 4 or 16Gi"
        ) from None


def _parse(text: str) -> tuple[Decimal, str]:
    """Value, and the form in which it was written: decimal, binary or exponent."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"not a quantity: {text!r}")
    value = Decimal(match["number"])
    suffix = match["suffix"]
    if suffix in _BINARY:
        form, value = "binary", _EXACT.multiply(value, Decimal(2 ** _BINARY[suffix]))
    elif suffix in _DECIMAL:
        form, value = "decimal", _EXACT.scaleb(value, _DECIMAL[suffix])
    else:
        # beyond these the value is refused, or rounded up to one nano, whatever the exponent
        form, value = "exponent", _EXACT.scaleb(value, max(-200, min(200, int(suffix[1:]))))
    # "if you want some resources, you should get some resources": up, away from zero
    value = value.quantize(_NANO, rounding=ROUND_UP, context=_EXACT)
    if value > _MAXIMUM:
        raise ValueError(f"not a quantity: {text!r} is more than 2^63 - 1")
    return (-value if match["sign"] == "-" else value), form
