"""The operator's image from the repository's Dockerfile, built with buildah (no Docker, no registry).

The Dockerfile's base comes from debootstrap, because no registry may be reachable: a minimal Debian with Python 3.11.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from . import images, packages
from .commands import run
from .progress import Progress
from .settings import BASE_IMAGE, OPERATOR_IMAGE, REPOSITORY, ClusterError, cache_root
from .tools import locked

_SUITE = "bookworm"
_BASE_PACKAGES = ("ca-certificates", "python3.11", "python3-venv")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def ensure(progress: Progress, *, tag: str = OPERATOR_IMAGE, dockerfile: Path | None = None) -> str:
    """Build the image and import it into the running node's containerd, unless it is there with the same inputs.

    Return the name a pod uses.
    """
    dockerfile = dockerfile or REPOSITORY / "Dockerfile"
    if not dockerfile.exists():
        raise ClusterError(f"there is no {dockerfile}: the operator's image cannot be built")
    if not images.CONTAINERD_SOCKET.exists():
        raise ClusterError("no containerd runs here: `python -m tests.cluster up` (full profile) starts it")
    packages.ensure(packages.IMAGE_PACKAGES, progress)
    reference = images.full_reference(tag)
    key = _inputs_hash(dockerfile)

    def make(target: Path) -> None:
        progress.expect(1)
        _ensure_base(progress)
        with progress.task(f"build {tag} with buildah"):
            _build(dockerfile, reference, target, key)

    # The lock is around the question whether there is anything to do: who waited finds it done.
    with locked("buildah"):
        images.import_image(reference, key, make)
    return tag


def prepare(progress: Progress) -> None:
    """Make the base that the image stands on; needs no containerd, so it can be done beside the builds of a first `up`."""
    packages.ensure(packages.IMAGE_PACKAGES, progress)
    with locked("buildah"):
        _ensure_base(progress)


@cache
def _storage_driver() -> str:
    """Return overlay where it can be mounted, else vfs, which works everywhere but copies all at each step."""
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix=".overlay-") as scratch:
        top = Path(scratch)
        for name in ("lower", "upper", "work", "merged"):
            (top / name).mkdir()
        options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
        try:
            run(["mount", "-t", "overlay", "overlay", "-o", options, top / "merged"])
        except ClusterError:
            return "vfs"
        run(["umount", top / "merged"])
        return "overlay"


def _buildah(*words: str | Path, timeout: float = 900.0, log: Path | None = None, cwd: Path | None = None) -> str:
    # A store of our own, so that a user's images stay theirs. chroot needs no kernel feature that a container lacks.
    driver = _storage_driver()
    store = cache_root() / f"buildah-{driver}"
    return run(
        ["buildah", "--root", store / "root", "--runroot", store / "run", "--storage-driver", driver, *words],
        timeout=timeout,
        log=log,
        cwd=cwd,
        env={"BUILDAH_ISOLATION": "chroot"},
    )


def _ensure_base(progress: Progress) -> None:
    key = hashlib.sha256(json.dumps([_SUITE, _BASE_PACKAGES]).encode()).hexdigest()[:16]
    if BASE_IMAGE in _buildah("images", "--format", "{{.Name}}:{{.Tag}}", "--filter", f"label=key={key}"):
        return
    progress.expect(1)
    log = cache_root() / "build-logs" / "base-image.log"
    log.unlink(missing_ok=True)
    with (
        progress.task(f"debootstrap a minimal Debian {_SUITE} with Python"),
        tempfile.TemporaryDirectory(dir=cache_root(), prefix=".debootstrap-") as scratch,
    ):
        root = Path(scratch) / "root"
        sites = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)"]).splitlines()
        mirror = [line.split()[1] for line in sites if line.split()[0] == _SUITE][:1]
        words = ["debootstrap", "--variant=minbase", f"--include={','.join(_BASE_PACKAGES)}", _SUITE]
        run([*words, root, *mirror], timeout=600, log=log, nice=True)
        for leftover in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")):
            leftover.unlink()
        archive = Path(scratch) / "root.tar"
        run(["tar", "-C", root, "-cf", archive, "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "."])
        container = _buildah("from", "scratch").strip()
        _buildah("add", "-q", container, archive, "/")
        _buildah("config", "--label", f"key={key}", "--cmd", "/bin/sh", container)
        _buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        _buildah("commit", "-q", "--rm", container, BASE_IMAGE)


def _build(dockerfile: Path, reference: str, target: Path, key: str) -> None:
    log = cache_root() / "build-logs" / "operator-image.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix=".pip-") as scratch:
        _buildah(
            "bud",
            "--isolation",
            "chroot",
            "--layers",
            "--pull-never",
            "--build-arg",
            f"BASE_IMAGE={BASE_IMAGE}",
            "--build-arg",
            f"REVISION={key}",
            *_pip_as_here(Path(scratch)),
            "-t",
            reference,
            "-f",
            dockerfile,
            ".",
            log=log,
            cwd=dockerfile.parent,
        )
    _buildah("push", "-q", reference, f"docker-archive:{target}:{reference}", log=log)


def _pip_as_here(scratch: Path) -> Iterator[str]:
    """Yield volumes that make pip inside the build reach packages the way this machine's pip does.

    pip's settings may come from the environment or a file, and may name a certificate bundle and folders of wheels.
    """
    settings = {}
    for line in run(["python3", "-m", "pip", "config", "list"]).splitlines():
        match = re.match(r"(?:global|install|:env:)\.(index-url|extra-index-url|find-links|cert|proxy)='(.*)'$", line)
        if match:
            settings[match[1]] = match[2]
    volumes = {}
    if "cert" in settings and Path(settings["cert"]).exists():
        volumes[settings["cert"]] = "/etc/vllm-operator-build/ca.crt"
        settings["cert"] = "/etc/vllm-operator-build/ca.crt"
    elif _CERTIFICATES.exists():
        volumes[str(_CERTIFICATES)] = "/etc/vllm-operator-build/ca.crt"
        settings["cert"] = "/etc/vllm-operator-build/ca.crt"
    volumes |= {word: word for word in settings.get("find-links", "").split() if Path(word).is_dir()}
    configuration = scratch / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    volumes[str(configuration)] = "/etc/pip.conf"
    for outside, inside in volumes.items():
        yield from ("--volume", f"{outside}:{inside}:ro")


def _inputs_hash(dockerfile: Path) -> str:
    """Hash the Dockerfile and every file its COPY lines take from the repository."""
    digest = hashlib.sha256(dockerfile.read_bytes())
    digest.update(json.dumps([_SUITE, _BASE_PACKAGES]).encode())
    root = dockerfile.parent
    for line in dockerfile.read_text().splitlines():
        words = line.split()
        if not words or words[0].upper() not in ("COPY", "ADD") or any(word.startswith("--from") for word in words):
            continue
        for pattern in [word for word in words[1:-1] if not word.startswith("--")]:
            for found in sorted(root.glob(pattern.rstrip("/"))):
                files = [found] if found.is_file() else sorted(path for path in found.rglob("*") if path.is_file())
                for file in files:
                    if "__pycache__" in file.parts or file.suffix == ".pyc":
                        continue
                    digest.update(f"{file.relative_to(root)}\0{file.stat().st_mode & 0o777}\0".encode())
                    digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
