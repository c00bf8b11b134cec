"""A model's command read back is the model; a command's model runs what the command runs."""

import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.catalogue.every_option import cases
from tests.engine.test_check import TEXTS, values
from tests.importing.meaning import meaning, pod_words, serve_line, words_of
from vllm_operator.api.types import Engine
from vllm_operator.engine.catalogue import Catalogue, Option, Type, find, versions
from vllm_operator.engine.command import TYPED_OPTIONS
from vllm_operator.engine.options import OWNED
from vllm_operator.engine.words import to_word
from vllm_operator.importing.model import PARALLELISM, import_model

FIELDS = {option: Engine.model_fields[attribute].alias or attribute for attribute, option in TYPED_OPTIONS}
"""Option → field of spec.engine."""
PARSERS = ("tool-call-parser", "reasoning-parser")


def catalogue_of(version: str) -> Catalogue:
    found = find(version)
    assert found is not None
    return found


def model(version: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vllm-operator.io/v1alpha1",
        "kind": "VLLMModel",
        "metadata": {"name": "qwen"},
        "spec": {"model": "Qwen/Qwen3-8B", **spec, "engine": {"version": version, **spec.get("engine", {})}},
    }


def read_back(made: Mapping[str, Any]) -> dict[str, Any]:
    return import_model(serve_line(made), name="qwen", version=made["spec"]["engine"]["version"]).model


def as_vllm_reads(option: Option, value: Any) -> Any:
    """A value of spec.engine.args, as vLLM's parser has it in the end."""
    if option.type is Type.BOOLEAN:
        return value
    if isinstance(value, list) and option.of != "list":
        words = [to_word(each, "") for each in value]
        return option.read(",".join(words)) if option.type is Type.COMMA_LIST else [option.read(word) for word in words]
    read = option.read(to_word(value, ""))
    return [read] if option.several else read


@pytest.mark.parametrize("version", versions())
def test_every_option_comes_back(version: str) -> None:
    catalogue = catalogue_of(version)
    of_option: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, args, _ in cases(catalogue, {}):
        of_option[name].append(args)
    assert set(of_option) == catalogue.options.keys() - OWNED.keys() - {"config"}
    seen = set()
    for number in range(max(map(len, of_option.values()))):
        names = sorted(name for name, several in of_option.items() if number < len(several))
        for start in range(0, len(names), 100):
            chunk = {name: of_option[name][number] for name in names[start : start + 100]}
            made = model(
                version, engine={"args": {key: value for args in chunk.values() for key, value in args.items()}}
            )
            back = read_back(made)
            read = meaning(pod_words(back), version=version)
            assert read == meaning(pod_words(made), version=version)
            assert read_back(back) == back
            for name, args in chunk.items():
                option = catalogue.options[name]
                if name in args and (args[name] is not False or option.negatable):
                    assert as_vllm_reads(option, read[name]) == as_vllm_reads(option, args[name]), name
                    seen.add(name)
    assert seen == set(of_option)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXTS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def plain_values(option: Option, catalogue: Catalogue) -> st.SearchStrategy[Any]:
    """Values of an option as an import writes them."""
    match option.type:
        case _ if option.name == "reasoning-parser":
            return st.sampled_from(catalogue.reasoning_parsers)
        case Type.BOOLEAN:
            return st.booleans() if option.negatable else st.just(True)
        case Type.JSON if option.of == "list":
            return st.lists(JSON, max_size=3)
        case Type.COMMA_LIST:
            return st.lists(st.text("abc:/.0", min_size=1), min_size=1, max_size=3).map(",".join)
    one = plain_words(option)
    if not option.several:
        return one
    # argparse takes a word that begins with a dash for an option, unless it is joined to its own
    return st.one_of(
        one.map(lambda value: [value]),
        st.lists(one.filter(lambda value: to_word(value, "")[:1] != "-"), min_size=1, max_size=3),
    )


