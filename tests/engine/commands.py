"""Building a command from a spec as a user writes it."""

from collections.abc import Mapping
from typing import Any

from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.engine.command import build_command
from vllm_operator.hub.facts import Traits
from vllm_operator.sizing.plan import decide_plan

HEAD = ["vllm", "serve", "Qwen/Qwen3-8B", "--host", "0.0.0.0", "--port", "8000", "--served-model-name", "qwen"]


def command(
    spec: Mapping[str, Any],
    *,
    model_path: str = "Qwen/Qwen3-8B",
    version: str | None = None,
    revision: str | None = None,
    traits: Traits | None = None,
) -> list[str]:
    """The whole vector for a spec, without a model's source, which belongs to another room."""
    model = VLLMModelSpec.model_validate({"model": "Qwen/Qwen3-8B", **spec})
    return build_command(
        model,
        model_path=model_path,
        served_model_names=["qwen"],
        plan=decide_plan(model),
        version=version,
        revision=revision,
        traits=traits,
    )


def options(engine: Mapping[str, Any], *, version: str | None = None) -> list[str]:
    """What comes after the words that every command has."""
    words = command({"engine": engine}, version=version)
    assert words[: len(HEAD)] == HEAD
    return words[len(HEAD) :]
