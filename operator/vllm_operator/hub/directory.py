"""Facts of a model in a directory."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from vllm_operator.hub.errors import ModelNotFoundError
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.files import read_files


class _Directory:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def where(self) -> str:
        return str(self._folder)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return {
            path.relative_to(self._folder).as_posix(): path.stat().st_size
            for path in sorted(self._folder.glob("**/*"))
            if path.is_file()
        }

    def read(self, name: str, start: int, length: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(start)
            return file.read(length)


def read_directory(folder: Path, *, weights_bytes: int | None = None) -> ModelFacts:
    """Facts of the model in a directory.

    `weights_bytes`: total of the weights when the directory has config.json alone. Raises ModelNotFoundError when there is no
    config, InvalidModelError when what is there makes no sense.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no directory {folder}")
    try:
        return read_files(_Directory(folder), weights_bytes=weights_bytes)
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {folder}: {error}") from error
