"""Parsers and options that the user has not chosen: by what the model is, and never what the vLLM version lacks."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.engine.commands import command
from tests.engine.families import FAMILIES, GLM45, HERMES3, QWEN3, QWEN3_THINKING, QWEN25, TRAPS, Published, markers
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.engine.catalogue import find, newest, versions
from vllm_operator.engine.recipes import (
    LONGEST_REASON,
    MOST_REASONS,
    Choice,
    Recipe,
    as_specified,
    choose,
    match,
    name_words,
    recipes,
)
from vllm_operator.hub.chat_template import MARKERS
from vllm_operator.hub.facts import Traits

OLDEST, NEWEST = versions()[0], versions()[-1]
EVERY = [*FAMILIES, *TRAPS]


def chosen(model: str, traits: Traits | None, version: str | None = NEWEST, **engine: Any) -> Choice:
    spec = VLLMModelSpec.model_validate({"model": model, "engine": engine})
    return choose(spec, None if traits is None else as_specified(spec, traits), version)


def parsers(choice: Choice) -> tuple[str | None, str | None]:
    return choice.tool_call_parser, choice.reasoning_parser


def label(published: Published) -> str:
    return f"{published.model} {published.architecture}"


# ---- the file


def test_every_name_in_the_file_is_one_that_vllm_has_or_had() -> None:
    tools = {name for version in versions() for name in _registered(version)[0]}
    reasoning = {name for version in versions() for name in _registered(version)[1]}
    for recipe in recipes():
        assert set(recipe.tool_call_parser) <= tools, recipe.family
        assert set(recipe.reasoning_parser) <= reasoning, recipe.family
        for option in recipe.options:
            assert newest().option(option) is not None, recipe.family


def test_every_option_of_the_file_is_read_by_every_version_that_has_it() -> None:
    """By the catalogue's own check: build_command refuses a value that the version does not take."""
    for recipe, version in product(recipes(), versions()):
        model = recipe.repositories[0] if recipe.repositories else "a/b"
        architecture = recipe.architectures[0] if recipe.architectures else ""
        words = command({"model": model}, version=version, traits=Traits(architecture, template=recipe.template))
        assert all(isinstance(word, str) for word in words)


def test_families_are_told_apart() -> None:
    families = [recipe.family for recipe in recipes()]
    assert len(families) == len(set(families))


@pytest.mark.parametrize(
    "entry",
    [
        {"family": "x", "source": "x", "toolCallParser": ["hermes"]},
        {"family": "x", "source": "x", "names": ["x"]},
        {"family": "x", "source": "x", "names": ["X"], "toolCallParser": ["hermes"]},
        {"family": "x", "source": "x", "template": ["no-such-marker"], "toolCallParser": ["hermes"]},
        {"family": "x", "source": "x", "names": ["x"], "toolCallParser": "hermes"},
        {"family": "x", "source": "x", "names": ["x"], "toolParser": ["hermes"]},
        {"family": "x", "names": ["x"], "toolCallParser": ["hermes"]},
    ],
)
def test_what_is_wrong_in_the_file_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(entry)


# ---- families


@pytest.mark.parametrize("published", EVERY, ids=label)
def test_the_newest_version(published: Published) -> None:
    assert parsers(chosen(published.model, published.traits)) == (published.tools, published.reasoning)


@pytest.mark.parametrize("published", EVERY, ids=label)
def test_the_oldest_version(published: Published) -> None:
    choice = chosen(published.model, published.traits, OLDEST)
    assert parsers(choice) == (published.oldest or (published.tools, published.reasoning))
    if published.oldest:
        said = "\n".join(choice.reasons)
        for parser in filter(None, (published.tools, published.reasoning)):
            assert f"{parser} would be needed" in said
        assert f"vLLM {OLDEST} registers none of that name" in said


