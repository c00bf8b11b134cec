"""The words after `vllm serve` → options and their values: what command.py writes, read back, and what people write.

The words are read as vLLM's parser reads them (catalogue.py says what it does beyond Python's argparse), so that they mean here
what they mean there. Where it would end vLLM, three things are read all the same: an option that is not known, `-tp2` for `-tp 2`,
and a model that stands behind options.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_operator.api.errors import Refusal
from vllm_operator.engine.catalogue import Catalogue, Option, Type, in_any_version, read_human_readable
from vllm_operator.engine.check import check_value, describe_unknown
from vllm_operator.engine.words import refusal, show

_FLAG = re.compile(r"--?[a-zA-Z][a-zA-Z0-9._+-]{0,127}")
_NEGATIVE_INTEGER = re.compile(r"-\d+")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NUMBER = re.compile(r"-?[0-9]{1,9}\.[0-9]{1,9}")
DEEPEST = 40
"""Most levels of objects and lists in a value. The API server takes no more than a hundred or so in a whole object."""


@dataclass(frozen=True)
class Given:
    """An option of a line."""

    flag: str
    """As it is written, without its value, e.g. --max_model_len or -tp."""
    name: str
    """The option's first long name; of an unknown one what is written, with dashes."""
    option: Option | None
    """What the version knows of it."""
    value: Any
    """As spec.engine.args has it."""
    words: tuple[str, ...] = ()
    """As they are written; none for a switch, and for an object that was given key by key."""
    earlier: tuple["Given", ...] = ()
    """The same option, further ahead in the line: this one takes their place."""
    is_open: bool = False
    """The value is not known: the words are not those that vLLM is given."""
    remark: str = ""
    """Why the version does not know it, or does not take its value."""


@dataclass
class Line:
    """What was read of a line."""

    positionals: list[str] = field(default_factory=list)
    """Words that belong to no option; vLLM takes one, the model."""
    given: dict[str, Given] = field(default_factory=dict)
    """By name."""

    def add(self, given: Given) -> None:
        """The last one of an option counts, but for those that are made to be repeated."""
        before = self.given.pop(given.name, None)
        if before is None:
            self.given[given.name] = given
            return
        value = given.value
        if (given.option is None and "." not in given.name) or (given.option is not None and given.option.repeated):
            value = [*_as_list(before.value), *_as_list(value)]
            if all(each is True for each in value):
                value = True
        self.given[given.name] = Given(
            given.flag,
            given.name,
            given.option,
            value,
            given.words,
            (*before.earlier, replace(before, earlier=())),
            before.is_open or given.is_open,
            given.remark,
        )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def read_line(
    catalogue: Catalogue,
    words: Sequence[str],
    *,
    checked: bool = True,
    is_open: Callable[[str], bool] = lambda word: False,
) -> Line:
    """What the words after `vllm serve` mean.

    `checked`: a value that the catalogue's version does not take is refused; else it is kept as text. `is_open` says of a word
    that its value is not known: it is not looked into.

    Raises Refusal(InvalidEngineArgs) naming the option as it is written.
    """
    return _Reader(catalogue, list(words), checked=checked, is_open=is_open).read()


@dataclass(frozen=True)
class _Flag:
    """What a word that begins with a dash was found to be."""

    text: str
    name: str
    option: Option | None
    negated: bool = False
    attached: str | None = None
    """The value in the same word."""
    keys: tuple[str, ...] = ()
    """Of a dotted option."""


