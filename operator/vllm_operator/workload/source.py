"""spec.model → what vLLM is given, and the volumes that this needs."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # re-exported without saying so

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import Hub, VLLMModelSpec

_IMAGE = re.compile(r"[a-z0-9][-a-z0-9.]*(:\d+)?(/[a-z0-9][-a-z0-9._]*)+(:\w[-\w.]{0,127})?(@sha256:[0-9a-f]{64})?")

_BUCKET = re.compile(r"[a-z0-9][-._a-z0-9]{1,220}[a-z0-9](/[-A-Za-z0-9._]+)*")

MODELS_DIRECTORY = "/models"
IMAGE_DIRECTORY = "image"
"""Where the image of an oci:// model is mounted, below the models."""
VOLUME = "model"


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, as vLLM sees it."""

    kind: Literal["hub", "path", "pvc", "oci", "bucket"]
    path: str
    """What vLLM is given: a hub id, an absolute path in the container, or the URL of a bucket."""
    revision: str | None = None
    """Branch, tag or commit of a hub repository."""
    claim: str | None = None
    """PersistentVolumeClaim that holds the model."""
    image: str | None = None
    """OCI image that holds the model."""

    def volume(self) -> dict[str, Any] | None:
        """The pod's volume with the model. Read-only where it is mounted, not as a volume: another mount may write."""
        if self.image is not None:
            return {"name": VOLUME, "image": {"reference": self.image, "pullPolicy": "IfNotPresent"}}
        if self.claim is None:
            return None
        return {"name": VOLUME, "persistentVolumeClaim": {"claimName": self.claim}}

    def mount(self, *, volume: str = VOLUME) -> dict[str, Any] | None:
        """The container's mount of that volume."""
        if self.claim is None and self.image is None:
            return None
        return {"name": volume, "mountPath": f"{MODELS_DIRECTORY}/{self.claim or IMAGE_DIRECTORY}", "readOnly": True}


def resolve_source(spec: VLLMModelSpec) -> ModelSource:
    """Where spec.model is. Raises Refusal for what is no model."""
    hub = spec.hub or Hub()
    scheme, separator, rest = spec.model.partition("://")
    if spec.model.startswith("/") or (separator and scheme in ("pvc", "oci", "s3", "gs")):
        if spec.hub is not None:
            raise Refusal(
                Reason.INVALID_SPEC,
                f"spec.hub is only for Hugging Face models, but spec.model is {spec.model!r}: remove one of them",
            )
        if separator and scheme == "pvc":
            return resolve_claim(spec.model, rest)
        if separator and scheme == "oci":
            return _image(spec.model, rest)
        if separator:
            return _bucket(spec.model, scheme, rest)
        return ModelSource("path", spec.model)
    if separator and scheme != "hf":
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.model is {spec.model!r}, and {scheme}:// is no known scheme: use a Hugging Face id, hf://, pvc://, s3://, gs://, "
            "oci:// or a path",
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


def resolve_claim(model: str, rest: str, *, field: str = "spec.model") -> ModelSource:
    """A model in a PersistentVolumeClaim: `claim/path/in/it`. Raises Refusal."""
    claim, _, path = rest.partition("/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not claim or ".." in parts:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"{field} is {model!r}: write pvc://claim/path, with the name of a PersistentVolumeClaim and without ..",
        )
    return ModelSource("pvc", "/".join([f"{MODELS_DIRECTORY}/{claim}", *parts]), claim=claim)


def _image(model: str, rest: str) -> ModelSource:
    """A model in an OCI image: `registry/name:tag`, and `//path/in/it` unless the model is at its root."""
    image, _, path = rest.partition("//")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if _IMAGE.fullmatch(image) is None or ".." in parts:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.model is {model!r}: write oci://registry/name:tag or @sha256:digest, in lower case, and //path/in/it unless the "
            "model is at the image's root",
        )
    return ModelSource("oci", "/".join([f"{MODELS_DIRECTORY}/{IMAGE_DIRECTORY}", *parts]), image=image)


def _bucket(model: str, scheme: str, rest: str) -> ModelSource:
    """A model in a bucket: `s3://bucket/path` or `gs://bucket/path`. vLLM streams it."""
    place = rest.rstrip("/")
    if _BUCKET.fullmatch(place) is None or {".", ".."} & set(place.split("/")):
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.model is {model!r}: write {scheme}://bucket/path, with the bucket in lower case and without .. or //",
        )
    return ModelSource("bucket", f"{scheme}://{place}")
