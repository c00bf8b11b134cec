"""What versions of vLLM say of themselves → catalogue.json, and back (vllm_operator.engine.catalogue.describe)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import vllm_operator.engine
from vllm_operator.engine.catalogue import describe
from vllm_operator.engine.images import parse_version

FILE = Path(vllm_operator.engine.__file__).with_name("catalogue.json")


def minor(version: str) -> str:
    """E.g. 0.27 of 0.27.1."""
    return version.rpartition(".")[0]


def unpack(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Minor version → what its newest patch release said."""
    return {minor(version): describe(data, minor(version)) for version in data["versions"]}


def pack(catalogues: Iterable[Mapping[str, Any]], removed: Mapping[str, str]) -> dict[str, Any]:
    """The file's content. `removed`: option → minor version before all of these that removed it."""
    ordered = sorted(catalogues, key=lambda catalogue: parse_version(catalogue["version"]))
    minors = [minor(catalogue["version"]) for catalogue in ordered]
    return {
        "versions": [catalogue["version"] for catalogue in ordered],
        "removed": {name: removed[name] for name in sorted(removed) if name not in ordered[0]["options"]},
        **{
            parsers: _histories(minors, [dict.fromkeys(catalogue[parsers]) for catalogue in ordered])
            for parsers in ("toolParsers", "reasoningParsers")
        },
        "options": _histories(minors, [catalogue["options"] for catalogue in ordered]),
    }


def _histories(minors: Sequence[str], maps: Sequence[Mapping[str, Any]]) -> dict[str, list[list[Any]]]:
    """Name → its values, each with the first and the last version in which it has that value. A value of None is left out."""
    result: dict[str, list[list[Any]]] = {}
    for index, each in enumerate(maps):
        for name, value in each.items():
            entries = result.setdefault(name, [])
            new = [minors[index], minors[index], *([] if value is None else [value])]
            if entries and index and entries[-1][1] == minors[index - 1] and entries[-1][2:] == new[2:]:
                entries[-1][1] = minors[index]
            else:
                entries.append(new)
    return {name: result[name] for name in sorted(result)}


def removals(older: Iterable[Mapping[str, Any]], oldest: Mapping[str, Any]) -> dict[str, str]:
    """Option → minor version that removed it, out of the names that old versions have; `oldest` is the first with a catalogue."""
    ordered = [*sorted(older, key=lambda names: parse_version(names["version"])), oldest]
    result: dict[str, str] = {}
    for before, after in pairwise(ordered):
        result |= dict.fromkeys(set(before["options"]) - set(after["options"]), minor(after["version"]))
    return {name: version for name, version in result.items() if name not in oldest["options"]}


def to_text(data: Mapping[str, Any]) -> str:
    """One line for each option, so that a change of one can be read."""
    parts = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            lines = ",\n".join(f"{_compact(name)}:{_compact(entry)}" for name, entry in value.items())
            parts.append(f"{_compact(key)}:{{\n{lines}\n}}")
        else:
            parts.append(f"{_compact(key)}:{_compact(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
