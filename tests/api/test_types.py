"""The fields of VLLMModel, as the operator reads them."""

from typing import Any

import pytest
from pydantic import ValidationError

from vllm_operator.api.types import VLLMModel, VLLMModelSpec


@pytest.mark.parametrize(
    "model",
    [
        "Qwen/Qwen3-8B",
        "gpt2",
        "hf://Qwen/Qwen3-8B",
        "hf://Qwen/Qwen3-8B@refs/pr/1",
        "pvc://claim",
        "pvc://claim/",
        "pvc://claim/models/qwen",
        "s3://bucket/models/qwen",
        "gs://bucket/models/qwen",
        "oci://ghcr.io/org/model:v1",
        "oci://ghcr.io/org/model@sha256:0123",
        "/models/qwen",
    ],
)
def test_models(model: str) -> None:
    assert VLLMModelSpec.model_validate({"model": model}).model == model


@pytest.mark.parametrize(
    "model",
    [
        "",
        " ",
        "-flag",
        "--host=0.0.0.0",
        "a/b/c",
        "org/-name",
        "./relative",
        "../up",
        "hf://name",
        "pvc://Claim",
        "s3://",
        "http://example.com/model",
        "model\n",
        "/",
        "/a b",
        "/a;b",
        "a" * 513,
    ],
)
def test_what_is_no_model(model: str) -> None:
    with pytest.raises(ValidationError):
        VLLMModelSpec.model_validate({"model": model})


def test_little_is_enough() -> None:
    model = VLLMModel.model_validate(
        {
            "apiVersion": "vllm-operator.io/v1alpha1",
            "kind": "VLLMModel",
            "metadata": {"name": "qwen3-8b", "namespace": "a", "uid": "u", "generation": 1},
            "spec": {"model": "Qwen/Qwen3-8B"},
        }
    )
    assert model.spec.replicas == 1
    assert model.spec.model_dump(by_alias=True, exclude_unset=True) == {"model": "Qwen/Qwen3-8B"}


@pytest.mark.parametrize("value", [8192, -1, "auto", "32k", "1.5k", "32K"])
def test_the_context_is_kept_as_it_was_written(value: Any) -> None:
    spec = VLLMModelSpec.model_validate({"model": "a/b", "engine": {"maxModelLen": value}})
    assert spec.engine is not None
    assert spec.engine.max_model_len == value
    assert type(spec.engine.max_model_len) is type(value)
