"""Every option that a version has: written by the operator and read by that version's own parser, and judged by both."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tests.catalogue.versions import run_in_vllm
from tests.engine.commands import command
from tests.importing.meaning import pod_words, words_of
from vllm_operator.api.errors import Refusal
from vllm_operator.engine.catalogue import Catalogue, Option, Type, find
from vllm_operator.engine.check import check_value
from vllm_operator.engine.options import OWNED
from vllm_operator.engine.words import to_word
from vllm_operator.importing.model import PARALLELISM, import_model

# fmt: off
WORDS = (
    "", " ", "a b", " {} ", " 8 ", "32 k", "\n", "None", "none", "null", "true", "True", "x", "Auto", "auto", "AUTO", "é", "-", "a=b",
    "[", "]", "[1]", '["a"]', "{", "{}", "0", "1", "-1", "+2", "8", "1_000", "007", "1.0", "0.5", "-0.5", "1e3", "inf", "nan", "0x10",
    "３", "9" * 30, "32k", "32K", "1.5k", "1.5K", "k", "32kb", "1M", "2g", "1T", "-1k", "auto,x", "1,2",
)
# fmt: on
"""What might be a value."""

REFUSED = "<refused>"

NOT_TRIED = {"config": "vLLM opens the file"}
"""Options beside those that args cannot set → why."""


def differences(version: str) -> list[str]:
    """Where vLLM and the catalogue of this version disagree."""
    known = find(version)
    if known is None or known.version != version:
        return [f"there is no catalogue of {version}"]
    return misdescribed(known) + misread(known) + misjudged(known) + misimported(known)


def misdescribed(known: Catalogue) -> list[str]:
    """What vLLM says of itself otherwise than the catalogue."""
    said = Catalogue.build(run_in_vllm("describe", version=known.version))
    found = [
        f"{part} differ"
        for part in ("tool_parsers", "reasoning_parsers")
        if getattr(said, part) != getattr(known, part)
    ]
    for name in sorted(said.options.keys() | known.options.keys()):
        if (mine := known.options.get(name)) != (its := said.options.get(name)):
            found.append(f"--{name} is {its}, not {mine}")
    return found


def misread(catalogue: Catalogue) -> list[str]:
    """Options that vLLM does not read as they are meant."""
    objects = run_in_vllm("examples", version=catalogue.version)
    tried = list(cases(catalogue, objects))
    answers = run_in_vllm(
        "parse",
        version=catalogue.version,
        stdin=json.dumps(
            [
                (command({"engine": {"args": args}}, version=catalogue.version)[1:], [name.replace("-", "_")])
                for name, args, _ in tried
            ]
        ),
    )
    return [
        f"{args} is meant as {meant}, and read as {answer}"
        for (name, args, meant), answer in zip(tried, answers, strict=True)
        if not (isinstance(answer, dict) and agrees(meant, answer[name.replace("-", "_")]))
    ]


def misjudged(catalogue: Catalogue) -> list[str]:
    """Words of which the operator and vLLM's parser do not say the same: that they can, or cannot, be an option's value."""
    options = [
        option for option in catalogue.options.values() if option.name not in OWNED and option.name not in NOT_TRIED
    ]
    tried = [(option, word) for option in options for word in WORDS]
    answers = run_in_vllm(
        "parse",
        version=catalogue.version,
        stdin=json.dumps(
            [(["serve", "model", f"--{option.name}={word}"], [option.name.replace("-", "_")]) for option, word in tried]
        ),
    )
    return [
        f"--{option.name}={word!r} is {mine} here, and {read} in vLLM"
        for (option, word), answer in zip(tried, answers, strict=True)
        for mine, read in [
            (
                _judged(catalogue, option, word),
                answer[option.name.replace("-", "_")] if isinstance(answer, dict) else REFUSED,
            )
        ]
        if not _same_verdict(option, mine, read)
    ]


def misimported(catalogue: Catalogue) -> list[str]:
    """Commands that mean something else to vLLM once they have been imported, and written by the operator."""
    tried = []
    for name, words in written(catalogue, run_in_vllm("examples", version=catalogue.version)):
        line = ["vllm", "serve", "Qwen/Qwen3-8B", *words]
        made = import_model(shlex.join(line), name="m", version=catalogue.version).model
        tried.append((name.replace("-", "_"), line[1:], ["serve", *pod_words(made)]))
    answers = run_in_vllm(
        "parse",
        version=catalogue.version,
        stdin=json.dumps([(line, [name]) for name, *both in tried for line in both]),
    )
    return [
        f"{line[2:]} is {its} to vLLM, and {mine} as {words[1:]}"
        for (_, line, words), its, mine in zip(tried, answers[::2], answers[1::2], strict=True)
        if not isinstance(its, dict) or not isinstance(mine, dict) or _lasting(its) != _lasting(mine)
    ]


def _lasting(read: Mapping[str, Any]) -> dict[str, Any]:
    """What was read, without the ids that some config classes make up each time."""
    return {
        name: {key: inner for key, inner in value.items() if key != "engine_id"} if isinstance(value, dict) else value
        for name, value in read.items()
    }


def written(catalogue: Catalogue, objects: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(option, words) for every option that an import carries over to a field or to args, in the ways in which people write it."""
    for name, args, _ in cases(catalogue, objects):
        option = catalogue.options[name]
        if name not in args:
            continue
        value = args[name]
        yield name, words_of(option, value)
        if not isinstance(value, bool | list):
            word = to_word(value, "")
            yield name, [f"--{name}", word] if not word.startswith("-") else [f"--{name}={word}"]
        if catalogue.option(name[:-1]) is None and catalogue.abbreviated(name[:-1]) == [option] and value is True:
            yield name, [f"--{name[:-1]}"]
    for name in PARALLELISM:
        option = catalogue.options[name]
        values: tuple[Any, ...] = (True, False) if option.type is Type.BOOLEAN else (1, 2)
        for value in values:
            yield name, words_of(option, value)


