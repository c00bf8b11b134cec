"""Which parsers and options a model needs, where the user has not chosen: recipes.yaml, applied to what is known of the model.

What the vLLM version does not have is never passed. Where the version has no catalogue, nothing is.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from vllm_operator.api.base import Model
from vllm_operator.api.types import Engine, VLLMModelSpec
from vllm_operator.engine.catalogue import Catalogue, find
from vllm_operator.hub.chat_template import MARKERS, TEMPLATE, THINK_TOKENS, read_template
from vllm_operator.hub.facts import Task, Traits

NONE = "none"
"""Value of toolCallParser and reasoningParser that switches a parser off."""
TOOL_PARSER, REASONING_PARSER, AUTO_TOOLS = "tool-call-parser", "reasoning-parser", "enable-auto-tool-choice"
MOST_REASONS, LONGEST_REASON = 8, 512
"""Bounds of status.engine.reasons."""

_WORD = re.compile(r"[a-z0-9][a-z0-9.]*")
_POOLING_WORDS = frozenset({"embed", "embedding", "embeddings", "reranker", "rerank", "reward", "prm", "rm"})
"""Words in names of models that do not answer in text, which their config.json does not always tell."""
_POOLING_TASKS = frozenset(get_args(Task)) - {"generate"}
_GENERATES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "ChatModel")
"""Ends of the names of architectures that vLLM runs to generate unless it is told otherwise (config/model.py)."""
_POOLING_CONVERSIONS = frozenset({"embed", "classify", "reward"})


def _known_marker(name: str) -> str:
    if name not in MARKERS:
        raise ValueError(f"{name!r} is none of {', '.join(sorted(MARKERS))}")
    return name


Marker = Annotated[str, AfterValidator(_known_marker)]
Words = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9. ]*$")]


class Recipe(Model):
    """One entry of recipes.yaml, which says what the fields mean."""

    family: Annotated[str, Field(min_length=1)]
    repositories: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    template: tuple[Marker, ...] = ()
    template_lacks: tuple[Marker, ...] = ()
    names: tuple[Words, ...] = ()
    not_names: tuple[Words, ...] = ()
    tool_call_parser: tuple[str, ...] = ()
    reasoning_parser: tuple[str, ...] = ()
    reasoning_template: tuple[Marker, ...] = ()
    not_reasoning_names: tuple[Words, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    source: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _says_something(self) -> "Recipe":
        if not (self.repositories or self.architectures or self.model_types or self.template or self.names):
            raise ValueError(f"{self.family}: nothing says which models it is for")
        if not (self.tool_call_parser or self.reasoning_parser or self.options):
            raise ValueError(f"{self.family}: it says nothing of them")
        return self

    @property
    def by_config(self) -> bool:
        """Whether config.json is looked at."""
        return bool(self.architectures or self.model_types)

    def is_of(self, traits: Traits) -> bool:
        """Whether config.json names one of its architectures or types."""
        return traits.architecture in self.architectures or traits.model_type in self.model_types

    def suits_template(self, markers: Sequence[str]) -> bool:
        """Whether a chat template has what it must, and nothing that it must not have."""
        return set(self.template) <= set(markers) and not set(self.template_lacks) & set(markers)

    def suits_name(self, words: frozenset[str]) -> bool:
        """Whether a name has all words of one of the names, and none that it must not have."""
        if set(self.not_names) & words:
            return False
        return any(set(name.split()) <= words for name in self.names)


@cache
def recipes() -> tuple[Recipe, ...]:
    """All recipes, as they stand in the file. Raises ValueError when it is not as it should be."""
    text = resources.files("vllm_operator.engine").joinpath("recipes.yaml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Recipe, ...]).validate_python(yaml.safe_load(text))


@dataclass(frozen=True)
class Match:
    """The recipe for a model."""

    recipe: Recipe
    known_by: str
    """What of the model has led to it, beside its template."""
    markers: tuple[str, ...] = ()
    """What of the template has."""
    reasons: bool = True
    """Whether the model reasons in the way that the recipe's parser reads."""
    reasons_by: tuple[str, ...] = ()
    """What of the template says so."""

    def ground(self, *, reasoning: bool = False) -> str:
        """Why it is this recipe, or its parser of reasoning too, in words."""
        markers = (*self.markers, *(self.reasons_by if reasoning else ()))
        template = ", ".join(MARKERS[marker] for marker in markers if marker != THINK_TOKENS)
        parts = (
            self.known_by,
            f"chat template has {template}" if template else "",
            f"the tokenizer has {MARKERS[THINK_TOKENS]}" if THINK_TOKENS in markers else "",
        )
        return ", ".join(part for part in parts if part)


