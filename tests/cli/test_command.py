"""`kubectl-vllm command`, as a user calls it, with a kubectl that says what a cluster would."""

import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.programs import install_kubectl
from vllm_operator.api.names import Key
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.cli.main import main
from vllm_operator.sizing.plan import decide_plan
from vllm_operator.workload.pods import build_pod_template
from vllm_operator.workload.settings import BuildSettings


def model(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vllm-operator.io/v1alpha1",
        "kind": "VLLMModel",
        "metadata": {"name": "qwen", "namespace": "ml", "generation": 2},
        "spec": {"model": "Qwen/Qwen3-8B", **spec},
    }


def write(folder: Path, document: Any) -> str:
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(document))
    return str(file)


def test_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = {
        "engine": {
            "maxModelLen": "32k",
            "version": "0.32.0",
            "args": {"response-role": "it's $(x) $$ ;"},
            "toolCallParser": "none",
            "reasoningParser": "none",
        },
        "parallelism": {"tensor": 2},
    }
    file = write(tmp_path, model(**spec))
    assert main(["command", "-f", file]) == 0
    printed = capsys.readouterr()
    expected = [
        *("vllm", "serve", "Qwen/Qwen3-8B", "--host", "0.0.0.0", "--port", "8000", "--served-model-name", "qwen"),
        *("--tensor-parallel-size", "2", "--max-model-len", "32k", "--shutdown-timeout", "100"),
        *("--response-role", "it's $(x) $$ ;"),
    ]
    assert shlex.split(printed.out) == expected
    assert printed.out.count("\n") == 1
    assert printed.err == ""
    assert main(["command", "-f", file, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_what_is_assumed_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"kind": "List", "items": [{"kind": "Secret"}, model()]})))
    assert main(["command", "-f", "-"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "note: the operator chooses the number of GPUs by the model and the nodes: parallelism.tensor is taken for 1",
        "note: the operator may add --max-model-len, if the model's own maximum does not fit",
        "note: spec.engine.version is not set: the operator's own is taken for vLLM 0.32.0",
        "note: the operator may add parsers and options by what the model's files say: status.engine shows them",
    ]


def test_there_and_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = model(
        engine={"version": "0.32.0", "maxModelLen": 4096, "args": {"enable-log-outputs": True}},
        parallelism={"tensor": 2},
    )
    assert main(["command", "-f", write(tmp_path, made)]) == 0
    line = capsys.readouterr().out
    assert main(["import", line, "--vllm-version", "0.32.0", "-n", "ml", "-o", "json"]) == 0
    back = json.loads(capsys.readouterr().out)
    del made["metadata"]["generation"]
    assert back == made


def test_adapters_are_made_ready_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = model(adapters=[{"name": "a", "source": "a/b", "rank": 20}, {"name": "b", "source": "a/c"}])
    assert main(["command", "-f", write(tmp_path, document), "-o", "json"]) == 0
    printed = capsys.readouterr()
    words = json.loads(printed.out)
    assert "--enable-lora" in words
    assert words[words.index("--max-lora-rank") + 1] == "32"
    assert "adapters' ranks" in printed.err


@pytest.mark.parametrize(
    ("document", "code", "part"),
    [
        (
            model(engine={"version": "0.32.0", "args": {"enable-prefix-cachng": True}}),
            1,
            "did you mean enable-prefix-caching?",
        ),
        (model(adapters=[{"name": "model", "source": "a/b"}], servedModelNames=["model"]), 1, "spec.adapters"),
        (model(autoscaling={"maxReplicas": 2}), 1, "spec.autoscaling"),
        (model(external={"url": "https://x"}), 1, "external"),
        (model(podTemplate={"spec": {"containers": [{"name": "vllm", "command": None}]}}), 1, "no command"),
        (model(engine={"seed": -1}), 2, "spec.engine.seed"),
        ({"kind": "Secret"}, 2, "has 0 objects of kind VLLMModel"),
    ],
)
def test_what_runs_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, document: Any, code: int, part: str
) -> None:
    assert main(["command", "-f", write(tmp_path, document)]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert part in printed.err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["command"]) == 2
    assert main(["command", "x", "-f", "y"]) == 2
    assert main(["command", "-f", "/nowhere"]) == 2


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What kubectl says: files `model` and `revision` (absent: it fails)."""
    answers = {
        '"get vllmmodels.vllm-operator.io -n ml -o json -- qwen"': "model",
        '"get vllmmodels.vllm-operator.io -o json -- qwen"': "model",
        '"get controllerrevisions.apps -n ml -o json -- qwen-1"': "revision",
    }
    install_kubectl(tmp_path, monkeypatch, answers)
    spec = VLLMModelSpec.model_validate({"model": "old/model", "engine": {"args": {"response-role": "$(x) $$"}}})
    template = build_pod_template(Key("ml", "qwen"), spec, plan=decide_plan(spec), settings=BuildSettings())
    (tmp_path / "revision").write_text(json.dumps({"data": {"deployment": {"spec": {"template": template}}}}))
    status = {"revision": "qwen-1", "observedGeneration": 2}
    (tmp_path / "model").write_text(json.dumps({**model(), "status": status}))
    return tmp_path


def test_the_cluster(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["qwen", "-n", "ml"], ["qwen"]):
        assert main(["command", *arguments]) == 0
        printed = capsys.readouterr()
        words = shlex.split(printed.out)
        assert words[:3] == ["vllm", "serve", "old/model"]
        assert words[-2:] == ["--response-role", "$(x) $$"]
        assert printed.err == ""


def test_an_edit_that_was_not_looked_at(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kubectl / "model").write_text(json.dumps({**model(), "status": {"revision": "qwen-1", "observedGeneration": 1}}))
    assert main(["command", "qwen"]) == 0
    assert "has not been looked at yet" in capsys.readouterr().err


def test_no_revision(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    condition = {"type": "Accepted", "status": "False", "reason": "InvalidEngineArgs", "message": "no such option"}
    (kubectl / "model").write_text(json.dumps({**model(), "status": {"conditions": [condition]}}))
    assert main(["command", "qwen"]) == 1
    assert "qwen has no revision yet: InvalidEngineArgs: no such option" in capsys.readouterr().err


def test_no_answer(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["command", "other"]) == 2
    assert "unexpected" in capsys.readouterr().err
    (kubectl / "revision").write_text("{}")
    assert main(["command", "qwen"]) == 2
    (kubectl / "revision").unlink()
    assert main(["command", "qwen"]) == 2
