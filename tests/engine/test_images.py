"""Which image runs a model."""

from typing import Any

import pytest

from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.engine.images import EngineImage, parse_version, resolve_image
from vllm_operator.sizing.plan import decide_plan
from vllm_operator.workload.settings import BuildSettings


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, EngineImage("vllm/vllm-openai:v0.32.0", "0.32.0")),
        ({"engine": {"version": "0.31.0"}}, EngineImage("vllm/vllm-openai:v0.31.0", "0.31.0")),
        ({"engine": {"image": "a/b:c"}}, EngineImage("a/b:c", None)),
        ({"engine": {"image": "a/b:c", "version": "0.30.0"}}, EngineImage("a/b:c", "0.30.0")),
        ({"accelerator": {"type": "amd"}}, EngineImage("vllm/vllm-openai-rocm:v0.32.0", "0.32.0")),
        ({"accelerator": {"type": "intel"}}, EngineImage("vllm/vllm-openai-xpu:v0.32.0", "0.32.0")),
        ({"accelerator": {"type": "cpu"}}, EngineImage("vllm/vllm-openai-cpu:v0.32.0", "0.32.0")),
    ],
)
def test_image(spec: dict[str, Any], expected: EngineImage) -> None:
    model = VLLMModelSpec.model_validate({"model": "a/b", **spec})
    assert resolve_image(model, decide_plan(model), BuildSettings()) == expected


def test_a_template_is_no_format_string() -> None:
    model = VLLMModelSpec.model_validate({"model": "a/b"})
    settings = BuildSettings(image_templates={"nvidia": "mirror/{x}/{version.__class__}:{version}"})
    assert resolve_image(model, decide_plan(model), settings).image == "mirror/{x}/{version.__class__}:0.32.0"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0.32.0", (0, 32, 0)), ("0.32.0rc1", (0, 32, 0)), ("1.2.3.post1", (1, 2, 3)), ("0.9.10-cu128", (0, 9, 10))],
)
def test_version(text: str, numbers: tuple[int, int, int]) -> None:
    assert parse_version(text) == numbers


@pytest.mark.parametrize("text", ["", "1", "1.2", "latest", "a.b.c", "1.2.x"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match=r"version|invalid literal"):
        parse_version(text)
