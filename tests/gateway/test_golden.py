"""Whole configurations that a person can read, and that the real Envoy takes.

A difference is a change of what gateways do: look at it, then `python -m tests.gateway.test_golden` writes them anew.
"""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import envoy
from tests.cluster.progress import Progress
from tests.gateway.matching import list_routes
from tests.gateway.states import ALICE, AUTHORITY, BOB, TEAM_A, TEAM_B, model, state
from vllm_operator.api.endpoint import Server
from vllm_operator.api.names import Key
from vllm_operator.gateway.bootstrap import build_bootstrap, build_filters
from vllm_operator.gateway.naming import adapter_of
from vllm_operator.gateway.render import (
    CLUSTER,
    EXTENSION,
    ROUTES,
    SCOPES,
    Resources,
    render,
)
from vllm_operator.gateway.scripts import ELSEWHERE, OTHERS
from vllm_operator.gateway.state import ApiKey, Endpoint, External, GatewayState

FOLDER = Path(__file__).parent / "golden"
POD, OTHER = Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000)

BASE = model("qwen", POD, OTHER, callers=frozenset({TEAM_A}), upstream_key="generated", max_model_len=40960)

STATES: dict[str, GatewayState] = {
    "nothing": state(keys=()),
    "one-open-model": state(model("qwen", POD, OTHER, max_model_len=40960), keys=()),
    "a-model-for-two-teams": state(
        model("qwen", POD, callers=frozenset({TEAM_A, TEAM_B}), upstream_key="generated", max_model_len=40960)
    ),
    "loading": state(model("qwen", waiting='Starting: 40 % of "1" pod', callers=frozenset({TEAM_A})), keys=(ALICE,)),
    "canary": state(
        model("old", POD, served_model_names=("chat",), created="1", weight=9),
        model("new", OTHER, served_model_names=("chat",), created="2", weight=1),
    ),
    "sticky": state(
        *(model(f"by-{kind}", POD, OTHER, balance=kind) for kind in ("session", "user", "prefix")), keys=(BOB,)
    ),
    "fallback": state(
        model("large", waiting="Starting", fallback=Key("models", "small"), callers=frozenset({TEAM_A})),
        model("small", POD, served_model_names=("small", "tiny")),
    ),
    "external": state(
        model(
            "gpt",
            Endpoint("192.0.2.1", 443),
            Endpoint("2001:db8::1", 443),
            served_model_names=("gpt", "gpt-small"),
            external=External(
                server=Server("api.example.com", path_prefix="/openai"), model_names={"gpt": "gpt-large-2026-01-01"}
            ),
            upstream_key="sk-elsewhere",
            callers=frozenset({TEAM_A}),
        ),
        model(
            "own",
            Endpoint("192.0.2.2", 8443),
            external=External(server=Server("192.0.2.2", port=8443), ca=AUTHORITY),
        ),
        model(
            "plain",
            Endpoint("192.0.2.3", 80),
            external=External(server=Server("plain.example.com", port=80, tls=False)),
        ),
    ),
    "adapters": state(
        BASE,
        replace(adapter_of(BASE, "sql"), shares_pods=True),
        replace(adapter_of(BASE, "law"), endpoints=(OTHER,)),
        replace(adapter_of(BASE, "late"), endpoints=(), shares_pods=True, waiting="AdapterLoading: 0/2 pods"),
        keys=(ALICE,),
    ),
    "less-than-asked": state(
        model(
            "qwen", POD, served_model_names=("chat",), created="1", weight=1, max_model_len=40960, clamp_max_tokens=True
        ),
        model("tiny", OTHER, served_model_names=("chat",), created="2", weight=1, max_model_len=2048, drop_tools=True),
        model("unknown", POD, clamp_max_tokens=True),
        model("large", waiting="Starting", fallback=Key("models", "tiny"), max_model_len=131072, clamp_max_tokens=True),
        keys=(),
    ),
    "limits": state(
        model("qwen", POD, callers=frozenset({TEAM_A})),
        keys=(
            ALICE,
            ApiKey(TEAM_A, "batch", "sk-batch", requests_per_minute=600),
            ApiKey(TEAM_A, "demo", "sk-demo", requests_per_minute=3),
        ),
    ),
    "limits-at-the-same-time": state(
        model("qwen", POD, callers=frozenset({TEAM_A})),
        keys=(
            ALICE,
            ApiKey(TEAM_A, "batch", "sk-batch", concurrent_requests=64),
            ApiKey(TEAM_A, "demo", "sk-demo", requests_per_minute=3, concurrent_requests=1),
        ),
    ),
    "two-of-one-name": state(
        model("chat", POD, namespace="one", created="1"), model("chat", OTHER, namespace="two", created="2"), keys=()
    ),
}