def match(model: str, traits: Traits) -> Match | None:
    """The recipe for a model, `model` being its repository or path."""
    repository, words = _repository(model), name_words(model)
    known = TEMPLATE in traits.template
    for recipe in recipes():
        if repository in map(str.lower, recipe.repositories):
            return _with_reasoning(Match(recipe, f"repository {_without_revision(model)}"), traits, words)
    for recipe in recipes():
        if recipe.by_config and recipe.is_of(traits) and recipe.suits_template(traits.template):
            named = traits.architecture if traits.architecture in recipe.architectures else traits.model_type
            return _with_reasoning(Match(recipe, named, recipe.template), traits, words)
    for recipe in recipes():
        if not recipe.by_config and recipe.template and recipe.suits_template(traits.template):
            return _with_reasoning(Match(recipe, "", recipe.template), traits, words)
    for recipe in () if known else recipes():
        fits = not traits.architecture or not recipe.by_config or recipe.is_of(traits)
        if fits and recipe.suits_name(words):
            name = f"the name {_without_revision(model).rpartition('/')[2]}"
            # A directory may have any name, and a parser of reasoning refuses every request where the tokenizer lacks its tokens.
            found = Match(recipe, name)
            return _with_reasoning(found, traits, words) if repository else replace(found, reasons=False)
    return None


def _with_reasoning(found: Match, traits: Traits, words: frozenset[str]) -> Match:
    """The match, with whether this model of the family reasons."""
    recipe = found.recipe
    if not recipe.reasoning_template:
        return found
    if TEMPLATE not in traits.template:
        return replace(found, reasons=not set(recipe.not_reasoning_names) & words)
    by = next((marker for marker in recipe.reasoning_template if marker in traits.template), None)
    return replace(found, reasons=by is not None, reasons_by=(by,) if by else ())


def _without_revision(model: str) -> str:
    return model.removeprefix("hf://").partition("@")[0].rstrip("/")


def _repository(model: str) -> str:
    """The repository, in lower case; empty for what is none."""
    plain = _without_revision(model)
    return plain.lower() if plain.count("/") == 1 and not plain.startswith("/") else ""


def name_words(model: str) -> frozenset[str]:
    """Words of a model's name, in lower case.

    >>> sorted(name_words("hf://Qwen/Qwen3.5-9B@main"))
    ['9b', 'qwen3.5']
    """
    name = _without_revision(model).rpartition("/")[2].partition(":")[0].lower()
    return frozenset(word.rstrip(".") for word in _WORD.findall(re.sub(r"[-_\s]+", " ", name)))


@dataclass(frozen=True)
class Choice:
    """What is put on the command line because the user has not chosen, and what there is to say of it."""

    tool_call_parser: str | None = None
    """In force, whoever chose it."""
    reasoning_parser: str | None = None
    """In force, whoever chose it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Option → value, to be added."""
    reasons: tuple[str, ...] = ()


def as_specified(spec: VLLMModelSpec, traits: Traits, *, template: str | None = None) -> Traits:
    """What is known of a model, with what its spec puts over it. `template`: the content of spec.engine.chatTemplate."""
    if template is not None:
        tokens = {THINK_TOKENS} & set(traits.template)
        traits = replace(traits, template=tuple(sorted({*read_template(template), *tokens})))
    architectures = ((spec.engine or Engine()).hf_overrides or {}).get("architectures")
    if isinstance(architectures, list) and architectures:
        traits = replace(traits, architecture=str(architectures[0]))
    return traits


def choose(spec: VLLMModelSpec, traits: Traits | None, version: str | None) -> Choice:
    """Parsers and options for a model. The user's own are never touched.

    `traits`: as specified; None where it is not known whether they would be the same as when the model was decided about: then nothing
    is chosen.
    """
    engine = spec.engine or Engine()
    catalogue = find(version)
    given = _given(engine, catalogue)
    users = {
        option: str(value) for option in (TOOL_PARSER, REASONING_PARSER) if isinstance(value := given.get(option), str)
    }
    in_force = {option: name for option, name in users.items() if name.lower() != NONE}
    reasons = [f"{option} {name}: the spec's own" for option, name in users.items()]
    if traits is None:
        return Choice(in_force.get(TOOL_PARSER), in_force.get(REASONING_PARSER), {}, _bounded(reasons))
    added: dict[str, Any] = {}
    found = match(spec.model, traits)
    if catalogue is None and found is not None and _lacks(found, given):
        reasons.append(
            f"no parsers and options for {found.recipe.family}: the options of this vLLM are not known; set engine.version "
            "beside engine.image, or engine.toolCallParser and engine.reasoningParser"
        )
    elif catalogue is not None:
        if found is not None and not _pools(traits, given, spec.model):
            _choose_parsers(found, catalogue, given, added, reasons)
        _choose_options(found, traits, catalogue, given, added, reasons)
    return Choice(
        in_force.get(TOOL_PARSER) or added.get(TOOL_PARSER),
        in_force.get(REASONING_PARSER) or added.get(REASONING_PARSER),
        added,
        _bounded(reasons),
    )