def _same_verdict(option: Option, mine: Any, read: Any) -> bool:
    if option.type is Type.COMMA_LIST or (option.type is Type.JSON_OR_TEXT and option.several):
        return read is not REFUSED or option.several  # what an element is, vLLM alone knows
    if mine is not REFUSED and read is not REFUSED:
        return agrees([mine] if option.several else mine, read)
    if mine is read:
        return True
    if mine is not REFUSED:
        return isinstance(mine, dict)  # vLLM's config classes may want more of an object, or in it
    # vLLM finds out later: by the bounds of a config class, or when it wants to look into what is no object
    bounded = any(bound is not None for bound in (option.least, option.above, option.most, option.below))
    return bounded or (option.type is Type.JSON and not isinstance(read, dict if option.of == "object" else list))


def _judged(catalogue: Catalogue, option: Option, word: str) -> Any:
    """What the operator takes a word for."""
    try:
        check_value(catalogue, option, word, where="")
    except Refusal:
        return REFUSED
    return option.read(word)


def cases(catalogue: Catalogue, objects: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """(option, spec.engine.args, what is meant) for every option that args can set; `objects`: option → an object that it takes."""
    for option in catalogue.options.values():
        if option.name in OWNED or option.name in NOT_TRIED:
            continue
        registered = {"tool-call-parser": catalogue.tool_parsers, "reasoning-parser": catalogue.reasoning_parsers}
        if option.name in registered:
            for parser in registered[option.name]:
                yield option.name, {option.name: parser}, parser
            continue
        for value, meant in _values(option, objects.get(option.name)):
            yield option.name, {option.name: value}, meant
        for alias in option.aliases:
            value, meant = next(_values(option, None))
            yield option.name, {alias: value}, meant
        if option.negatable:
            yield option.name, {f"no_{option.name.replace('-', '_')}": True}, False
        if option.takes_keys:
            given = objects.get(option.name, {"key": {"inner": "1"}})
            keys = {f"{option.name}.{key}": value for key, value in given.items()}
            if keys:
                yield option.name, keys, given


def agrees(meant: Any, read: Any) -> bool:
    """Whether vLLM's value is the one meant. A config class has more fields than were given."""
    if isinstance(meant, dict):
        return isinstance(read, dict) and all(key in read and agrees(meant[key], read[key]) for key in meant)
    if isinstance(meant, list) and isinstance(read, list):
        return len(meant) == len(read) and all(agrees(one, other) for one, other in zip(meant, read, strict=True))
    if isinstance(meant, list):
        return bool(read == ",".join(meant))
    return type(meant) is type(read) and (repr(meant) == repr(read) or bool(meant == read))


def _values(option: Option, example: Any) -> Iterator[tuple[Any, Any]]:
    """Values of an option, with what each means."""
    if option.type is Type.BOOLEAN:
        yield True, True
        yield False, False
        return
    singles = list(_words(option, example))
    if option.several:
        yield [each for each, _ in singles], [meant for _, meant in singles]
        yield singles[0][0], [singles[0][1]]
    elif option.type is Type.COMMA_LIST:
        yield ["a", "b"], ["a", "b"]
        yield "a,b", ["a", "b"]
    else:
        yield from singles


def _words(option: Option, example: Any) -> Iterator[tuple[Any, Any]]:
    if option.choices:
        for each in option.choices:
            yield (str(each).upper().replace("_", "-"), each) if option.folded else (each, each)
        return
    least = option.least if option.least is not None else 0 if option.above is None else option.above + 1
    match option.type:
        case Type.INTEGER:
            yield int(least) + 3, int(least) + 3
            yield str(int(least) + 4), int(least) + 4
        case Type.NUMBER:
            share = 0.25 if option.most == 1 or option.below == 1 else 2.5
            yield share, share
        case Type.HUMAN_READABLE | Type.HUMAN_READABLE_OR_AUTO:
            yield 5000, 5000
            yield "32k", 32_000
            yield "1.5k", 1500
            yield "32K", 32_768
            if option.type is Type.HUMAN_READABLE_OR_AUTO:
                yield "auto", -1
                yield -1, -1
        case Type.JSON if option.of == "list":
            yield ["a", "-b"], ["a", "-b"]
            yield [], []
        case Type.JSON:
            given = {"key": {"inner": [1, None, "1"]}} if example is None else example
            yield given, given
        case Type.JSON_OR_TEXT if option.several:  # LoRA adapters
            yield {"name": "one", "path": "/a b"}, {"name": "one", "path": "/a b"}
            yield "two=/c", {"name": "two", "path": "/c"}
        case Type.JSON_OR_TEXT:
            yield {"key": [1]}, {"key": [1]}
            yield "text", "text"
        case _:
            yield "a b", "a b"
            yield "$(x); '\"", "$(x); '\""
