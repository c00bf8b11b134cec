"""Which values are keys or tokens, and the Secret that they go to."""

import re
from dataclasses import dataclass, field
from typing import Any

from vllm_operator.importing.shell import is_open, variables_in

_NAME = re.compile(r"TOKEN(?!IZ)|SECRET|KEY|PASSW|CREDENTIAL", re.IGNORECASE)
_WORD = frozenset({"apikey", "credential", "credentials", "key", "passwd", "password", "secret", "token"})
_VALUE = re.compile(
    r"(?:hf_|ghp_|AKIA|nvapi-|(?<![A-Za-z0-9])sk-)[A-Za-z0-9_-]{16,}|://[^/@\s:]*:[^/@\s]+@|\bBearer\s+\S"
)
_SEPARATORS = re.compile(r"[^a-z0-9]+")


def hide(text: str) -> str:
    """A message without what looks like a key or token."""
    return _VALUE.sub("<hidden>", text)


def is_secret_variable(name: str, value: str) -> bool:
    """Whether an environment variable is one to keep in a Secret, by its name or by what it looks like."""
    return _NAME.search(name) is not None or _VALUE.search(value) is not None


def is_secret_option(name: str, value: Any, *, known: bool) -> bool:
    """Whether an option has a key or token in its value. The name of a `known` option says nothing: vLLM's tokens are words."""
    if not known and _says_secret(name):
        return True
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str) and _VALUE.search(each):
            return True
        if isinstance(each, dict):
            if any(isinstance(inner, str) and inner and _says_secret(key) for key, inner in each.items()):
                return True
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return False


def _says_secret(name: str) -> bool:
    return not _WORD.isdisjoint(_SEPARATORS.split(name.lower()))


@dataclass
class Secret:
    """A Secret that is made while a model is imported."""

    name: str
    data: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Keys whose values are not known → the variables that have them."""

    def put(self, key: str, value: str) -> dict[str, str]:
        """Keep a value; the reference to it."""
        if is_open(value):
            self.missing[key] = ", ".join(f"${name}" for name in variables_in(value))
        else:
            self.data[key] = value
        return {"name": self.name, "key": key}
