"""Running helm and kubectl for the packaging tests, and reading what they print.

The programs are looked for on PATH, then in the cache that the local cluster (tests/cluster) builds. On the project's CI a missing
program fails the tests; elsewhere the tests that need it are skipped with the reason.
"""

import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "charts" / "vllm-operator"
MANIFESTS = REPOSITORY / "manifests"
RELEASE = "vllm-operator"
NAMESPACE = "vllm-operator-system"

KubernetesObject = dict[str, Any]
Identity = tuple[str, str, str]
"""Kind, namespace ("" for objects of the cluster) and name."""

_TIMEOUT_SECONDS = 120


def _cache_root() -> Path:
    own = os.environ.get("VLLM_OPERATOR_CACHE")
    if own:
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "vllm-operator"


def missing(what: str) -> None:
    """Fail on CI, skip elsewhere, because ``what`` is not there."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{what}; on CI nothing is skipped", pytrace=False)
    pytest.skip(what)


@functools.cache
def _find(program: str) -> str | None:
    on_path = shutil.which(program)
    if on_path:
        return on_path
    # The cache keeps one folder per build, named after the program and a hash; the newest is the one in use.
    built = sorted(_cache_root().glob(f"bin/{program}-*/{program}"), key=lambda path: path.stat().st_mtime)
    return str(built[-1]) if built else None


def operator_module(name: str) -> ModuleType:
    """A module of the operator (`""` is the package itself), installed or from this checkout."""
    full_name = f"vllm_operator.{name}".rstrip(".")
    package = str(REPOSITORY / "operator")
    if package not in sys.path:
        sys.path.append(package)
    try:
        return importlib.import_module(full_name)
    except ImportError as error:
        missing(f"{full_name} cannot be imported: {error}")
        raise AssertionError("not reached") from error


def program(name: str) -> str:
    """Path of helm or kubectl; fails or skips the test when there is none."""
    found = _find(name)
    if found is None:
        missing(f"{name} is neither on PATH nor in {_cache_root()}/bin (`python -m tests.cluster up` builds it)")
    assert found is not None
    return found


def run(arguments: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run a command without a cluster and without the reader's own helm settings; both outputs are captured."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": home,
            # An empty file: the tests must never reach a cluster that happens to be configured here.
            "KUBECONFIG": os.devnull,
        }
        return subprocess.run(
            list(arguments), capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, env=environment, check=False
        )


def documents(text: str) -> list[KubernetesObject]:
    """The objects of a YAML stream, without empty documents."""
    return [document for document in yaml.safe_load_all(text) if document]


def helm_template(
    values: Mapping[str, Any] | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
) -> subprocess.CompletedProcess[str]:
    """What ``helm template`` says about the chart with these values."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        # JSON is YAML, and says exactly which type each value has.
        file.write_text(json.dumps(values or {}))
        return run([program("helm"), "template", release, str(CHART), "--namespace", namespace, "--values", str(file)])


@functools.cache
def _rendered(values: str, release: str, namespace: str) -> str:
    result = helm_template(json.loads(values), release=release, namespace=namespace)
    assert result.returncode == 0, result.stderr
    return result.stdout


def render(
    values: Mapping[str, Any] | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
) -> list[KubernetesObject]:
    """The objects of the chart with these values; the test fails when helm refuses them."""
    return documents(_rendered(json.dumps(values or {}, sort_keys=True), release, namespace))


@functools.cache
def _built(folder: Path) -> str:
    result = run([program("kubectl"), "kustomize", str(folder)])
    assert result.returncode == 0, result.stderr
    return result.stdout


def kustomize(folder: Path) -> list[KubernetesObject]:
    """The objects of a kustomization."""
    return documents(_built(folder))


def identity(thing: KubernetesObject) -> Identity:
    """What tells objects apart."""
    metadata = thing["metadata"]
    return thing["kind"], metadata.get("namespace", ""), metadata["name"]


def only(objects: Iterable[KubernetesObject], kind: str) -> KubernetesObject:
    """The one object of this kind."""
    found = [thing for thing in objects if thing["kind"] == kind]
    assert len(found) == 1, f"expected one {kind}, found {[identity(thing) for thing in found]}"
    return found[0]


def of_kind(objects: Iterable[KubernetesObject], kind: str) -> list[KubernetesObject]:
    """The objects of this kind, in order."""
    return [thing for thing in objects if thing["kind"] == kind]


def of_the_gateway(objects: Iterable[KubernetesObject]) -> list[KubernetesObject]:
    """The gateway's objects among those of the chart."""
    return [thing for thing in objects if thing["metadata"]["labels"]["app.kubernetes.io/name"].endswith("-gateway")]


def of_the_operator(objects: Iterable[KubernetesObject]) -> list[KubernetesObject]:
    """The others."""
    return [thing for thing in objects if not of_the_gateway([thing])]


def container(deployment: KubernetesObject, name: str) -> dict[str, Any]:
    """The container of that name; init containers too."""
    pod = deployment["spec"]["template"]["spec"]
    [found] = [each for each in pod["containers"] + pod.get("initContainers", []) if each["name"] == name]
    return dict(found)


def environment(deployment: KubernetesObject, name: str = "operator") -> dict[str, str]:
    """Variables of a container that have a plain value."""
    return {entry["name"]: entry["value"] for entry in container(deployment, name)["env"] if "value" in entry}
