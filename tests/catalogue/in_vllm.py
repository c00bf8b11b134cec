"""Run by vLLM's own Python, which has none of this project: what that vLLM's parser of `vllm serve` takes, and what it reads.

`in_vllm.py describe` writes a JSON object of `version`, `options` (name → what it is: see _describe), `toolParsers` and
`reasoningParsers`. What this program does not know the meaning of is an error: a catalogue must not guess.

`in_vllm.py names` writes `version` and `options`, the names only: enough to know what was removed since, and possible for versions
that are too old for the rest.

`in_vllm.py examples` writes, for each option whose JSON is one of vLLM's config classes, an object that it takes: one field that
has another value than its default, or none where no field can stand alone.

`in_vllm.py parse` reads a JSON list of [vector without `vllm`, names of attributes] and writes for each an object of those
attributes, or the parser's message.

The result is the last line of the standard output.
"""

import argparse
import dataclasses
import enum
import importlib
import importlib.metadata
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

HELP_LENGTH = 100
"""Most characters of a help text. That of a deprecated option may be longer: it says what to use instead."""
DEPRECATED_HELP_LENGTH = 240

# Where versions have what is needed here, the newest first.
SERVE = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
FLEXIBLE = ("vllm.utils.argparse_utils", "vllm.utils")
TOOLS = ("vllm.tool_parsers", "vllm.entrypoints.openai.tool_parsers")
REASONING = ("vllm.reasoning",)

ACCELERATORS = ("cuda", "xpu")
"""Device types of vLLM's platforms beside cpu; ROCm's is cuda. One option's choices name the type of the machine that vLLM runs
on, and a catalogue is for all machines."""

COMMA_LISTS = frozenset({"tool-server"})
"""Options that vLLM splits at commas after parsing, and whose help has not said so in every version."""

_BOUNDS = "\0"
"""Stands in a help text before the bounds of the option's value."""


def main() -> None:
    """Run the command that was given."""
    command = sys.argv[1]
    # vLLM keeps the texts of its options only when it is about to print them; with "serve" beside it, it would leave out --model.
    sys.argv = ["vllm", "--help=all"]
    logging.disable(logging.WARNING)
    if command == "describe":
        result: Any = describe()
    elif command == "names":
        _take_old_configs()
        options = [text for action in _actions(_serve_parser()) for text in action.option_strings]
        names = sorted(text[2:] for text in options if text.startswith("--") and not text.startswith("--no-"))
        result = {"version": _version(), "options": names}
    elif command == "examples":
        result = examples()
    else:
        result = parse(json.load(sys.stdin))
    sys.stdout.write(json.dumps(result, sort_keys=True, default=_as_json) + "\n")


def describe() -> dict[str, Any]:
    """The catalogue of the vLLM that is installed."""
    _keep_bounds()
    options = _options()
    for accelerator in ACCELERATORS:
        _merge_choices(options, _options(accelerator))
    return {
        "version": _version(),
        "options": options,
        "toolParsers": sorted(_find(TOOLS, "ToolParserManager").list_registered()),
        "reasoningParsers": sorted(_find(REASONING, "ReasoningParserManager").list_registered()),
    }


def examples() -> dict[str, Any]:
    """Option → an object for it."""
    adapter = importlib.import_module("pydantic").TypeAdapter
    result: dict[str, Any] = {}
    for action in _actions(_serve_parser()):
        convert: Any = _inner(action.type, "optional_type.<locals>._optional_type") or action.type
        if not getattr(convert, "__qualname__", "").endswith(".parse_dataclass"):
            continue
        [cls] = convert.__defaults__
        name = action.option_strings[0].removeprefix("--")
        for field, value in _other_values(cls):
            try:
                adapter(cls).validate_python({field: value})
            except Exception:  # whatever a validator raises
                continue
            result[name] = {field: value}
            break
        else:
            result[name] = {}
    return result


def _other_values(cls: Any) -> Iterator[tuple[str, Any]]:
    """Fields of a config class with a value that is not their default."""
    for field in dataclasses.fields(cls):
        default = getattr(field.default, "default", field.default)
        if not field.init or field.name.startswith("_"):
            continue
        if isinstance(default, bool):
            yield field.name, not default
        elif isinstance(default, int | float):
            yield field.name, default + 1


def parse(cases: list[tuple[list[str], list[str]]]) -> list[Any]:
    """What the parser makes of each vector."""

    class Parser(_find(FLEXIBLE, "FlexibleArgumentParser")):  # type: ignore[misc]
        """The parser, but raising instead of ending the process."""

        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    parsers = []
    for accelerator in (None, *ACCELERATORS):
        with _machine(accelerator):
            # as vllm/entrypoints/cli/main.py puts it together
            parser = Parser(prog="vllm")
            commands = parser.add_subparsers(dest="subparser", parser_class=Parser)
            _find(SERVE, "make_arg_parser")(commands.add_parser("serve"))
            parsers.append(parser)
    return [_read(parsers, words, attributes) for words, attributes in cases]


