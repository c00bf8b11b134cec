"""A shell's command lines → words. Nothing is run, and no variable of this machine is looked at.

shlex does not say which characters were quoted, so that `$HOME` and `'$HOME'`, or `;` and `';'`, are the same to it. Here quotes,
backslashes, comments and assignments are read as a shell reads them; what a shell would have to run or to look up is an error, or
left out and named. Lines that people copy are read more kindly than a shell would: a comment or blanks behind the backslash at a
line's end, comments between such lines, and options on a line of their own without a backslash before them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vllm_operator.importing.errors import ImportRefused

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around the name of a variable whose value is not known, within a word: characters that no text has (Unicode keeps them free)."""
DOLLAR = "\ufdd2"
"""Another one: a $ that is no variable's, in a text that has been through `interpolate`."""
LONGEST = 1_000_000
"""Most characters of a text."""

_UNKNOWN = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
_NO_TEXT = re.compile(f"[{OPEN}{CLOSE}{DOLLAR}\ud800-\udfff]")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNED = re.compile(rf"({_NAME})(\+?)=")
_PARAMETER = re.compile(rf"({_NAME})(?:(:?[-])([^{{}}$`'\"\\]*))?\}}")
_CONTINUATION = re.compile(r"\\[ \t]*(?:\n|\Z)")
_CONTINUATION_AND_COMMENT = re.compile(r"\\[ \t]+#[^\n]*(?:\n|\Z)")
_SUBSTITUTION = re.compile(r"\([ \t]*([A-Za-z0-9._/-]{1,40})([ \t][^()'\"`$\\\n]{0,200})?\)")
"""`$(pwd)` and the like: a value that only a shell can know."""
_REDIRECTION = re.compile(r"&>>?|>>|>&|>\||<&|<>|>|<")
_SEPARATOR = re.compile(r"&&|\|\||\|&|;;|[;&|]")
_RESERVED = frozenset(
    [
        "if",
        "then",
        "else",
        "elif",
        "fi",
        "for",
        "while",
        "until",
        "do",
        "done",
        "case",
        "esac",
        "function",
        "{",
        "}",
        "!",
    ]
)


@dataclass
class _Part:
    text: str
    quoted: bool
    variable: bool = False
    default: str | None = None


@dataclass
class _Raw:
    """A word before its variables are replaced."""

    parts: list[_Part] = field(default_factory=list)

    def add(self, text: str, *, quoted: bool) -> None:
        if self.parts and not self.parts[-1].variable and self.parts[-1].quoted == quoted:
            self.parts[-1].text += text
        else:
            self.parts.append(_Part(text, quoted))

    @property
    def plain(self) -> str:
        """What is not quoted, with NUL for everything else."""
        return "".join("\0" if part.quoted or part.variable else part.text for part in self.parts)


@dataclass(frozen=True)
class Statement:
    """One command, as a shell separates them."""

    environment: Mapping[str, str]
    """Assignments in front of it."""
    words: tuple[str, ...]
    redirected: bool = False


@dataclass(frozen=True)
class Script:
    """What was read."""

    statements: tuple[Statement, ...]
    exported: Mapping[str, str]
    """Variables of `export`."""


def check_text(text: str) -> str:
    """The text with plain line ends. Raises ImportRefused for what no command can be."""
    if len(text) > LONGEST:
        raise ImportRefused(f"the command is longer than {LONGEST:,} characters")
    if "\0" in text:
        raise ImportRefused("the command has a NUL character, which no argument can hold: remove it")
    if _NO_TEXT.search(text):
        raise ImportRefused("the command is no valid Unicode text")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def variables_in(word: str) -> list[str]:
    """Names of variables in a word whose values are not known."""
    return _UNKNOWN.findall(word)


def is_open(word: str) -> bool:
    """Whether a word has variables whose values are not known."""
    return OPEN in word


def unknown(name: str) -> str:
    """A word that is a variable of unknown value."""
    return f"{OPEN}{name}{CLOSE}"


def readable(text: str) -> str:
    """Words for a message, with $NAME where a value is not known."""
    return _UNKNOWN.sub(lambda match: f"${match[1]}", text)


