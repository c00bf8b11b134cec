"""The chart and the operator mean the same by the same setting."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from .support import (
    MANIFESTS,
    container,
    environment,
    kustomize,
    of_the_gateway,
    of_the_operator,
    only,
    operator_module,
    render,
)
from .test_chart import VARIANTS

PREFIX = "VLLM_OPERATOR_"
# The operator's own names in the cluster: it reads them from POD_NAME and POD_NAMESPACE, which the Deployment sets.
NOT_IN_THE_CHART = {"IDENTITY", "LEASE_NAMESPACE"}
ALL_SET: dict[str, Any] = VARIANTS["everything on"] | {
    "watchNamespaces": ["a", "b"],
    "defaultGateway": "gateways/inference/https",
    "vllm": {
        "version": "0.32.0",
        "images": dict.fromkeys(("nvidia", "amd", "intel", "cpu"), "registry.example.com/vllm:{version}"),
        "runAsUser": 2000,
        "defaultAccelerator": "cpu",
    },
    "hub": {"endpoint": "https://hub.example.com", "inspectImage": "registry.example.com/vllm-operator:1"},
    "gpuPools": [{"product": "NVIDIA-L4", "nodes": 2, "tolerations": [{"key": "gpu", "operator": "Exists"}]}],
    "gateway": {"enabled": True, "externalNetworks": ["10.20.0.0/16"]},
}


def _parser(variables: dict[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    operator_module("app.settings").add_arguments(parser, variables)
    return parser


def _known() -> set[str]:
    flags = (option for action in _parser({})._actions for option in action.option_strings)
    return {
        flag.removeprefix("--").replace("-", "_").upper()
        for flag in flags
        if flag.startswith("--") and flag != "--help" and not flag.startswith("--no-")
    }


def test_every_setting_can_be_given_in_the_values() -> None:
    given = {
        name.removeprefix(PREFIX)
        for name in environment(only(of_the_operator(render(ALL_SET)), "Deployment"))
        if name.startswith(PREFIX)
    }
    assert given == _known() - NOT_IN_THE_CHART


@pytest.mark.parametrize("values", [{}, ALL_SET], ids=["default", "all"])
def test_the_operator_takes_what_the_chart_gives(values: dict[str, Any]) -> None:
    variables = environment(only(of_the_operator(render(values)), "Deployment"))
    settings = operator_module("app.settings").read_settings(_parser(variables).parse_args([]))
    assert list(settings.namespaces) == values.get("watchNamespaces", [])
    assert (settings.build.default_gateway is None) is ("defaultGateway" not in values)
    assert settings.http_port == 8080
    assert bool(settings.build.gateway_url) is ("gateway" in values)
    assert len(settings.build.model_network_policy_from) == (2 if "gateway" in values else 0)


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a", "b"]}], ids=["all", "some namespaces"])
def test_the_agent_and_envoys_bootstrap_take_what_the_chart_gives(values: dict[str, Any], tmp_path: Path) -> None:
    deployment = only(
        of_the_gateway(render({**values, "gateway": {"enabled": True, "largestBody": "5Mi"}})), "Deployment"
    )
    agent = operator_module("app.gateway")
    parser = argparse.ArgumentParser()
    agent.add_agent_arguments(parser, environment(deployment, "agent"))
    settings = agent.read_agent_settings(parser.parse_args(container(deployment, "agent")["command"][4:]))
    assert list(settings.namespaces) == values.get("watchNamespaces", [])
    assert (settings.port, settings.admin_port, settings.xds_port) == (8081, 9901, 9902)
    assert settings.largest_body == 5 * 1024**2
    parser = argparse.ArgumentParser()
    agent.add_bootstrap_arguments(parser, {})
    arguments = parser.parse_args(container(deployment, "bootstrap")["args"][1:])
    arguments.output = tmp_path / "envoy.json"
    agent.write_bootstrap(arguments)
    document = json.loads(arguments.output.read_text())
    assert document["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9901}
    listener, _ = document["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == 8000


@pytest.mark.parametrize("bound", ["minimum", "maximum"])
def test_the_operator_takes_the_bounds_of_the_schema(bound: str) -> None:
    """A value that helm accepts must not stop the operator from starting."""
    from .test_values_schema import SCHEMA

    numbers = {
        key: node[bound] for key, node in SCHEMA["properties"]["operator"]["properties"].items() if bound in node
    }
    assert len(numbers) == 5
    user = SCHEMA["properties"]["vllm"]["properties"]["runAsUser"][bound]
    variables = environment(only(render({"operator": numbers, "vllm": {"runAsUser": user}}), "Deployment"))
    operator_module("app.settings").read_settings(_parser(variables).parse_args([]))


def test_the_overlay_sets_what_the_operator_knows() -> None:
    variables = environment(only(kustomize(MANIFESTS / "overlays" / "example"), "Deployment"))
    assert {name.removeprefix(PREFIX) for name in variables} <= _known()
    operator_module("app.settings").read_settings(_parser(variables).parse_args([]))
