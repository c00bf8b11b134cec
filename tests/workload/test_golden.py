"""What is built from a few whole specs, as files that a reviewer can read.

A file holds the model as a user writes it, then its children. A difference is a change of what users run: look at it, then
`pytest tests/workload/test_golden.py --update-golden`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workload.bundles import SETTINGS, build_bundle, parse
from vllm_operator.api.names import Key
from vllm_operator.workload.peers import read_peers
from vllm_operator.workload.settings import BuildSettings

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.yaml"))

SETTINGS_BY_FILE: dict[str, BuildSettings] = {
    "non-root": dataclasses.replace(SETTINGS, run_as_user=2000, listen_address="::"),
    "no-gateway": BuildSettings(),
    "adapters": BuildSettings(gateway_url="http://gateway.example"),
    "behind-the-gateway": BuildSettings(
        gateway_url="http://gateway.example",
        model_network_policy_from=read_peers(
            """[
              {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operator"}},
               "podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}},
              {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": []}], "matchLabels": {}}},
              {"namespaceSelector": {}},
              {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
            ]"""
        ),
    ),
}
"""Settings of the operator for a file that needs others than the tests' own."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_children(path: Path, update_golden: bool) -> None:
    model, *expected = list(yaml.safe_load_all(path.read_text()))
    metadata = model["metadata"]
    built = build_bundle(
        model["spec"], SETTINGS_BY_FILE.get(path.stem, SETTINGS), key=Key(metadata["namespace"], metadata["name"])
    )
    if update_golden:
        path.write_text(_dump([model, *built]))
        return
    assert _dump(built) == _dump(expected)


def test_files_are_there() -> None:
    assert len(FILES) >= 8
    for path in FILES:
        model = next(iter(yaml.safe_load_all(path.read_text())))
        assert model["kind"] == "VLLMModel"
        parse(model["spec"])


def _dump(documents: list[Any]) -> str:
    # through JSON: YAML would write what stands twice as an anchor
    plain = json.loads(json.dumps(documents))
    return yaml.safe_dump_all(plain, sort_keys=False, width=120, allow_unicode=True)
