"""GGUF files: the head is read, and nothing in it is trusted."""

import json
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hub.server import serving
from vllm_operator.hub.directory import read_directory
from vllm_operator.hub.errors import InvalidModelError
from vllm_operator.hub.gguf import TooShortError, config_from_gguf, read_metadata
from vllm_operator.hub.hugging_face import HuggingFaceHub

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Llama 3.1 8B",
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.feed_forward_length": 14336,
    "llama.context_length": 131072,
    "llama.rope.freq_base": 500000.0,
    "tokenizer.ggml.tokens": [f"token {number}" for number in range(5000)],
    "tokenizer.ggml.scores": [0.0] * 5000,
    "general.quantized": True,
}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text(value)
    inner = typed(value[0])[:4]
    return struct.pack("<I", 9) + inner + struct.pack("<Q", len(value)) + b"".join(typed(each)[4:] for each in value)


def gguf(metadata: dict[str, Any], *, version: int = 3, body: int = 0) -> bytes:
    """A GGUF file without tensors' infos, and so many bytes of weights."""
    pairs = b"".join(text(key) + typed(value) for key, value in metadata.items())
    return b"GGUF" + struct.pack("<IQQ", version, 1, len(metadata)) + pairs + b"\0" * body


def test_metadata() -> None:
    found = read_metadata(gguf(LLAMA, body=100))
    assert found["llama.block_count"] == 32
    assert found["general.quantized"] is True
    assert found["llama.rope.freq_base"] == 500000.0
    assert found["tokenizer.ggml.tokens"] == 5000, "of a long array only its length is kept"


def test_config() -> None:
    config = config_from_gguf(read_metadata(gguf(LLAMA)))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (32, 4096, 5000)
    assert (config["num_key_value_heads"], config["max_position_embeddings"]) == (8, 131072)
    by_layer = {**LLAMA, "llama.attention.head_count_kv": [8, 4, 8]}
    assert config_from_gguf(read_metadata(gguf(by_layer)))["num_key_value_heads"] == 8
    moe = {**LLAMA, "llama.expert_count": 8, "llama.expert_used_count": 2}
    assert config_from_gguf(read_metadata(gguf(moe)))["architectures"] == ["MixtralForCausalLM"]


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(gguf(LLAMA, body=3_000_000))
    facts = read_directory(tmp_path)
    assert (facts.architecture, facts.num_layers, facts.kv_heads, facts.head_size) == ("LlamaForCausalLM", 32, 8, 128)
    assert facts.weights.total == (tmp_path / "model-Q4_K_M.gguf").stat().st_size
    assert any("GGUF" in warning for warning in facts.warnings)


def test_parts_of_one_model_are_added_up(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(gguf(LLAMA, body=1_000_000))
    assert read_directory(tmp_path).weights.total > 2_000_000
    (tmp_path / "m-Q8_0.gguf").write_bytes(gguf(LLAMA))
    with pytest.raises(InvalidModelError, match="2 GGUF models"):
        read_directory(tmp_path)


def test_a_config_beside_it_is_believed_and_the_size_is_the_files(tmp_path: Path) -> None:
    config = config_from_gguf(read_metadata(gguf(LLAMA)))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "m.gguf").write_bytes(gguf(LLAMA, body=2_000_000))
    assert read_directory(tmp_path).weights.total == (tmp_path / "m.gguf").stat().st_size


def test_the_hub() -> None:
    large = {**LLAMA, "tokenizer.ggml.tokens": ["x" * 500] * 5000}  # more than the first read
    with serving() as server, httpx.Client(trust_env=False, follow_redirects=True) as client:
        server.repositories["org/gguf"] = {"model.gguf": gguf(large, body=20_000_000)}
        facts = HuggingFaceHub(client, endpoint=server.url).read("org/gguf").facts
        assert facts.architecture == "LlamaForCausalLM"
        assert facts.weights.total > 20_000_000
        assert server.sent < 15_000_000, "the weights are not read"


@pytest.mark.parametrize(
    "data",
    [
        b"GGML" + b"\0" * 100,
        gguf(LLAMA, version=1),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1),
    ],
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(InvalidModelError):
        read_metadata(data)


@pytest.mark.parametrize(
    "change", [{"general.architecture": "clip"}, {"llama.block_count": 0}, {"tokenizer.ggml.tokens": 1.5}]
)
def test_what_cannot_be_sized(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelError):
        config_from_gguf(read_metadata(gguf({**LLAMA, **change})))


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(LLAMA)[:1000])
    with pytest.raises(InvalidModelError, match="breaks off"):
        read_directory(tmp_path)


def test_random_bytes_are_an_error_and_no_crash() -> None:
    random_bytes = random.Random(4)
    good = gguf({**LLAMA, "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.scores": [0.5]})
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(random_bytes.randint(1, 8)):
            data[random_bytes.randrange(len(data))] = random_bytes.randrange(256)
        with suppress(InvalidModelError, TooShortError):
            config_from_gguf(read_metadata(bytes(data)))
