"""Images without a registry: small ones are written here (for the operator's see operator_image.py).

All are imported straight into containerd (namespace k8s.io), so pods use imagePullPolicy IfNotPresent.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import tools, vllm_env
from .commands import run
from .settings import MODEL_PATH, PAUSE_IMAGE, VLLM_IMAGE, cache_root

RUNTIME_DIRECTORY = Path("/run/vllm-operator")
CONTAINERD_SOCKET = RUNTIME_DIRECTORY / "containerd.sock"
# Where pods of the RuntimeClass see the vLLM environment.
VLLM_MOUNT = "/opt/vllm"

_VLLM_SCRIPT = f"""#!/bin/sh
# The environment was made at another path, so its own scripts name an interpreter that is not there.
exec {VLLM_MOUNT}/bin/python -m vllm.entrypoints.cli.main "$@"
"""
_PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
vllm:x:2000:2000:vllm:/home/vllm:/bin/sh
"""
_GROUP = "root:x:0:\nnogroup:x:65534:\nvllm:x:2000:\n"


def ctr(*words: str | Path, timeout: float = 120.0) -> str:
    """Run containerd's own client in the kubelet's namespace."""
    return run([tools.binary("ctr"), "--address", CONTAINERD_SOCKET, "-n", "k8s.io", *words], timeout=timeout)


class Layer:
    """A layer's tar in memory, with fixed owners and times, so that the same content is the same image."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w")  # noqa: SIM115 (closed in bytes())

    def folder(self, path: str, *, mode: int = 0o755, owner: int = 0) -> None:
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
        self._tar.addfile(entry)

    def link(self, path: str, target: str) -> None:
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(data), mode
        self._tar.addfile(entry, io.BytesIO(data))

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def write_image(target: Path, *, reference: str, layer: bytes, config: Mapping[str, object]) -> None:
    """Write a docker-archive of one layer, which `ctr image import` reads."""
    image = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "tests.cluster"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as archive:
        for name, data in (
            ("layer.tar", layer),
            ("config.json", json.dumps(image).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def full_reference(tag: str) -> str:
    """Return the name under which the kubelet looks an image up: `a:1` is `docker.io/library/a:1`."""
    first, slash, _ = tag.partition("/")
    if not slash:
        return f"docker.io/library/{tag}"
    return tag if "." in first or ":" in first or first == "localhost" else f"docker.io/{tag}"


def import_image(reference: str, key: str, make: Callable[[Path], None]) -> bool:
    """Import an image unless containerd has it with the same key (kept as a label). Return whether it was."""
    label = "vllm-operator.io/key"
    if f"{label}={key}" in ctr("images", "ls", f"name=={reference}"):
        return False
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix=".image-") as scratch:
        archive = Path(scratch) / "image.tar"
        make(archive)
        ctr("images", "import", "--all-platforms", archive, timeout=600)
    ctr("images", "label", reference, f"{label}={key}")
    return True


def ensure_pause() -> None:
    """Import the pause image, which is our own program."""
    program = tools.binary("pause").read_bytes()

    def make(target: Path) -> None:
        layer = Layer()
        layer.file("pause", program, mode=0o755)
        write_image(
            target, reference=PAUSE_IMAGE, layer=layer.bytes(), config={"Entrypoint": ["/pause"], "User": "65534:65534"}
        )

    import_image(PAUSE_IMAGE, hashlib.sha256(program).hexdigest()[:16], make)


def ensure_vllm_runtime() -> None:
    """Import the image that pods of the RuntimeClass `vllm-cpu` run: mount points, the model, and a `vllm` on PATH."""
    model = vllm_env.model_path()

    def make(target: Path) -> None:
        layer = Layer()
        for folder in (
            "dev",
            "etc",
            "opt",
            "opt/vllm",
            "opt/bin",
            "proc",
            "run",
            "sys",
            "usr",
            "var",
            "home",
            "models",
        ):
            layer.folder(folder)
        layer.folder("root", mode=0o700)
        layer.folder("home/vllm", owner=2000)
        layer.folder("tmp", mode=0o1777)
        layer.folder("var/tmp", mode=0o1777)
        for name in ("bin", "sbin", "lib", "lib64"):
            layer.link(name, f"usr/{name}")
        layer.file("etc/passwd", _PASSWD.encode())
        layer.file("etc/group", _GROUP.encode())
        layer.file("opt/bin/vllm", _VLLM_SCRIPT.encode(), mode=0o755)
        for name in ("python", "python3"):
            layer.link(f"opt/bin/{name}", f"{VLLM_MOUNT}/bin/python")
        layer.folder(MODEL_PATH.lstrip("/"))
        for file in sorted(model.iterdir()):
            layer.file(f"{MODEL_PATH.lstrip('/')}/{file.name}", file.read_bytes())
        write_image(target, reference=full_reference(VLLM_IMAGE), layer=layer.bytes(), config=config)

    config: dict[str, Sequence[str]] = {
        "Env": [
            f"PATH=/opt/bin:{VLLM_MOUNT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "VLLM_CPU_KVCACHE_SPACE=1",
            # Two pods must be able to start on two cores at once: one thread each, bound to no core.
            "OMP_NUM_THREADS=1",
            "VLLM_CPU_OMP_THREADS_BIND=nobind",
            "HF_HUB_OFFLINE=1",
            "VLLM_NO_USAGE_STATS=1",
            "DO_NOT_TRACK=1",
            "PYTHONDONTWRITEBYTECODE=1",
            "XDG_CACHE_HOME=/tmp/.cache",
            "TORCHINDUCTOR_CACHE_DIR=/tmp/.cache/inductor",
        ],
        "Entrypoint": ["vllm", "serve"],
    }
    key = hashlib.sha256(
        json.dumps([model.name, config, _VLLM_SCRIPT, _PASSWD, _GROUP, VLLM_MOUNT, MODEL_PATH]).encode()
    ).hexdigest()[:16]
    import_image(full_reference(VLLM_IMAGE), key, make)