def _read(parsers: list[Any], words: list[str], attributes: list[str]) -> Any:
    """What the first machine that takes the words makes of them, or the last one's message."""
    message = ""
    for parser in parsers:
        try:
            parsed = parser.parse_args(words)
        except ValueError as error:
            message = str(error)
        else:
            return {name: getattr(parsed, name) for name in attributes}
    return message


@contextmanager
def _machine(accelerator: str | None) -> Iterator[None]:
    """Have vLLM take the machine for one with this accelerator; None: for what it is, one without."""
    platform = type(importlib.import_module("vllm.platforms").current_platform)
    own = platform.device_type
    platform.device_type = accelerator or own
    try:
        yield
    finally:
        platform.device_type = own


def _as_json(value: Any) -> Any:
    """What the parser makes of an option, as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return repr(value)


def _version() -> str:
    return importlib.metadata.version("vllm").partition("+")[0]


def _find(modules: tuple[str, ...], name: str) -> Any:
    """The attribute of the first module that there is."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not module.startswith(str(error.name)):
                raise
    raise ImportError(f"{name} is in none of {', '.join(modules)}: this version has it elsewhere")


def _serve_parser() -> Any:
    parser = _find(FLEXIBLE, "FlexibleArgumentParser")(prog="vllm serve")
    return _find(SERVE, "make_arg_parser")(parser)


def _actions(parser: Any) -> list[argparse.Action]:
    """The actions that are options, but for --help."""
    return [each for each in parser._actions if each.option_strings and not isinstance(each, argparse._HelpAction)]


def _take_old_configs() -> None:
    """Let an old vLLM register a config that newer Transformers has itself."""
    automatic = importlib.import_module("transformers").AutoConfig
    register = automatic.register
    automatic.register = staticmethod(lambda *words, exist_ok=False: register(*words, exist_ok=True))


def _keep_bounds() -> None:
    """Have the bounds of an option's value stand in its help: vLLM's config classes check them, its parser does not."""
    arguments: Any = importlib.import_module("vllm.engine.arg_utils")
    original = arguments.get_kwargs

    def get_kwargs(cls: Any) -> dict[str, dict[str, Any]]:
        kwargs: dict[str, dict[str, Any]] = original(cls)
        fields = getattr(cls, "__pydantic_fields__", {})
        for name, keywords in kwargs.items():
            bounds = {
                key: getattr(constraint, key)
                for constraint in getattr(fields.get(name), "metadata", ())
                for key in ("ge", "gt", "le", "lt")
                if getattr(constraint, key, None) is not None
            }
            if bounds:
                keywords["help"] += _BOUNDS + json.dumps(bounds)
        return kwargs

    arguments.get_kwargs = get_kwargs


def _options(accelerator: str | None = None) -> dict[str, Any]:
    """Every option by its name, as it is on a machine with this accelerator (None: on a CPU)."""
    with _machine(accelerator):
        parser = _serve_parser()
    options = {}
    for action in _actions(parser):
        long = [text.removeprefix("--") for text in action.option_strings if text.startswith("--")]
        options[long[0]] = _describe(action, long, action in getattr(parser, "_deprecated", ()))
    # FlexibleArgumentParser reads -O itself, before argparse
    before, after = vars(parser.parse_args(["model"])), vars(parser.parse_args(["model", "-O1"]))
    [changed] = [name for name in after if after[name] != before[name]]
    options[changed.replace("_", "-")].setdefault("short", []).append("O")
    return options


def _merge_choices(options: dict[str, Any], others: dict[str, Any]) -> None:
    """Add the choices that another machine has; nothing else may differ there."""
    if options.keys() != others.keys():
        raise ValueError(f"options on some machines only: {sorted(options.keys() ^ others.keys())}")
    for name, option in options.items():
        other = others[name]
        if "choices" in option:
            option["choices"] = sorted({*option["choices"], *other["choices"]})
        different = {key for key in {*option, *other} - {"choices"} if option.get(key) != other.get(key)}
        if different:
            raise ValueError(f"--{name} has another {', '.join(sorted(different))} on some machines")