class _Reader:
    def __init__(
        self, catalogue: Catalogue, words: list[str], *, checked: bool, is_open: Callable[[str], bool]
    ) -> None:
        self._catalogue = catalogue
        self._words = words
        self._place = 0
        self._checked = checked
        self._is_open = is_open
        self._line = Line()
        self._remarks: dict[str, str] = {}
        self._objects: dict[str, tuple[_Flag, dict[str, Any], bool]] = {}

    def read(self) -> Line:
        while self._place < len(self._words):
            word = self._words[self._place]
            self._place += 1
            if word == "--":
                self._line.positionals += self._words[self._place :]
                break
            flag = self._flag(word)
            if flag is None:
                self._line.positionals.append(word)
            elif flag.keys:
                self._read_key(flag)
            else:
                self._line.add(self._read_option(flag))
        # as vLLM does: after all others, so that they take the place of an object that was given whole
        for flag, value, is_open in self._objects.values():
            remark = ""
            if flag.option is not None and not is_open:
                remark = self._check(flag, flag.option, value)
            self._line.add(Given(flag.text, flag.name, flag.option, value, is_open=is_open, remark=remark))
        return self._line

    # ---- which words are options

    def _flag(self, word: str) -> _Flag | None:
        """What a word is as an option; None for a value. Raises Refusal for what can be neither."""
        if len(word) < 2 or word[0] != "-" or _NEGATIVE_INTEGER.fullmatch(word) or self._is_open(word):
            return None
        text, equals, attached = word.partition("=")
        if any(character.isspace() for character in text):
            return None
        if not _FLAG.fullmatch(text):
            if re.fullmatch(r"-[0-9]*\.[0-9]+", text):
                raise refusal(
                    f"{text} is read as an option by vLLM's parser: write it behind its option's name, with ="
                )
            raise refusal(f"{show(text)} is no option: write one or two dashes and a name, e.g. --max-model-len")
        value = attached if equals else None
        return self._long(text, value) if text.startswith("--") else self._short(text, value)

    def _long(self, text: str, value: str | None) -> _Flag:
        head, *keys = text[2:].split(".")
        head = head.replace("_", "-")
        option, negated = self._find(text, head)
        if option is None:
            return _Flag(text, ".".join([head, *keys]), None, attached=value)
        return self._with_keys(_Flag(text, option.name, option, negated, value, tuple(keys)))

    def _find(self, text: str, head: str) -> tuple[Option | None, bool]:
        """The option of a long name, which may be abbreviated, and whether the name negates it."""
        long = self._catalogue.long_names
        if head in long:
            return long[head], False
        negations = {f"no-{name}": option for name, option in long.items() if option.negatable}
        if head in negations:
            return negations[head], True
        plain = head.removeprefix("no-")
        if plain != head and plain in long and self._checked:
            raise refusal(f"{text}: --{plain} has no --no- form in vLLM {self._catalogue.version}")
        found = {
            (option.name, negated): (option, negated)
            for names, negated in ((long, False), (negations, True))
            for name, option in names.items()
            if name.startswith(head)
        }
        if len(found) > 1 and self._catalogue.removed_in(head) is None:
            names = ", ".join(f"--{'no-' if negated else ''}{name}" for name, negated in sorted(found))
            raise refusal(f"{text} is an abbreviation of several options: {names}")
        return next(iter(found.values())) if len(found) == 1 else (None, False)

    def _short(self, text: str, value: str | None) -> _Flag:
        head, *keys = text[1:].split(".")
        short = self._catalogue.short_names
        if head in short:
            return self._with_keys(
                _Flag(text, short[head], self._catalogue.option(short[head]), False, value, tuple(keys))
            )
        for name in sorted(short, key=len, reverse=True):
            rest = text[1 + len(name) :]
            if text[1:].startswith(name) and (len(name) == 1 or rest.isdecimal()):
                whole = rest if value is None else f"{rest}={value}"
                return _Flag(f"-{name}", short[name], self._catalogue.option(short[name]), attached=whole)
        found = {short[name]: name for name in short if name.startswith(head)}
        if len(found) == 1 and not keys:
            [name] = found
            return _Flag(text, name, self._catalogue.option(name), attached=value)
        raise refusal(
            f"{text}: unknown in vLLM {self._catalogue.version}"
            + (f"; it begins {', '.join(f'-{name}' for name in sorted(found.values()))}" if found else "")
            + (f"; did you mean -{text}?" if self._catalogue.option(head.replace("_", "-")) else "")
        )

    def _with_keys(self, flag: _Flag) -> _Flag:
        """The flag, if its option can be given by keys or is not. Raises Refusal."""
        option = flag.option
        if flag.keys and option is not None and not option.takes_keys:
            raise refusal(
                f"{flag.text}: --{option.name} has no keys: vLLM {self._catalogue.version} takes {option.expected}"
            )
        return flag

    # ---- their values

    def _taken(self, flag: _Flag, *, least: int, most: int | None) -> tuple[str, ...]:
        """The words that follow and are no options. Raises Refusal when there are too few."""
        if flag.attached is not None:
            return (flag.attached,)
        taken: list[str] = []
        while self._place < len(self._words) and (most is None or len(taken) < most):
            word = self._words[self._place]
            if word == "--" or self._flag(word) is not None:
                break
            taken.append(word)
            self._place += 1
        if len(taken) < least:
            raise refusal(f"{flag.text} has no value: vLLM {self._catalogue.version} takes {_expected(flag.option)}")
        return tuple(taken)

    def _read_option(self, flag: _Flag) -> Given:
        option = flag.option
        if option is None:
            return self._read_unknown(flag)
        if option.type is Type.BOOLEAN:
            if flag.attached is not None:
                raise refusal(
                    f"{flag.text} takes no value: write --{option.name}"
                    + (f" or --no-{option.name}" if option.negatable else ", or leave it out")
                )
            return Given(flag.text, option.name, option, not flag.negated)
        words = self._taken(flag, least=0 if option.values == "?" else 1, most=None if option.values == "+" else 1)
        if any(map(self._is_open, words)):
            return Given(flag.text, option.name, option, list(words), words, is_open=True)
        remark = self._check(flag, option, list(words) if option.values == "+" else words[0]) if words else ""
        if remark:
            value: Any = list(words) if option.several else words[0]
        else:
            read = [_read_word(option, word, where=flag.text) for word in words]
            value = read if option.several or not read else read[0]
        return Given(flag.text, option.name, option, value, words, remark=remark)

    def _check(self, flag: _Flag, option: Option, value: Any) -> str:
        """Why the value is not taken; "" when it is. Raises Refusal if it is to be."""
        try:
            check_value(self._catalogue, option, value, where=flag.text)
        except Refusal as found:
            if self._checked:
                raise
            return found.message
        return ""

    def _read_unknown(self, flag: _Flag) -> Given:
        """An option that this version does not know, or not any more: its values are what follows."""
        value: Any
        remark = self._remark(flag)
        if "." in flag.name:
            [word] = self._taken(flag, least=1, most=1)
            known = not self._is_open(word)
            value = _read_key_value(word, where=flag.text) if known else word
            return Given(flag.text, flag.name, None, value, (word,), is_open=not known, remark=remark)
        former = in_any_version(flag.name) or in_any_version(flag.name.removeprefix("no-"))
        if former is not None and former.type is Type.BOOLEAN:
            if flag.attached is not None:
                raise refusal(f"{flag.text} takes no value; {remark.partition(': ')[2]}")
            return Given(flag.text, flag.name, None, True, remark=remark)
        words = self._taken(flag, least=0, most=1 if former is not None and not former.several else None)
        value = [_guess(word) for word in words] if words else True
        if words and len(words) == 1:
            value = value[0]
        return Given(flag.text, flag.name, None, value, words, is_open=any(map(self._is_open, words)), remark=remark)

    def _remark(self, flag: _Flag) -> str:
        """Why an option is not known. Kept: to look for the nearest name takes a while."""
        if flag.text not in self._remarks:
            name = flag.name.partition(".")[0]
            self._remarks[flag.text] = describe_unknown(self._catalogue, name, where=flag.text, flags=True)
        return self._remarks[flag.text]

    def _read_key(self, flag: _Flag) -> None:
        """One key of an object: merged with the others of the same option, the later over the earlier."""
        *outer, last = flag.keys
        word = flag.attached
        if word is None:
            # vLLM takes the next word whatever it is
            if self._place == len(self._words):
                raise refusal(f"{flag.text} has no value")
            word = self._words[self._place]
            self._place += 1
        _, whole, was_open = self._objects.get(flag.name, (flag, {}, False))
        value: Any
        if self._is_open(word):
            value = word
        elif last.endswith("+"):
            last, value = last.removesuffix("+"), word.split(",")
        else:
            value = _read_key_value(word, where=flag.text)
        if len(flag.keys) > DEEPEST:
            raise refusal(f"{flag.text} goes deeper than {DEEPEST} levels")
        inner = whole
        for key in outer:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        _merge(inner, {last: value})
        self._objects[flag.name] = (
            _Flag(f"--{flag.name}", flag.name, flag.option),
            whole,
            was_open or self._is_open(word),
        )


