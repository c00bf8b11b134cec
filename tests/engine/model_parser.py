"""vLLM's parser, modelled by a catalogue: what Python's argparse makes of it, and dotted options as FlexibleArgumentParser does."""

import argparse
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from vllm_operator.engine.catalogue import Catalogue, Option, Type


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def make_parser(catalogue: Catalogue) -> argparse.ArgumentParser:
    """A parser with the catalogue's options."""
    parser = _Parser(prog="vllm serve")
    parser.add_argument("model_tag")
    for option in catalogue.options.values():
        names = [f"--{name}" for name in (option.name, *option.aliases)]
        names += [f"-{name}" for name in option.short if name != "O"]
        parser.add_argument(*names, dest=option.name, **_keywords(option))
    return parser


def _keywords(option: Option) -> dict[str, Any]:
    if option.type is Type.BOOLEAN:
        return {"action": argparse.BooleanOptionalAction if option.negatable else "store_true", "default": None}
    if option.repeated:
        return {"type": option.read, "action": "append"}
    return {"type": option.read, "nargs": option.values}


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """What is read of the words after `serve`. Raises ValueError for what is refused."""
    plain: list[str] = []
    objects: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name.startswith("-") and "." in name and equals):
            plain.append(word)
            continue
        flag, *keys = name.split(".")
        inner = objects.setdefault(flag, {})
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = json.loads(text)
    for flag, value in objects.items():
        plain += [flag, json.dumps(value)]
    return vars(parser.parse_args(plain))
