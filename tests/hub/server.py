"""A small server that behaves as the Hugging Face hub does, for what the operator asks of it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
TOKEN = "hf_secret_that_is_in_no_message"


class FakeHub(ThreadingHTTPServer):
    """Repositories as {name: {file: bytes}}; large files are redirected to another path, as the hub does to its CDN."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.host = host
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
        return f"http://{self.host}:{self.server_address[1]}"


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


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[FakeHub]:
    """A hub that answers until the end of the block."""
    hub = FakeHub(host)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