def _expected(option: Option | None) -> str:
    return option.expected if option is not None else "a value"


def _merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """As vLLM's parser merges dotted options: objects by key, lists one behind the other."""
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            _merge(before, value)
        elif isinstance(value, list) and isinstance(before, list):
            old[key] = before + value
        else:
            old[key] = value


def _read_key_value(word: str, *, where: str) -> Any:
    """The value of a dotted option: JSON, else a number with a unit, else text."""
    try:
        value = json.loads(word)
    except (ValueError, RecursionError):
        try:
            return read_human_readable(word)
        except (ValueError, OverflowError):
            return word
    return word if not is_plain(value, where=where) else value


def _read_word(option: Option, word: str, *, where: str) -> Any:
    """One word as a value of spec.engine.args: of the option's type where JSON has it."""
    if option.none and word in ("None", ""):
        return word
    match option.type:
        case Type.INTEGER | Type.HUMAN_READABLE | Type.HUMAN_READABLE_OR_AUTO:
            value: Any = option.read(word)
            if value == -1 and word.strip().lower() == "auto":
                return "auto"
        case Type.NUMBER:
            value = option.read(word)
            if not math.isfinite(value):
                return word
            value = int(value) if value.is_integer() and abs(value) < 2**53 else value
        case Type.JSON:
            value = option.read(word)
        case Type.JSON_OR_TEXT:
            value = option.read(word)
        case _:
            return word
    return value if is_plain(value, where=where) else word


def is_plain(value: Any, *, where: str = "") -> bool:
    """Whether a value can stand in an object of the API server's as it is: no number beyond its own. Raises Refusal for one that is
    too deep.
    """
    for each, depth in _walk(value):
        if depth > DEEPEST:
            raise refusal(f"{where} goes deeper than {DEEPEST} levels")
        if isinstance(each, float) and not math.isfinite(each):
            return False
        if isinstance(each, int) and not -(2**63) <= each < 2**63:
            return False
    return True


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    waiting = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        yield each, depth
        if depth > DEEPEST:
            return
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        waiting += [(one, depth + 1) for one in inner]


def _guess(word: str) -> Any:
    """A word of an option that nothing is known of: a number where it is written as JSON writes it."""
    if _INTEGER.fullmatch(word):
        return int(word)
    if _NUMBER.fullmatch(word) and repr(float(word)) == word and not float(word).is_integer():
        return float(word)
    return word
