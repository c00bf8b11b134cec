"""Quantities as the API server writes them. Each canonical form of the table was read back unchanged from kube-apiserver 1.36."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.api.errors import Refusal
from vllm_operator.workload.quantities import canonical_quantity, checked_quantity, parse_quantity

CANONICAL = [
    (4, "4"),
    (0, "0"),
    ("0Gi", "0"),
    ("1000m", "1"),
    ("1500m", "1500m"),
    ("0.5", "500m"),
    ("1024Mi", "1Gi"),
    ("1Gi", "1Gi"),
    ("1.5Gi", "1536Mi"),
    ("0.1Ki", "102400m"),
    ("1.1Ki", "1126400m"),
    ("0.5Ki", "512"),
    ("1023", "1023"),
    ("1024", "1024"),
    ("1000Ki", "1000Ki"),
    ("1000000", "1M"),
    ("1000k", "1M"),
    ("1500k", "1500k"),
    ("1e3", "1e3"),
    ("1E3", "1e3"),
    ("12e6", "12e6"),
    ("1500e3", "1500e3"),
    ("1E", "1E"),
    ("100e-3", "100e-3"),
    ("1n", "1n"),
    ("0.0000000001", "1n"),
    ("+5", "5"),
    ("-1500m", "-1500m"),
    (".5Mi", "512Ki"),
    ("5.", "5"),
]


@pytest.mark.parametrize(("written", "canonical"), CANONICAL)
def test_canonical(written: int | str, canonical: str) -> None:
    assert canonical_quantity(written) == canonical


@pytest.mark.parametrize(
    ("written", "canonical"),
    [("1n", "1m"), ("0.0000000001", "1m"), ("1.0005", "1001m"), ("-1u", "-1m"), ("2Gi", "2Gi")],
)
def test_resources_are_rounded_up_to_thousandths(written: str, canonical: str) -> None:
    assert canonical_quantity(written, milli=True) == canonical


@pytest.mark.parametrize("text", ["8Ei", "10E", "1e999999999", "9223372036854775808"])
def test_more_than_kubernetes_can_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than"):
        canonical_quantity(text)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "1KB", "--1", "1e", "0x10", "١", "1Gi\n", "nan", "1e1.5"])
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        canonical_quantity(text)
    with pytest.raises(Refusal, match=r"^spec\.x is "):
        checked_quantity(text, where="spec.x")


NUMBERS = st.from_regex(r"[+-]?([0-9]{1,6}(\.[0-9]{0,6})?|\.[0-9]{1,6})", fullmatch=True)
SUFFIXES = st.sampled_from(["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E-2", "e+7"])
QUANTITIES = st.builds(str.__add__, NUMBERS, SUFFIXES)


@given(QUANTITIES)
def test_canonical_form_is_a_fixed_point_of_the_same_value(text: str) -> None:
    canonical = canonical_quantity(text)
    assert canonical_quantity(canonical) == canonical
    assert parse_quantity(canonical) == parse_quantity(text)
    assert canonical_quantity(canonical_quantity(text, milli=True)) == canonical_quantity(text, milli=True)


@given(st.integers(0, 2**40))
def test_equal_binary_sizes_are_written_alike(size: int) -> None:
    assert canonical_quantity(f"{size * 1024}Ki") == canonical_quantity(f"{size}Mi")


@given(st.integers(0, 10**15))
def test_thousandths_are_exact(milli: int) -> None:
    assert parse_quantity(f"{milli}m") == Decimal(milli) / 1000
    assert canonical_quantity(f"{milli * 1000}m") == canonical_quantity(str(milli))
