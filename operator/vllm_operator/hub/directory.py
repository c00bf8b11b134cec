"""Facts of a model in a directory: config.json and the headers of its safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_operator.hub.errors import InvalidModelError, ModelNotFoundError
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.gguf import read_head
from vllm_operator.hub.headers import LENGTH_BYTES, Tensor, choose_files, header_length, parse_header, read_index
from vllm_operator.hub.read import Found, build_facts, choose_gguf

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_directory(folder: Path, *, weights_bytes: int | None = None) -> ModelFacts:
    """Facts of the model in a directory.

    `weights_bytes`: total of the weights when the directory has config.json alone. Raises ModelNotFoundError when there is no
    config, InvalidModelError when what is there makes no sense.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no directory {folder}")
    try:
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.glob("**/*"))
            if path.is_file()
        }
        config, params = _json(folder / "config.json"), _json(folder / "params.json")
        return build_facts(
            Found(
                where=str(folder),
                files=files,
                config=config,
                params=params,
                gguf=_gguf(folder, files) if config is None and params is None else None,
                tokenizer=_json(folder / "tokenizer_config.json"),
                tensors=_tensors(folder, files) if weights_bytes is None else [],
                weights_bytes=weights_bytes,
            )
        )
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {folder}: {error}") from error


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidModelError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelError(f"{path} is no JSON object")
    return value


def _gguf(folder: Path, files: Mapping[str, int]) -> Mapping[str, Any] | None:
    """Metadata of the GGUF file, or None without one."""
    names = choose_gguf(files)
    if not names:
        return None
    with (folder / names[0]).open("rb") as file:

        def read(size: int) -> bytes:
            file.seek(0)
            return file.read(size)

        return read_head(read)


def _tensors(folder: Path, files: dict[str, int]) -> list[Tensor]:
    chosen = choose_files(files)
    index = _json(folder / INDEXES[0])
    if index is not None:
        listed, _ = read_index(index)
        chosen = [name for name in listed if name in files] or chosen
    result: list[Tensor] = []
    for name in chosen:
        if not name.endswith(".safetensors"):
            continue
        with (folder / name).open("rb") as file:
            result += parse_header(file.read(header_length(file.read(LENGTH_BYTES))))
    return result
