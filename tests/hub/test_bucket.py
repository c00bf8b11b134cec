"""Models in buckets, on a real S3 server."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bucket import NAME, SECRET_KEY, Bucket, serve_bucket
from tests.hub.files import QWEN3, qwen3_tensors, safetensors, write_model
from vllm_operator.app.main import main
from vllm_operator.hub.bucket import read_bucket
from vllm_operator.hub.directory import read_directory
from vllm_operator.hub.errors import (
    GatedModelError,
    HubError,
    HubUnavailableError,
    InvalidModelError,
    ModelNotFoundError,
)
from vllm_operator.hub.wire import decode

pytestmark = pytest.mark.cluster  # The server is built with Go, as the cluster is.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = safetensors(qwen3_tensors())
    return write_model(tmp_path_factory.mktemp("model"), model__safetensors=whole, pytorch_model__bin=whole)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Bucket]:
    with serve_bucket(tmp_path_factory.mktemp("bucket")) as bucket:
        bucket.upload(model, "team/qwen")
        bucket.put("empty/readme.md", b"nothing")
        bucket.put("broken/config.json", b"{")
        yield bucket


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in [each for each in os.environ if each.startswith(("AWS_", "GOOGLE_", "RUNAI_"))]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.parametrize("url", ["s3://models/team/qwen", "s3://models/team/qwen/"])
def test_facts_are_those_of_a_directory(bucket: Bucket, model: Path, url: str) -> None:
    assert read_bucket(url) == read_directory(model)


def test_weights_are_never_read(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    headless = write_model(tmp_path, model__safetensors=safetensors(qwen3_tensors(), body=False))
    bucket.upload(headless, "headless")
    assert read_bucket("s3://models/headless").weights == read_directory(model).weights


def test_google_cloud_storage(bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its XML API is S3's; the real one cannot run here. Objects are for all, as nothing here gives Google's tokens."""
    bucket.publish()
    monkeypatch.setenv("GOOGLE_BASE_URL", bucket.endpoint)
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert read_bucket("gs://models/team/qwen") == read_directory(model)


@pytest.mark.parametrize(
    ("url", "variables", "error", "part"),
    [
        ("s3://models/team/none", {}, ModelNotFoundError, "there is nothing at s3://models/team/none"),
        ("s3://models/empty", {}, ModelNotFoundError, "neither config.json nor params.json"),
        ("s3://nobody-has-it/x", {}, ModelNotFoundError, "NoSuchBucket"),
        ("s3://models/broken", {}, InvalidModelError, "config.json is no JSON"),
        ("s3://models/team/qwen", {"AWS_SECRET_ACCESS_KEY": "wrong"}, GatedModelError, "SignatureDoesNotMatch"),
        ("s3://models/team/qwen", {"AWS_REGION": "eu-west-1"}, HubUnavailableError, "set AWS_REGION"),
        ("s3://models/team/qwen", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, HubUnavailableError, "127.0.0.1:1"),
        (
            "s3://models/team/qwen",
            {"AWS_CA_BUNDLE": "/no/such/ca"},
            HubUnavailableError,
            "AWS_CA_BUNDLE names /no/such/ca",
        ),
        ("az://models/team/qwen", {}, ModelNotFoundError, "write s3://bucket/path or gs://bucket/path"),
    ],
)
def test_errors_say_what_to_do(
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    variables: dict[str, str],
    error: type[HubError],
    part: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error) as caught:
        read_bucket(url)
    assert part in str(caught.value)
    assert SECRET_KEY not in str(caught.value)
    assert "Signature=" not in str(caught.value)


def test_a_bucket_of_everything_is_no_model(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_operator.hub.bucket.MOST_OBJECTS", 2)
    with pytest.raises(InvalidModelError, match="more than 2 objects: name the path of one model"):
        read_bucket(f"s3://{NAME}")


def test_what_the_job_says(bucket: Bucket, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "termination-log"
    assert main(["inspect", "s3://models/team/qwen", "--output", str(said)]) == 0
    assert decode(said.read_text()) == read_directory(model)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert main(["inspect", "s3://models/team/qwen", "--output", str(said)]) == 1
    with pytest.raises(GatedModelError, match="access denied"):
        decode(said.read_text())
    assert json.loads((model / "config.json").read_text())["architectures"] == QWEN3["architectures"]
