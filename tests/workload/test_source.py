"""spec.model → what vLLM is given."""

from typing import Any

import pytest

from tests.workload.bundles import container, parse, pod
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.workload.source import ModelSource, resolve_source

SOURCES: list[tuple[dict[str, Any], ModelSource]] = [
    ({"model": "gpt2"}, ModelSource("hub", "gpt2")),
    ({"model": "Qwen/Qwen3-8B"}, ModelSource("hub", "Qwen/Qwen3-8B")),
    ({"model": "Qwen/Qwen3-8B", "hub": {"revision": "v1"}}, ModelSource("hub", "Qwen/Qwen3-8B", revision="v1")),
    ({"model": "hf://Qwen/Qwen3-8B"}, ModelSource("hub", "Qwen/Qwen3-8B")),
    ({"model": "hf://Qwen/Qwen3-8B@refs/pr/1"}, ModelSource("hub", "Qwen/Qwen3-8B", revision="refs/pr/1")),
    ({"model": "/models/x"}, ModelSource("path", "/models/x")),
    ({"model": "pvc://models"}, ModelSource("pvc", "/models/models", claim="models")),
    ({"model": "oci://ghcr.io/org/m:v1"}, ModelSource("oci", "/models/image", image="ghcr.io/org/m:v1")),
    (
        {"model": "oci://localhost:5000/m@sha256:" + "0" * 64},
        ModelSource("oci", "/models/image", image="localhost:5000/m@sha256:" + "0" * 64),
    ),
    (
        {"model": "oci://ghcr.io/org/m:v1//models/llama/"},
        ModelSource("oci", "/models/image/models/llama", image="ghcr.io/org/m:v1"),
    ),
    ({"model": "s3://bucket"}, ModelSource("bucket", "s3://bucket")),
    ({"model": "gs://my.bucket_1/models/Qwen3-8B/"}, ModelSource("bucket", "gs://my.bucket_1/models/Qwen3-8B")),
    ({"model": "pvc://models//a/./b/"}, ModelSource("pvc", "/models/models/a/b", claim="models")),
]


@pytest.mark.parametrize(("spec", "source"), SOURCES, ids=lambda value: str(value)[:60])
def test_source(spec: dict[str, Any], source: ModelSource) -> None:
    assert resolve_source(parse(spec)) == source


@pytest.mark.parametrize(
    ("spec", "reason", "part"),
    [
        ({"model": "s3://bucket/../x"}, Reason.INVALID_SPEC, "spec.model is 's3://bucket/../x'"),
        ({"model": "s3://Bucket/x"}, Reason.INVALID_SPEC, "lower case"),
        ({"model": "s3:///x"}, Reason.INVALID_SPEC, "s3://bucket/path"),
        ({"model": "gs://b-/x"}, Reason.INVALID_SPEC, "gs://bucket/path"),
        ({"model": "gs://bucket//x"}, Reason.INVALID_SPEC, "without .. or //"),
        ({"model": "s3://bucket/x", "hub": {"revision": "y"}}, Reason.INVALID_SPEC, "spec.hub is only for"),
        ({"model": "oci://registry/../x:1"}, Reason.INVALID_SPEC, "oci://registry/name:tag"),
        ({"model": "oci://Registry/X:1"}, Reason.INVALID_SPEC, "in lower case"),
        ({"model": "oci://justaname"}, Reason.INVALID_SPEC, "oci://registry/name:tag"),
        ({"model": "oci://registry/x:1//a/../../etc"}, Reason.INVALID_SPEC, "//path/in/it"),
        ({"model": "a--b/c"}, Reason.INVALID_SPEC, "no Hugging Face id"),
        ({"model": "org/name.git"}, Reason.INVALID_SPEC, "no Hugging Face id"),
        ({"model": "pvc://models/../secrets"}, Reason.INVALID_SPEC, "without .."),
        ({"model": "pvc:///x"}, Reason.INVALID_SPEC, "PersistentVolumeClaim"),
        ({"model": "ftp://x/y"}, Reason.INVALID_SPEC, "no known scheme"),
        ({"model": "hf://a/b@x", "hub": {"revision": "y"}}, Reason.INVALID_SPEC, "given twice"),
        ({"model": "/x", "hub": {"revision": "y"}}, Reason.INVALID_SPEC, "spec.hub is only for"),
        ({"model": "pvc://x", "hub": {"endpoint": "https://h"}}, Reason.INVALID_SPEC, "spec.hub is only for"),
    ],
)
def test_refused(spec: dict[str, Any], reason: Reason, part: str) -> None:
    # without pydantic's pattern: what the API server lets through is not this module's to trust
    model = parse({"model": "a/b", **{key: value for key, value in spec.items() if key != "model"}})
    with pytest.raises(Refusal) as caught:
        resolve_source(model.model_copy(update={"model": spec["model"]}))
    assert caught.value.reason is reason
    assert part in caught.value.message


def test_a_claim_is_mounted_read_only() -> None:
    spec = {"model": "pvc://models/llama"}
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "models"}} in pod(spec)["volumes"]
    assert {"name": "model", "mountPath": "/models/models", "readOnly": True} in container(spec)["volumeMounts"]
    assert "/models/models/llama" in container(spec)["command"]


def test_one_claim_for_model_and_cache_is_one_volume() -> None:
    spec = {"model": "pvc://data/llama", "cache": {"persistentVolumeClaim": {"claimName": "data", "subPath": "cache"}}}
    claims = [volume for volume in pod(spec)["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"name": "cache", "persistentVolumeClaim": {"claimName": "data"}}]
    mounts = [mount for mount in container(spec)["volumeMounts"] if mount["name"] == "cache"]
    assert mounts == [
        {"name": "cache", "mountPath": "/var/cache/vllm", "subPath": "cache"},
        {"name": "cache", "mountPath": "/models/data", "readOnly": True},
    ]


def test_an_image_is_mounted_read_only() -> None:
    spec = {"model": "oci://ghcr.io/org/m:v1//llama"}
    volume = {"name": "model", "image": {"reference": "ghcr.io/org/m:v1", "pullPolicy": "IfNotPresent"}}
    for each in (spec, {**spec, "cache": {"persistentVolumeClaim": {"claimName": "c"}}}):
        assert volume in pod(each)["volumes"]
        assert {"name": "model", "mountPath": "/models/image", "readOnly": True} in container(each)["volumeMounts"]
        assert "/models/image/llama" in container(each)["command"]
