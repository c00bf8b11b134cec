"""The head of a GGUF file → the config that transformers would have. Pure: bytes in, values out; nothing in it is trusted.

Format: github.com/ggml-org/ggml, docs/gguf.md. Only the metadata is read, which comes first; what the weights take in memory is the
file's size, since vLLM keeps them as they are in the file.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from vllm_operator.hub.errors import InvalidModelError

MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MOST_KEYS, _MOST_ELEMENTS, _LONGEST_STRING = 10_000, 10_000_000, 16 * 1024 * 1024
_LARGEST_HEAD = 64 * 1024 * 1024
_KEPT_ELEMENTS = 2048
"""Elements of an array that are kept, e.g. KV heads by layer; of longer ones (the vocabulary) only the number is."""

_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen2moe": ("Qwen2MoeForCausalLM", "qwen2_moe"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "qwen3moe": ("Qwen3MoeForCausalLM", "qwen3_moe"),
    "gemma2": ("Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "phi3": ("Phi3ForCausalLM", "phi3"),
    "starcoder2": ("Starcoder2ForCausalLM", "starcoder2"),
    "stablelm": ("StableLmForCausalLM", "stablelm"),
}
"""general.architecture → transformers' class and model_type (transformers' integrations/ggml.py has the same names)."""


class TooShortError(Exception):
    """The bytes end before the metadata does: more of the file is needed."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise TooShortError
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        length = int(self.number("<Q"))
        if length > _LONGEST_STRING:
            raise InvalidModelError(f"a GGUF file speaks of a text of {length} bytes: it is damaged")
        return self.take(length).decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise InvalidModelError(f"a GGUF file has a value of the unknown type {kind}")
        inner, count = int(self.number("<I")), int(self.number("<Q"))
        if inner == _ARRAY or count > _MOST_ELEMENTS:
            raise InvalidModelError("a GGUF file has an array that cannot be: it is damaged")
        if inner in _SCALARS and count > _KEPT_ELEMENTS:
            self.take(struct.calcsize(_SCALARS[inner]) * count)
            return count
        kept = [self.value(inner) for _ in range(count)]
        return kept if count <= _KEPT_ELEMENTS else count


def read_metadata(data: bytes) -> dict[str, Any]:
    """Metadata at the beginning of a file; of long arrays only their length. Raises TooShortError and InvalidModelError."""
    reader = _Reader(data)
    if reader.take(4) != MAGIC:
        raise InvalidModelError("a .gguf file does not begin as one")
    version = reader.number("<I")
    if version not in (2, 3):
        raise InvalidModelError(f"a GGUF file is of version {version}; vLLM reads 2 and 3")
    reader.number("<Q")  # tensors
    keys = int(reader.number("<Q"))
    if keys > _MOST_KEYS:
        raise InvalidModelError(f"a GGUF file speaks of {keys} keys: it is damaged")
    result = {}
    for _ in range(keys):
        key = reader.string()
        result[key] = reader.value(int(reader.number("<I")))
    return result


def read_head(read: Callable[[int], bytes]) -> dict[str, Any]:
    """Metadata of a file of which `read` gives the first bytes: as many as it takes, and no more than 64 MiB."""
    size = 1024 * 1024
    while True:
        data = read(size)
        try:
            return read_metadata(data)
        except TooShortError:
            if len(data) < size or size >= _LARGEST_HEAD:
                raise InvalidModelError("a GGUF file breaks off in its metadata") from None
            size *= 8


def config_from_gguf(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json for a GGUF file's metadata. Raises InvalidModelError for what is not known."""
    name = str(metadata.get("general.architecture"))
    if name not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise InvalidModelError(
            f"a GGUF file of the architecture {name!r} cannot be sized; known are {known}: give modelFacts"
        )
    architecture, model_type = _ARCHITECTURES[name]

    def number(key: str) -> int | None:
        value = metadata.get(f"{name}.{key}")
        if isinstance(value, list):
            value = max((each for each in value if isinstance(each, int)), default=None)
        return value if isinstance(value, int) and value >= 0 else None

    vocabulary = metadata.get("tokenizer.ggml.tokens")
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": "float16",
        "num_hidden_layers": number("block_count"),
        "hidden_size": number("embedding_length"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": number("attention.key_length"),
        "intermediate_size": number("feed_forward_length"),
        "max_position_embeddings": number("context_length"),
        "sliding_window": number("attention.sliding_window"),
        "vocab_size": number("vocab_size") or (len(vocabulary) if isinstance(vocabulary, list) else vocabulary),
        "num_experts": number("expert_count"),
        "num_local_experts": number("expert_count"),
        "num_experts_per_tok": number("expert_used_count"),
        "moe_intermediate_size": number("expert_feed_forward_length"),
    }
    if name == "llama" and number("expert_count"):
        config |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    for needed in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        value = config[needed]
        if not isinstance(value, int) or value <= 0:
            raise InvalidModelError(f"a GGUF file does not say its {needed}")
    return {key: value for key, value in config.items() if value is not None}
