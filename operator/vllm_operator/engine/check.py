"""Whether a vLLM version takes an option and its value. What is refused here, vLLM itself would refuse: after the start."""

from collections.abc import Sequence
from typing import Any

from vllm_operator.engine.catalogue import Catalogue, Option, Type, nearest, said_instead
from vllm_operator.engine.options import INSTEAD, OWNED
from vllm_operator.engine.words import refusal, show, to_word


def resolve(catalogue: Catalogue, name: str, *, where: str) -> Option:
    """The option of a canonical name (what follows a dot does not count), or the only one that it is an abbreviation of.

    Raises Refusal.
    """
    base = name.partition(".")[0]
    option = catalogue.option(base)
    if option is not None:
        return option
    meant = catalogue.abbreviated(base)
    if len(meant) == 1 and catalogue.removed_in(base) is None and catalogue.added_in(base) is None:
        return meant[0]
    raise refusal(describe_unknown(catalogue, base, where=where))


def describe_unknown(catalogue: Catalogue, name: str, *, where: str, flags: bool = False) -> str:
    """Why a version has no option of this name, and what would be right. `flags`: options are written with their dashes."""
    version, dashes = f"vLLM {catalogue.version}", "--" if flags else ""
    if removed := catalogue.removed_in(name):
        instead = INSTEAD.get(name) or said_instead(name)
        if instead and flags:
            instead = _as_flags(instead)
        return f"{where}: not in {version}: removed in {removed}; " + (
            f"use {instead} instead" if instead else "leave it out"
        )
    if added := catalogue.added_in(name):
        return f"{where}: unknown in {version}; {added} has it"
    if meant := catalogue.abbreviated(name):
        names = ", ".join(dashes + option.name for option in meant)
        return f"{where}: unknown in {version}, and an abbreviation of several options: {names}"
    like = catalogue.nearest(name)
    if like is None and flags and (far := catalogue.nearest(name, likeness=0.3)) is not None:
        return f"{where}: unknown in {version}; the nearest that it knows is --{far}"
    if like is None:
        return f"{where}: unknown in {version}; vllm serve --help=all lists what it takes"
    hint = f" ({OWNED[like]})" if like in OWNED else ""
    return f"{where}: unknown in {version}; did you mean {dashes}{like}?{hint}"


def _as_flags(instead: str) -> str:
    """Options as spec.engine.args has them, as words of a command: `a and b`, or `a: 0`."""
    name, colon, value = instead.partition(": ")
    if colon:
        return f"--no-{name}" if value == "false" else f"--{name} {value}"
    return " and ".join(f"--{each}" for each in instead.split(" and "))


def check_value(catalogue: Catalogue, option: Option, value: Any, *, where: str) -> None:
    """Raise Refusal when vLLM does not take this value for the option."""
    if not _takes(option, value, where):
        raise refusal(f"{where} is {show(value)}: vLLM {catalogue.version} takes {option.expected}")


def check_parser(catalogue: Catalogue, registered: Sequence[str], name: Any, *, where: str) -> None:
    """Raise Refusal when vLLM registers no such parser of tool calls or of reasoning."""
    if name in ("", "None") or name in registered:
        return
    like = nearest(str(name), registered)
    raise refusal(
        f"{where} is {show(name)}, which vLLM {catalogue.version} does not register; "
        + (f"did you mean {like}? " if like else "")
        + f"It registers {', '.join(registered)}"
    )


def _takes(option: Option, value: Any, where: str) -> bool:
    """As vLLM's parser reads what command.py writes. A list of one is written as its element is."""
    if option.type is Type.BOOLEAN:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if isinstance(value, list):
        if option.of == "list" or option.type is Type.COMMA_LIST:
            return True
        return (option.several or len(value) == 1) and all(_reads(option, each, where) for each in value)
    return _reads(option, value, where)


def _reads(option: Option, value: Any, where: str) -> bool:
    if isinstance(value, dict) and option.type not in (Type.JSON, Type.JSON_OR_TEXT):
        return False
    try:
        option.read(to_word(value, where))
    except (ValueError, OverflowError, RecursionError):
        return False
    return True
