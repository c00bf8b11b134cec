"""Facts of a model in a bucket, s3:// or gs://.

Credentials and endpoint come from the environment, by the variables that vLLM's own loader (Run:ai model streamer) knows:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, …, GOOGLE_APPLICATION_CREDENTIALS; without
them from the machine or the pod's service account (web identity, metadata server).
"""

from __future__ import annotations  # obstore's configuration types exist for type checkers only

import html
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from vllm_operator.hub.errors import (
    GatedModelError,
    HubError,
    HubUnavailableError,
    InvalidModelError,
    ModelNotFoundError,
)
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.files import read_files

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

MOST_OBJECTS = 10_000
"""Objects below a model's path that are listed at most."""
_ENDPOINTS = ("RUNAI_STREAMER_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_CREDENTIALS = (
    "give them in the environment (spec.engine.env: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from a Secret) or by the pod's "
    "service account (spec.scheduling.serviceAccountName)"
)
_RETRIES: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


class _Bucket:
    def __init__(self, url: str, store: ObjectStore) -> None:
        self._url = url
        self._store = store

    @property
    def where(self) -> str:
        return self._url

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        with _told(self._url):
            for page in obstore.list(self._store):
                found.update((each["path"], each["size"]) for each in page)
                if len(found) > MOST_OBJECTS:
                    raise InvalidModelError(
                        f"{self._url} has more than {MOST_OBJECTS:,} objects: name the path of one model"
                    )
        if not found:
            raise ModelNotFoundError(f"there is nothing at {self._url}")
        return found

    def read(self, name: str, start: int, length: int) -> bytes:
        # A range beyond the end is an error to some stores and a short answer to others.
        length = min(length, self.sizes[name] - start)
        if length <= 0:
            return b""
        with _told(f"{self._url}/{name}"):
            return bytes(obstore.get_range(self._store, name, start=start, length=length))


def read_bucket(url: str) -> ModelFacts:
    """Facts of the model at `s3://bucket/path` or `gs://bucket/path`.

    Raises GatedModelError when access is denied, ModelNotFoundError, InvalidModelError, and HubUnavailableError when the store does
    not answer sensibly.
    """
    url = url.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "gs") or not parts.netloc:
        raise ModelNotFoundError(f"{url} is no bucket: write s3://bucket/path or gs://bucket/path")
    with _told(url):
        return read_files(_Bucket(url, _store(url, parts.scheme)))


def _store(url: str, scheme: str) -> ObjectStore:
    """The store, with its root at the model. What is not said here obstore reads from the process's environment."""
    client: ClientConfig = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=30)}
    if scheme == "gs":
        client["allow_http"] = os.environ.get("GOOGLE_BASE_URL", "").startswith("http://")
        return from_url(url, client_options=client, retry_config=_RETRIES)
    endpoint = next((value for name in _ENDPOINTS if (value := os.environ.get(name))), None)
    if authority := os.environ.get("AWS_CA_BUNDLE"):
        try:
            client["root_certificate"] = Path(authority).read_bytes()
        except OSError as error:
            raise HubUnavailableError(f"AWS_CA_BUNDLE names {authority}, which cannot be read: {error}") from error
    if endpoint is None:
        return from_url(url, client_options=client, retry_config=_RETRIES)
    client["allow_http"] = endpoint.startswith("http://")
    return from_url(url, config={"endpoint": endpoint}, client_options=client, retry_config=_RETRIES)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """The store's errors, told apart by what there is to do."""
    try:
        yield
    except HubError:
        raise
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no {where}") from error
    except (BaseError, OSError, ValueError) as error:
        raise _tell(where, error) from error


def _tell(where: str, error: Exception) -> HubError:
    """What a store's error means. obstore gives most of them one type; the store's answer is in the text."""
    text = " ".join(re.split(r"\n\s*Debug source", str(error))[0].split())
    if "/latest/api/token" in text or "/computeMetadata/" in text:
        return GatedModelError(f"{where}: no credentials were found; {_CREDENTIALS}")
    status = _found(r"non-2xx status code: (\d+)", text)
    code = _found(r"<Code>([^<]*)", text) or status
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in ("401", "403"):
        return GatedModelError(f"{where}: access denied ({code or type(error).__name__}); {_CREDENTIALS}")
    if code in ("NoSuchBucket", "NoSuchKey"):
        return ModelNotFoundError(f"{where}: {code}")
    if status is None:
        # Without what comes after ? in URLs: signatures are there.
        return HubUnavailableError(f"{where}: {re.sub(r'[?][^ ]+', '?…', text)[:400]}")
    hint = "; set AWS_REGION to the bucket's region" if status in ("301", "400") else ""
    answer = ": ".join(dict.fromkeys(each for each in (code, _found(r"<Message>([^<]*)", text)) if each))
    return HubUnavailableError(f"{where}: the store answers {status}: {html.unescape(answer)}{hint}")


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None
