"""The API server as tests talk to it: one connection, no process per question."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from tests.apiserver import ApiError, Object, Requests
from vllm_operator.api.types import GROUP, PLURAL, VERSION

T = TypeVar("T")

PATHS: Mapping[str, str] = {
    "models": f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
    "deployments": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "replicasets": "/apis/apps/v1/namespaces/{namespace}/replicasets",
    "controllerrevisions": "/apis/apps/v1/namespaces/{namespace}/controllerrevisions",
    "pods": "/api/v1/namespaces/{namespace}/pods",
    "services": "/api/v1/namespaces/{namespace}/services",
    "secrets": "/api/v1/namespaces/{namespace}/secrets",
    "poddisruptionbudgets": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "networkpolicies": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "httproutes": "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes",
    "jobs": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "gateways": "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways",
    "events": "/apis/events.k8s.io/v1/namespaces/{namespace}/events",
    "leases": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
}
OWNED = (
    "jobs",
    "deployments",
    "replicasets",
    "pods",
    "services",
    "httproutes",
    "poddisruptionbudgets",
    "networkpolicies",
    "controllerrevisions",
)
"""What a model leaves behind if its deletion leaves anything."""


class Api(Requests):
    """Reads and writes objects."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig, agent="e2e-tests", timeout=20)

    @staticmethod
    def _path(kind: str, namespace: str, name: str = "") -> str:
        path = PATHS[kind].format(namespace=namespace)
        return f"{path}/{name}" if name else path

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        try:
            return self.request("GET", self._path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Return an object that must be there."""
        found = self.find(kind, namespace, name)
        assert found is not None, f"there is no {kind} {namespace}/{name}"
        return found

    def list(self, kind: str, namespace: str, *, labels: str = "") -> list[Object]:
        """Return the objects of a namespace."""
        return list(self.request("GET", self._path(kind, namespace), query={"labelSelector": labels})["items"])

    def patch(self, kind: str, namespace: str, name: str, patch: object, *, strategic: bool = False) -> Object:
        """Merge a patch into an object, as `kubectl patch --type merge` (or `strategic`) does."""
        flavour = "strategic-merge" if strategic else "merge"
        return self.request(
            "PATCH",
            self._path(kind, namespace, name),
            body=patch,
            content_type=f"application/{flavour}-patch+json",
        )

    def delete(self, kind: str, namespace: str, name: str, *, force: bool = False) -> None:
        """Delete an object unless it is gone, without waiting until it is. `force`: a pod goes at once."""
        query = {"gracePeriodSeconds": "0"} if force else {}
        try:
            self.request("DELETE", self._path(kind, namespace, name), query=query)
        except ApiError as error:
            if error.status != 404:
                raise

    def stream(self, kind: str, namespace: str, name: str, *, seconds: int) -> httpx.Request:
        """Return the request of a watch of one object."""
        params = {"watch": "1", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": str(seconds)}
        return self.http.build_request("GET", self._path(kind, namespace), params=params, timeout=None)

    def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose answer is read as it comes."""
        return self.http.send(request, stream=True)


def eventually(what: str, look: Callable[[], T | None], *, seconds: float, interval: float = 0.1) -> T:
    """Return the first answer that is neither None nor False; fail when there is none in time.

    An assertion that fails inside `look`, and an error of the API server, count as "not yet" and is shown when the time is over.
    """
    deadline = time.monotonic() + seconds
    while True:
        last = ""
        try:
            found = look()
            if found is not None and found is not False:
                return found
        except (AssertionError, ApiError, httpx.TransportError) as error:
            last = f"; last: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}{last}")
        time.sleep(interval)


def condition(model: Object, wanted: str) -> Object:
    """Return a condition, or {} when the model does not have it."""
    found = (model.get("status") or {}).get("conditions") or []
    return next((each for each in found if each["type"] == wanted), {})


@dataclass(frozen=True)
class Sighting:
    """Ready, as a watch saw it."""

    at: float
    """Of the monotonic clock."""
    status: str
    reason: str
    message: str


class ReadyRecorder:
    """Watches one model's Ready from beginning to end: nothing between two looks is missed."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._where = (namespace, name)
        self.sightings: list[Sighting] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._answer: httpx.Response | None = None

    def __enter__(self) -> "ReadyRecorder":
        self._thread.start()
        eventually("the watch has begun", lambda: bool(self.sightings), seconds=20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        # Short watches, so that the thread ends soon after it is told to; a new one begins with the object as it is.
        while not self._stop.is_set():
            try:
                answer = self._api.send(self._api.stream("models", *self._where, seconds=4))
                for line in answer.iter_lines():
                    self._note(json.loads(line).get("object") or {})
                answer.close()
            except httpx.TransportError:
                if not self._stop.wait(0.2):
                    continue

    def _note(self, model: Object) -> None:
        ready = condition(model, "Ready")
        if not ready:
            return
        seen = Sighting(time.monotonic(), ready["status"], ready["reason"], ready["message"])
        last = self.sightings[-1] if self.sightings else None
        if last is None or (last.status, last.reason, last.message) != (seen.status, seen.reason, seen.message):
            self.sightings.append(seen)

    def since(self, moment: float) -> list[Sighting]:
        """Return what was seen after a moment."""
        return [seen for seen in self.sightings if seen.at >= moment]

    def turned(self, status: str, *, after: float, seconds: float) -> Sighting:
        """Return the first sighting of a status after a moment; fail when there is none in time."""

        def look() -> Sighting | None:
            return next((seen for seen in self.since(after) if seen.status == status), None)

        return eventually(f"Ready is {status}", look, seconds=seconds, interval=0.05)

    @property
    def always_true(self) -> bool:
        """Whether Ready was never seen other than True."""
        return all(seen.status == "True" for seen in self.sightings)