def _given(engine: Engine, catalogue: Catalogue | None) -> dict[str, Any]:
    """Options that the spec sets → value, by canonical name without what follows a dot."""
    given: dict[str, Any] = {
        name.replace("_", "-"): value
        for name in Engine.model_fields
        if name not in ("args", "env") and (value := getattr(engine, name)) is not None
    }
    for written, value in (engine.args or {}).items():
        base = written.partition(".")[0].replace("_", "-")
        negated, base = base.startswith("no-"), base.removeprefix("no-")
        if catalogue is not None:
            meant = catalogue.abbreviated(base)
            known = catalogue.option(base) or (meant[0] if len(meant) == 1 else None)
            base = known.name if known else base
        given[base] = not value if negated and isinstance(value, bool) else value
    return given


def _lacks(found: Match, given: Mapping[str, Any]) -> bool:
    """Whether a recipe has something that the spec does not set."""
    recipe = found.recipe
    wanted = {TOOL_PARSER: recipe.tool_call_parser, REASONING_PARSER: recipe.reasoning_parser if found.reasons else ()}
    return bool(({option for option, names in wanted.items() if names} | recipe.options.keys()) - given.keys())


def _pools(traits: Traits, given: Mapping[str, Any], model: str) -> bool:
    """Whether the model answers in something else than text: there is nothing to be parsed."""
    if given.get("runner") == "generate":
        return False
    return (
        given.get("runner") in ("pooling", "draft")
        or given.get("convert") in _POOLING_CONVERSIONS
        or traits.task in _POOLING_TASKS
        or bool(_POOLING_WORDS & name_words(model))
    )


def _choose_parsers(
    found: Match, catalogue: Catalogue, given: Mapping[str, Any], added: dict[str, Any], reasons: list[str]
) -> None:
    recipe = found.recipe
    for option, names, registered, wanted in (
        (TOOL_PARSER, recipe.tool_call_parser, catalogue.tool_parsers, given.get(AUTO_TOOLS) is not False),
        (REASONING_PARSER, recipe.reasoning_parser, catalogue.reasoning_parsers, found.reasons),
    ):
        if option in given or not names or not wanted:
            continue
        ground = found.ground(reasoning=option == REASONING_PARSER)
        name = next((name for name in names if name in registered), None)
        if name is None:
            reasons.append(
                f"no {option}: {' or '.join(names)} would be needed ({ground}), and vLLM {catalogue.version} registers none of that name"
            )
            continue
        added[option] = name
        reasons.append(f"{option} {name}: {ground}")
    if TOOL_PARSER in added and AUTO_TOOLS not in given:
        added[AUTO_TOOLS] = True


def _choose_options(
    found: Match | None,
    traits: Traits,
    catalogue: Catalogue,
    given: Mapping[str, Any],
    added: dict[str, Any],
    reasons: list[str],
) -> None:
    if {"runner", "convert", "hf-overrides"} & given.keys():
        wanted = {
            option: value
            for option, value in (found.recipe.options if found else {}).items()
            if option != "hf-overrides"
        }
    else:
        wanted = dict(found.recipe.options) if found else {}
        generates = traits.architecture.endswith(_GENERATES)
        if traits.task == "embed" and generates:
            wanted["runner"] = "pooling"
        elif traits.task == "score" and generates and "hf-overrides" not in wanted:
            reasons.append(
                f"{traits.architecture} is run to generate, though the model is a reranker: vLLM needs engine.hfOverrides for it"
            )
    for option, value in wanted.items():
        if option in given:
            continue
        ground = found.ground() if found and option in found.recipe.options else f"the model is for {traits.task}"
        if catalogue.option(option) is None:
            reasons.append(f"no {option}: vLLM {catalogue.version} has no such option ({ground})")
            continue
        added[option] = value
        reasons.append(f"{option}: {ground}")


def _bounded(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(reason[:LONGEST_REASON] for reason in reasons)[:MOST_REASONS]
