"""Names, labels and annotations that the operator gives to objects."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vllm_operator.api.types import GROUP

FIELD_MANAGER = "vllm-operator"

LABEL_MODEL = f"{GROUP}/model"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "vllm-operator"
LABEL_API_KEYS = f"{GROUP}/api-keys"
"""On a Secret: each of its keys is an API key of callers."""
LABEL_ENGINE_KEY = f"{GROUP}/engine-key"
"""On a Secret that the operator has made: the key that a model's vLLM asks for."""
ANNOTATION_REFRESH = f"{GROUP}/refresh"
"""On a model: another value has its external endpoint asked anew what it can do."""
ANNOTATION_APPLIED = f"{GROUP}/applied-hash"
ANNOTATION_INPUTS = f"{GROUP}/inputs-hash"
ANNOTATION_REFERENCES = f"{GROUP}/references-hash"

CONTAINER = "vllm"
PORT = 8000
PORT_NAME = "http"
AGENT_PORT = 8081
"""Of the agents in the gateway's pods."""


@dataclass(frozen=True, order=True)
class Key:
    """A namespaced object's name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def selector_labels(name: str) -> dict[str, str]:
    """Labels by which a model's pods are chosen. They never change: a Deployment's selector is immutable."""
    return {LABEL_MANAGED_BY: MANAGED_BY, LABEL_MODEL: name}


def child_labels(name: str) -> dict[str, str]:
    """Labels of every child of a model."""
    return {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": name, **selector_labels(name)}


ENGINE_KEY = "api-key"
"""Key in the Secret of that name."""


def engine_key_secret(model: str) -> str:
    """Name of the Secret with the key that a model's vLLM asks for."""
    return f"{model}-engine-key"


def content_hash(value: Any, length: int = 16) -> str:
    """Hexadecimal hash of a JSON value, the same whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text_hash(text, length)


def text_hash(text: str, length: int = 16) -> str:
    """Hexadecimal hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def revision_name(model: str, inputs_hash: str) -> str:
    """Name of the ControllerRevision for these inputs: at most 63 characters, since it is a label value too."""
    return f"{model[:50].rstrip('-')}-{inputs_hash[:12]}"