def plain_words(option: Option) -> st.SearchStrategy[Any]:
    least = None if option.least is None and option.above is None else int(option.least or option.above or 0)
    most = None if option.most is None and option.below is None else int(option.most or option.below or 0)
    least = least if option.above is None or least is None else least + 1
    match option.type:
        case _ if option.choices:
            return st.sampled_from(option.choices)
        case Type.INTEGER | Type.HUMAN_READABLE:
            return st.integers(-(2**63) if least is None else least, 2**63 - 1 if most is None else most)
        case Type.HUMAN_READABLE_OR_AUTO:
            return st.one_of(st.sampled_from(["auto", -1]), st.integers(1 if least is None else max(least, 1), 2**62))
        case Type.NUMBER:
            return st.floats(
                option.least if option.least is not None else option.above,
                option.most if option.most is not None else option.below,
                exclude_min=option.above is not None,
                exclude_max=option.below is not None,
                allow_nan=False,
                allow_infinity=False,
            )
        case Type.JSON:
            return st.dictionaries(TEXTS, JSON, max_size=3)
        case Type.JSON_OR_TEXT:
            objects = st.dictionaries(TEXTS, JSON, max_size=3)
            return st.one_of(objects, TEXTS.filter(lambda text: not text.strip().startswith("{")))
    return TEXTS


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Models as an import writes them: typed fields where there are some that take the value."""
    version = draw(st.sampled_from(versions()))
    catalogue = catalogue_of(version)
    engine: dict[str, Any] = {}
    args: dict[str, Any] = {}
    if draw(st.booleans()):
        engine["toolCallParser"] = draw(st.sampled_from(catalogue.tool_parsers))
    left_out = {"enable-auto-tool-choice", "tool-call-parser", "shutdown-timeout"}
    for name in draw(st.sets(st.sampled_from(sorted(catalogue.options.keys() - OWNED.keys() - left_out)), max_size=6)):
        value = draw(plain_values(catalogue.options[name], catalogue))
        try:
            Engine.model_validate({FIELDS[name]: value})
        except (KeyError, ValidationError):
            args[name] = value
        else:
            engine[FIELDS[name]] = value
    if args:
        engine["args"] = args
    spec: dict[str, Any] = {"model": draw(st.sampled_from(["Qwen/Qwen3-8B", "gpt2", "/models/x"])), "engine": engine}
    sizes = {
        "tensor": st.integers(2, 64),
        "pipeline": st.integers(2, 64),
        "data": st.integers(2, 64),
        "expert": st.just(True),
    }
    if parallelism := draw(st.fixed_dictionaries({}, optional=sizes)):
        spec["parallelism"] = parallelism
    served = st.from_regex(r"[A-Za-z0-9][-A-Za-z0-9._/:@]{0,20}", fullmatch=True)
    names = draw(st.lists(served, max_size=3, unique=True))
    if names and names != ["qwen"]:
        spec["servedModelNames"] = names
    return model(version, **spec)


@settings(max_examples=300)
@given(models())
def test_the_command_of_a_model_read_back_is_the_model(made: dict[str, Any]) -> None:
    assert read_back(made) == made


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """(version, the words after `vllm serve` as people write them)."""
    version = draw(st.sampled_from(versions()))
    catalogue = catalogue_of(version)
    names = sorted((catalogue.options.keys() - OWNED.keys() - set(PARSERS)) | PARALLELISM.keys())
    rest = []
    for name in draw(st.lists(st.sampled_from(names), max_size=6, unique=True)):
        option = catalogue.options[name]
        value = draw(
            st.integers(1, 64)
            if name in PARALLELISM and option.short != ("ep",)
            else values(option).map(lambda each: each[0])
        )
        if isinstance(value, list) and len(value) > 1 and any(to_word(each, "").startswith("-") for each in value):
            continue
        rest += words_of(option, value)
    head = draw(st.sampled_from([["Qwen/Qwen3-8B"], ["--model", "gpt2"], ["--model=/models/x"]]))
    return version, [*head, *rest] if head[0][0] != "-" else [*rest, *head]


@settings(max_examples=300)
@given(lines(), st.sampled_from([" ", " \\\n    "]))
def test_the_model_of_a_command_runs_the_same(case: tuple[str, list[str]], between: str) -> None:
    version, words = case
    text = between.join(map(shlex.quote, ["vllm", "serve", *words]))
    read = meaning(pod_words(import_model(text, version=version).model), version=version)
    meant = meaning(words, version=version)
    name = meant.pop("model", None) or meant["positionals"][0]
    meant["positionals"] = [name]
    served = read.pop("served-model-name")
    assert served == [name] or name.startswith("/")
    for option, default in (
        ("tensor-parallel-size", 1),
        ("pipeline-parallel-size", 1),
        ("data-parallel-size", 1),
        ("enable-expert-parallel", False),
    ):
        if meant.get(option) == default:
            del meant[option]
    assert read == meant
