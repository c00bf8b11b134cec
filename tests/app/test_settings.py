"""Settings: flags and environment variables."""

import argparse
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import pytest

from vllm_operator.app.main import main
from vllm_operator.app.settings import PREFIX, Settings, SettingsError, add_arguments, read_settings
from vllm_operator.reconcile.gateway_watch import GatewayPods
from vllm_operator.workload.peers import read_peers
from vllm_operator.workload.settings import BuildSettings, GatewayRef

FLAGS = [
    "namespaces", "workers", "http-address", "leader-election", "lease-name", "lease-namespace", "identity",
    "default-gateway", "vllm-version", "image-nvidia", "image-amd", "image-intel", "image-cpu", "default-accelerator",
    "vllm-run-as-user", "hub-endpoint", "gpu-pools", "inspect-image", "gateway-url", "external-networks",
    "gateway-pods", "model-network-policy-from", "probe-interval", "resync-interval",
    "reference-interval", "yield-after", "cluster-domain",
    "log-format", "log-level",
]  # fmt: skip


def parser(environment: Mapping[str, str] | None = None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(made, environment or {})
    return made


def read(*arguments: str, **environment: str) -> Settings:
    variables = {PREFIX + name.upper(): value for name, value in environment.items()}
    return read_settings(parser(variables).parse_args(arguments))


def test_defaults() -> None:
    settings = read()
    assert settings.namespaces == ()
    assert settings.workers == 16
    assert (settings.http_host, settings.http_port) == ("0.0.0.0", 8080)
    assert settings.leader_election
    assert settings.gateway_pods is None
    assert settings.build == BuildSettings(image_templates=dict(BuildSettings().image_templates))
    assert settings.identity


CHANGES: list[tuple[str, str, Any]] = [
    ("namespaces", "b, a,,b", ("a", "b")),
    ("workers", "4", 4),
    ("lease-name", "x", "x"),
    ("lease-namespace", "x", "x"),
    ("identity", "x", "x"),
    ("probe-interval", "2.5", 2.5),
    ("log-format", "text", "text"),
    ("log-level", "debug", "debug"),
    ("timings.resync", "60", 60),
    ("timings.references", "5", 5),
    ("timings.patience", "0", 0),
    ("build.vllm-version", "0.31.1", "0.31.1"),
    ("build.default-accelerator", "cpu", "cpu"),
    ("build.default-gateway", "gw/g", GatewayRef("gw", "g")),
    ("build.default-gateway", "gw/g/s", GatewayRef("gw", "g", "s")),
    ("build.run-as-user", "1000", 1000),
    ("build.cluster-domain", "x.y", "x.y"),
    ("build.gateway-url", "http://gateway/", "http://gateway"),
    ("external-networks", "10.1.0.0/16, fd00::/8", (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))),
    ("build.model-network-policy-from", '[{"podSelector":{}}]', read_peers('[{"podSelector":{}}]')),
    ("build.model-network-policy-from", "[]", ()),
    ("gateway-pods", "ns/a=b", GatewayPods("ns", {"a": "b"})),
    (
        "gateway-pods",
        "ns/app.kubernetes.io/name=x,app.kubernetes.io/instance=y",
        GatewayPods("ns", {"app.kubernetes.io/name": "x", "app.kubernetes.io/instance": "y"}),
    ),
    ("leader-election", "false", False),
    ("http-port", "[::1]:9000", 9000),
]
NAMES = {
    "timings.resync": "resync-interval",
    "timings.references": "reference-interval",
    "timings.patience": "yield-after",
    "build.run-as-user": "vllm-run-as-user",
    "http-port": "http-address",
}


@pytest.mark.parametrize(("where", "text", "value"), CHANGES)
@pytest.mark.parametrize("source", ["flag", "environment"])
def test_a_setting_comes_from_its_flag_or_its_variable(where: str, text: str, value: Any, source: str) -> None:
    flag = NAMES.get(where, where.rpartition(".")[2])
    if source == "environment":
        settings: Any = read(**{flag.replace("-", "_"): text})
    else:
        settings = read("--no-leader-election" if flag == "leader-election" else f"--{flag}={text}")
    for name in where.replace("-", "_").split("."):
        settings = getattr(settings, name)
    assert settings == value


@pytest.mark.parametrize("kind", ["nvidia", "amd", "intel", "cpu"])
def test_images(kind: Any) -> None:
    assert read(f"--image-{kind}=x:{{version}}").build.image_templates[kind] == "x:{version}"


def test_a_flag_wins_over_its_variable() -> None:
    assert read("--workers=3", workers="5").workers == 3
    assert read("--leader-election", leader_election="false").leader_election


def test_an_empty_variable_is_none() -> None:
    assert read(workers="").workers == 16


