"""The command of the operator's image."""

from pathlib import Path

import pytest

from tests.hub.files import QWEN3, qwen3_tensors, safetensors, write_model
from vllm_operator.app.main import main
from vllm_operator.hub.errors import InvalidModelError, ModelNotFoundError
from vllm_operator.hub.wire import decode


def test_inspect_says_what_the_model_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = tmp_path / "model", tmp_path / "log"
    write_model(model, QWEN3, model__safetensors=safetensors(qwen3_tensors()))
    assert main(["inspect", str(model), "--output", str(output)]) == 0
    facts = decode(output.read_text())
    assert (facts.architecture, facts.num_layers, facts.weights.source) == ("Qwen3ForCausalLM", 2, "headers")
    assert "Qwen3ForCausalLM: 2 layers" in capsys.readouterr().out


def test_inspect_says_why_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "log"
    assert main(["inspect", str(tmp_path / "none"), "--output", str(output)]) == 1
    with pytest.raises(ModelNotFoundError, match="there is no directory"):
        decode(output.read_text())
    (tmp_path / "config.json").write_text("{")
    assert main(["inspect", str(tmp_path), "--output", str(output)]) == 1
    with pytest.raises(InvalidModelError):
        decode(output.read_text())
    assert "no JSON" in capsys.readouterr().err
