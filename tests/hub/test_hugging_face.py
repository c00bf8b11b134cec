"""Facts from the hub: against a small server that behaves as the hub does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from tests.hub.files import QWEN3, qwen3_tensors, safetensors
from vllm_operator.hub.errors import GatedModelError, HubUnavailableError, InvalidModelError, ModelNotFoundError
from vllm_operator.hub.hugging_face import HuggingFaceHub

COMMIT = "c" * 40
TOKEN = "hf_secret_that_is_in_no_message"


class FakeHub(ThreadingHTTPServer):
    """Repositories as {name: {file: bytes}}; large files are redirected to another path, as the hub does to its CDN."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.broken: int | None = None
        self.ignore_ranges = False
        self.sent = 0
        self.requests: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has read enough hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((path, dict(self.headers)))
        if self.server.broken is not None:
            return self._answer(self.server.broken, b"<html>sorry</html>")
        token = self.headers.get("Authorization")
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            return self._file(self.server.repositories["/".join(parts[1:3])]["/".join(parts[3:])])
        name, revision = ("/".join(parts[2:4]), parts[5]) if parts[0] == "api" else ("/".join(parts[0:2]), parts[3])
        repository = self.server.repositories.get(name)
        if repository is None or (name in self.server.private and token != f"Bearer {TOKEN}"):
            return self._answer(404 if token else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if parts[0] == "api":
            siblings = [{"rfilename": file, "size": len(content)} for file, content in repository.items()]
            return self._answer(
                200,
                json.dumps(
                    {"id": name, "sha": COMMIT, "siblings": siblings, "pipeline_tag": "text-generation"}
                ).encode(),
            )
        if name in self.server.gated and token != f"Bearer {TOKEN}":
            return self._answer(403 if token else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        file = "/".join(parts[4:])
        if file not in repository:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if file.endswith(".safetensors"):
            return self._answer(302, b"", {"Location": f"{self.server.url}/cdn/{name}/{file}"})
        return self._file(repository[file])

    def _file(self, content: bytes) -> None:
        wanted = self.headers.get("Range")
        if wanted is None or self.server.ignore_ranges:
            return self._answer(200, content)
        first, last = (int(text) for text in wanted.removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        return self._answer(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)
            self.server.sent += len(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(follow_redirects=True, timeout=10, trust_env=False) as client:
        yield client


def put(server: FakeHub, name: str = "org/model", **config: Any) -> dict[str, bytes]:
    a = {key: value for key, value in qwen3_tensors().items() if ".0." in key}
    b = {key: value for key, value in qwen3_tensors().items() if ".0." not in key}
    files = {
        "README.md": b"x",
        "config.json": json.dumps({**QWEN3, **config}).encode(),
        "model-00001-of-00002.safetensors": safetensors(a) + b"\0" * 5_000_000,
        "model-00002-of-00002.safetensors": safetensors(b),
        "pytorch_model.bin": b"\0" * 1000,
    }
    files["model.safetensors.index.json"] = json.dumps(
        {
            "metadata": {},
            "weight_map": {key: f"model-0000{1 if key in a else 2}-of-00002.safetensors" for key in qwen3_tensors()},
        }
    ).encode()
    server.repositories[name] = files
    return files


def test_facts_by_ranged_reads(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    found = HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert found.commit == COMMIT
    assert found.facts.architecture == "Qwen3ForCausalLM"
    assert found.facts.weights.source == "headers"
    assert found.facts.weights.total == 2 * (2 * 256 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 128))
    assert server.sent < 500_000
    # every file is read at the commit of the listing, so that an upload meanwhile mixes nothing
    assert all(COMMIT in path for path, _ in server.requests if "/resolve/" in path)


def test_server_without_ranges(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    server.ignore_ranges = True
    assert HuggingFaceHub(client, endpoint=server.url).read("org/model").facts.weights.source == "headers"


def test_long_header(server: FakeHub, client: httpx.Client) -> None:
    many = {f"model.layers.0.mlp.experts.{i}.down_proj.weight": ("BF16", (1, 1)) for i in range(5000)}
    files = put(server)
    files["model-00001-of-00002.safetensors"] = safetensors(many)
    facts = HuggingFaceHub(client, endpoint=server.url).read("org/model").facts
    assert facts.weights.layers[0].experts == 10_000


def test_gated(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    server.gated.add("org/model")
    with pytest.raises(
        GatedModelError, match=r"access denied to org/model.*accept the licence.*hub\.tokenSecretRef"
    ) as caught:
        HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert not caught.value.retry
    with pytest.raises(GatedModelError, match="the token has no access") as caught:
        HuggingFaceHub(client, endpoint=server.url, token="hf_other").read("org/model")
    assert "hf_other" not in str(caught.value)
    assert HuggingFaceHub(client, endpoint=server.url, token=TOKEN).read("org/model").commit == COMMIT


def test_private_and_missing(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    server.private.add("org/model")
    for name in ("org/model", "org/nothing"):
        with pytest.raises(ModelNotFoundError, match=f"no such model: {name}.*if it is private"):
            HuggingFaceHub(client, endpoint=server.url).read(name)
    with pytest.raises(ModelNotFoundError, match="no such model: org/nothing"):
        HuggingFaceHub(client, endpoint=server.url, token=TOKEN).read("org/nothing")
    assert HuggingFaceHub(client, endpoint=server.url, token=TOKEN).read("org/model").commit == COMMIT


def test_no_such_revision(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'"):
        HuggingFaceHub(client, endpoint=server.url).read("org/model", revision="v9")
    assert HuggingFaceHub(client, endpoint=server.url).read("org/model", revision=COMMIT).commit == COMMIT


def test_not_an_id(client: httpx.Client, server: FakeHub) -> None:
    put(server, "a--b/c..d")
    with pytest.raises(ModelNotFoundError):
        HuggingFaceHub(client, endpoint=server.url).read("a--b/c..d")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_hub_in_trouble(server: FakeHub, client: httpx.Client, status: int) -> None:
    server.broken = status
    with pytest.raises(HubUnavailableError, match=str(status)) as caught:
        HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert caught.value.retry


def test_something_else_answers(server: FakeHub, client: httpx.Client) -> None:
    server.broken = 200
    with pytest.raises(HubUnavailableError, match="does not answer as a Hugging Face hub"):
        HuggingFaceHub(client, endpoint=server.url).read("org/model")


def test_offline(client: httpx.Client) -> None:
    with pytest.raises(HubUnavailableError, match=r"cannot reach http://127\.0\.0\.1:1"):
        HuggingFaceHub(client, endpoint="http://127.0.0.1:1").read("org/model")


def test_timeout(server: FakeHub) -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow", request=request)

    with (
        httpx.Client(transport=httpx.MockTransport(slow)) as client,
        pytest.raises(HubUnavailableError, match="ReadTimeout"),
    ):
        HuggingFaceHub(client).read("org/model")


def test_invalid_config(server: FakeHub, client: httpx.Client) -> None:
    put(server)["config.json"] = b"{"
    with pytest.raises(InvalidModelError, match="no JSON"):
        HuggingFaceHub(client, endpoint=server.url).read("org/model")


def test_token_goes_to_the_hub_only(server: FakeHub, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_operator")
    put(server)
    HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert not any("Authorization" in headers or "authorization" in headers for _, headers in server.requests)
