"""`kubectl-vllm import`, as a user calls it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vllm_operator.cli.main import main


def test_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["import", "HF_TOKEN=hunter2 vllm serve Qwen/Qwen3-8B --enable-prefix-cachng --host ::", "-n", "ml"]) == 0
    )
    printed = capsys.readouterr()
    model, secret = yaml.safe_load_all(printed.out)
    assert model == {
        "apiVersion": "vllm-operator.io/v1alpha1",
        "kind": "VLLMModel",
        "metadata": {"name": "qwen3-8b", "namespace": "ml"},
        "spec": {
            "model": "Qwen/Qwen3-8B",
            "hub": {"tokenSecretRef": {"name": "qwen3-8b-credentials", "key": "HF_TOKEN"}},
            "servedModelNames": ["Qwen/Qwen3-8B"],
            "engine": {"args": {"enable-prefix-cachng": True}},
        },
    }
    assert secret["stringData"] == {"HF_TOKEN": "hunter2"}
    comments = [line.removeprefix("# ") for line in printed.out.splitlines() if line.startswith("#")]
    assert comments == [line.removeprefix("note: ") for line in printed.err.splitlines()]
    assert any("did you mean --enable-prefix-caching?" in line for line in comments)
    assert "hunter2" not in printed.err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "vllm serve m --seed 1", "-o", "json", "--name", "chat"]) == 0
    printed = capsys.readouterr()
    model = json.loads(printed.out)
    assert (model["kind"], model["metadata"]) == ("VLLMModel", {"name": "chat"})
    assert printed.err.startswith("note: options were checked against")
    assert main(["import", "vllm serve m --api-key k", "-o", "json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert (both["kind"], [each["kind"] for each in both["items"]]) == ("List", ["VLLMModel", "Secret"])


def test_where_the_command_comes_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "vllm serve m --response-role 'a b'"
    file = tmp_path / "start.sh"
    file.write_text(f"#!/bin/sh\nset -e\n{line}\n")
    printed = []
    for arguments in (
        [line],
        ["--", "vllm", "serve", "m", "--response-role", "a b"],
        ["--file", str(file)],
        ["-f", "-"],
        [],
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO(line))
        assert main(["import", "-o", "json", *arguments]) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1


def test_version_and_service(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["import", "vllm serve m --max-num-partial-prefills 2", "--vllm-version", "v0.25.1", "-o", "json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["spec"]["engine"]["version"] == "0.25.1"
    assert printed.err == ""
    file = tmp_path / "compose.yaml"
    file.write_text("services:\n  a: {image: vllm, command: x}\n  b: {image: vllm, command: y}\n")
    assert main(["import", "-f", str(file), "--service", "b", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["model"] == "y"


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([""], 1, "error: the command is empty"),
        (["vllm serve m --gpu-memory-utilization 1.7"], 1, "error: --gpu-memory-utilization is"),
        (["vllm serve 'm"], 1, "error: a quote (') is not closed"),
        (["vllm serve m", "-f", "x"], 2, "not both"),
        (["-f", "/nowhere"], 2, "cannot read /nowhere"),
        (["vllm serve m", "-n", "Not_one"], 2, "--namespace is"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, part: str) -> None:
    assert main(["import", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert part in printed.err


def test_a_file_that_is_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"vllm serve \xff\xfe")
    assert main(["import", "-f", str(tmp_path / "x")]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "stdin"),
    [([b"vllm serve m --x \xff"], b""), ([], b"vllm serve m --x \xff")],
    ids=["argument", "standard input"],
)
def test_bytes_that_are_no_text_are_no_traceback(words: list[bytes], stdin: bytes) -> None:
    result = _run_with_ascii(words, stdin)
    assert result.returncode in (1, 2)
    assert result.stdout == b""
    assert result.stderr.startswith(b"error: ")


def test_what_is_written_fits_every_terminal() -> None:
    result = _run_with_ascii(["vllm serve m --response-role \u65e5\u672c".encode()], b"")
    assert result.returncode == 0
    assert next(yaml.safe_load_all(result.stdout))["spec"]["engine"]["args"] == {"response-role": "\u65e5\u672c"}


def _run_with_ascii(words: list[bytes], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [*map(os.fsencode, (sys.executable, "-m", "vllm_operator.cli.main", "import")), *words]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)