@pytest.mark.parametrize(
    "published",
    [each for each in FAMILIES if each.model not in ("google/gemma-4-31B-it", "ibm-granite/granite-3.3-8b-instruct")],
    ids=label,
)
def test_by_the_name_where_nothing_else_is_known(published: Published) -> None:
    assert parsers(chosen(published.model, Traits())) == (published.tools, published.reasoning)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("acme/unknown-model-xyz", (None, None)),
        ("/models/my-finetune", (None, None)),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", (None, "deepseek_r1")),
        ("Qwen/Qwen3-Embedding-0.6B", (None, None)),
        ("Qwen/Qwen3-Reranker-0.6B", (None, None)),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", ("hermes", None)),
        ("Qwen/Qwen3Guard-Gen-8B", (None, None)),
        ("acme/qwen30-8b", (None, None)),
        ("acme/notqwen3", (None, None)),
        # A directory may have any name: a parser of reasoning where its tokens are missing refuses every request.
        ("/models/qwen3-8b", ("hermes", None)),
        ("pvc://models/Qwen3-8B", ("hermes", None)),
        ("hf://Qwen/Qwen3-8B@main", ("hermes", "qwen3")),
        ("s3://models/deepseek-ai/DeepSeek-R1", ("deepseek_v3", None)),
    ],
)
def test_names_are_whole_words(model: str, expected: tuple[str | None, str | None]) -> None:
    assert parsers(chosen(model, Traits())) == expected


def test_a_name_says_nothing_against_the_architecture() -> None:
    assert parsers(chosen("acme/qwen3-8b", Traits("LlamaForCausalLM", "llama", "generate"))) == (None, None)
    assert parsers(chosen("acme/qwen3-8b", Traits("Qwen3ForCausalLM", "qwen3", "generate"))) == ("hermes", "qwen3")


def test_words_of_a_name() -> None:
    assert name_words("Qwen/Qwen3.5-9B") == {"qwen3.5", "9b"}
    assert name_words("oci://registry.example/team/llama_3.1_8b:v1") == {"llama", "3.1", "8b"}
    assert name_words("/models/x/") == {"x"}


def test_the_ground_is_told() -> None:
    [tools, reasoning] = chosen("/models/x", Traits("Qwen3ForCausalLM", "qwen3", "generate", markers(QWEN3))).reasons
    assert tools == "tool-call-parser hermes: Qwen3ForCausalLM, chat template has <tool_call>{…}"
    assert reasoning == "reasoning-parser qwen3: Qwen3ForCausalLM, chat template has <tool_call>{…}, enable_thinking"
    qwq = chosen("/models/x", Traits("Qwen2ForCausalLM", "qwen2", "generate", markers(QWEN3_THINKING, think=True)))
    assert qwq.reasons[1] == (
        "reasoning-parser deepseek_r1: Qwen2ForCausalLM, chat template has <tool_call>{…}, a prompt that ends in <think>, "
        "the tokenizer has </think> as one token"
    )
    assert chosen("Qwen/Qwen3-8B", Traits()).reasons[0] == "tool-call-parser hermes: the name Qwen3-8B"
    assert chosen("deepseek-ai/DeepSeek-R1", Traits()).reasons[0].endswith("repository deepseek-ai/DeepSeek-R1")


# ---- versions


def test_the_next_name_is_taken_where_the_first_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(family="x", source="x", names=("x",), tool_call_parser=("gemma4", "pythonic"))
    monkeypatch.setattr("vllm_operator.engine.recipes.recipes", lambda: (recipe,))
    assert chosen("a/x", Traits(), NEWEST).tool_call_parser == "gemma4"
    assert chosen("a/x", Traits(), OLDEST).tool_call_parser == "pythonic"


@pytest.mark.parametrize("version", [None, "0.33.0", "0.32.0rc1"])
def test_of_a_version_that_is_not_known_nothing_is_guessed(version: str | None) -> None:
    choice = chosen("Qwen/Qwen3-8B", Traits(), version)
    assert (parsers(choice), choice.options) == ((None, None), {})
    [reason] = choice.reasons
    assert "no parsers and options for Qwen3" in reason
    assert "set engine.version" in reason
    assert command({}, version=version, traits=Traits()) == command({}, version=version)
    assert chosen("a/b", Traits(), version).reasons == ()
    own = chosen("Qwen/Qwen3-8B", Traits(), version, toolCallParser="mine", reasoningParser="none")
    assert parsers(own) == ("mine", None)
    assert not any("not known" in reason for reason in own.reasons)


def test_nothing_is_chosen_where_the_decision_is_older() -> None:
    choice = chosen("Qwen/Qwen3-8B", None, NEWEST)
    assert (parsers(choice), choice.options, choice.reasons) == ((None, None), {}, ())


# ---- the user


