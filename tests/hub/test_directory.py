"""Facts of a model in a directory."""

import json
from pathlib import Path

import pytest

from tests.hub.files import QWEN3, qwen3_tensors, safetensors, write_model
from vllm_operator.hub.directory import read_directory
from vllm_operator.hub.errors import InvalidModelError, ModelNotFoundError
from vllm_operator.hub.facts import LayerCache, LayerWeights


def test_headers_give_the_bytes_of_each_part(tmp_path: Path) -> None:
    facts = read_directory(write_model(tmp_path, model__safetensors=safetensors(qwen3_tensors())))
    layer = LayerWeights(sharded=2 * (2 * 64 * 64 + 3 * 64 * 128), kv=2 * 2 * 32 * 64, replicated=256, experts=0)
    assert facts.weights.layers == (layer, layer)
    assert (facts.weights.embedding, facts.weights.head, facts.weights.other) == (32768, 32768, 128)
    assert facts.weights.by_dtype == (("BF16", facts.weights.total),)
    assert facts.weights.source == "headers"
    assert facts.caches == ((LayerCache("full", 2, 16, 16),),) * 2


def test_weights_are_never_read(tmp_path: Path) -> None:
    # only the header is there: a read of the tensors would fail
    facts = read_directory(write_model(tmp_path, model__safetensors=safetensors(qwen3_tensors(), body=False)))
    assert facts.weights.source == "headers"


def test_estimate_is_close_to_the_headers(tmp_path: Path) -> None:
    real = read_directory(write_model(tmp_path / "a", model__safetensors=safetensors(qwen3_tensors()))).weights
    guess = read_directory(write_model(tmp_path / "b")).weights
    assert guess.source == "estimate"
    assert guess.total == pytest.approx(real.total, rel=0.001)
    assert guess.layers[0].kv == real.layers[0].kv


def test_given_total_is_kept_to_the_byte(tmp_path: Path) -> None:
    facts = read_directory(write_model(tmp_path), weights_bytes=1_234_567)
    assert facts.weights.total == 1_234_567
    assert facts.weights.source == "given"


def test_bin_and_safetensors_count_once(tmp_path: Path) -> None:
    one = read_directory(write_model(tmp_path / "a", model__safetensors=safetensors(qwen3_tensors())))
    two = read_directory(
        write_model(
            tmp_path / "b", model__safetensors=safetensors(qwen3_tensors()), pytorch_model__bin=b"x" * 10_000_000
        )
    )
    assert one.weights == two.weights


def test_consolidated_counts_once(tmp_path: Path) -> None:
    whole = safetensors(qwen3_tensors())
    facts = read_directory(write_model(tmp_path, model__safetensors=whole, consolidated__safetensors=whole))
    assert facts.weights.embedding == 32768


def test_index_names_the_shards(tmp_path: Path) -> None:
    a = {key: value for key, value in qwen3_tensors().items() if ".0." in key}
    b = {key: value for key, value in qwen3_tensors().items() if ".0." not in key}
    write_model(tmp_path, extra__safetensors=safetensors(qwen3_tensors()))
    for name, part in (("model-00001-of-00002.safetensors", a), ("model-00002-of-00002.safetensors", b)):
        (tmp_path / name).write_bytes(safetensors(part))
    weight_map = {name: f"model-0000{1 if name in a else 2}-of-00002.safetensors" for name in qwen3_tensors()}
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )
    reference = write_model(tmp_path / "ref", model__safetensors=safetensors(qwen3_tensors()))
    assert read_directory(tmp_path).weights == read_directory(reference).weights


def test_tied_head_is_not_counted(tmp_path: Path) -> None:
    facts = read_directory(
        write_model(tmp_path, {**QWEN3, "tie_word_embeddings": True}, model__safetensors=safetensors(qwen3_tensors()))
    )
    assert facts.weights.head == 0


def test_float32_is_cast_down(tmp_path: Path) -> None:
    wide = write_model(
        tmp_path / "a", {**QWEN3, "torch_dtype": "float32"}, model__safetensors=safetensors(qwen3_tensors(dtype="F32"))
    )
    narrow = write_model(tmp_path / "b", model__safetensors=safetensors(qwen3_tensors()))
    assert read_directory(wide).weights.total == read_directory(narrow).weights.total
    assert read_directory(wide).weights.by_dtype[0][0] == "F32"


def test_bin_files_count_by_their_size(tmp_path: Path) -> None:
    facts = read_directory(write_model(tmp_path, pytorch_model__bin=b"x" * 200_000))
    assert (facts.weights.total, facts.weights.source) == (200_000, "files")


def test_mistral_format(tmp_path: Path) -> None:
    params = {
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 16,
        "hidden_dim": 128,
        "vocab_size": 256,
    }
    (tmp_path / "params.json").write_text(json.dumps(params))
    facts = read_directory(tmp_path)
    assert (facts.architecture, facts.num_layers, facts.kv_heads, facts.intermediate_size) == (
        "MistralForCausalLM",
        2,
        2,
        128,
    )


@pytest.mark.parametrize(
    ("name", "content", "error", "part"),
    [
        ("x", b"", ModelNotFoundError, "neither config.json nor params.json"),
        ("model.gguf", b"", InvalidModelError, "GGUF"),
        ("config.json", b"{", InvalidModelError, "no JSON"),
        ("config.json", b"[]", InvalidModelError, "no JSON object"),
        ("config.json", b"{}", InvalidModelError, "architectures"),
        ("config.json", b'{"architectures": ["A"]}', InvalidModelError, "hidden_size"),
    ],
)
def test_what_is_no_model(tmp_path: Path, name: str, content: bytes, error: type[Exception], part: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=part):
        read_directory(tmp_path)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no directory"):
        read_directory(tmp_path / "x")


@pytest.mark.parametrize("content", [b"abc", b"\xff" * 20, b"\x05" + b"\0" * 7 + b"xxxxx", b"\x02" + b"\0" * 7 + b"[]"])
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidModelError):
        read_directory(write_model(tmp_path, model__safetensors=content))
