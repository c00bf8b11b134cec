"""The catalogues of vLLM's options, and what is found in them."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.catalogue.pack import FILE, minor, pack, removals, to_text, unpack
from tests.cluster.settings import REPOSITORY, VLLM_VERSION
from vllm_operator.engine.catalogue import Catalogue, Option, Type, find, newest, read_human_readable, versions
from vllm_operator.engine.command import TYPED_OPTIONS
from vllm_operator.engine.images import parse_version
from vllm_operator.engine.options import INSTEAD, OWNED
from vllm_operator.workload.settings import BuildSettings

WRITTEN_BY_THE_OPERATOR = {
    *("host", "port", "served-model-name", "revision", "tensor-parallel-size", "pipeline-parallel-size"),
    *("data-parallel-size", "enable-expert-parallel", "enable-auto-tool-choice", "chat-template", "max-model-len"),
    *("load-format", "shutdown-timeout", "tool-parser-plugin", "reasoning-parser-plugin"),
    *(option for _, option in TYPED_OPTIONS),
}


def catalogue(version: str) -> Catalogue:
    found = find(version)
    assert found is not None
    return found


def test_size() -> None:
    assert FILE.stat().st_size < 1 << 20


def test_versions_are_the_newest_in_a_row() -> None:
    minors = [parse_version(version)[:2] for version in versions()]
    assert len(minors) >= 8
    assert minors == [(0, number) for number in range(minors[0][1], minors[-1][1] + 1)]
    assert newest().version == versions()[-1]


def test_the_versions_that_the_project_runs_have_one() -> None:
    for version in (VLLM_VERSION, BuildSettings().vllm_version):
        assert catalogue(version).version == version


def test_the_documentation_names_them() -> None:
    text = (REPOSITORY / "docs" / "how-to.md").read_text(encoding="utf-8")
    assert f"vLLM {minor(versions()[0])} to {minor(versions()[-1])}" in text


def test_the_file_is_written_as_it_would_be_anew() -> None:
    text = FILE.read_text(encoding="utf-8")
    data = json.loads(text)
    assert to_text(pack(unpack(data).values(), data["removed"])) == text


def test_packing_keeps_everything() -> None:
    def said(version: str, options: dict[str, Any], *parsers: str) -> dict[str, Any]:
        return {"version": version, "options": options, "toolParsers": list(parsers), "reasoningParsers": []}

    # one comes and goes and comes back, one changes, one stays
    given = [
        said("0.9.2", {"a": {"type": "text"}, "b": {"type": "integer"}, "c": {}}, "x"),
        said("0.10.1", {"b": {"type": "number"}, "c": {}}, "x", "y"),
        said("0.11.0", {"a": {"type": "text"}, "b": {"type": "number"}, "c": {}}, "y"),
    ]
    packed = pack(reversed(given), {"c": "0.8", "d": "0.8"})
    assert list(unpack(packed).values()) == given
    assert packed["removed"] == {"d": "0.8"}
    assert packed["options"]["c"] == [["0.9", "0.11", {}]]


def test_removals() -> None:
    older = [
        {"version": "0.10.2", "options": ["kept", "late", "back"]},
        {"version": "0.9.2", "options": ["kept", "late", "early", "back"]},
    ]
    oldest = {"version": "0.11.0", "options": {"kept": {}, "back": {}}}
    assert removals(older, oldest) == {"early": "0.10", "late": "0.11"}


@pytest.mark.parametrize("version", versions())
def test_every_version_has_what_the_operator_relies_on(version: str) -> None:
    known = catalogue(version)
    assert len(known.options) > 200
    assert {name for name in WRITTEN_BY_THE_OPERATOR if known.option(name) is None} == set()
    for name in ("enable-prefix-caching", "enable-chunked-prefill", "enforce-eager", "trust-remote-code"):
        assert known.options[name].negatable
    for name in ("hf-overrides", "speculative-config", "compilation-config"):
        assert known.options[name].takes_keys
    assert {"hermes", "llama3_json", "mistral", "pythonic"} <= set(known.tool_parsers)
    assert {"deepseek_r1", "qwen3", "mistral"} <= set(known.reasoning_parsers)
    assert {"tp", "pp", "dp", "q", "O"} <= known.short_names.keys()
    # the operator takes `no-` for a negation
    assert not [
        name for option in known.options.values() for name in (option.name, *option.aliases) if name[:3] == "no-"
    ]


def test_owned_options_are_vllms() -> None:
    assert {name for name in OWNED if newest().option(name) is None} == {"model-tag", "help"}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        *(
            (text, "0.32.0")
            for text in ("0.32.0", "0.32.7", "0.32.0.post1", "0.32.0+cu130", "0.32.0-cu128", "0.32.0-arm64")
        ),
        ("0.27.0", "0.27.1"),
        *((text, None) for text in (None, "", "latest", "0.32", "v0.32.0", "0.32.0rc1", "0.32.1.dev5", "0.32.0a1")),
        *(
            (text, None)
            for text in ("0.32.1rc1.dev3+g1234567", "0.32.0-nightly", "0.17.1", "0.320.0", "1.32.0", "99.0.0")
        ),
    ],
)
def test_find(version: str | None, expected: str | None) -> None:
    found = find(version)
    assert (found.version if found else None) == expected


def test_the_file_is_read_only_when_it_is_asked_for() -> None:
    program = (
        "import vllm_operator.engine.command, vllm_operator.engine.catalogue as catalogue\n"
        "assert catalogue._data.cache_info().currsize == 0\n"
        "assert catalogue.find('0.32.0') is catalogue.find('0.32.1')\n"
        "assert catalogue._data.cache_info().currsize == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("version", "option", "removed", "added"),
    [
        ("0.32.0", "max-num-partial-prefills", "0.27", None),
        ("0.27.1", "max-num-partial-prefills", "0.27", None),
        ("0.26.0", "max-num-partial-prefills", None, None),
        ("0.32.0", "swap-space", "0.18", None),
        ("0.18.1", "guided-decoding-backend", "0.12", None),
        ("0.30.0", "log-level", None, "0.31"),
        ("0.31.0", "log-level", None, None),
        ("0.29.0", "enable-mamba-fine-grained-prefix-cache", None, "0.30"),
        ("0.31.0", "enable-mamba-fine-grained-prefix-cache", "0.31", None),
        ("0.32.0", "no-such-option", None, None),
    ],
)
def test_when_an_option_came_and_went(version: str, option: str, removed: str | None, added: str | None) -> None:
    assert catalogue(version).removed_in(option) == removed
    assert catalogue(version).added_in(option) == added


@pytest.mark.parametrize("option", sorted(INSTEAD))
def test_what_is_to_be_used_instead_is_there(option: str) -> None:
    gone = [known for known in map(catalogue, versions()) if known.option(option) is None and known.removed_in(option)]
    assert newest() in gone
    for name in INSTEAD[option].split(" and "):
        assert newest().option(name.partition(":")[0].partition(".")[0])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("enable-prefix-cachng", "enable-prefix-caching"),
        ("max-model-length", "max-model-len"),
        ("tensor-paralel-size", "tensor-parallel-size"),
        ("gpu-memory-utilisation", "gpu-memory-utilization"),
        ("xyz", None),
    ],
)
def test_nearest(wrong: str, right: str | None) -> None:
    assert newest().nearest(wrong) == right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("32000", 32_000), ("32k", 32_000), ("32K", 32_768), ("1.5k", 1500), ("2m", 2_000_000), ("2M", 2 << 20)),
        *(
            ("3g", 3_000_000_000),
            ("3G", 3 << 30),
            ("1t", 10**12),
            ("1T", 1 << 40),
            ("-1", -1),
            (" 7 ", 7),
            ("25.6k", 25_600),
        ),
        *((text, None) for text in ("", "k", "1.5K", "1.5", "32kb", "32 k", "-1k", "auto", "1e3")),
    ],
)
def test_human_readable(text: str, number: int | None) -> None:
    if number is not None:
        assert read_human_readable(text) == number
        return
    with pytest.raises(ValueError):
        read_human_readable(text)


@pytest.mark.parametrize(
    ("option", "word", "expected"),
    [
        (Option("x", Type.INTEGER, none=True), "None", None),
        (Option("x", Type.TEXT, none=True, choices=("a",)), "", None),
        (Option("x", Type.TEXT, choices=("a_b",), folded=True), "A-b", "a_b"),
        (Option("x", Type.INTEGER, choices=(1, 8)), "8", 8),
        (Option("x", Type.NUMBER, above=0, most=1), "1", 1.0),
        (Option("x", Type.HUMAN_READABLE_OR_AUTO), "Auto", -1),
        (Option("x", Type.JSON, of="object"), '{"bytes": 80m, "name": "80m"}', {"bytes": 80_000_000, "name": "80m"}),
        (Option("x", Type.JSON, of="list"), "[]", []),
        (Option("x", Type.JSON_OR_TEXT), ' {"a": 1} ', {"a": 1}),
        (Option("x", Type.JSON_OR_TEXT), "name=path", "name=path"),
    ],
)
def test_read(option: Option, word: str, expected: Any) -> None:
    assert option.read(word) == expected


@pytest.mark.parametrize(
    ("option", "word"),
    [
        (Option("x", Type.INTEGER), "None"),
        (Option("x", Type.INTEGER), "1.0"),
        (Option("x", Type.INTEGER, least=1), "0"),
        (Option("x", Type.NUMBER, above=0, most=1), "0"),
        (Option("x", Type.NUMBER, above=0, most=1), "nan"),
        (Option("x", Type.NUMBER, least=0, below=1), "1"),
        (Option("x", Type.TEXT, choices=("a",)), "A"),
        (Option("x", Type.HUMAN_READABLE), "auto"),
        (Option("x", Type.JSON, of="object"), "[]"),
        (Option("x", Type.JSON, of="list"), "{}"),
        (Option("x", Type.JSON_OR_TEXT), "{}}"),
    ],
)
def test_what_cannot_be_read(option: Option, word: str) -> None:
    with pytest.raises(ValueError):
        option.read(word)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (Option("x", Type.NUMBER, above=0, most=1), "a number, above 0 and at most 1"),
        (Option("x", Type.INTEGER, least=1, values="+"), "one value or a list, each an integer, at least 1"),
        (Option("x", Type.TEXT, choices=("a", "b")), "one of a, b"),
        (Option("x", Type.JSON, of="list"), "a JSON list"),
    ],
)
def test_what_is_expected_in_words(option: Option, expected: str) -> None:
    assert option.expected == expected


def test_minor() -> None:
    assert minor("0.27.1") == "0.27"
