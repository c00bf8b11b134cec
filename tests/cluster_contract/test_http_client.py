"""The real client against a server that misbehaves: what each failure is called, and that nothing waits for ever."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest
from aiohttp import web
from kubernetes.aio import client
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds, kubernetes
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.cluster.kubernetes import KubernetesCluster

from .objects import service

KEY = Key("default", "qwen3")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A loopback HTTP server whose one handler a test sets."""

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self.requests: list[web.Request] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        assert self.handler is not None
        return await self.handler(request)

    def says(self, status: int, body: object, **headers: str) -> None:
        """Answer everything with this."""
        text = body if isinstance(body, str) else json.dumps(body)

        async def handler(_: web.Request) -> web.Response:
            return web.Response(status=status, text=text, headers=headers)

        self.handler = handler


@pytest.fixture
async def api() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def cluster_at(url: str, *, request_timeout: float = 5.0, **rest: object) -> KubernetesCluster:
    return KubernetesCluster(client.Configuration(host=url), request_timeout=request_timeout, **rest)  # type: ignore[arg-type]


def kubernetes_status(code: int, reason: str = "", **details: object) -> dict:
    return {"kind": "Status", "code": code, "reason": reason, "message": f"it says {code}", "details": details}


async def failure(url: str, *, request_timeout: float = 5.0) -> ApiError:
    async with cluster_at(url, request_timeout=request_timeout) as cluster:
        with pytest.raises(ApiError) as caught:
            await cluster.apply(kinds.SERVICE, service("default"))
    return caught.value


async def test_a_log_is_text(api: Server) -> None:
    api.says(200, "one\ntwo \ufffd")
    async with cluster_at(api.url) as cluster:
        assert await cluster.read_log(Key("ns", "pod"), "vllm", most=100) == "one\ntwo \ufffd"
    (request,) = api.requests
    assert (request.method, str(request.rel_url)) == (
        "GET",
        "/api/v1/namespaces/ns/pods/pod/log?container=vllm&limitBytes=100",
    )


async def test_an_edit_in_the_middle_of_an_overwrite_is_not_what_we_wrote(api: Server) -> None:
    """Somebody edits again at once: what they made of it must not pass for values that the API server refuses."""
    ours = service("default")
    written = {**ours, "metadata": {**ours["metadata"], "resourceVersion": "2", "managedFields": []}}
    edited = {**written, "metadata": {**written["metadata"], "resourceVersion": "3", "labels": {}}}

    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(edited)
        if request.content_type == "application/apply-patch+yaml":
            return web.json_response(written)
        operations = {each["path"]: each["value"] for each in await request.json()}
        if operations.get("/metadata/resourceVersion") == "2":
            return web.json_response(kubernetes_status(409, "Conflict"), status=409)
        return web.json_response(edited)

    api.handler = handler
    async with cluster_at(api.url) as cluster:
        assert await cluster.overwrite(kinds.SERVICE, ours) == written
    assert [request.method for request in api.requests] == ["PATCH", "PATCH", "PATCH", "GET", "PATCH"]


async def test_a_server_that_accepts_and_never_answers(api: Server) -> None:
    never = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    api.handler = handler
    started = time.monotonic()
    error = await failure(api.url, request_timeout=0.2)
    assert time.monotonic() - started < 3
    assert (error.category, error.status, error.reason) == (Category.TRANSIENT, 0, "NoAnswer")
    never.set()


async def test_a_server_that_stops_in_the_middle(api: Server) -> None:
    never = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"kind":')
        await never.wait()
        return response

    api.handler = handler
    error = await failure(api.url, request_timeout=0.2)
    assert (error.category, error.reason) == (Category.TRANSIENT, "NoAnswer")
    never.set()


async def test_a_connection_that_is_cut(api: Server) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    api.handler = handler
    error = await failure(api.url)
    assert (error.category, error.status) == (Category.TRANSIENT, 0)


