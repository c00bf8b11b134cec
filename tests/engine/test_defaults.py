"""Defaults of requests, on the command line."""

from typing import Any

import pytest

from tests.engine.commands import HEAD, command
from tests.engine.families import DEEPSEEK_V31, QWEN3, markers
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.engine.catalogue import Catalogue, newest, versions
from vllm_operator.engine.defaults import thinking_variable
from vllm_operator.hub.facts import Traits

GENERATION, TEMPLATE = "--override-generation-config", "--default-chat-template-kwargs"


def options(
    defaults: dict[str, Any], *, version: str | None = None, traits: Traits | None = None, **engine: Any
) -> list[str]:
    words = command({"defaults": defaults, "engine": engine}, version=version, traits=traits)
    assert words[: len(HEAD)] == HEAD
    return words[len(HEAD) :]


def refused(defaults: dict[str, Any], *, version: str | None = None, **engine: Any) -> str:
    with pytest.raises(Refusal) as caught:
        options(defaults, version=version, **engine)
    assert caught.value.reason is Reason.INVALID_ENGINE_ARGS
    return caught.value.message


GOLDEN: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"temperature": 0}, [GENERATION, '{"temperature":0.0}']),
    (
        {"temperature": 0.6, "topP": 0.95, "topK": 20, "minP": 0, "repetitionPenalty": 1.05, "maxTokens": 4096},
        [
            GENERATION,
            '{"max_new_tokens":4096,"min_p":0.0,"repetition_penalty":1.05,"temperature":0.6,"top_k":20,"top_p":0.95}',
        ],
    ),
    (
        {"presencePenalty": 1.5, "frequencyPenalty": -0.5},
        [GENERATION, '{"frequency_penalty":-0.5,"presence_penalty":1.5}'],
    ),
    ({"topK": -1}, [GENERATION, '{"top_k":-1}']),
    ({"enableThinking": False}, [TEMPLATE, '{"enable_thinking":false}']),
    ({"chatTemplateKwargs": {"a": [1, {"b": "-x"}]}}, [TEMPLATE, '{"a":[1,{"b":"-x"}]}']),
    ({"chatTemplateKwargs": {}}, []),
    (
        {"enableThinking": True, "chatTemplateKwargs": {"b": 1}, "topP": 1},
        [GENERATION, '{"top_p":1.0}', TEMPLATE, '{"b":1,"enable_thinking":true}'],
    ),
]


@pytest.mark.parametrize(("defaults", "expected"), GOLDEN, ids=str)
@pytest.mark.parametrize("version", [None, newest().version])
def test_on_the_command_line(defaults: dict[str, Any], expected: list[str], version: str | None) -> None:
    found = options(defaults, version=version)
    if version is not None:
        found = found[: found.index("--shutdown-timeout")]
    assert found == expected


@pytest.mark.parametrize("version", versions())
def test_every_version_takes_them(version: str) -> None:
    defaults = {"temperature": 0.5, "topK": 5, "maxTokens": 9, "enableThinking": False}
    assert {GENERATION, TEMPLATE} <= set(options(defaults, version=version))


@pytest.mark.parametrize("field", ["presencePenalty", "frequencyPenalty"])
def test_what_a_version_would_drop_silently_is_refused(field: str) -> None:
    assert refused({field: 1}, version="0.30.0") == (
        f"spec.defaults.{field} is 1.0: vLLM 0.30.0 does not heed it as a default, 0.31 does; remove it or set spec.engine.version"
    )
    assert options({field: 0.5}, version="0.31.0")[0] == GENERATION


def test_a_version_without_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {name: option for name, option in newest().options.items() if name != TEMPLATE.removeprefix("--")}
    without = Catalogue("0.18.1", gone, newest().tool_parsers, newest().reasoning_parsers)
    monkeypatch.setattr("vllm_operator.engine.command.find", lambda version: without)
    assert "spec.defaults.enableThinking: unknown in vLLM 0.18.1" in refused({"enableThinking": True}, version="0.18.1")


@pytest.mark.parametrize(
    ("defaults", "args", "field"),
    [
        ({"topK": 5}, {"override-generation-config": {"top_k": 1}}, "spec.defaults.topK"),
        ({"topK": 5}, {"override_generation_config.top_p": 1}, "spec.defaults.topK"),
        ({"enableThinking": True}, {"default-chat-template-kwargs": {}}, "spec.defaults.enableThinking"),
        ({"chatTemplateKwargs": {"a": 1}}, {"default-chat-template-kwargs.b": 1}, "spec.defaults.chatTemplateKwargs"),
    ],
)
@pytest.mark.parametrize("version", [None, newest().version])
def test_the_same_option_twice_is_refused_with_both_fields(
    defaults: dict[str, Any], args: dict[str, Any], field: str, version: str | None
) -> None:
    [written] = args
    message = refused(defaults, version=version, args=args)
    assert f"spec.engine.args.{written}" in message
    assert field in message


def test_each_may_be_set_where_it_is() -> None:
    found = options({"topK": 5}, args={"default-chat-template-kwargs": {"a": 1}})
    assert found == [GENERATION, '{"top_k":5}', TEMPLATE, '{"a":1}']


def test_thinking_is_said_once() -> None:
    message = refused({"enableThinking": True, "chatTemplateKwargs": {"enable_thinking": False}})
    assert "spec.defaults.chatTemplateKwargs.enable_thinking is false" in message
    assert "spec.defaults.enableThinking" in message


@pytest.mark.parametrize(
    ("template", "variable"),
    [(QWEN3, "enable_thinking"), (DEEPSEEK_V31, "thinking"), ("{{ messages }}", "enable_thinking")],
)
def test_the_templates_own_variable(template: str, variable: str) -> None:
    traits = Traits("X", template=markers(template))
    assert thinking_variable(traits) == variable
    assert options({"enableThinking": True}, traits=traits) == [TEMPLATE, f'{{"{variable}":true}}']


def test_a_model_of_which_nothing_is_known() -> None:
    assert thinking_variable(None) == "enable_thinking"


def test_values_that_cannot_be_written() -> None:
    assert "NUL" in refused({"chatTemplateKwargs": {"a": "\0"}})
