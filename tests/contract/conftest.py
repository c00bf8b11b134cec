"""A real API server for the contract tests: the one of KUBECONFIG, or else the local cluster (tests/cluster).

Where there is none and none can be made, the tests are skipped with the reason; on the project's CI they fail instead.
Tests share the server with whatever else runs there: each works in a namespace of its own or with dry-run.
"""

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.apiserver import ApiError, Object, Requests
from vllm_operator.api.crd import CRD_NAME, crd
from vllm_operator.api.types import API_VERSION, GROUP, KIND, PLURAL, VERSION

FIELD_MANAGER = "contract-tests"


def model(spec: Object, *, name: str = "qwen3-8b") -> Object:
    """Return a VLLMModel."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def models_path(namespace: str, name: str = "", subresource: str = "") -> str:
    """Return the path of a namespace's models, of one of them, or of its subresource."""
    words = ["/apis", GROUP, VERSION, "namespaces", namespace, PLURAL, name, subresource]
    return "/".join(word for word in words if word)


class Kubectl:
    """kubectl against the cluster under test."""

    def __init__(self, *, program: Path, kubeconfig: Path) -> None:
        self._words = [str(program), "--kubeconfig", str(kubeconfig)]

    def __call__(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end, whatever its exit status."""
        return subprocess.run(
            [*self._words, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    def output(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl and return its standard output; an error fails the test."""
        result = self(*words, stdin=stdin)
        assert result.returncode == 0, f"kubectl {' '.join(words)}: {result.stderr}"
        return result.stdout


class Server(Requests):
    """The API server."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig, agent=FIELD_MANAGER)

    def create(self, body: Object, *, namespace: str, dry_run: bool = True) -> Object:
        """Create a VLLMModel, or ask whether it could be. Unknown fields are errors."""
        options = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self.request("POST", models_path(namespace), body=body, query=options)

    def get(self, name: str, *, namespace: str) -> Object:
        """Return a VLLMModel."""
        return self.request("GET", models_path(namespace, name))


def wait_until(what: str, ready: Callable[[], bool], *, timeout: float = 30.0) -> None:
    """Wait for a condition; the deadline fails the test."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:.0f} s in vain for {what}", pytrace=False)
        time.sleep(0.05)


def _without_unions(schema: Any) -> Any:
    """Return a published schema without the `anyOf` that the server writes beside x-kubernetes-int-or-string."""
    if isinstance(schema, dict):
        return {key: _without_unions(value) for key, value in schema.items() if key != "anyOf"}
    return [_without_unions(value) for value in schema] if isinstance(schema, list) else schema


def _missing(reason: str) -> NoReturn:
    """Skip because there is no cluster; on the project's CI, fail."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"no API server for the contract tests: {reason}", pytrace=False)
    pytest.skip(f"no API server for the contract tests: {reason}")


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """kubeconfig of the cluster under test, of an administrator."""
    given = os.environ.get("KUBECONFIG")
    if given:
        path = Path(given.split(os.pathsep)[0])
        if not path.is_file():
            _missing(f"KUBECONFIG names {path}, which is no file")
        return path
    from tests.cluster import ClusterError, LocalCluster

    try:
        cluster = LocalCluster.running() or LocalCluster.load().up(profile="control-plane")
    except ClusterError as error:
        _missing(str(error))
    return cluster.kubeconfig


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """kubectl for the cluster under test."""
    found = shutil.which("kubectl")
    if found is None:
        from tests.cluster import ClusterError, LocalCluster

        try:
            found = str(LocalCluster.load().bin("kubectl"))
        except ClusterError as error:
            _missing(f"no kubectl: {error}")
    return Kubectl(program=Path(found), kubeconfig=kubeconfig)


@pytest.fixture(scope="session")
def bare_server(kubeconfig: Path) -> Iterator[Server]:
    """The API server, without any definition of ours."""
    server = Server(kubeconfig)
    yield server
    server.close()


@pytest.fixture(scope="session")
def server(bare_server: Server) -> Server:
    """The API server with this checkout's CRD, which stays: other tests use the same cluster."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}"
    definition = crd()
    # As `kubectl apply --server-side` would, so that whoever installs the CRD by hand later meets no conflict.
    bare_server.apply(path, definition, manager="kubectl")

    def established() -> bool:
        conditions = bare_server.request("GET", path).get("status", {}).get("conditions") or []
        return {"Established": "True", "NamesAccepted": "True"}.items() <= {
            condition["type"]: condition["status"] for condition in conditions
        }.items()

    wait_until("the CRD to be Established", established)

    # A changed schema is served a moment after it is accepted, and published as OpenAPI after that.
    wanted = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def published() -> bool:
        try:
            document = bare_server.request("GET", f"/openapi/v3/apis/{GROUP}/{VERSION}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        name = ".".join([*reversed(GROUP.split(".")), VERSION, KIND])
        found = document["components"]["schemas"].get(name)
        return bool(found) and _without_unions(found["properties"]["spec"]) == wanted

    wait_until("the CRD's schema to be published", published)
    return bare_server


@pytest.fixture
def namespace(bare_server: Server) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"contract-{uuid.uuid4().hex[:10]}"
    bare_server.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
    yield name
    bare_server.request("DELETE", f"/api/v1/namespaces/{name}")
