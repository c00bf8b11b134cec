"""Which image runs a model, and which vLLM version is in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vllm_operator.api.types import Engine, VLLMModelSpec
from vllm_operator.sizing.plan import AcceleratorKind, Plan


class ImageSettings(Protocol):
    """What resolve_image needs to know of the operator's settings."""

    @property
    def vllm_version(self) -> str:
        """Version of vLLM for models that name none."""
        ...

    @property
    def image_templates(self) -> Mapping[AcceleratorKind, str]:
        """Image for each kind of accelerator; {version} is replaced."""
        ...


@dataclass(frozen=True)
class EngineImage:
    """An image, and its vLLM version when that is known."""

    image: str
    version: str | None


def resolve_image(spec: VLLMModelSpec, plan: Plan, settings: ImageSettings) -> EngineImage:
    """The image for a spec: its own, else the stock one for the accelerator.

    The version of a custom image is what spec.engine.version says, else unknown: a tag is only a name.
    """
    engine = spec.engine or Engine()
    if engine.image is not None:
        return EngineImage(engine.image, engine.version)
    version = engine.version or settings.vllm_version
    # not str.format: a template may come from a user's Helm values, and braces there must not be code
    return EngineImage(settings.image_templates[plan.accelerator].replace("{version}", version), version)


def parse_version(text: str) -> tuple[int, int, int]:
    """Release numbers of a version, e.g. `0.32.0rc1` → (0, 32, 0). Raises ValueError for anything else."""
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise ValueError(f"not a version: {text!r} (write e.g. 0.32.0)")
    patch = ""
    for character in parts[2]:
        if not character.isdecimal():
            break
        patch += character
    return int(parts[0]), int(parts[1]), int(patch)
