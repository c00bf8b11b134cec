"""spec.model → what vLLM is given, and the volumes that this needs."""

from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # re-exported without saying so

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import Hub, VLLMModelSpec

MODELS_DIRECTORY = "/models"
VOLUME = "model"


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, as vLLM sees it."""

    kind: Literal["hub", "path", "pvc"]
    path: str
    """What vLLM is given: a hub id, or an absolute path in the container."""
    revision: str | None = None
    """Branch, tag or commit of a hub repository."""
    claim: str | None = None
    """PersistentVolumeClaim that holds the model."""

    def volume(self) -> dict[str, Any] | None:
        """The pod's volume with the model. Read-only where it is mounted, not as a volume: another mount may write."""
        if self.claim is None:
            return None
        return {"name": VOLUME, "persistentVolumeClaim": {"claimName": self.claim}}

    def mount(self, *, volume: str = VOLUME) -> dict[str, Any] | None:
        """The container's mount of that volume."""
        if self.claim is None:
            return None
        return {"name": volume, "mountPath": f"{MODELS_DIRECTORY}/{self.claim}", "readOnly": True}


def resolve_source(spec: VLLMModelSpec) -> ModelSource:
    """Where spec.model is. Raises Refusal for what is no model, and for stores that are not implemented."""
    hub = spec.hub or Hub()
    scheme, separator, rest = spec.model.partition("://")
    if separator and scheme in ("s3", "gs", "oci"):
        raise Refusal(
            Reason.NOT_IMPLEMENTED,
            f"spec.model is {spec.model!r}: models from {scheme}:// are not implemented yet; use a Hugging Face id, pvc:// or a path",
        )
    if spec.model.startswith("/") or (separator and scheme == "pvc"):
        if spec.hub is not None:
            raise Refusal(
                Reason.INVALID_SPEC,
                f"spec.hub is only for Hugging Face models, but spec.model is {spec.model!r}: remove one of them",
            )
        if separator and scheme == "pvc":
            return _claim(spec.model, rest)
        return ModelSource("path", spec.model)
    if separator and scheme != "hf":
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.model is {spec.model!r}, and {scheme}:// is no known scheme: use a Hugging Face id, hf://, pvc:// or a path",
        )
    repository, at, revision = (rest if separator else spec.model).partition("@")
    if at and hub.revision is not None:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"the revision is given twice: {revision!r} in spec.model and {hub.revision!r} in spec.hub.revision; remove one",
        )
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.model is {spec.model!r}, which is no Hugging Face id: {' '.join(str(error).split())}",
        ) from error
    return ModelSource("hub", repository, revision=(revision if at else hub.revision) or None)


def _claim(model: str, rest: str) -> ModelSource:
    """A model in a PersistentVolumeClaim: `claim/path/in/it`."""
    claim, _, path = rest.partition("/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not claim or ".." in parts:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.model is {model!r}: write pvc://claim/path, with the name of a PersistentVolumeClaim and without ..",
        )
    return ModelSource("pvc", "/".join([f"{MODELS_DIRECTORY}/{claim}", *parts]), claim=claim)