def interpolate(text: str) -> str:
    """A text of a compose file: $NAME, ${NAME} and ${NAME:-default} are variables, $$ is $. Raises ImportRefused."""

    def value(match: re.Match[str]) -> str:
        if match[1] is not None:
            return "$"
        if match[2] is not None:
            return unknown(match[2])
        found = _PARAMETER.fullmatch(match[3] + "}")
        if found is None:
            raise ImportRefused("a variable is written as ${...} with more than a name and a default: write its value")
        return found[3] if found[3] is not None else unknown(found[1])

    return re.sub(rf"\$(?:(\$)|({_NAME})|\{{([^}}]*)\}})", value, text)


def read_script(text: str, environment: Mapping[str, str] | None = None) -> Script:
    """Every command of a text that was checked. `environment`: variables that are known before.

    Raises ImportRefused for what only a shell can read.
    """
    known: dict[str, str] = dict(environment or {})
    exported: dict[str, str] = {}
    statements = []
    for raw, redirected in _statements(_tokens(text)):
        assigned: dict[str, str] = {}
        while raw and (match := _ASSIGNED.match(raw[0].plain)) is not None:
            if match[2]:
                raise ImportRefused(f"{match[1]}+= adds to a variable: write its value")
            [word] = _expand(raw.pop(0), known, split=False)
            assigned[match[1]] = word[match.end() :]
        if not raw:
            known |= assigned
            continue
        if raw[0].plain in _RESERVED:
            raise ImportRefused(f"{raw[0].plain!r} is for a shell to run: give the command alone")
        exporting = raw[0].plain in ("export", "set", "declare")
        words = [word for each in raw for word in _expand(each, known, split=not exporting)]
        if exporting:
            values = {match[1]: word[match.end() :] for word in words[1:] if (match := _ASSIGNED.match(word))}
            known |= values
            exported |= values
            exported |= {name: known[name] for name in words[1:] if name in known}
            continue
        if not words:
            continue
        statements.append(Statement(assigned, tuple(words), redirected))
    return Script(tuple(statements), exported)


def _statements(tokens: Iterable["_Raw | str"]) -> Iterator[tuple[list[_Raw], bool]]:
    """Commands as lists of words, and whether their input or output is led elsewhere."""
    words: list[_Raw] = []
    redirected = target = False
    waiting = list(tokens)
    for place, each in enumerate(waiting):
        if isinstance(each, _Raw):
            if target:
                target = False
            else:
                words.append(each)
            continue
        if target:
            raise ImportRefused("a redirection has no target")
        if each == "redirect":
            redirected = target = True
            continue
        following = waiting[place + 1] if place + 1 < len(waiting) else None
        if each == "\n" and words and isinstance(following, _Raw) and following.plain.startswith("-"):
            continue
        if words:
            yield words, redirected
        words, redirected = [], False
    if target:
        raise ImportRefused("a redirection has no target")
    if words:
        yield words, redirected


def _expand(raw: _Raw, known: Mapping[str, str], *, split: bool) -> list[str]:
    """A word with its variables replaced; with `split`, several where an unquoted value has blanks, and none where it is empty."""
    plain = raw.plain
    inner = plain[plain.find("{") : plain.rfind("}")] if "{" in plain else ""
    if "," in inner or ".." in inner:
        raise ImportRefused("a value has braces that a shell would take apart: put it into single quotes")
    words: list[str] = []
    current: str | None = None
    for part in raw.parts:
        value = part.text
        if part.variable:
            value = known.get(part.text, unknown(part.text) if part.default is None else part.default)
            if part.default and known.get(part.text) == "":
                value = part.default
            if split and not part.quoted:
                first, *others = re.split(r"[ \t\n]+", value)
                for each in others:
                    if current or first:
                        words.append((current or "") + first)
                    current, first = None, each
                current = (current or "") + first if first or current else current
                continue
        current = (current or "") + value
        if len(current) > LONGEST:
            raise ImportRefused("variables within variables make the command too long")
    if current is None and not split:
        current = ""
    return words if current is None else [*words, current]


