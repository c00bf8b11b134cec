"""The types that fields are made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from vllm_operator.api.base import Duration, Model, parse_duration

_duration: TypeAdapter[str] = TypeAdapter(Duration)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("30s", 30),
        ("1500ms", 1.5),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h1m1s1ms", 3661.001),
        ("99999h", 99999 * 3600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert _duration.validate_python(text) == text
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "1d", "-1s", "1.5h", "1 h", "100000s", "1h1h1h1h1h", "s", "1s\n", "１s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValidationError):
        _duration.validate_python(text)
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.text(alphabet="0123456789hms. -", max_size=12))
def test_the_parser_takes_what_the_pattern_takes(text: str) -> None:
    try:
        _duration.validate_python(text)
    except ValidationError:
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration(text)
    else:
        assert parse_duration(text) >= 0


class Example(Model):
    """An example."""

    some_field: int = 1


def test_fields_are_camel_case_on_the_wire() -> None:
    assert Example.model_validate({"someField": 2}).model_dump(by_alias=True) == {"someField": 2}
    assert Example(some_field=2) == Example.model_validate({"someField": 2})


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Example.model_validate({"other": 1})


def test_objects_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().some_field = 3