@pytest.mark.parametrize("published", EVERY, ids=label)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_users_choice_wins(published: Published, version: str) -> None:
    for engine in (
        {"toolCallParser": "pythonic", "reasoningParser": "step3"},
        {"args": {"tool_call_parser": "pythonic", "reasoning-parser": "step3"}},
    ):
        choice = chosen(published.model, published.traits, version, **engine)
        assert parsers(choice) == ("pythonic", "step3")
        words = command({"model": published.model, "engine": engine}, version=version, traits=published.traits)
        assert words.count("--tool-call-parser") == words.count("--reasoning-parser") == 1
        assert words[words.index("--tool-call-parser") + 1] == "pythonic"
        assert words[words.index("--reasoning-parser") + 1] == "step3"


@pytest.mark.parametrize("published", EVERY, ids=label)
@pytest.mark.parametrize("off", ["none", "None"])
def test_none_switches_off(published: Published, off: str) -> None:
    engine = {"toolCallParser": off, "reasoningParser": off}
    assert parsers(chosen(published.model, published.traits, **engine)) == (None, None)
    words = command({"model": published.model, "engine": engine}, version=NEWEST, traits=published.traits)
    assert not {"--tool-call-parser", "--reasoning-parser", "--enable-auto-tool-choice"} & set(words)


def test_one_can_be_switched_off_alone() -> None:
    traits = Traits("Qwen3ForCausalLM", "qwen3", "generate", markers(QWEN3))
    assert parsers(chosen("a/b", traits, toolCallParser="none")) == (None, "qwen3")
    assert parsers(chosen("a/b", traits, reasoningParser="none")) == ("hermes", None)
    assert parsers(chosen("a/b", traits, args={"no-enable-auto-tool-choice": True})) == (None, "qwen3")
    assert parsers(chosen("a/b", traits, args={"enable_auto_tool_choice": False})) == (None, "qwen3")


def test_a_user_who_asks_for_tools_gets_the_parser_and_no_second_flag() -> None:
    engine = {"args": {"enable-auto-tool-choice": True}}
    words = command({"engine": engine}, version=NEWEST, traits=Traits())
    assert words.count("--enable-auto-tool-choice") == 1
    assert words[words.index("--tool-call-parser") + 1] == "hermes"


@pytest.mark.parametrize("engine", [{"runner": "pooling"}, {"convert": "embed"}, {"args": {"conver": "classify"}}])
def test_a_model_that_the_user_pools_has_no_parser(engine: dict[str, Any]) -> None:
    assert parsers(
        chosen("Qwen/Qwen3-8B", Traits("Qwen3ForCausalLM", "qwen3", "generate", markers(QWEN3)), **engine)
    ) == (None, None)


def test_a_template_of_the_users_own_decides() -> None:
    traits = Traits("Qwen3ForCausalLM", "qwen3", "generate", markers(QWEN3, think=True))
    spec = VLLMModelSpec.model_validate({"model": "Qwen/Qwen3-8B"})
    other = as_specified(spec, traits, template=QWEN25)
    assert parsers(choose(spec, other, NEWEST)) == ("hermes", None)
    assert "think-tokens" in other.template, "that is the tokenizer's"
    assert parsers(choose(spec, as_specified(spec, traits, template="{{ messages }}"), NEWEST)) == (None, None)


def test_an_architecture_of_the_users_own_decides() -> None:
    traits = Traits("Qwen3ForCausalLM", "qwen3", "generate", markers(GLM45))
    assert parsers(chosen("a/b", traits, hfOverrides={"architectures": ["Glm4MoeForCausalLM"]})) == ("glm45", "glm45")


# ---- options


@pytest.mark.parametrize(
    ("model", "traits", "expected"),
    [
        ("deepseek-ai/DeepSeek-V3.2", Traits("DeepseekV32ForCausalLM"), {"tokenizer-mode": "deepseek_v32"}),
        ("zai-org/GLM-5", Traits("GlmMoeDsaForCausalLM"), {"chat-template-content-format": "string"}),
        ("a/embedder", Traits("Qwen2ForCausalLM", "qwen2", "embed"), {"runner": "pooling"}),
        ("a/embedder", Traits("BertModel", "bert", "embed"), {}),
        ("a/classifier", Traits("Qwen2ForSequenceClassification", "qwen2", "classify"), {}),
        ("openai/whisper-large-v3", Traits("WhisperForConditionalGeneration", "whisper", "transcribe"), {}),
        ("Qwen/Qwen2.5-VL-7B-Instruct", Traits("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", "generate"), {}),
        (
            "Qwen/Qwen3-Reranker-0.6B",
            Traits("Qwen3ForCausalLM", "qwen3", "score"),
            {
                "hf-overrides": {
                    "architectures": ["Qwen3ForSequenceClassification"],
                    "classifier_from_token": ["no", "yes"],
                    "is_original_qwen3_reranker": True,
                }
            },
        ),
    ],
)
def test_options(model: str, traits: Traits, expected: dict[str, Any]) -> None:
    parsers_ = {"tool-call-parser", "reasoning-parser", "enable-auto-tool-choice"}
    choice = chosen(model, traits)
    assert {name: value for name, value in choice.options.items() if name not in parsers_} == expected


