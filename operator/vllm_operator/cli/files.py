"""Files that a user names."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vllm_operator.api.types import KIND, VLLMModelSpec


class Usage(Exception):
    """The question makes no sense."""


def read_text(filename: str) -> str:
    """The content of a file; `-` is standard input. Raises Usage."""
    try:
        return sys.stdin.read() if filename == "-" else Path(filename).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise Usage(f"cannot read {filename}: {error}") from error


def read_model(filename: str) -> tuple[Mapping[str, Any], VLLMModelSpec]:
    """Metadata and spec of the one VLLMModel in a file of YAML or JSON. Raises Usage."""
    text = read_text(filename)
    try:
        documents = [document for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Usage(f"cannot read {filename}: {error}") from error
    objects = [
        each
        for document in documents
        for each in (document.get("items") or () if document.get("kind") == "List" else (document,))
        if isinstance(each, dict)
    ]
    models = [each for each in objects if each.get("kind") == KIND]
    if len(models) != 1:
        raise Usage(f"{filename} has {len(models)} objects of kind {KIND}, not one")
    try:
        spec = VLLMModelSpec.model_validate(models[0].get("spec") or {})
    except ValidationError as error:
        problems = "; ".join(
            f"spec.{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()
        )
        raise Usage(f"{filename}: {problems}") from error
    metadata = models[0].get("metadata")
    return metadata if isinstance(metadata, dict) else {}, spec
