"""The dashboard of the chart asks for nothing that neither Envoy nor the agent has."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest

from tests.gateway.envoy import gateway, serve
from tests.gateway.states import ALICE, TEAM_A, model, state
from vllm_operator.app.gateway import AgentMetrics
from vllm_operator.gateway.state import ApiKey

pytestmark = pytest.mark.cluster  # Envoy is installed as the cluster's programs are.

BOARD = Path(__file__).resolve().parents[2] / "charts/vllm-operator/files/dashboards/gateway.json"
SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z_]+)(=~|=)"([^"]*)"')
SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? [^ ]+$", re.MULTILINE)
LABEL = re.compile(r'([a-z_]+)="([^"]*)"')
GROUPS = re.compile(r"\bby \(([^)]*)\)")

Series = dict[str, list[dict[str, str]]]
"""Name of a metric → labels of each of its series."""


def expressions() -> list[str]:
    """All that the dashboard asks Prometheus."""
    board = json.loads(BOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked = (re.fullmatch(r"label_values\((.+), (\w+)\)", each.get("definition", "")) for each in _variables(board))
    for question in filter(None, asked):
        series, label = question.groups()
        found.append(f"count by ({label}) ({series if '{' in series else series + '{}'})")
    return found


def _variables(board: dict[str, Any]) -> list[dict[str, Any]]:
    return list(board["templating"]["list"])


def read(text: str) -> Series:
    """As Prometheus does. prometheus_client's parser would put _total behind Envoy's counters."""
    found: Series = {}
    for name, labels in SAMPLE.findall(text):
        # The job is what Prometheus adds to all.
        found.setdefault(name, []).append({**dict(LABEL.findall(labels)), "job": "vllm-operator-gateway-metrics"})
    return found


def matching(series: Series, name: str, matchers: str) -> list[dict[str, str]]:
    """Series that a selector chooses, with all jobs and models chosen in the variables."""
    wanted = MATCHER.findall(re.sub(r"\$\w+", ".*", matchers))
    assert len(wanted) == matchers.count("="), matchers

    def chosen(labels: dict[str, str], label: str, how: str, value: str) -> bool:
        has = labels.get(label, "")
        return has == value if how == "=" else re.fullmatch(value, has) is not None

    return [labels for labels in series.get(name, []) if all(chosen(labels, *each) for each in wanted)]


def check(expression: str, series: Series) -> None:
    selectors = SELECTOR.findall(expression)
    assert selectors, expression
    for name, matchers in selectors:
        found = matching(series, name, matchers)
        assert found, f"there is no {name}{{{matchers}}}"
        for labels in found:
            for group in GROUPS.findall(expression):
                assert {each.strip() for each in group.split(",")} <= labels.keys(), (expression, labels)


def agent() -> Series:
    metrics = AgentMetrics()
    metrics.observe_request("watch", "Secret", 200, 0.1)
    return read(generate_latest(metrics.registry).decode())


async def envoy(folder: Path) -> Series:
    """What Envoy tells after one request of each kind, by the very request that the agent sends."""
    slow = ApiKey(TEAM_A, "slow", "sk-slow-0123456789", requests_per_minute=1, concurrent_requests=1)
    async with serve("a", "b") as (a, b):
        # Closed: Envoy counts what it tries again, and whom it puts aside.
        await b.stop()
        models = (model("a", a.endpoint), model("b", b.endpoint))
        async with gateway(folder, state(*models, keys=(ALICE, slow))) as found:
            statuses = []
            for key, name in ((slow.value, "a"), (slow.value, "a"), ("sk-wrong-0123456789", "a"), (ALICE.value, "b")):
                statuses.append((await found.ask({"model": name}, key=key)).status_code)
            assert statuses == [200, 429, 401, 503]
            async with httpx.AsyncClient() as client:
                return read((await client.get(f"{found.admin}/stats/prometheus")).text)


async def test_everything_that_it_asks_for_is_there(tmp_path: Path) -> None:
    series = {**await envoy(tmp_path), **agent()}
    asked = expressions()
    assert len(asked) > 15
    for each in asked:
        check(each, series)
    for made_up in (
        'rate(envoy_no_such_total{job=~"$job"}[5m])',
        'sum(envoy_cluster_upstream_rq_active{envoy_cluster_name="model/no/such"})',
        'sum by (no_such_label) (envoy_cluster_upstream_rq_active{job=~"$job"})',
    ):
        with pytest.raises(AssertionError):
            check(made_up, series)
