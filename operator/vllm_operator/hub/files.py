"""Facts of a model in files that can be listed and read in part: config.json and the headers of the weights, never the weights."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from vllm_operator.hub.chat_template import LARGEST_TEMPLATE
from vllm_operator.hub.errors import InvalidModelError
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.gguf import read_head
from vllm_operator.hub.headers import LENGTH_BYTES, Tensor, choose_files, header_length, parse_header, read_index
from vllm_operator.hub.read import Found, build_facts, choose_gguf, read_template_file, template_file

INDEX = "model.safetensors.index.json"
LARGEST_JSON = 64 * 1024 * 1024
"""Bytes of a JSON file that are read at most; the largest known index has 15 MB."""


class Files(Protocol):
    """The files of one model. Every method raises HubError when the place does not give what it holds."""

    @property
    def where(self) -> str:
        """The place, for messages."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file, by its path below the model."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """At most `length` bytes of a file, from `start` on."""


def read_files(files: Files, *, weights_bytes: int | None = None) -> ModelFacts:
    """Facts of the model.

    `weights_bytes`: total of the weights where there is config.json alone. Raises ModelNotFoundError when there is no config,
    InvalidModelError when what is there makes no sense, and what `files` raises.
    """
    sizes = files.sizes
    config, params = _json(files, "config.json"), _json(files, "params.json")
    return build_facts(
        Found(
            where=files.where,
            files=sizes,
            config=config,
            params=params,
            gguf=_gguf(files) if config is None and params is None else None,
            tokenizer=_json(files, "tokenizer_config.json"),
            chat_template=_template(files),
            tensors=_tensors(files) if weights_bytes is None else [],
            weights_bytes=weights_bytes,
        )
    )


def _json(files: Files, name: str) -> dict[str, Any] | None:
    size = files.sizes.get(name)
    if size is None:
        return None
    if size > LARGEST_JSON:
        raise InvalidModelError(f"{files.where}/{name} has {size:,} bytes: that is no description of a model")
    try:
        value = json.loads(files.read(name, 0, size))
    except ValueError as error:
        raise InvalidModelError(f"{files.where}/{name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelError(f"{files.where}/{name} is no JSON object")
    return value


def _template(files: Files) -> str | None:
    name = template_file(files.sizes)
    if name is None:
        return None
    return read_template_file(name, files.read(name, 0, min(files.sizes[name], LARGEST_TEMPLATE)))


def _gguf(files: Files) -> Mapping[str, Any] | None:
    """Metadata of the GGUF file, or None without one."""
    names = choose_gguf(files.sizes)
    if not names:
        return None
    return read_head(lambda size: files.read(names[0], 0, size))


def _tensors(files: Files) -> list[Tensor]:
    chosen = choose_files(files.sizes)
    index = _json(files, INDEX)
    if index is not None:
        listed, _ = read_index(index)
        chosen = [name for name in listed if name in files.sizes] or chosen
    result: list[Tensor] = []
    for name in chosen:
        if name.endswith(".safetensors"):
            length = header_length(files.read(name, 0, LENGTH_BYTES))
            result += parse_header(files.read(name, LENGTH_BYTES, length))
    return result
