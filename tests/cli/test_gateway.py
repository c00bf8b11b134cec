"""`kubectl-vllm gateway`, as a user calls it, with a kubectl that says what a cluster would."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.programs import install_kubectl
from vllm_operator.cli.main import main

POD = {
    "metadata": {"namespace": "system", "name": "gateway-1"},
    "spec": {"containers": [{"name": "agent"}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}
OPERATOR = {"metadata": {"namespace": "system", "name": "operator-1"}, "spec": {"containers": [{"name": "operator"}]}}
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "keys": 3,
    "models": [
        {
            "model": "ml/qwen",
            "names": ["chat", "qwen"],
            "waiting": None,
            "fallback": None,
            "pods": [
                {"address": "10.0.0.1:8000", "healthy": True},
                {"address": "10.0.0.2:8000", "healthy": False},
            ],
        },
        {"model": "ml/slow", "names": [], "waiting": "Starting: 0 of 1", "fallback": "ml/qwen", "pods": []},
    ],
    "names_taken": ["ml/slow: chat is ml/qwen's, which is older"],
    "rejected": [],
    "problems": [],
}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What kubectl says: files `pods` and `status` (absent: it fails)."""
    answers = {
        '*"get pods"*': "pods",
        '*"--raw /api/v1/namespaces/system/pods/gateway-1:8081/proxy/status"*': "status",
    }
    install_kubectl(tmp_path, monkeypatch, answers)
    (tmp_path / "pods").write_text(json.dumps({"items": [OPERATOR, POD]}))
    (tmp_path / "status").write_text(json.dumps(STATUS))
    return tmp_path


def test_what_a_person_sees(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "GATEWAY POD        READY   MODELS   KEYS   REJECTED",
        "system/gateway-1   True    2        3      0",
        "",
        "MODEL     NAMES        PODS   STATE",
        "ml/qwen   chat, qwen   1/2    serves",
        "ml/slow   -            0/0    ml/qwen answers in its place; Starting: 0 of 1",
        "",
        "ml/slow: chat is ml/qwen's, which is older",
    ]


def test_json(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "-n", "system", "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["gateways"]
    assert found == {"namespace": "system", "pod": "gateway-1", "ready": True, **STATUS}


def test_what_was_rejected_is_trouble(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kubectl / "status").write_text(json.dumps({**STATUS, "rejected": ["RouteConfiguration models"]}))
    assert main(["gateway"]) == 1
    assert "rejected: RouteConfiguration models" in capsys.readouterr().out


def test_a_pod_that_does_not_answer_hides_no_other(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = {**POD, "metadata": {"namespace": "system", "name": "gateway-2"}}
    (kubectl / "pods").write_text(json.dumps({"items": [POD, silent]}))
    assert main(["gateway"]) == 1
    said = capsys.readouterr().out
    assert "system/gateway-1   True    2" in said
    assert "does not answer: kubectl get: unexpected" in said


def test_no_gateway(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kubectl / "pods").write_text(json.dumps({"items": [OPERATOR]}))
    assert main(["gateway"]) == 1
    assert "gateway.enabled" in capsys.readouterr().err


def test_no_cluster(kubectl: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (kubectl / "pods").unlink()
    assert main(["gateway"]) == 2
    assert "No such file" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(kubectl / "nowhere"))
    assert main(["gateway"]) == 2
    assert "not there" in capsys.readouterr().err
