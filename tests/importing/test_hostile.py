"""Commands that are made to break something: each is an error in words, or one harmless argument."""

import json
import shlex

import pytest
import yaml

from tests.engine.test_command import HOSTILE
from tests.fuzz.commands import check, make
from tests.importing.meaning import pod_words
from vllm_operator.cli.importing import as_json, as_yaml
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.model import import_model

LONG = (
    "a" * 100_000,
    "'" * 100_001,
    '"' + "a" * 100_000 + '"',
    "$" * 100_000,
    "\\" * 100_001,
    "[" * 100_000,
    "-" * 100_000,
    "{" * 50_000,
)
VALUES = (
    *HOSTILE,
    *LONG,
    "a\nb: c",
    "# x",
    "--- {}",
    "&a",
    "*a",
    "!!python/name:os.system",
    "\x85",
    "\u2029",
    "\x07",
    "{{ x }}",
    "<<",
    "\t",
)
WHOLE = [
    "\0",
    "vllm serve \0",
    "\ud800",
    "vllm serve m \udcff",
    "\ufdd0x\ufdd1",
    "vllm serve m --seed \ufdd0",
    "'",
    '"',
    "\\",
    "$",
    "${",
    "$(",
    "`",
    "vllm serve '",
    'vllm serve "$',
    "vllm serve m ;;",
    "vllm serve m && && x",
    "| vllm serve m",
    "> x",
    "vllm serve m >",
    "vllm serve m > ; x",
    "vllm serve m & & &",
    ";" * 100_000,
    "\n" * 100_000,
    "vllm serve m" + " \\\n" * 50_000,
    "#" * 100_000,
    "vllm " * 20_000,
    "- " * 50_000,
    "serve",
    "vllm",
    "docker",
    "docker run",
    "docker run -",
    "docker run --",
    "docker run -e",
    "docker run --=x img m",
    "docker run -e = img m",
    "docker run '' m",
    "docker run img ''",
    "bash -c",
    "bash -c ''",
    'bash -c \'bash -c "bash -c \\"bash -c x\\""\'',
    "env",
    "sudo",
    "sudo -u",
    "env -u",
    "python",
    "python -m",
    "python -m vllm.entrypoints.openai.api_server",
    "python -c 'import os'",
    "X=1",
    "export",
    "set -e",
    "uv run",
    "numactl",
    "services:",
    "services: &a [*a]",
    "services: {a: {image: vllm, command: &x [*x]}}",
    "image: x\ncommand: ''",
    "image: x\ncommand: '\"'",
    "image:\ncommand:\n",
    "services: {? [a] : {image: vllm}}",
    "image: x\ncommand: m\nenvironment: [=, a=, =b]",
    "image: 1e999\ncommand: m",
    "vllm serve m --",
    "vllm serve -- m",
    "vllm serve m -",
    "vllm serve m --.x 1",
    "vllm serve m --hf-overrides.. 1",
    "vllm serve m --hf-overrides. 1",
    "vllm serve m --hf-overrides.a.b 1 --hf-overrides.a 2 --hf-overrides.a.c 3",
    "vllm serve m --seed=",
    "vllm serve m --no-",
    "vllm serve m --no-no-seed",
    "vllm serve m -O",
    "vllm serve m -O=",
    "vllm serve m --" + "a" * 100_000,
    "vllm serve m " + "--seed 1 " * 10_000,
    "vllm serve m " + "--x y " * 10_000,
    "vllm serve m " + " ".join(f"--unknown-{n}" for n in range(300)),
    "vllm serve " + "a/" * 1000,
    "vllm serve m --hf-overrides '" + '{"a":' * 100_000 + "'",
    "vllm serve m --served-model-name " + " ".join(f"n{n}" for n in range(20)),
    "vllm serve m --allowed-origins '" + "[" * 5000 + "]" * 5000 + "'",
    "vllm serve m --max-model-len " + "9" * 5000,
    "vllm serve m --seed " + "9" * 5000,
    "vllm serve m --watermark 1e999",
    "vllm serve m --watermark=nan",
    "vllm serve m --hf-overrides '{\"a\": NaN}'",
    "vllm serve m --hf-overrides '{\"a\": 1e999}'",
    "vllm serve m --hf-overrides '{\"\\ud800\": 1}'",
    "vllm serve m --max-model-len 9999999999999999k",
    "A" * 300 + "=1 vllm serve m",
    "A-B=1 vllm serve m",
    "A=xxxxxxxx\n" + "A=$A$A\n" * 60 + "vllm serve m $A",
    "image: 0x" + "f" * 50_000 + "\ncommand: m",
    "x: &a0 [y]\n"
    + "".join(f"x{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    + "image: *a59\ncommand: *a58",
    "A=" + "x" * 40_000 + " vllm serve m",
]


def test_there_are_a_hundred_and_more() -> None:
    assert len(set(VALUES)) + len(set(WHOLE)) > 200


# NUL, and what vLLM's parser takes for no value
@pytest.mark.parametrize("value", ["a\0b", "--"])
def test_what_can_be_no_argument_is_refused(value: str) -> None:
    with pytest.raises(ImportRefused):
        import_model(f"vllm serve m --response-role={shlex.quote(value)}")


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_quoted_value_is_one_argument(value: str) -> None:
    imported = import_model(f"vllm serve m --response-role={shlex.quote(value)}")
    args = imported.model["spec"]["engine"]["args"]
    assert args == {"response-role": value}
    words = pod_words(imported.model)
    assert f"--response-role={value}" in words or value in words
    assert next(yaml.safe_load_all(as_yaml(imported))) == json.loads(as_json(imported)) == imported.model


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize(
    "text",
    [
        "vllm serve {}",
        "vllm serve m {}",
        "vllm serve m --seed {}",
        "{}",
        "docker run {} img m",
        "A={} vllm serve m",
        "image: x\ncommand: {}",
    ],
)
def test_an_unquoted_value_does_no_harm(text: str, value: str) -> None:
    assert check(text.replace("{}", value)) in ("imported", "refused")


@pytest.mark.parametrize("text", WHOLE, ids=range(len(WHOLE)))
def test_a_hostile_command_is_an_error_or_a_model(text: str) -> None:
    assert check(text) in ("imported", "refused")


def test_notes_stay_in_their_comments() -> None:
    imported = import_model("env 'FOO \u2028\nspec: {evil: 1}=1' vllm serve m 2>&1; 'a\nspec: {evil: 1}\n' x", name="m")
    documents = list(yaml.safe_load_all(as_yaml(imported)))
    assert documents == [imported.model]
    assert "evil" not in str(imported.model)


def test_made_up_commands() -> None:
    """A short run of tests/fuzz; a number in `failed` makes its case again: python -m tests.fuzz.commands --cases 1 --seed NUMBER."""
    found, failed = [], {}
    for seed in range(1500):
        try:
            found.append(check(make(seed)))
        except Exception as error:
            failed[seed] = repr(error)
    assert failed == {}
    assert found.count("imported") > 50
    assert found.count("refused") > 50