def test_the_pod_tells_its_name_and_namespace() -> None:
    settings = read_settings(parser({"POD_NAME": "p-1", "POD_NAMESPACE": "ns"}).parse_args([]))
    assert (settings.identity, settings.lease_namespace) == ("p-1", "ns")


@pytest.mark.parametrize("value", ["true", "True", "1", "yes"])
def test_yes(value: str) -> None:
    assert read(leader_election=value).leader_election


@pytest.mark.parametrize("value", ["false", "FALSE", "0", "no"])
def test_no(value: str) -> None:
    assert not read(leader_election=value).leader_election


WRONG: list[tuple[str, str, str]] = [
    ("workers", "many", "a number from 1 to 256"),
    ("workers", "0", "a number from 1 to 256"),
    ("workers", "257", "a number from 1 to 256"),
    ("workers", "1.5", "a whole number from 1 to 256"),
    ("workers", "nan", "a number from 1 to 256"),
    ("http-address", "0.0.0.0", "HOST:PORT"),
    ("http-address", "0.0.0.0:²", "HOST:PORT"),
    ("http-address", "0.0.0.0:http", "HOST:PORT"),
    ("http-address", "0.0.0.0:70000", "HOST:PORT"),
    ("default-gateway", "gateway", "NAMESPACE/NAME"),
    ("default-gateway", "a//b", "NAMESPACE/NAME"),
    ("default-gateway", "a/b/c/d", "NAMESPACE/NAME"),
    ("gateway-pods", "ns", "NAMESPACE/LABEL=VALUE"),
    ("gateway-pods", "/a=b", "NAMESPACE/LABEL=VALUE"),
    ("gateway-pods", "ns/a", "NAMESPACE/LABEL=VALUE"),
    ("gateway-pods", "ns/a=b,", "NAMESPACE/LABEL=VALUE"),
    ("vllm-version", "latest", "a release"),
    ("vllm-version", "v0.32.0", "a release"),
    ("image-nvidia", " ", "must not be empty"),
    ("vllm-run-as-user", "root", "a number from 1"),
    ("vllm-run-as-user", "0", "a number from 1"),
    ("vllm-run-as-user", "1.5", "a whole number"),
    ("probe-interval", "30", "a number from 0.5 to 4"),
    ("resync-interval", "1", "a number from 5 to 86400"),
    ("reference-interval", "inf", "a number from 1 to 3600"),
    ("yield-after", "-1", "a number from 0 to 86400"),
    ("lease-name", " ", "must not be empty"),
    ("identity", " ", "must not be empty"),
    ("cluster-domain", " ", "must not be empty"),
]


@pytest.mark.parametrize(("flag", "value", "fix"), WRONG, ids=[f"{flag}={value}" for flag, value, _ in WRONG])
@pytest.mark.parametrize("source", ["flag", "environment"])
def test_an_error_names_the_flag_the_value_and_what_would_be_right(
    flag: str, value: str, fix: str, source: str
) -> None:
    arguments = [f"--{flag}={value}"] if source == "flag" else []
    environment = {flag.replace("-", "_"): value} if source == "environment" else {}
    with pytest.raises(SettingsError) as raised:
        read(*arguments, **environment)
    assert f"--{flag}" in str(raised.value)
    assert repr(value) in str(raised.value)
    assert fix in str(raised.value)


def test_a_list_as_json_that_is_wrong() -> None:
    for flag, text, fix in (
        ("model-network-policy-from", "[{}]", "0: Value error, write podSelector"),
        ("gpu-pools", '[{"product": "Unknown"}]', "the memory of Unknown is not known"),
    ):
        with pytest.raises(SettingsError, match=f"--{flag}: .*{fix}"):
            read(f"--{flag}={text}")


@pytest.mark.parametrize(
    ("flag", "fix"),
    [
        ("log-level", "debug, info"),
        ("log-format", "json, text"),
        ("default-accelerator", "nvidia"),
        ("leader-election", "true"),
    ],
)
def test_the_environment_is_held_to_the_same_choices(flag: str, fix: str) -> None:
    with pytest.raises(SettingsError, match=f"--{flag} is 'loud'.*{fix}"):
        read(**{flag.replace("-", "_"): "loud"})


def test_help_shows_every_setting_and_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("POD_NAME", "100%")
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in FLAGS:
        assert f"--{flag}" in text
        assert PREFIX + flag.upper().replace("-", "_") in text
    known = {option for action in parser()._actions for option in action.option_strings if option.startswith("--")}
    assert known == {f"--{flag}" for flag in FLAGS} | {"--no-leader-election", "--help"}, "a flag that FLAGS lacks"


def test_main_says_what_is_wrong_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--workers=many"]) == 2
    assert capsys.readouterr().err == "vllm-operator: --workers is 'many'; it must be a number from 1 to 256\n"


def test_an_unknown_flag_and_no_command_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "--unknown"], [], ["fly"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "usage: vllm-operator" in capsys.readouterr().err