def text(resources: Resources) -> str:
    found = json.loads(
        json.dumps({kind.rpartition(".")[2]: dict(each) for kind, each in resources.by_type.items() if kind != SCOPES})
    )
    # Parts of the routes that have none say all the same.
    found["RouteConfiguration"] = {
        name: each for name, each in found["RouteConfiguration"].items() if name == OTHERS or _leads(each)
    }
    return yaml.safe_dump(found, sort_keys=False, width=120, allow_unicode=True)


def _leads(configuration: dict[str, Any]) -> bool:
    return list_routes(configuration).keys() != {ELSEWHERE}


@pytest.mark.parametrize("name", STATES)
def test_golden(name: str) -> None:
    assert text(render(STATES[name])) == (FOLDER / f"{name}.yaml").read_text()


def test_nothing_else_lies_there() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(STATES)


def managers(bootstrap: dict[str, Any]) -> list[dict[str, Any]]:
    """What each listener does with HTTP."""
    listeners = bootstrap["static_resources"]["listeners"]
    return [each["filter_chains"][0]["filters"][0]["typed_config"] for each in listeners]


def as_one_file(resources: Resources) -> dict[str, Any]:
    """The same configuration, with everything that Envoy would ask for written into it."""
    found = resources.by_type
    bootstrap = build_bootstrap(port=8080, admin_port=9901, agent_port=9902, largest_body=64 * 1024**2, node="golden")
    del bootstrap["dynamic_resources"]
    for manager in managers(bootstrap):
        parts = manager["scoped_routes"]
        del parts["scoped_rds"], parts["rds_config_source"]
        parts["scoped_route_configurations_list"] = {
            "scoped_route_configurations": [
                {
                    "name": name,
                    "key": scope["key"],
                    "route_configuration": _without_types(found[ROUTES][scope["route_configuration_name"]]),
                }
                for name, scope in found[SCOPES].items()
            ]
        }
    managers(bootstrap)[0]["http_filters"] = build_filters(
        largest_body=64 * 1024**2, told={name: each["typed_config"] for name, each in found[EXTENSION].items()}
    )
    bootstrap["static_resources"]["clusters"] += found[CLUSTER].values()
    return bootstrap


def _without_types(value: Any, *, top: bool = True) -> Any:
    """Without the @type of what is not an Any where it stands now."""
    return {name: each for name, each in value.items() if name != "@type"} if top else value


@pytest.mark.cluster
@pytest.mark.parametrize("name", STATES)
def test_envoy_takes_it(name: str, tmp_path: Path) -> None:
    document = as_one_file(render(STATES[name]))
    static = document["static_resources"]
    static["clusters"] = [_without_types(each) for each in static["clusters"]]
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(document))
    result = subprocess.run(
        [envoy.program(Progress()), "--mode", "validate", "-c", path, "--log-level", "error"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "OK" in result.stdout


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in FOLDER.iterdir():
        each.unlink()
    for name, found in STATES.items():
        (FOLDER / f"{name}.yaml").write_text(text(render(found)))