def _describe(action: argparse.Action, long: list[str], deprecated: bool) -> dict[str, Any]:
    """What an option is. Keys that say nothing about it are left out.

    type: boolean, integer, number, text, "human-readable integer", "human-readable integer or auto", JSON, "JSON or text",
        "comma list"
    of: (JSON) object or list
    values: how many: "+" (one or more) or "?" (one or none); left out: one
    repeated: the flag is repeated for each value
    none: the words None and "" stand for no value
    choices, least, above, most, below: which values
    folded: choices are compared in lower case, with _ for -
    aliases: other long names; short: names with one dash
    negatable: there is a --no- form
    deprecated, default, help
    """
    name = long[0]
    text, _, bounds = (action.help or "").partition(_BOUNDS)
    text = " ".join(text.replace("%%", "%").split())
    limits = json.loads(bounds or "{}")
    negatable = isinstance(action, argparse.BooleanOptionalAction)
    says_so = re.match(rf"\W*deprecated|--{name} is deprecated", text, re.IGNORECASE)
    deprecated = deprecated or bool(says_so) or type(action).__name__.startswith("Deprecated")
    entry = {
        **_type_of(action, name, text),
        **{
            ours: limits.get(theirs)
            for ours, theirs in (("least", "ge"), ("above", "gt"), ("most", "le"), ("below", "lt"))
        },
        "choices": sorted(each for each in action.choices or () if each not in (None, "None")),
        "aliases": [each for each in long[1:] if not (negatable and each.startswith("no-"))],
        "short": [each[1:] for each in action.option_strings if not each.startswith("--")],
        "negatable": negatable,
        "deprecated": deprecated,
        "default": _plain(action.default),
        "help": _shorten(text, DEPRECATED_HELP_LENGTH if deprecated else HELP_LENGTH),
    }
    return {
        key: value for key, value in entry.items() if value is not None and value is not False and value not in ([], "")
    }


def _type_of(action: argparse.Action, name: str, text: str) -> dict[str, Any]:
    """type, of, values, repeated, none and folded of an option. Raises ValueError for what is not known."""
    kind = type(action).__name__
    if kind in ("BooleanOptionalAction", "_StoreTrueAction"):
        return {"type": "boolean"}
    if kind not in ("_StoreAction", "_AppendAction", "LoRAParserAction", "DeprecatedLogConfigFileAction"):
        raise ValueError(f"--{name} has the unknown action {kind}")
    if action.nargs not in (None, "+", "?"):
        raise ValueError(f"--{name} takes an unknown number of values: {action.nargs!r}")
    entry: dict[str, Any] = {"values": action.nargs, "repeated": kind == "_AppendAction"}
    convert: Any = action.type or str
    inner = _inner(convert, "optional_type.<locals>._optional_type")
    if inner is not None:
        convert = inner
        # where it stands among the choices as a word, it cannot be said: it is no word any more when it is looked for
        entry["none"] = action.choices is None or None in action.choices
    convert = _inner(convert, "parse_type.<locals>._parse_type") or convert
    called = getattr(convert, "__qualname__", "")
    if kind == "LoRAParserAction" or called == "union_dict_and_str":
        entry["type"] = "JSON or text"
    elif convert is json.loads:
        entry |= {"type": "JSON", "of": "list" if isinstance(action.default, list) else "object"}
    elif called.endswith(".parse_dataclass"):
        entry |= {"type": "JSON", "of": "object"}
    elif called == "human_readable_int":
        entry["type"] = "human-readable integer"
    elif called == "human_readable_int_or_auto":
        entry["type"] = "human-readable integer or auto"
    elif called.endswith("<lambda>") and convert("A-b") == "a_b":
        entry |= {"type": "text", "folded": True}
    elif action.nargs is None and _is_comma_list(convert, name, text):
        entry["type"] = "comma list"
    elif convert in (int, float, str):
        entry["type"] = {int: "integer", float: "number", str: "text"}[convert]
    else:
        raise ValueError(f"--{name} has the unknown type {convert!r}")
    return entry


def _is_comma_list(convert: Any, name: str, text: str) -> bool:
    """Whether one word is a list with commas: split by the parser, or later."""
    if convert is str:
        return name in COMMA_LISTS or text.startswith("Comma-separated")
    return getattr(convert, "__name__", "") == "<lambda>" and convert("1,b") == [1, "b"]


def _inner(function: Any, called: str) -> Any:
    """What a function of this name converts with; None for another function."""
    if getattr(function, "__qualname__", "") != called:
        return None
    return dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))["return_type"].cell_contents


def _plain(value: Any) -> Any:
    """A default as JSON, or None when it has no short form."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is argparse.SUPPRESS or dataclasses.is_dataclass(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value if isinstance(value, (bool, int, float, str, dict)) else None


def _shorten(text: str, length: int) -> str:
    """The first sentence, if it is not too long, else the beginning; within `length`, as many sentences as there is room for."""
    if len(text) <= length:
        return text
    end = text.rfind(". ", 0, length)
    return text[: end + 1] if end > 0 else f"{text[: length - 1]}…"


if __name__ == "__main__":
    main()
