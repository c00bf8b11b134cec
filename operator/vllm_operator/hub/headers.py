"""Headers of safetensors files → weights by part. Pure: bytes in, values out.

Format: 8 bytes, little endian, the header's length; then the header, JSON: name → dtype, shape, data_offsets.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_operator.hub.errors import InvalidModelError
from vllm_operator.hub.facts import LayerWeights, ModelFacts, Weights

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000
"""Bytes; safetensors itself reads no larger header."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    """Bytes in the file."""


def header_length(data: bytes) -> int:
    """Length of the header in bytes, from the first 8 bytes of a file."""
    if len(data) < LENGTH_BYTES:
        raise InvalidModelError("a safetensors file is shorter than 8 bytes")
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if not 2 <= length <= LARGEST_HEADER:
        raise InvalidModelError(
            f"a safetensors file speaks of a header of {length} bytes: it is no safetensors file, or damaged"
        )
    return length


def parse_header(data: bytes) -> list[Tensor]:
    """Tensors of a file, from its header without the 8 bytes before it."""
    try:
        header = json.loads(data)
    except ValueError as error:
        raise InvalidModelError(f"the header of a safetensors file is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise InvalidModelError("the header of a safetensors file is no object")
    result = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, end = entry["data_offsets"]
            result.append(
                Tensor(name, str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), int(end) - int(begin))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(f"the header of a safetensors file has no valid entry for {name[:80]!r}") from error
    return result


def choose_files(names: Iterable[str]) -> list[str]:
    """The weight files that vLLM loads: safetensors before .bin, and never the same weights twice.

    Mistral's repositories hold the weights both as model-*.safetensors and as consolidated.safetensors; many older ones both
    as safetensors and as pytorch_model.bin (vLLM: filter_duplicate_safetensors_files, filter_files_not_needed_for_inference).
    """
    at_top = [name for name in names if "/" not in name]
    safetensors = sorted(name for name in at_top if name.endswith(".safetensors"))
    plain = [name for name in safetensors if not name.startswith("consolidated")]
    models = [name for name in plain if re.match(r"(model|pytorch_model|diffusion_pytorch_model)[-.]", name)]
    if models or plain or safetensors:
        return models or plain or safetensors
    return sorted(name for name in at_top if re.fullmatch(r"(pytorch_)?model(-\d+-of-\d+)?\.(bin|pt)", name))


_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)\.")
_TOWER = re.compile(
    r"(?:^|\.)(vision_tower|vision_model|vision_encoder|visual|vit|vpm|image_newline|multi_modal_projector|mm_projector|"
    r"vision_language_adapter|audio_tower|audio_model|audio_encoder|speech_encoder|embed_audio|embed_vision|resampler|"
    r"patch_merger|mm_vision|aligner|sound_encoder|mlp1)[._]?"
)
_DRAFT = re.compile(r"(?:^|\.)(mtp|nextn|eagle|medusa)[._]")
_EMBEDDING = re.compile(
    r"(?:^|\.)(embed_tokens|word_embeddings|wte|tok_embeddings|embedding|embeddings|embed_in)\.weight$"
)
_HEAD = re.compile(r"(?:^|\.)(lm_head|embed_out|output)\.(weight|bias|qweight|scales|qzeros|weight_scale\w*)$")
_KV = re.compile(r"\.(k_proj|v_proj|key|value|wk|wv)\.")
_FUSED_QKV = re.compile(r"\.(qkv_proj|query_key_value|Wqkv|c_attn|qkv|attn_qkv|W_pack)\.")
_EXPERTS = re.compile(r"\.experts\.|\.mlp\.experts|\.block_sparse_moe\.experts")
_REPLICATED = re.compile(
    r"\.(q_a_proj|kv_a_proj_with_mqa|fused_qkv_a_proj_with_mqa|gate|router|shared_expert_gate|indexer)\.|norm|\.ln_"
)
_SCALE = re.compile(r"scale|zeros|zero_point|g_idx|perm")


def read_headers(tensors: Iterable[Tensor], facts: ModelFacts) -> Weights:
    """Weights by part, of the tensors in all files of a model. `facts`: from the config, without weights."""
    parts: dict[int, dict[str, int]] = defaultdict(lambda: {"sharded": 0, "kv": 0, "replicated": 0, "experts": 0})
    by_dtype: dict[str, int] = defaultdict(int)
    embedding = head = other = towers = 0
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        by_dtype[tensor.dtype] += tensor.size
        size = _loaded_size(tensor, facts)
        name = tensor.name
        if _DRAFT.search(name):
            continue
        if _TOWER.search(name) or (facts.model_type == "whisper" and ".encoder." in f".{name}"):
            towers += size
            continue
        found = _LAYER.search(name)
        if found is not None:
            index = int(found.group(1))
            if index >= facts.num_layers:
                continue  # a draft layer for speculative decoding, which vLLM loads only when asked to
            _add(parts[index], tensor, size, facts)
        elif _HEAD.search(name):
            head += 0 if facts.tied_embeddings else size
        elif _EMBEDDING.search(name) and len(tensor.shape) == 2 and tensor.shape[0] >= facts.vocab_size > 0:
            embedding += size
        else:
            other += size
    layers = tuple(LayerWeights(**parts[index]) for index in range(facts.num_layers))
    return Weights(layers, embedding, head, other, towers, tuple(sorted(by_dtype.items())), "headers")


def _loaded_size(tensor: Tensor, facts: ModelFacts) -> int:
    """Bytes on the GPU: float32 weights are cast to the model's data type, scales and packed integers are not."""
    if tensor.dtype == "F32" and facts.dtype_bytes == 2 and not _SCALE.search(tensor.name):
        return tensor.size // 2
    return tensor.size


def _add(part: dict[str, int], tensor: Tensor, size: int, facts: ModelFacts) -> None:
    name = tensor.name
    if _EXPERTS.search(name):
        part["experts"] += size
    elif len(tensor.shape) <= 1 or _REPLICATED.search(name):
        part["replicated"] += size
    elif facts.mla is None and _KV.search(name):
        part["kv"] += size
    elif _FUSED_QKV.search(name) and facts.attention_heads:
        kv = size * 2 * facts.kv_heads // (facts.attention_heads + 2 * facts.kv_heads)
        part["kv"] += kv
        part["sharded"] += size - kv
    else:
        part["sharded"] += size


def read_index(index: Mapping[str, Any]) -> tuple[list[str], int | None]:
    """Files of model.safetensors.index.json (or pytorch_model.bin.index.json), and the total in bytes if it says so."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise InvalidModelError("the index of the weights has no weight_map")
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    return sorted({str(name) for name in weight_map.values()}), int(total) if isinstance(total, int | float) else None
