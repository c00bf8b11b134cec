"""A real S3 server with one bucket: versitygw, which keeps objects as files."""

import hashlib
import hmac
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import obstore
from obstore.store import S3Store

from tests.cluster import tools
from tests.cluster.commands import wait_until
from tests.cluster.progress import Progress

NAME = "models"
ACCESS_KEY, SECRET_KEY = "reader", "bucket_secret_that_is_in_no_message"


class Bucket:
    """The bucket `models`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._store = S3Store(
            NAME,
            config={"endpoint": endpoint, "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY},
            client_options={"allow_http": True},
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables that open it, for vLLM and for the operator's Job."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            # Without a name for each bucket in the DNS, buckets are part of the path.
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }

    def put(self, name: str, data: bytes) -> None:
        """Put one object there."""
        obstore.put(self._store, name, data)

    def publish(self) -> None:
        """Let everybody read it, without credentials."""
        resources = [f"arn:aws:s3:::{NAME}", f"arn:aws:s3:::{NAME}/*"]
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": resources,
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        url = f"{self.endpoint}/{NAME}?policy="
        httpx.put(url, content=policy, headers=_signed("PUT", url, policy.encode())).raise_for_status()

    def upload(self, folder: Path, prefix: str) -> None:
        """Put a folder's files there."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def _signed(method: str, url: str, body: bytes) -> dict[str, str]:
    """Headers of a request that is signed with AWS's Signature Version 4, which obstore does for objects only."""
    parts, now = urlsplit(url), datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest, scope = hashlib.sha256(body).hexdigest(), f"{now[:8]}/us-east-1/s3/aws4_request"
    headers = {"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"{method}\n{parts.path}\n{parts.query}\n{lines}\n{names}\n{digest}"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    value = f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
    return {**headers, "Authorization": value}


@contextmanager
def serve_bucket(folder: Path, *, address: str = "127.0.0.1") -> Iterator[Bucket]:
    """Serve a bucket that lies in `folder`, which must be empty."""
    (program,) = tools.BY_PART["bucket"]
    tools.build([program], Progress())
    # Objects' ETags would otherwise need a file system with extended attributes; vLLM's loader refuses objects without.
    objects, notes = folder / "objects", folder / "notes"
    for each in (objects / NAME, notes):
        each.mkdir(parents=True)
    with socket.socket() as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                tools.binary_path(program),
                *("--port", f"{address}:{port}", "--quiet"),
                *("posix", "--sidecar", notes, objects),
            ],
            env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:

        def listens() -> bool:
            assert server.poll() is None, (folder / "log").read_text()
            with socket.socket() as client:
                return client.connect_ex((address, port)) == 0

        wait_until("versitygw listens", listens, timeout=30)
        yield Bucket(f"http://{address}:{port}")
    finally:
        server.terminate()
        server.wait(timeout=30)