def test_the_users_options_win() -> None:
    reranker = Traits("Qwen3ForCausalLM", "qwen3", "score")
    for engine in ({"hfOverrides": {"a": 1}}, {"runner": "generate"}, {"args": {"hf-overrides.a": 1}}):
        assert "hf-overrides" not in chosen("Qwen/Qwen3-Reranker-0.6B", reranker, **engine).options
    embedder = Traits("Qwen2ForCausalLM", "qwen2", "embed")
    assert "runner" not in chosen("a/b", embedder, convert="embed").options
    glm = Traits("GlmMoeDsaForCausalLM")
    choice = chosen("zai-org/GLM-5", glm, args={"chat_template_content_format": "openai"})
    assert "chat-template-content-format" not in choice.options


def test_a_reranker_that_nobody_knows_is_told_of() -> None:
    [reason] = chosen("a/b", Traits("Qwen2ForCausalLM", "qwen2", "score")).reasons
    assert "vLLM needs engine.hfOverrides" in reason


# ---- the command


def test_on_the_command_line() -> None:
    plain = command({}, version=NEWEST)
    words = command({}, version=NEWEST, traits=Traits("Qwen3ForCausalLM", "qwen3", "generate", markers(QWEN3)))
    added = ["--tool-call-parser", "hermes", "--enable-auto-tool-choice", "--reasoning-parser", "qwen3"]
    rest = [word for word in words if word not in added]
    assert rest == [word for word in plain if word not in added]
    for word in added:
        assert words.count(word) == 1
    assert words[words.index("--tool-call-parser") + 1] == "hermes"
    assert words[words.index("--reasoning-parser") + 1] == "qwen3"


# ---- what holds for every model


_ARCHITECTURES = sorted({name for recipe in recipes() for name in recipe.architectures} | {"BertModel", ""})
_NAMES = sorted({f"a/{name.replace(' ', '-')}" for recipe in recipes() for name in recipe.names})
_TRAITS = st.builds(
    Traits,
    architecture=st.sampled_from(_ARCHITECTURES),
    model_type=st.sampled_from(["", "kimi_k2", "qwen3"]),
    task=st.sampled_from([None, "generate", "embed", "score", "classify", "reward", "transcribe"]),
    template=st.lists(st.sampled_from(sorted(MARKERS)), unique=True).map(lambda found: tuple(sorted(found))),
)


def _registered(version: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    catalogue = find(version)
    assert catalogue is not None
    return catalogue.tool_parsers, catalogue.reasoning_parsers


@given(traits=_TRAITS, model=st.sampled_from([*_NAMES, "a/b", "/models/x"]), version=st.sampled_from(versions()))
def test_what_is_chosen_is_there(traits: Traits, model: str, version: str) -> None:
    choice = chosen(model, traits, version)
    tools, reasoning = _registered(version)
    assert choice.tool_call_parser in (None, *tools)
    assert choice.reasoning_parser in (None, *reasoning)
    assert ("enable-auto-tool-choice" in choice.options) == (choice.tool_call_parser is not None)
    if traits.task not in (None, "generate"):
        assert parsers(choice) == (None, None)
    assert len(choice.reasons) <= MOST_REASONS
    assert all(len(reason) <= LONGEST_REASON for reason in choice.reasons)
    command({"model": model}, version=version, traits=traits)


@given(traits=_TRAITS, model=st.sampled_from([*_NAMES, "a/b"]))
def test_more_of_a_template_never_brings_the_name_back(traits: Traits, model: str) -> None:
    found = match(model, Traits(traits.architecture, traits.model_type, traits.task, (*traits.template, "template")))
    assert found is None or not found.known_by.startswith("the name")


def test_hermes_is_told_from_what_looks_like_it() -> None:
    assert "tool-call-json" in markers(HERMES3)
    assert "tool-call-json" not in markers(GLM45)
