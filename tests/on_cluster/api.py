"""The API server as a test's own user sees it, and its audit log."""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.apiserver import ApiError, Object, Requests
from vllm_operator.api.types import API_VERSION, KIND
from vllm_operator.cluster import kinds
from vllm_operator.cluster.kinds import Kind

MANAGER = "on-cluster-tests"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class NotYetError(AssertionError):
    """A condition was not met before its deadline."""


def wait_until(
    what: str | Callable[[], str], ready: Callable[[], Any], *, timeout: float = 60.0, interval: float = 0.05
) -> float:
    """Wait for a condition with a deadline; the seconds that it took. `what` may be a function, to show what is known then."""
    begun = time.monotonic()
    last: Exception | None = None
    while True:
        try:
            if ready():
                return time.monotonic() - begun
            last = None
        except (ApiError, httpx.HTTPError, KeyError, TypeError) as error:
            last = error
        if time.monotonic() - begun > timeout:
            words = what() if callable(what) else what
            raise NotYetError(f"waited {timeout:.0f} s in vain for {words}" + (f" (last: {last!r})" if last else ""))
        time.sleep(interval)


class Api(Requests):
    """An administrator's requests."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig, agent=MANAGER, timeout=120)  # Deleting a collection of a thousand is one request.

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return self.request("GET", kind.path(namespace, name))

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Like `get`, or None when it does not exist."""
        try:
            return self.get(kind, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, kind: Kind, namespace: str | None, labels: str = "") -> list[Object]:
        query = {"labelSelector": labels} if labels else {}
        found: list[Object] = self.request("GET", kind.path(namespace), query=query)["items"]
        return found

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        return self.request("POST", kind.path(namespace), body=body, query={"fieldManager": MANAGER})

    def merge(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object:
        """Patch as `kubectl edit` and `kubectl patch --type=merge` do."""
        return self.request(
            "PATCH",
            kind.path(namespace, name),
            body=patch,
            query={"fieldManager": MANAGER},
            content_type="application/merge-patch+json",
        )

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        self.request("DELETE", kind.path(namespace, name), body={"propagationPolicy": "Background"})

    # models

    def create_model(self, namespace: str, body: Object) -> Object:
        return self.create(kinds.VLLM_MODEL, namespace, body)

    def create_models(self, namespace: str, bodies: list[Object], *, workers: int = 16) -> None:
        """Create many at once."""
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda body: self.create_model(namespace, body), bodies))

    def edit(self, namespace: str, name: str, spec: Object) -> Object:
        return self.merge(kinds.VLLM_MODEL, namespace, name, {"spec": spec})

    def model(self, namespace: str, name: str) -> Object:
        return self.get(kinds.VLLM_MODEL, namespace, name)

    def deployment(self, namespace: str, name: str) -> Object:
        return self.get(kinds.DEPLOYMENT, namespace, name)


def condition(model: Object, wanted: str = "Ready") -> Object:
    """A condition of a model; empty when it has none, or none of the newest generation."""
    generation = model["metadata"]["generation"]
    found = (model.get("status") or {}).get("conditions") or []
    return next((each for each in found if each["type"] == wanted and each.get("observedGeneration") == generation), {})


UNSERVED = frozenset({"Unreachable", "HealthCheckFailed"})
"""What a model on a simulated node comes to: its pods are Ready and nobody listens."""


def settled(model: Object) -> bool:
    """A model on a simulated node is as far as it can come."""
    return condition(model).get("reason") in UNSERVED


def model(name: str, *, product: str, tensor: int | None = None, **spec: Any) -> Object:
    """A VLLMModel whose pods go to simulated nodes of this product."""
    body: Object = {
        "model": "Qwen/Qwen3-8B",
        "accelerator": {"type": "nvidia", "product": product},
        "scheduling": {
            "nodeSelector": {"type": "kwok"},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
        },
        **spec,
    }
    if tensor is not None:
        body["parallelism"] = {"tensor": tensor}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": body}


@dataclass(frozen=True)
class Request:
    """One request in the audit log."""

    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    uri: str
    denied: bool
    """By the API server's authorization: a 403 of admission (a namespace that goes, a quota) is no denial."""

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES and "dryRun=" not in self.uri

    def __str__(self) -> str:
        what = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {what} {self.namespace}/{self.name} → {self.code}"


class Audit:
    """The API server's audit log."""

    def __init__(self, log: Path, api: Api) -> None:
        self._log = log
        self._api = api

    def mark(self) -> int:
        """A place in the log: all that was answered until now stands before it."""
        token = uuid.uuid4().hex
        start = self._log.stat().st_size
        self._api.request("GET", "/api/v1/namespaces/default", query={"marker": token})

        # The log is written in batches, in order: when our own request is in it, so are all before.
        def written() -> bool:
            with self._log.open("rb") as handle:
                handle.seek(start)
                return token.encode() in handle.read()

        wait_until("the audit log to be written", written, timeout=30)
        return self._log.stat().st_size

    def since(self, mark: int, user: str) -> list[Request]:
        """A user's requests since a mark, but for its lease, in the order in which they were answered."""
        self.mark()
        return [request for request in self._read(mark, user) if request.resource != "leases"]

    def _read(self, mark: int, user: str) -> Iterator[Request]:
        needle = f'"{user}"'.encode()
        with self._log.open("rb") as handle:
            assert handle.seek(0, os.SEEK_END) >= mark, "the audit log was rotated: nothing can be said about it"
            handle.seek(mark)
            for line in handle:
                if needle not in line or not line.endswith(b"\n"):
                    continue
                event = json.loads(line)
                watching = event["verb"] == "watch"
                if event["user"]["username"] != user or (event["stage"] == "ResponseStarted") != watching:
                    continue
                target = event.get("objectRef") or {}
                yield Request(
                    verb=event["verb"],
                    resource=target.get("resource", ""),
                    subresource=target.get("subresource", ""),
                    namespace=target.get("namespace", ""),
                    name=target.get("name", ""),
                    code=(event.get("responseStatus") or {}).get("code", 0),
                    uri=event["requestURI"],
                    denied=(event.get("annotations") or {}).get("authorization.k8s.io/decision") == "forbid",
                )

    def wait_for_rest(self, user: str, *, quiet: float = 5.0, timeout: float = 120.0) -> None:
        """Wait until a user has written nothing for `quiet` seconds."""
        state = {"mark": self.mark(), "since": time.monotonic()}

        def at_rest() -> bool:
            mark = self.mark()
            if any(request.is_write for request in self.since(int(state["mark"]), user)):
                state["since"] = time.monotonic()
            state["mark"] = mark
            return time.monotonic() - state["since"] >= quiet

        wait_until(f"{user} to write nothing for {quiet:g} s", at_rest, timeout=timeout, interval=0.25)
