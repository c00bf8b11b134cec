"""What is run, wherever it was written: words, environment, image; and the names of what is left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Run:
    """What starts a vLLM. Values may have variables that are not known (shell.py: `unknown`)."""

    words: list[str] = field(default_factory=list)
    """What follows `vllm serve`: a model and options."""
    executable: tuple[str, ...] = ()
    """Words that start the server, where they are not vLLM's own."""
    environment: dict[str, str] = field(default_factory=dict)
    image: str | None = None
    gpus: int | None = None
    """GPUs that the container is given, where that is a number."""
    shared_memory: str | None = None
    """Size as Docker writes it."""
    memory: str | None = None
    cpus: str | None = None
    replicas: int | None = None
    mounts: list[tuple[str, str]] = field(default_factory=list)
    """(source, path in the container)."""
    needless: list[str] = field(default_factory=list)
    """What the operator does by itself."""
    notes: list[str] = field(default_factory=list)
    """What could not be carried over, as sentences; no values that may be secret."""


def mount(run: Run, text: str) -> None:
    """Note a mount that is written as `source:target[:options]`, or as a target alone."""
    parts = text.split(":")
    source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
    run.mounts.append((source, target))


def read_mount(run: Run, fields: Sequence[str]) -> None:
    """Note a mount that is written as `type=bind,source=…,target=…`."""
    pairs = dict(each.partition("=")[::2] for each in fields)
    source = pairs.get("source", pairs.get("src", ""))
    target = next((pairs[key] for key in ("target", "dst", "destination") if key in pairs), "")
    run.mounts.append((source, target))


def unique(texts: Iterable[str]) -> list[str]:
    """Without repetitions, in order."""
    return list(dict.fromkeys(texts))
