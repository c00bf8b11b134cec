"""Facts as text, for a pod's termination message: at most 4,096 bytes, of a pod in somebody else's namespace, so nothing is trusted."""

import base64
import binascii
import json
import zlib

from pydantic import TypeAdapter, ValidationError

from vllm_operator.hub.errors import (
    GatedModelError,
    HubError,
    HubUnavailableError,
    InvalidModelError,
    ModelNotFoundError,
)
from vllm_operator.hub.facts import ModelFacts

VERSION = "1"
LIMIT = 4096
"""Bytes of a termination message that the kubelet keeps."""
_LARGEST = 1024 * 1024
"""Bytes of the text when it is unpacked; the largest known facts have 14 kB."""
_MOST_LAYERS = 2048
_ADAPTER = TypeAdapter(ModelFacts)
_ERRORS: dict[str, type[HubError]] = {
    kind.__name__: kind for kind in (GatedModelError, ModelNotFoundError, InvalidModelError, HubUnavailableError)
}


def encode_facts(facts: ModelFacts) -> str:
    """Facts as one line. Raises InvalidModelError when they are too many to be told."""
    packed = zlib.compress(_ADAPTER.dump_json(facts, exclude_defaults=True), 9)
    text = json.dumps({"version": VERSION, "facts": base64.b64encode(packed).decode()})
    if len(text) > LIMIT:
        raise InvalidModelError(f"what the model is takes {len(text)} bytes, of {LIMIT}; give spec.modelFacts by hand")
    return text


def encode_error(error: HubError) -> str:
    """An error as one line, cut to the limit."""
    return json.dumps({"version": VERSION, "error": type(error).__name__, "message": str(error)[: LIMIT // 2]})


def decode(text: str) -> ModelFacts:
    """What `encode_facts` was given. Raises the error that `encode_error` was given, or InvalidModelError for anything else."""
    try:
        document = json.loads(text[:LIMIT])
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise InvalidModelError("the inspect Job is of another version of the operator")
        if "error" in document:
            kind = _ERRORS.get(str(document["error"]), InvalidModelError)
            raise kind(str(document.get("message"))[: LIMIT // 2])
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(str(document["facts"]), validate=True), _LARGEST)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise InvalidModelError("the inspect Job says too much, or breaks off")
        facts = _ADAPTER.validate_json(data)
    except (ValueError, KeyError, RecursionError, binascii.Error, zlib.error, ValidationError) as error:
        raise InvalidModelError(f"the inspect Job says nothing sensible: {type(error).__name__}") from error
    if not (1 <= facts.num_layers <= _MOST_LAYERS and len(facts.caches) <= _MOST_LAYERS) or facts.weights.total < 0:
        raise InvalidModelError("the inspect Job tells of a model that cannot be")
    return facts
