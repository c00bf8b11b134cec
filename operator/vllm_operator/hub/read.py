"""What was found of a model → its facts. Pure; the directory and the hub bring the same things in different ways."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_operator.hub.chat_template import read_tokenizer
from vllm_operator.hub.config import read_config, text_config
from vllm_operator.hub.errors import InvalidModelError, ModelNotFoundError
from vllm_operator.hub.estimate import estimate_weights
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.gguf import config_from_gguf
from vllm_operator.hub.headers import Tensor, choose_files, read_headers
from vllm_operator.hub.params import config_from_params


@dataclass(frozen=True)
class Found:
    """What a place has of a model."""

    where: str
    """For messages: the directory or repository."""
    files: Mapping[str, int | None]
    """Files and their bytes, where known."""
    config: Mapping[str, Any] | None
    params: Mapping[str, Any] | None = None
    tokenizer: Mapping[str, Any] | None = None
    chat_template: str | None = None
    """Of a file of its own."""
    tensors: Sequence[Tensor] = field(default=())
    gguf: Mapping[str, Any] | None = None
    """Metadata of the GGUF file, where there is no config."""
    weights_bytes: int | None = None
    pipeline_tag: str | None = None


def build_facts(found: Found) -> ModelFacts:
    """Facts of a model. Raises ModelNotFoundError when there is no config, InvalidModelError when it makes no sense."""
    config = found.config
    if config is None and found.params is not None:
        config = config_from_params(found.params)
    if config is None and found.gguf is not None:
        config = config_from_gguf(found.gguf)
    if config is None:
        raise ModelNotFoundError(f"{found.where} has neither config.json nor params.json")
    facts = read_config(
        config,
        files=found.files,
        pipeline_tag=found.pipeline_tag,
        tokenizer_max_length=_tokenizer_length(found.tokenizer, config),
    )
    facts = replace(facts, template=_template(found))
    if any(name.endswith(".gguf") for name in found.files):
        facts = replace(
            facts, warnings=(*facts.warnings, "there are GGUF files: vLLM loads only part of what such files can hold")
        )
    if found.weights_bytes is not None:
        weights = estimate_weights(facts, config, text_config(config), total=found.weights_bytes)
        return replace(facts, weights=weights)
    if found.tensors:
        return replace(facts, weights=read_headers(found.tensors, facts))
    sizes = [found.files.get(name) for name in choose_files(found.files)]
    if not sizes:
        # They stay in memory as they are in the file.
        sizes = [found.files.get(name) for name in choose_gguf(found.files)]
        if sizes and None not in sizes:
            total = sum(size or 0 for size in sizes)
            weights = estimate_weights(facts, config, text_config(config), total=total)
            return replace(facts, weights=replace(weights, source="files"))
    known = [size for size in sizes if size is not None]
    if known and len(known) == len(sizes):
        # .bin files cannot be looked into without loading them; a float32 file is cast to half
        total = sum(known)
        if str(config.get("torch_dtype") or config.get("dtype")) == "float32":
            total //= 2
        weights = estimate_weights(facts, config, text_config(config), total=total)
        return replace(facts, weights=replace(weights, source="files"))
    return replace(facts, warnings=(*facts.warnings, "no weights were found: their size is computed from config.json"))


def template_file(files: Iterable[str]) -> str | None:
    """The file that has the chat template, if it stands in one of its own: transformers takes it before any other."""
    names = set(files)
    return next((name for name in ("chat_template.jinja", "chat_template.json") if name in names), None)


def read_template_file(name: str, data: bytes) -> str:
    """The template in such a file. Nothing that is wrong with it is an error: it only says less."""
    text = data.decode(errors="replace")
    if not name.endswith(".json"):
        return text
    try:
        return str(json.loads(text)["chat_template"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def _template(found: Found) -> tuple[str, ...] | None:
    """Markers of the chat template and the tokenizer."""
    in_gguf = (found.gguf or {}).get("tokenizer.chat_template")
    template = in_gguf if found.chat_template is None and isinstance(in_gguf, str) else found.chat_template
    return read_tokenizer(found.files, found.tokenizer, template)


def choose_gguf(files: Iterable[str]) -> list[str]:
    """The GGUF file, or the parts of one. Raises InvalidModelError when there are several: which one is run is not known."""
    found = sorted(name for name in files if name.endswith(".gguf"))
    stems = {re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", name) for name in found}
    if len(stems) > 1:
        raise InvalidModelError(
            f"there are {len(stems)} GGUF models ({', '.join(found[:3])} …): which one is run cannot be told; give modelFacts"
        )
    return found


def facts_by_hand(config: Mapping[str, Any], *, weights_bytes: int | None) -> ModelFacts:
    """Facts of a config.json alone, and the size of the weights where it is known. Raises InvalidModelError."""
    return build_facts(Found(where="spec.modelFacts", files={}, config=config, weights_bytes=weights_bytes))


def _tokenizer_length(tokenizer: Mapping[str, Any] | None, config: Mapping[str, Any]) -> int | None:
    """model_max_length of the tokenizer, which bounds the context (only where vLLM looks at it: sentence encoders)."""
    if tokenizer is None or config.get("model_type") not in ("bert", "roberta", "xlm-roberta"):
        return None
    value = tokenizer.get("model_max_length")
    return int(value) if isinstance(value, int) and 0 < value < 10**9 else None
