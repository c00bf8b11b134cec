"""The options of `vllm serve`, and the parsers of tool calls and reasoning, of each vLLM version.

catalogue.json has what vLLM's own parsers say, written by tests/catalogue: the newest patch release of each minor version, and
the names of options that were removed before the oldest of them. It is read when it is first asked for.

What the parsers do beyond Python's argparse (vllm/utils/argparse_utils.py, the same in all of these versions):

- Underscores in an option's name become dashes, up to the first dot.
- `--a.b value` sets a key of the JSON option `--a`; the value is read as JSON, else as text. All dotted keys of one option
  become one more `--a`, which replaces an `--a` given whole.
- Any word that begins with `-` and has a dot is taken for such a dotted option, even when it is a value (-0.5).

argparse itself takes any beginning of a name that no other name has for the name: `--max-model` for `--max-model-len`.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

_VERSION = re.compile(r"([0-9]+\.[0-9]+)\.[0-9]+(.*)")
_PRE_RELEASE = re.compile(r"^[abc][0-9]|rc[0-9]|alpha|beta|pre|dev|nightly")
_HUMAN_READABLE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmgt])|([0-9]+)([KMGT])")
_NUMBER_IN_JSON = re.compile(r"\b[0-9]+(?:\.[0-9]+)?[kKmMgGtT]\b")
_USE_INSTEAD = re.compile(r"[Uu]se `?--([a-z][a-zA-Z0-9._-]*[a-zA-Z0-9])")


class Type(StrEnum):
    """What vLLM's parser makes of one word."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    HUMAN_READABLE = "human-readable integer"
    """32000, 32k (32,000) or 32K (32,768)."""
    HUMAN_READABLE_OR_AUTO = "human-readable integer or auto"
    """Also `auto`, the same as -1."""
    JSON = "JSON"
    JSON_OR_TEXT = "JSON or text"
    COMMA_LIST = "comma list"
    """A list, written as one word with commas."""


_WORDS = {
    Type.BOOLEAN: "true or false",
    Type.INTEGER: "an integer",
    Type.NUMBER: "a number",
    Type.TEXT: "text",
    Type.HUMAN_READABLE: "an integer, also as e.g. 32k or 32K",
    Type.HUMAN_READABLE_OR_AUTO: "an integer, also as e.g. 32k or 32K, or auto",
    Type.JSON_OR_TEXT: "text or an object",
    Type.COMMA_LIST: "text or a list",
}