async def test_a_connection_that_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else gets the port, and it refuses.
        error = await failure(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (error.category, error.status, error.reason) == (Category.TRANSIENT, 0, "NoAnswer")


async def test_a_name_that_does_not_resolve() -> None:
    error = await failure("http://no-such-host.invalid:1")
    assert error.category is Category.TRANSIENT


async def test_too_many_requests(api: Server) -> None:
    api.says(429, kubernetes_status(429, "TooManyRequests"), **{"Retry-After": "7"})
    error = await failure(api.url)
    assert (error.category, error.status, error.retry_after) == (Category.TRANSIENT, 429, 7.0)
    api.says(429, kubernetes_status(429, "TooManyRequests", retryAfterSeconds=3))
    assert (await failure(api.url)).retry_after == 3.0
    api.says(429, "Too many requests, please try again later.")
    error = await failure(api.url)
    assert (error.category, error.retry_after) == (Category.TRANSIENT, None)


async def test_a_busy_api_server_that_asks_for_a_second_gets_it(api: Server) -> None:
    api.says(429, kubernetes_status(429, "TooManyRequests"), **{"Retry-After": "0"})
    error = await failure(api.url)
    assert (error.category, error.retry_after) == (Category.TRANSIENT, 0.0)
    assert len(api.requests) == 1 + kubernetes.BUSY_RETRIES


@pytest.mark.parametrize("code", [408, 410, 500, 502, 503, 504])
async def test_errors_that_pass(api: Server, code: int) -> None:
    api.says(code, kubernetes_status(code, "InternalError"))
    error = await failure(api.url)
    assert (error.category, error.status, error.message) == (Category.TRANSIENT, code, f"it says {code}")
    api.says(code, "<html>a proxy's page</html>")
    assert (await failure(api.url)).category is Category.TRANSIENT


@pytest.mark.parametrize(
    ("code", "category"), [(401, Category.DENIED), (403, Category.DENIED), (409, Category.CONFLICT)]
)
async def test_errors_that_stay(api: Server, code: int, category: Category) -> None:
    api.says(code, kubernetes_status(code, "Forbidden"))
    assert (await failure(api.url)).category is category


async def test_a_refusal_by_an_admission_policy_is_read_by_its_status(api: Server) -> None:
    cause = {"reason": "FieldValueForbidden", "message": "no", "field": "spec.type"}
    api.says(422, kubernetes_status(422, "Invalid", causes=[cause]))
    error = await failure(api.url)
    assert (error.category, error.field) == (Category.INVALID, "spec.type")


@pytest.mark.parametrize("body", ["not JSON", "", "[]", "null", "\x00\xff"])
async def test_an_answer_that_is_no_object(api: Server, body: str) -> None:
    api.says(200, body)
    error = await failure(api.url)
    assert error.category is Category.TRANSIENT


async def test_a_status_with_odd_contents(api: Server) -> None:
    odd: tuple[object, ...] = (None, {"causes": None}, {"causes": [None, {}]}, {"causes": "x"}, [], "x")
    for details in odd:
        api.says(500, {"kind": "Status", "message": None, "reason": None, "details": details})
        error = await failure(api.url)
        assert (error.category, error.message) == (Category.TRANSIENT, "HTTP 500 from the API server")


async def test_pages_of_a_list(api: Server) -> None:
    async def handler(request: web.Request) -> web.Response:
        token = int(request.query.get("continue", "0"))
        items = [{"metadata": {"name": str(token)}}] if token != 1 else None  # A page may be empty, and null.
        metadata = {"continue": str(token + 1)} if token < 3 else {}
        return web.json_response({"kind": "ServiceList", "metadata": metadata, "items": items})

    api.handler = handler
    async with cluster_at(api.url) as cluster:
        found = await cluster.list(kinds.SERVICE, namespace="default", labels={"b": "2", "a": "1"})
    assert [one["metadata"]["name"] for one in found] == ["0", "2", "3"]
    assert {request.query["labelSelector"] for request in api.requests} == {"a=1,b=2"}
    assert {request.query["limit"] for request in api.requests} == {"500"}


async def test_a_list_whose_continuation_has_expired_is_tried_again_later(api: Server) -> None:
    async def handler(request: web.Request) -> web.Response:
        if "continue" in request.query:
            return web.json_response(kubernetes_status(410, "Expired"), status=410)
        return web.json_response({"metadata": {"continue": "x"}, "items": []})

    api.handler = handler
    async with cluster_at(api.url) as cluster:
        with pytest.raises(ApiError) as caught:
            await cluster.list(kinds.SERVICE)
    assert caught.value.category is Category.TRANSIENT


async def test_what_is_sent(api: Server) -> None:
    api.says(200, {"metadata": {}})
    seen: list[tuple[str, str, int]] = []

    def observer(verb: str, kind: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        seen.append((verb, kind, status))

    async with cluster_at(api.url, observer=observer) as cluster:
        await cluster.apply(kinds.DEPLOYMENT, {"metadata": {"namespace": "a", "name": "b"}})
        await cluster.apply_status(kinds.VLLM_MODEL, {"metadata": {"namespace": "a", "name": "b"}})
        await cluster.create(kinds.LEASE, {"metadata": {"namespace": "a", "name": "b"}})
        await cluster.delete(kinds.SERVICE, Key("a", "b"), uid="u")
    assert [(request.method, request.path) for request in api.requests] == [
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/b"),
        ("PATCH", "/apis/vllm-operator.io/v1alpha1/namespaces/a/vllmmodels/b/status"),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/a/leases"),
        ("DELETE", "/api/v1/namespaces/a/services/b"),
    ]
    assert {request.query.get("fieldManager") for request in api.requests[:3]} == {"vllm-operator"}
    assert {request.query.get("fieldValidation") for request in api.requests[:3]} == {"Strict"}
    assert [one[2] for one in seen] == [200] * 4


async def test_a_token_is_read_again_when_it_is_renewed(api: Server, tmp_path: Path) -> None:
    """As a pod's token is: the kubelet writes a new one into the file before the old one ends."""
    api.says(200, {"metadata": {}})
    token = tmp_path / "token"
    token.write_text("first")
    configuration = client.Configuration(host=api.url)

    async def refresh(config: client.Configuration) -> None:
        config.api_key["BearerToken"] = f"Bearer {token.read_text()}"

    configuration.refresh_api_key_hook = refresh  # type: ignore[assignment]  # the client is untyped
    configuration.api_key["BearerToken"] = "Bearer first"
    async with KubernetesCluster(configuration) as cluster:
        await cluster.get(kinds.SERVICE, KEY)
        token.write_text("second")
        await cluster.get(kinds.SERVICE, KEY)
    assert [request.headers["Authorization"] for request in api.requests] == ["Bearer first", "Bearer second"]


async def test_a_pods_own_token_is_renewed(api: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official client's in-cluster configuration, with its own renewal."""
    api.says(200, {"metadata": {}})
    token = tmp_path / "token"
    token.write_text("first")
    certificate = tmp_path / "ca.crt"
    certificate.write_text("not looked at over http")
    loader = InClusterConfigLoader(
        token_filename=str(token),
        cert_filename=str(certificate),
        environ={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"},
    )
    configuration = client.Configuration()
    loader.load_and_set(configuration)
    configuration.host = loader.host = api.url
    configuration.ssl_ca_cert = None
    async with KubernetesCluster(configuration) as cluster:
        await cluster.get(kinds.SERVICE, KEY)
        token.write_text("second")
        await cluster.get(kinds.SERVICE, KEY)
        monkeypatch.setattr(loader, "token_expires_at", datetime.min)
        await cluster.get(kinds.SERVICE, KEY)
    assert [request.headers["Authorization"] for request in api.requests] == [
        "bearer first", "bearer first", "bearer second",
    ]  # fmt: skip
