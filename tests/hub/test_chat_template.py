"""What a chat template shows of a model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.families import (
    DEEPSEEK_R1,
    DEEPSEEK_V31,
    GLM45,
    GLM47,
    HERMES3,
    LLAMA3,
    QWEN3,
    QWEN3_THINKING,
    QWEN25,
)
from tests.hub.files import QWEN3 as CONFIG
from tests.hub.server import serving
from vllm_operator.hub.chat_template import LARGEST_TEMPLATE, MARKERS, read_template, read_tokenizer
from vllm_operator.hub.directory import read_directory
from vllm_operator.hub.facts import LONGEST_NAME, ModelFacts
from vllm_operator.hub.hugging_face import HuggingFaceHub
from vllm_operator.hub.read import Found, build_facts, facts_by_hand
from vllm_operator.hub.wire import decode, encode_facts


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN25, {"tool-call", "tool-call-json"}),
        (QWEN3, {"tool-call", "tool-call-json", "enable-thinking", "think-end"}),
        (QWEN3_THINKING, {"tool-call", "tool-call-json", "prompt-think", "think-end"}),
        (HERMES3, {"tool-call", "tool-call-json"}),
        (GLM45, {"tool-call", "arg-key", "enable-thinking", "think-end"}),
        (GLM47, {"tool-call", "arg-key", "name-before-arg-key", "enable-thinking", "think-end"}),
        (LLAMA3, {"llama-json"}),
        (DEEPSEEK_R1, {"deepseek-turns", "think-end", "prompt-think"}),
        (DEEPSEEK_V31, {"deepseek-turns", "think-end", "thinking"}),
        ("{{ messages }}", set()),
        ("the model is thinking", set()),
    ],
)
def test_markers(template: str, expected: set[str]) -> None:
    assert set(read_template(template)) == {*expected, "template"}


def test_no_template() -> None:
    assert read_template("") == read_template(" \n") == ()


# ---- where it is


def files(**contents: Any) -> dict[str, bytes]:
    """Files of a model, by name with _ for a dot."""
    texts = {name.replace("__", "."): value for name, value in contents.items()}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        **{
            name: value
            if isinstance(value, bytes)
            else (value if isinstance(value, str) else json.dumps(value)).encode()
            for name, value in texts.items()
        },
    }


PLACES: list[tuple[str, dict[str, bytes], set[str]]] = [
    ("none", files(tokenizer_config__json={"model_max_length": 5}), set()),
    ("tokenizer", files(tokenizer_config__json={"chat_template": QWEN25}), {"template", "tool-call", "tool-call-json"}),
    (
        "several",
        files(
            tokenizer_config__json={
                "chat_template": [
                    {"name": "default", "template": "{{ messages }}"},
                    {"name": "tool_use", "template": HERMES3},
                ]
            }
        ),
        {"template", "tool-call", "tool-call-json"},
    ),
    (
        "a file of its own wins",
        files(tokenizer_config__json={"chat_template": QWEN25}, chat_template__jinja=LLAMA3),
        {"template", "llama-json"},
    ),
    ("as JSON", files(chat_template__json={"chat_template": LLAMA3}), {"template", "llama-json"}),
    ("as JSON that is none", files(chat_template__json="{"), set()),
    ("no text", files(chat_template__jinja=b"\xff\xfe<tool_call>"), {"template", "tool-call"}),
    (
        "tokens",
        files(tokenizer_config__json={"added_tokens_decoder": {"7": {"content": "</think>"}}}),
        {"think-tokens"},
    ),
    (
        "nonsense",
        files(
            tokenizer_config__json={"added_tokens_decoder": {"7": "</think>"}, "chat_template": [1, {"template": 2}]}
        ),
        set(),
    ),
]


@pytest.mark.parametrize(("contents", "expected"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
def test_in_a_directory_and_on_the_hub(tmp_path: Path, contents: dict[str, bytes], expected: set[str]) -> None:
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert set(read_directory(tmp_path).template or ()) == expected
    with serving() as hub, httpx.Client(follow_redirects=True) as client:
        hub.repositories["a/b"] = contents
        assert set(HuggingFaceHub(client, endpoint=hub.url).read("a/b").facts.template or ()) == expected


def test_what_is_too_long_is_not_read(tmp_path: Path) -> None:
    contents = files(chat_template__jinja="x" * LARGEST_TEMPLATE + "<tool_call>")
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert read_directory(tmp_path).template == ("template",)
    with serving() as hub, httpx.Client(follow_redirects=True) as client:
        hub.repositories["a/b"] = contents
        facts = HuggingFaceHub(client, endpoint=hub.url).read("a/b").facts
    assert facts.template == ("template",)
    in_config = read_tokenizer(["x"], {"chat_template": "x" * LARGEST_TEMPLATE + "<tool_call>"}, None)
    assert in_config == ("template",)


def test_in_a_gguf_file() -> None:
    facts = build_facts(Found(where="x", files={}, config=CONFIG, gguf={"tokenizer.chat_template": HERMES3}))
    assert "tool-call-json" in (facts.template or ())


def test_of_a_config_by_hand_nothing_is_known() -> None:
    facts = facts_by_hand(CONFIG, weights_bytes=None)
    assert facts.template is None
    assert (facts.traits.architecture, facts.traits.template) == ("Qwen3ForCausalLM", ())


def test_it_is_told_by_a_job() -> None:
    facts = build_facts(Found(where="x", files={"config.json": 1}, config=CONFIG, tokenizer={"chat_template": QWEN3}))
    assert decode(encode_facts(facts)).template == facts.template != ()
    every = build_facts(Found(where="x", files={"config.json": 1}, config=CONFIG, chat_template="\n".join(MARKERS)))
    assert isinstance(decode(encode_facts(every)), ModelFacts)


def test_what_is_kept_of_facts_that_somebody_else_has_told_is_short() -> None:
    facts = build_facts(Found(where="x", files={"config.json": 1}, config=CONFIG, chat_template=QWEN3))
    hostile = replace(
        facts, architecture="A" * 10**5, model_type="t" * 10**5, template=(*(facts.template or ()), "x" * 10**5, "\n")
    )
    assert hostile.traits.template == facts.traits.template
    assert len(hostile.traits.architecture) == len(hostile.traits.model_type) == LONGEST_NAME


@given(st.text(alphabet="<>{}[]|_\\\"'tool_calASsthinkgu \n=-name:|｜", max_size=4000))
def test_any_text_is_read(text: str) -> None:
    assert set(read_template(text)) <= set(MARKERS)
