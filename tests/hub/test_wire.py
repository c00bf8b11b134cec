"""Facts through a pod's termination message."""

import base64
import json
import zlib
from dataclasses import replace

import pytest

from tests.sizing.published import configs, published
from vllm_operator.hub.errors import HubError, HubUnavailableError, InvalidModelError, ModelNotFoundError
from vllm_operator.hub.wire import LIMIT, VERSION, decode, encode_error, encode_facts


@pytest.mark.parametrize("name", configs())
def test_there_and_back(name: str) -> None:
    text = encode_facts(published(name))
    assert len(text) < LIMIT / 2
    assert decode(text) == published(name)


@pytest.mark.parametrize(
    "error", [ModelNotFoundError("no config.json"), InvalidModelError("bad"), HubUnavailableError("x")]
)
def test_errors_there_and_back(error: HubError) -> None:
    with pytest.raises(type(error)) as caught:
        decode(encode_error(error))
    assert str(caught.value) == str(error)


def test_a_long_error_is_cut() -> None:
    text = encode_error(InvalidModelError("x" * 100_000))
    assert len(text) < LIMIT
    with pytest.raises(InvalidModelError):
        decode(text)


def packed(data: bytes, **more: object) -> str:
    return json.dumps({"version": VERSION, "facts": base64.b64encode(zlib.compress(data, 9)).decode(), **more})


GOOD = packed(b"{}")
HOSTILE = {
    "empty": "",
    "no JSON": "Killed",
    "a list": "[]",
    "another version": json.dumps({"version": "0", "facts": ""}),
    "no facts": json.dumps({"version": VERSION}),
    "no base64": json.dumps({"version": VERSION, "facts": "!!"}),
    "not packed": json.dumps({"version": VERSION, "facts": base64.b64encode(b"x").decode()}),
    "no fields": GOOD,
    "a bomb": packed(b" " * 50_000_000),
    "broken off": GOOD.replace("}", "")[:-8],
    "an unknown error": json.dumps({"version": VERSION, "error": "SystemExit", "message": "x"}),
    "deep": "[" * 4000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nonsense(text: str) -> None:
    with pytest.raises(InvalidModelError):
        decode(text)


@pytest.mark.parametrize("layers", [0, 100_000])
def test_a_model_that_cannot_be(layers: int) -> None:
    with pytest.raises(InvalidModelError, match="cannot be"):
        decode(encode_facts(replace(published("Qwen/Qwen3-8B"), num_layers=layers)))
