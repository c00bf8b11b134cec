"""Generated files are as the code would write them now, and `--check` says which are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vllm_operator import generate
from vllm_operator.api.crd import crd
from vllm_operator.cluster.permissions import (
    CLUSTER_RULES,
    GATEWAY_OPERATOR_RULES,
    GATEWAY_RULES,
    LOG_RULES,
    NODE_RULES,
    OWN_NAMESPACE_RULES,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_checkout_is_up_to_date() -> None:
    assert generate.differing(REPOSITORY) == []


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, as working directory."""
    (tmp_path / "crds").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_names_what_differs_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    changed = root / "docs/reference/conditions.md"
    changed.write_text("edited by hand")
    (root / "crds/vllm-operator.io_vllmmodels.yaml").unlink()
    capsys.readouterr()

    assert generate.main(["--check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == [
        "crds/vllm-operator.io_vllmmodels.yaml",
        "docs/reference/conditions.md",
    ]
    assert changed.read_text() == "edited by hand"


def test_only_what_differs_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate.main([])
    assert len(capsys.readouterr().out.splitlines()) == len(generate.files())
    generate.main([])
    assert capsys.readouterr().out == ""


def test_another_folder_than_the_root_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        generate.main([])
    assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_output_does_not_depend_on_hashes(seed: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vllm_operator.generate", "--check"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY / "operator")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_yaml_is_the_definition() -> None:
    files = generate.files()
    text = files["crds/vllm-operator.io_vllmmodels.yaml"]
    assert yaml.safe_load(text) == crd()
    assert files["charts/vllm-operator/files/crds/vllm-operator.io_vllmmodels.yaml"] == text


def test_roles_have_the_rules_of_the_table() -> None:
    files = generate.files()
    cluster = [rule.as_rbac() for rule in CLUSTER_RULES]
    logs = [rule.as_rbac() for rule in LOG_RULES]
    nodes = [rule.as_rbac() for rule in NODE_RULES]
    own = [rule.as_rbac() for rule in OWN_NAMESPACE_RULES]
    assert yaml.safe_load(files["charts/vllm-operator/files/rbac/cluster-rules.yaml"]) == cluster
    assert yaml.safe_load(files["charts/vllm-operator/files/rbac/own-namespace-rules.yaml"]) == own
    assert yaml.safe_load(files["charts/vllm-operator/files/rbac/log-rules.yaml"]) == logs
    assert yaml.safe_load(files["charts/vllm-operator/files/rbac/node-rules.yaml"]) == nodes
    objects = {
        (thing["kind"], thing["metadata"]["name"]): thing
        for thing in yaml.safe_load_all(files["manifests/base/rbac.yaml"])
    }
    assert objects["ClusterRole", "vllm-operator"]["rules"] == cluster + logs
    assert objects["ClusterRole", "vllm-operator-nodes"]["rules"] == nodes
    assert objects["Role", "vllm-operator-leader-election"]["rules"] == own
    for kind, name in (
        ("ClusterRoleBinding", "vllm-operator"),
        ("ClusterRoleBinding", "vllm-operator-nodes"),
        ("RoleBinding", "vllm-operator-leader-election"),
    ):
        binding = objects[kind, name]
        assert binding["roleRef"]["name"] == name
        (subject,) = binding["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": "vllm-operator", "namespace": "vllm-operator-system"}
    assert len(objects) == 6


def test_the_gateways_rules_are_in_files_of_their_own() -> None:
    files = generate.files()
    for name, rules in (
        ("gateway-rules", GATEWAY_RULES),
        ("gateway-operator-rules", GATEWAY_OPERATOR_RULES),
    ):
        text = files[f"charts/vllm-operator/files/rbac/{name}.yaml"]
        assert yaml.safe_load(text) == [rule.as_rbac() for rule in rules]
    # The chart alone installs it.
    for rule in (*GATEWAY_RULES, *GATEWAY_OPERATOR_RULES):
        assert rule.reason not in files["manifests/base/rbac.yaml"]


def test_every_rule_says_why() -> None:
    files = generate.files()
    base = files["manifests/base/rbac.yaml"]
    for rule in (*CLUSTER_RULES, *LOG_RULES, *NODE_RULES, *OWN_NAMESPACE_RULES):
        assert f"# {rule.reason}\n" in base
    for name, rules in generate.CHART_RULES.items():
        for rule in rules:
            assert rule.reason.endswith(".")
            assert f"# {rule.reason}\n" in files[f"charts/vllm-operator/files/rbac/{name}.yaml"]
            assert "*" not in (*rule.verbs, *rule.resources, rule.group)


def test_the_reference_has_every_field() -> None:
    text = generate.files()["docs/reference/vllmmodel.md"]
    for field in ("spec.model", "spec.engine.env[].valueFrom.secretKeyRef.name", "status.conditions[].reason"):
        assert f"| `{field}` |" in text
    row = next(line for line in text.splitlines() if line.startswith("| `spec.rollout` |"))
    assert "Rule: strategy Recreate takes no maxSurge or maxUnavailable." in row
    assert "| `spec.replicas` | integer | ≥ 0; ≤ 1000 | `1` | Number of replicas. |" in text


def test_tables_have_as_many_cells_in_each_row() -> None:
    for name, text in generate.files().items():
        if name.endswith(".md"):
            rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
            assert {row.count("|") for row in rows} <= {3, 4, 6}, name