def _tokens(text: str) -> Iterator["_Raw | str"]:
    """Words, and between them line ends, separators ("&&" and so on) and "redirect"."""
    place = 0
    word: _Raw | None = None
    continued = False

    def started() -> _Raw:
        return word if word is not None else _Raw()

    while place < len(text):
        character = text[place]
        if character in " \t":
            place += 1
            if word is not None:
                yield word
                word, continued = None, False
            continue
        if character == "\n":
            place += 1
            if word is not None:
                yield word
            word, continued = None, False
            yield "\n"
            continue
        if character == "#" and word is None:
            end = text.find("\n", place)
            place = len(text) if end < 0 else end + (1 if continued else 0)
            continue
        if character == "\\":
            match = _CONTINUATION.match(text, place)
            if match is None and word is None:
                match = _CONTINUATION_AND_COMMENT.match(text, place)
            if match is not None:
                place = match.end()
                if word is None:
                    continued = True
                continue
            word = started()
            word.add(text[place + 1 : place + 2] or "\\", quoted=True)
            place += 2
            continue
        if character == "'":
            end = text.find("'", place + 1)
            if end < 0:
                raise ImportRefused("a quote (') is not closed")
            word = started()
            word.add(text[place + 1 : end], quoted=True)
            place = end + 1
            continue
        if character == '"':
            word = started()
            place = _double_quoted(text, place + 1, word)
            continue
        if character == "$":
            word = started()
            place = _dollar(text, place, word, quoted=False)
            continue
        if character == "`":
            raise ImportRefused("`...` would be run by a shell: write its result, or put the value into single quotes")
        if character in "()":
            raise ImportRefused("parentheses are for a shell to run: put the value into single quotes")
        if (match := _REDIRECTION.match(text, place)) is not None:
            if text.startswith("<<", place):
                raise ImportRefused("<< (text that follows) is for a shell: write the value into the command")
            if text.startswith(("<(", ">("), place):
                raise ImportRefused("<(...) would be run by a shell: write the command without it")
            if word is not None and not word.plain.isdecimal():
                yield word
            word, continued = None, False
            yield "redirect"
            place = match.end()
            continue
        if (match := _SEPARATOR.match(text, place)) is not None:
            if word is not None:
                yield word
            word, continued = None, False
            yield match[0]
            place = match.end()
            continue
        word = started()
        word.add(character, quoted=False)
        place += 1
    if word is not None:
        yield word


def _double_quoted(text: str, place: int, word: _Raw) -> int:
    """Read to the closing quote; the place behind it."""
    word.add("", quoted=True)
    while place < len(text):
        character = text[place]
        if character == '"':
            return place + 1
        if character == "\\" and place + 1 < len(text) and text[place + 1] in '$`"\\\n':
            if text[place + 1] != "\n":
                word.add(text[place + 1], quoted=True)
            place += 2
        elif character == "$":
            place = _dollar(text, place, word, quoted=True)
        elif character == "`":
            raise ImportRefused("`...` would be run by a shell: write its result, or put the value into single quotes")
        else:
            word.add(character, quoted=True)
            place += 1
    raise ImportRefused('a quote (") is not closed')


def _dollar(text: str, place: int, word: _Raw, *, quoted: bool) -> int:
    """Read what begins with $; the place behind it."""
    rest = text[place + 1 : place + 2]
    if rest == "(" and (match := _SUBSTITUTION.match(text, place + 1)) is not None:
        # its program alone is named: the rest may be secret
        word.parts.append(_Part(f"({match[1]}...)" if match[2] else f"({match[1]})", quoted, True))
        return match.end()
    if rest == "(":
        raise ImportRefused("$(...) would be run by a shell: write its result, or put the value into single quotes")
    if rest == "{":
        match = _PARAMETER.match(text, place + 2)
        if match is None:
            raise ImportRefused("a variable is written as ${...} with more than a name and a default: write its value")
        word.parts.append(_Part(match[1], quoted, True, match[3]))
        return match.end()
    if rest in ("'", '"') and not quoted:
        raise ImportRefused("$'...' is for a shell: write the value in plain quotes")
    match = re.compile(rf"{_NAME}|[0-9@*#?$!-]").match(text, place + 1)
    if match is None:
        word.add("$", quoted=quoted)
        return place + 1
    word.parts.append(_Part(match[0], quoted, True))
    return match.end()
