"""The real API server, through the official client's asynchronous side.

The client does configuration, credentials and TLS; requests are plain JSON, since the operator's objects are JSON and the
typed models would only cost time.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from vllm_operator.api.names import FIELD_MANAGER, Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.errors import ApiError, Category, classify
from vllm_operator.cluster.kinds import Kind

LIST_LIMIT = 500
"""Objects asked for in one page of a list."""

WATCH_SECONDS = 240
"""Seconds after which the API server ends a watch, to be asked for again from where it was."""

WATCH_SILENCE = 90.0
"""Seconds without a word after which a watch is taken for dead: the API server sends a bookmark each minute."""

BUSY_RETRIES = 3
"""Times that a request is sent again when the API server is busy, before the whole pass is."""

CONFLICT_RETRIES = 5
"""Times that a write is tried again on what somebody else has just written."""

Objects = list[Object]
"""In KubernetesCluster `list` is its method."""

RequestObserver = Callable[[str, str, int, float], None]
"""Called after each request with verb, kind, HTTP status (0: no answer) and seconds."""


class KubernetesCluster:
    """An API server reached over the network. Use as an async context manager."""

    def __init__(
        self,
        configuration: client.Configuration,
        *,
        request_timeout: float = 30.0,
        observer: RequestObserver | None = None,
    ) -> None:
        configuration.retries = None  # Retrying is the work queue's business: it knows what else is to be done.
        self._api = client.ApiClient(configuration)
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, connect=min(10.0, request_timeout))
        self._observer = observer

    @classmethod
    async def connect(
        cls, *, kubeconfig: str | None = None, request_timeout: float = 30.0, observer: RequestObserver | None = None
    ) -> "KubernetesCluster":
        """Connect as a pod's ServiceAccount when in a pod, else by a kubeconfig (default: KUBECONFIG or ~/.kube/config)."""
        configuration = client.Configuration()
        if kubeconfig is None:
            try:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # the client is untyped
                return cls(configuration, request_timeout=request_timeout, observer=observer)
            except config.ConfigException:
                pass
        await config.load_kube_config(  # type: ignore[no-untyped-call] # the client is untyped
            config_file=kubeconfig, client_configuration=configuration
        )
        return cls(configuration, request_timeout=request_timeout, observer=observer)

    async def __aenter__(self) -> "KubernetesCluster":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()  # type: ignore[no-untyped-call] # the client is untyped

    async def get(self, kind: Kind, key: Key) -> Object | None:
        """See Cluster.get."""
        try:
            return await self._request("GET", kind, kind.path(key.namespace, key.name))
        except ApiError as error:
            if error.category in (Category.NOT_FOUND, Category.TERMINATING):
                return None
            raise

    async def list(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See Cluster.list. Items carry apiVersion and kind, which the API server leaves out of lists."""
        selector = ",".join(f"{name}={value}" for name, value in sorted((labels or {}).items()))
        items, _ = await self.list_at(kind, namespace=namespace, selector=selector)
        return items

    async def list_at(self, kind: Kind, *, namespace: str | None = None, selector: str = "") -> tuple[Objects, str]:
        """As `list`, by a label selector, with the resourceVersion from which a watch goes on."""
        query: dict[str, str] = {"limit": str(LIST_LIMIT), **({"labelSelector": selector} if selector else {})}
        items: Objects = []
        while True:
            page = await self._request("GET", kind, kind.path(namespace), query=query)
            items += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page.get("items") or []]
            metadata = page.get("metadata", {})
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    async def watch(
        self, kind: Kind, *, namespace: str | None = None, selector: str = "", version: str
    ) -> AsyncIterator[tuple[str, Object]]:
        """(ADDED, MODIFIED, DELETED or BOOKMARK, object) for what happens after this resourceVersion, until the API server ends it.

        Raises ApiError; its status is 410 when the version is too old, so that a new list is needed.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
            **({"labelSelector": selector} if selector else {}),
        }
        timeout = aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=WATCH_SILENCE)
        url, headers = await self._prepared("GET", kind.path(namespace), query, None, "application/json")
        try:
            answer = await self._api.call_api("GET", url, headers, None, _request_timeout=timeout)
            response: aiohttp.ClientResponse = answer.response
            try:
                if response.status >= 300:
                    raise classify(response.status, _parsed(await response.read()))
                rest = b""
                # By hand: an object may be longer than a line that aiohttp reads at once.
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = _parsed(line)
                        if not isinstance(event, dict):
                            raise ApiError("the API server's watch is not JSON", category=Category.TRANSIENT)
                        if event.get("type") == "ERROR":
                            raise classify(int(event["object"].get("code") or 500), event["object"])
                        yield str(event["type"]), event["object"]
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(error) from error

    async def apply(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.apply."""
        return await self._apply(kind, obj, None)

    async def apply_status(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.apply_status."""
        return await self._apply(kind, obj, "status")

    async def _apply(self, kind: Kind, obj: Object, subresource: str | None) -> Object:
        metadata = obj["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        return await self._request(
            "PATCH", kind, path, query=query, body=obj, content_type="application/apply-patch+yaml"
        )

    async def create(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.create."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._request("POST", kind, kind.path(obj["metadata"]["namespace"]), query=query, body=obj)

    async def replace(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.replace."""
        metadata = obj["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._request(
            "PUT", kind, kind.path(metadata["namespace"], metadata["name"]), query=query, body=obj
        )

    async def overwrite(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.overwrite."""
        path = kind.path(obj["metadata"]["namespace"], obj["metadata"]["name"])
        await self._patch(kind, path, [{"op": "replace", "path": "/spec", "value": obj["spec"]}])
        applied = await self.apply(kind, obj)
        try:
            return await self._disown_patches(kind, path, applied)
        except ApiError as error:
            if error.category is not Category.CONFLICT:
                raise
        for attempt in range(CONFLICT_RETRIES):
            live = await self._request("GET", kind, path)  # A controller has written its status, say.
            try:
                await self._disown_patches(kind, path, live)
                break
            except ApiError as error:
                if error.category is not Category.CONFLICT or attempt == CONFLICT_RETRIES - 1:
                    raise
        # As it was when we had written it. What somebody else has made of it since is not the API server's refusal of our values.
        return applied

    async def _disown_patches(self, kind: Kind, path: str, live: Object) -> Object:
        """Take our patches out of an object's list of owners: a patch and an apply count as two, though both are ours, and
        what the patch owns no later apply could remove.
        """
        kept = [
            entry
            for entry in live["metadata"].get("managedFields") or []
            if entry.get("manager") != FIELD_MANAGER or entry.get("operation") != "Update" or entry.get("subresource")
        ]
        version = live["metadata"]["resourceVersion"]
        return await self._patch(
            kind,
            path,
            [
                {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
                {"op": "replace", "path": "/metadata/managedFields", "value": kept},
            ],
        )

    async def _patch(self, kind: Kind, path: str, operations: Sequence[Object]) -> Object:
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._request(
            "PATCH", kind, path, query=query, body=list(operations), content_type="application/json-patch+json"
        )

    async def delete(self, kind: Kind, key: Key, *, uid: str | None = None) -> bool:
        """See Cluster.delete."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._request("DELETE", kind, kind.path(key.namespace, key.name), body=body)
        except ApiError as error:
            if error.category in (Category.NOT_FOUND, Category.TERMINATING):
                return False
            raise
        return True

    async def read_log(self, pod: Key, container: str, *, most: int) -> str:
        """See Cluster.read_log."""
        query = {"container": container, "limitBytes": str(most)}
        path = kinds.POD.path(pod.namespace, pod.name, "log")
        text, _ = await self._exchange("GET", kinds.POD, path, query=query, body=None, content_type="text/plain")
        return text.decode(errors="replace")

    async def _request(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | Sequence[Object] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request, sent again when a busy API server asks for that within a second: it has not looked at it then."""
        for _ in range(BUSY_RETRIES):
            try:
                return await self._send(method, kind, path, query=query, body=body, content_type=content_type)
            except ApiError as error:
                if error.status != 429 or error.retry_after is None or error.retry_after > 1:
                    raise
                await asyncio.sleep(error.retry_after)
        return await self._send(method, kind, path, query=query, body=body, content_type=content_type)

    async def _send(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: Object | Sequence[Object] | None,
        content_type: str,
    ) -> Object:
        text, status = await self._exchange(method, kind, path, query=query, body=body, content_type=content_type)
        parsed = _parsed(text)
        if not isinstance(parsed, dict):
            raise ApiError(
                f"the API server's answer to {method} {path} is not JSON", category=Category.TRANSIENT, status=status
            )
        return parsed

    async def _exchange(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: Object | Sequence[Object] | None,
        content_type: str,
    ) -> tuple[bytes, int]:
        """The body and the status of an answer that is no error."""
        started = time.monotonic()
        status = 0
        try:
            url, headers = await self._prepared(method, path, query, body, content_type)
            response = await self._api.call_api(method, url, headers, body, _request_timeout=self._timeout)
            status = response.status
            text = await response.read()  # type: ignore[no-untyped-call] # the client is untyped
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(error) from error
        finally:
            if self._observer is not None:
                self._observer(method, kind.kind, status, time.monotonic() - started)
        if status >= 300:
            raise classify(status, _parsed(text), retry_after=_seconds(response.headers.get("Retry-After")))
        return bytes(text), status

    async def _prepared(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Object | Sequence[Object] | None, kind: str
    ) -> tuple[str, dict[str, str]]:
        """URL and headers of a request, with the credentials of now."""
        headers = {"Accept": "application/json, */*", "Content-Type": kind, "User-Agent": FIELD_MANAGER}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        return self._api.configuration.host + path + (f"?{urlencode(query)}" if query else ""), headers


def _parsed(text: bytes) -> Any:
    """JSON, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def _no_answer(error: Exception) -> ApiError:
    detail = str(error) or type(error).__name__
    return ApiError(
        f"no answer from the API server: {detail}", category=Category.TRANSIENT, status=0, reason="NoAnswer"
    )


def _seconds(header: str | None) -> float | None:
    """Seconds of a Retry-After header; the API server only writes whole seconds."""
    return float(header) if header is not None and header.isdigit() else None
