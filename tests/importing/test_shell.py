"""Words of a shell's commands."""

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.shell import check_text, interpolate, read_script, readable, variables_in

WORDS = st.lists(
    st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs", "Cn"]), max_size=8),
    min_size=1,
    max_size=5,
)


def words(text: str) -> list[tuple[str, ...]]:
    return [statement.words for statement in read_script(check_text(text)).statements]


@given(WORDS)
def test_quoted_words_are_read_back(given_: list[str]) -> None:
    assert words("x " + shlex.join(given_)) == [("x", *given_)]


@given(
    st.lists(
        st.sampled_from(["a", " ", "\t", "'", '"', "\\", "\n", "#", "é", "=", "-", "%", '\\"', "b c"]), max_size=12
    ).map("".join)
)
def test_plain_text_is_split_as_shlex_splits_it(text: str) -> None:
    """Where a shell has no more to do than shlex: one line, without our kindness to what is behind a backslash."""
    line = "x " + text.replace("\n", " ").replace("\\ ", " ").replace("\\\t", "\t").rstrip("\\ \t")
    try:
        expected = [tuple(shlex.split(line, comments=True))]
    except ValueError:
        with pytest.raises(ImportRefused):
            words(line)
        return
    # to shlex a # within a word begins a comment, to shells it does not
    if "#" not in line and "=" not in line:
        assert words(line) == expected


@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                " ",
                "'",
                '"',
                "\\",
                "#",
                "${X}",
                "${X}",
                "${Y:-d}",
                '"$X"',
                "'$X'",
                "\\$X",
                "-",
                "é",
                "${Y}",
                "${X-d}",
                "=b",
            ]
        ),
        max_size=10,
    ).map("".join)
)
def test_variables_are_replaced_as_a_shell_replaces_them(text: str) -> None:
    """Differential: a real shell, with nothing to run but printf."""
    line = text.rstrip("\\ ")
    script = f"X='1  2'; Y=; printf '<%s>' x {line}"
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    try:
        [found] = words(script)
    except ImportRefused:
        # what is not closed; nothing else of this can be refused
        assert shell.returncode != 0
        return
    assert shell.returncode == 0
    assert "".join(f"<{word}>" for word in found[2:]) == shell.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b; c && d || e | f & g", [("a", "b"), ("c",), ("d",), ("e",), ("f",), ("g",)]),
        ("a ';' \\; \";\"", [("a", ";", ";", ";")]),
        ("a > x 2>&1 b < y &> z", [("a", "b")]),
        ("a 2 > x", [("a", "2")]),
        ("a \\\n b", [("a", "b")]),
        ("a \\  \n b", [("a", "b")]),
        ("a \\ # why\n b", [("a", "b")]),
        ("a \\\n # why\n b", [("a", "b")]),
        ("a # why\nb", [("a",), ("b",)]),
        ("a\n-b\n  --c", [("a", "-b", "--c")]),
        ("a x#y", [("a", "x#y")]),
        ("a \\#", [("a", "#")]),
        ("a ~/x *.y ?", [("a", "~/x", "*.y", "?")]),
        ("a {}", [("a", "{}")]),
        ("a '{b,c}' \"{b,c}\"", [("a", "{b,c}", "{b,c}")]),
        ("X=1 a", [("a",)]),
        ("X='b c'; a $X \"$X\" z$X", [("a", "b", "c", "b c", "zb", "c")]),
        ('X=; a $X "$X" b', [("a", "", "b")]),
        ("a '$X' \\$X $", [("a", "$X", "$X", "$")]),
        ("X=1\nexport Y=$X\na $Y", [("a", "1")]),
    ],
)
def test_words(text: str, expected: list[tuple[str, ...]]) -> None:
    assert words(text) == expected


def test_variables_of_unknown_value() -> None:
    [(_, word)] = words('a "x$ONE/${TWO}"')
    assert variables_in(word) == ["ONE", "TWO"]
    assert readable(word) == "x$ONE/$TWO"


def test_no_variable_of_this_machine_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "hunter2")
    assert "hunter2" not in str(words("a $SECRET_OF_MINE ${SECRET_OF_MINE:-x}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$A ${B} $$C $${D}", "$A $B $C ${D}"), ("${A:-x}${B-y}${C:-}", "xy"), ("a$", "a$"), ("$1", "$1")],
)
def test_interpolation_of_a_compose_file(text: str, expected: str) -> None:
    assert readable(interpolate(text)) == expected


def test_what_is_no_text() -> None:
    for text in ("\0", "\ud800", "\ufdd0", "x" * 1_000_001):
        with pytest.raises(ImportRefused):
            check_text(text)
