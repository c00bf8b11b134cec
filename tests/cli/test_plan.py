"""`kubectl-vllm plan`, as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hub.files import qwen3_tensors, safetensors, write_model
from tests.sizing.published import configs
from vllm_operator.cli.main import main


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configs()["Qwen/Qwen3-32B"]))
    return str(folder)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main(["plan", *arguments, "-o", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_json(capsys: pytest.CaptureFixture[str], model: str) -> None:
    code, answer = plan(
        capsys, "--model-dir", model, "--weights-gib", "61.02", "--gpu", "H100:79.18:8:2", "--gpu", "L4:22:4"
    )
    assert code == 0
    assert answer["fits"] is True
    assert (answer["tensor_parallel_size"], answer["pipeline_parallel_size"], answer["nodes"]) == (2, 1, 1)
    assert (answer["max_model_len"], answer["gpu"]) == (40960, "H100")
    assert set(answer["memory"]) >= {
        "weights_gib",
        "activation_gib",
        "non_torch_gib",
        "cuda_graph_gib",
        "kv_cache_gib",
        "kv_bytes_per_token",
    }
    assert answer["memory"]["weights_gib"] == pytest.approx(30.5, abs=0.1)
    assert answer["memory"]["kv_bytes_per_token"] == 131072
    assert answer["reasons"]
    assert isinstance(answer["alternatives"], list)


def test_does_not_fit(capsys: pytest.CaptureFixture[str], model: str) -> None:
    code, answer = plan(capsys, "--model-dir", model, "--gpu", "H100:79.18:1", "--max-model-len", "32000")
    assert code == 1
    assert (answer["fits"], answer["reason"]) == (False, "DoesNotFit")
    assert answer["tensor_parallel_size"] is None
    assert answer["closest"]["max_model_len"] < 32000
    assert "maxModelLen ≤" in answer["reasons"][0]


def test_measured_row(capsys: pytest.CaptureFixture[str], model: str) -> None:
    version = ["--gpu-memory-utilization", "0.9", "--vllm-version", "0.11.0"]
    code, answer = plan(capsys, "--model-dir", model, "--gpu", "H100:79.18:1", "--max-model-len", "16000", *version)
    assert code == 0
    assert answer["memory"]["kv_cache_gib"] == pytest.approx(4.45, abs=0.4)


def test_table(capsys: pytest.CaptureFixture[str], model: str) -> None:
    assert main(["plan", "--model-dir", model, "--gpu", "H100:79.18:8", "--gpu", "H200:139.7:8"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[:4] == ["GPU", "GPUS", "NODES", "TENSOR"]
    assert "→  H200" in printed
    assert "- context 40,960 tokens, the model's maximum" in printed


def test_weights_from_headers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_model(tmp_path, model__safetensors=safetensors(qwen3_tensors(), body=False))
    code, answer = plan(capsys, "--model-dir", str(folder), "--gpu", "T4:14.5:1", "--tensor", "1")
    assert (code, answer["model"]["weights_from"]) == (0, "headers")
    assert plan(capsys, str(folder), "--gpu", "T4:14.5:1")[1]["max_model_len"] == 2048


def test_file(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    spec = {
        "model": "Qwen/Qwen3-32B",
        "parallelism": {"tensor": 4},
        "engine": {"maxModelLen": "16k", "gpuMemoryUtilization": 0.8, "version": "0.21.0", "maxNumSeqs": 64},
    }
    document = {"apiVersion": "vllm-operator.io/v1alpha1", "kind": "VLLMModel", "metadata": {"name": "m"}, "spec": spec}
    file.write_text("---\nkind: Secret\n---\n" + yaml.safe_dump(document))
    code, answer = plan(capsys, "-f", str(file), "--model-dir", model, "--gpu", "H100:80:8")
    assert (code, answer["tensor_parallel_size"], answer["max_model_len"]) == (0, 4, 16000)
    assert answer["memory"]["budget_gib"] == 64.0
    code, answer = plan(capsys, "-f", str(file), "--model-dir", model, "--gpu", "H100:80:8", "--tensor", "2")
    assert answer["tensor_parallel_size"] == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--gpu", "H100:80:8"], "name a model"),
        (["--model-dir", "MODEL"], "name the GPUs"),
        (["--model-dir", "MODEL", "--gpu", "H100"], "NAME:MEMORY_GIB:GPUS_PER_NODE"),
        (["--model-dir", "MODEL", "--gpu", "H100:x:1"], "a number of GiB"),
        (["--model-dir", "MODEL", "--gpu", "H100:80:0"], "1 to 64 GPUs"),
        (["--model-dir", "/nowhere", "--gpu", "H100:80:1"], "there is no directory"),
        (["pvc://a/b", "--gpu", "H100:80:1"], "in its cluster only"),
        (["-f", "/nowhere.yaml", "--gpu", "H100:80:1"], "cannot read /nowhere.yaml"),
    ],
)
def test_nonsense(capsys: pytest.CaptureFixture[str], model: str, arguments: list[str], part: str) -> None:
    assert main(["plan", *(model if argument == "MODEL" else argument for argument in arguments)]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--tensor", "0"], ["--max-model-len", "x"], ["--vllm-version", "new"], ["--weights-gib", "-1"]]
)
def test_argparse_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", "x", *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", "--help"])
    assert caught.value.code == 0
    assert "exit codes: 0 it fits, 1 nothing fits, 2" in capsys.readouterr().out


def test_from_cluster(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-H200",
        "nvidia.com/gpu.memory": "143771",
        "nvidia.com/gpu.compute.major": "9",
    }
    nodes = {
        "items": [{"metadata": {"labels": labels}, "spec": {}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}]
    }
    (tmp_path / "nodes.json").write_text(json.dumps(nodes))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'get nodes -o json' ] && exec cat {tmp_path}/nodes.json\necho no >&2; exit 1\n"
    )
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    code, answer = plan(capsys, "--model-dir", model, "--from-cluster")
    assert (code, answer["gpu"], answer["gpus"]) == (0, "NVIDIA-H200", 1)
    assert main(["plan", "--model-dir", model, "--from-cluster", "--context", "other"]) == 2
    assert "kubectl get nodes: no" in capsys.readouterr().err


def test_on_cpus(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configs()["Qwen/Qwen3-0.6B"]))
    code, answer = plan(capsys, "--model-dir", str(tmp_path), "--cpu-memory-gib", "16")
    assert code == 0
    assert (answer["fits"], answer["gpu"], answer["tensor_parallel_size"]) == (True, None, 1)
    assert answer["max_model_len"] == 40960
    assert answer["memory"]["weights_gib"] == pytest.approx(1.11, abs=0.05)
    assert answer["memory"]["kv_bytes_per_token"] == 2 * 28 * 8 * 128 * 2
    code, answer = plan(capsys, "--model-dir", str(tmp_path), "--cpu-memory-gib", "2")
    assert code == 1
    assert (answer["fits"], answer["reason"], answer["max_model_len"]) == (False, "DoesNotFit", None)
    assert main(["plan", "--model-dir", str(tmp_path), "--cpu-memory-gib", "16"]) == 0
    assert "GiB for the KV cache" in capsys.readouterr().out


def test_a_file_for_cpus_with_facts_by_hand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "model": "pvc://models/qwen",
        "accelerator": {"type": "cpu"},
        "modelFacts": {"config": configs()["Qwen/Qwen3-0.6B"], "weights": "1.5Gi"},
        "resources": {"limits": {"memory": "16Gi"}},
    }
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump({"kind": "VLLMModel", "spec": spec}))
    code, answer = plan(capsys, "-f", str(file))
    assert code == 0
    assert answer["model"]["weights_gib"] == pytest.approx(1.5, abs=0.01)
    del spec["resources"]
    file.write_text(yaml.safe_dump({"kind": "VLLMModel", "spec": spec}))
    assert main(["plan", "-f", str(file)]) == 2
    assert "resources.limits.memory" in capsys.readouterr().err


def test_a_file_for_gpus_with_facts_by_hand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = {"model": "s3://bucket/qwen", "modelFacts": {"config": configs()["Qwen/Qwen3-8B"]}}
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump({"kind": "VLLMModel", "spec": spec}))
    code, answer = plan(capsys, "-f", str(file), "--gpu", "H100:79.18:8")
    assert (code, answer["gpu"]) == (0, "H100")


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configs()["Qwen/Qwen3-32B"]))
    command = [sys.executable, "-m", "vllm_operator.cli.main", "plan", "--model-dir", str(tmp_path), "--gpu", "L4:22:8"]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")