@dataclass(frozen=True)
class Option:
    """One option, by its first long name without dashes."""

    name: str
    type: Type
    of: Literal["object", "list"] | None = None
    """What a value of type JSON must be."""
    values: Literal["+", "?"] | None = None
    """How many words it takes: one or more, one or none; None: one, and none if boolean."""
    repeated: bool = False
    """The flag is repeated for each value."""
    none: bool = False
    """The words `None` and "" stand for no value."""
    choices: tuple[str | int, ...] = ()
    folded: bool = False
    """Choices are compared in lower case, with _ for -."""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    aliases: tuple[str, ...] = ()
    """Other long names."""
    short: tuple[str, ...] = ()
    """Names with one dash."""
    negatable: bool = False
    """There is a --no- form."""
    deprecated: bool = False
    default: Any = None
    """vLLM's default, when it can be written as JSON. It may differ between machines."""
    help: str = ""

    @property
    def several(self) -> bool:
        """Whether it takes several words."""
        return self.repeated or self.values == "+"

    @property
    def takes_keys(self) -> bool:
        """Whether `--name.key` can be written."""
        return not self.several and self.type in (Type.JSON, Type.JSON_OR_TEXT) and self.of != "list"

    @property
    def expected(self) -> str:
        """What it takes, for a message."""
        if self.choices:
            one = "one of " + ", ".join(map(str, self.choices))
        elif self.type is Type.JSON:
            one = "a JSON object" if self.of == "object" else "a JSON list"
        else:
            one = _WORDS[self.type]
        limits = [
            f"{word} {limit:g}"
            for word, limit in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", self.most),
                ("below", self.below),
            )
            if limit is not None
        ]
        if limits:
            one += ", " + " and ".join(limits)
        return f"one value or a list, each {one}" if self.several else one

    def read(self, word: str) -> Any:
        """What vLLM makes of one word. Raises ValueError for what it refuses."""
        if self.none and word in ("None", ""):
            return None
        match self.type:
            case Type.INTEGER:
                value: Any = int(word)
            case Type.NUMBER:
                value = float(word)
            case Type.HUMAN_READABLE | Type.HUMAN_READABLE_OR_AUTO:
                automatic = self.type is Type.HUMAN_READABLE_OR_AUTO and word.strip().lower() in ("auto", "-1")
                value = -1 if automatic else read_human_readable(word)
            case Type.JSON:
                value = _read_json(word)
            case Type.JSON_OR_TEXT:
                value = json.loads(word) if re.fullmatch(r"(?s)\s*{.*}\s*", word) else word
            case _:
                value = word.lower().replace("-", "_") if self.folded else word
        if not self._allows(value):
            raise ValueError(f"not {self.expected}")
        return value

    def _allows(self, value: Any) -> bool:
        if self.of is not None:
            return isinstance(value, dict if self.of == "object" else list)
        if self.choices and value not in self.choices:
            return False
        return isinstance(value, str | dict) or (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class Catalogue:
    """What `vllm serve` of one version takes."""

    version: str
    """The version that was looked at, e.g. 0.27.1; it stands for all of 0.27."""
    options: Mapping[str, Option]
    tool_parsers: tuple[str, ...]
    reasoning_parsers: tuple[str, ...]

    @classmethod
    def build(cls, described: Mapping[str, Any]) -> "Catalogue":
        """From what vLLM says of itself (tests/catalogue/in_vllm.py)."""
        options = {}
        for name, entry in sorted(described["options"].items()):
            options[name] = _option(name, entry)
        return cls(described["version"], options, tuple(described["toolParsers"]), tuple(described["reasoningParsers"]))

    @cached_property
    def _long(self) -> dict[str, Option]:
        return {name: option for option in self.options.values() for name in (option.name, *option.aliases)}

    @cached_property
    def short_names(self) -> Mapping[str, str]:
        """Forms with one dash, e.g. tp → the option's name."""
        return {short: option.name for option in self.options.values() for short in option.short}

    def option(self, name: str) -> Option | None:
        """The option of a long name with dashes, without what follows a dot."""
        return self._long.get(name)

    def canonical(self, name: str) -> str:
        """The one spelling of an option's name: dashes, no second name; the part after the first dot is left alone.

        >>> newest().canonical("max_model_len"), newest().canonical("compilation_config.pass_config")
        ('max-model-len', 'compilation-config.pass_config')
        """
        head, dot, rest = name.partition(".")
        head = head.replace("_", "-")
        known = self.option(head)
        return (known.name if known else head) + dot + rest

    @property
    def long_names(self) -> Mapping[str, Option]:
        """Every long name, also second ones."""
        return self._long

    def abbreviated(self, beginning: str) -> list[Option]:
        """Options of which argparse takes this for an abbreviation, if it is no name of its own."""
        return list({option.name: option for name, option in self._long.items() if name.startswith(beginning)}.values())

    def nearest(self, name: str, *, likeness: float = 0.7) -> str | None:
        """The name that is most like this one, if it is like it at all."""
        return nearest(name, self._long, likeness=likeness)

    def removed_in(self, name: str) -> str | None:
        """The minor version that removed an option, e.g. 0.27; None if it was not there before this version."""
        minors = _minors()
        mine = minors.index(_minor(self.version))
        gone = [minors.index(until) + 1 for _, until, _ in _data()["options"].get(name, ())]
        last = max((index for index in gone if index <= mine), default=None)
        before: str | None = _data()["removed"].get(name)
        return before if last is None else minors[last]

    def added_in(self, name: str) -> str | None:
        """The minor version after this one that added an option; None if none did."""
        minors = _minors()
        mine = minors.index(_minor(self.version))
        return next((since for since, *_ in _data()["options"].get(name, ()) if minors.index(since) > mine), None)


def _option(name: str, entry: Mapping[str, Any]) -> Option:
    lists = {key: tuple(entry[key]) for key in ("choices", "aliases", "short") if key in entry}
    return Option(name, **{**entry, **lists, "type": Type(entry["type"])})


def in_any_version(name: str) -> Option | None:
    """An option by its first long name, as the last version with it has it."""
    history = _data()["options"].get(name)
    return _option(name, history[-1][2]) if history else None


def nearest(word: str, among: Sequence[str] | Mapping[str, Any], *, likeness: float = 0.7) -> str | None:
    """The one that is most like a word, if one is like it at all. `likeness`: 0 (nothing in common) to 1."""
    found = difflib.get_close_matches(word, list(among), n=1, cutoff=likeness)
    return found[0] if found else None


def read_human_readable(word: str) -> int:
    """A whole number as vLLM reads it: 32000, 32k (32,000), 1.5k (1,500), 32K (32,768). Raises ValueError for anything else."""
    match = _HUMAN_READABLE.fullmatch(word.strip())
    if match is None:
        return int(word)
    decimal, power, binary, binary_power = match.groups()
    if decimal is not None:
        return int(float(decimal) * 10 ** (3 * "kmgt".index(power) + 3))
    return int(binary) << (10 * "KMGT".index(binary_power) + 10)


def said_instead(name: str) -> str | None:
    """What vLLM's last version with a deprecated option says to use instead of it."""
    history = _data()["options"].get(name, ())
    last = history[-1][2] if history else {}
    match = _USE_INSTEAD.search(last.get("help", "")) if last.get("deprecated") else None
    return match[1] if match else None


def versions() -> tuple[str, ...]:
    """Versions with a catalogue, the oldest first."""
    return tuple(_data()["versions"])


def newest() -> Catalogue:
    """The catalogue of the newest version."""
    return _load(_minors()[-1])


def find(version: str | None) -> Catalogue | None:
    """The catalogue for a version, by its minor version; None when there is none.

    Pre-releases and nightly builds have none: they have options of the version that is to come.
    """
    match = _VERSION.fullmatch(version or "")
    if match is None or _PRE_RELEASE.search(match[2].lower()) or match[1] not in _minors():
        return None
    return _load(match[1])


@cache
def _load(minor: str) -> Catalogue:
    return Catalogue.build(describe(_data(), minor))


def describe(data: Mapping[str, Any], minor: str) -> dict[str, Any]:
    """What vLLM said of itself in one version, out of the file's content.

    The file has for each option its descriptions, each with the first and the last minor version that it holds for; for a
    parser, those that have it.
    """
    minors = [_minor(version) for version in data["versions"]]
    index = minors.index(minor)

    def holds(entry: Sequence[Any]) -> bool:
        return minors.index(entry[0]) <= index <= minors.index(entry[1])

    return {
        "version": data["versions"][index],
        "options": {name: entry[2] for name, entries in data["options"].items() for entry in entries if holds(entry)},
        **{
            parsers: sorted(name for name, entries in data[parsers].items() if any(map(holds, entries)))
            for parsers in ("toolParsers", "reasoningParsers")
        },
    }


@cache
def _data() -> dict[str, Any]:
    file = resources.files("vllm_operator.engine").joinpath("catalogue.json")
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


@cache
def _minors() -> tuple[str, ...]:
    return tuple(_minor(version) for version in _data()["versions"])


def _minor(version: str) -> str:
    return version.rpartition(".")[0]


def _read_json(word: str) -> Any:
    """JSON as vLLM reads it for an option: numbers outside of quotes may be human-readable. Raises ValueError for what is none."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', word)
    parts[::2] = [_NUMBER_IN_JSON.sub(lambda match: str(read_human_readable(match[0])), part) for part in parts[::2]]
    return json.loads("".join(parts))
