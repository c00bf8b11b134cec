"""The argument vector of `vllm serve`."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.commands import HEAD, command, options
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import OWNED_OPTIONS, Engine
from vllm_operator.engine.catalogue import newest
from vllm_operator.engine.command import TYPED_OPTIONS
from vllm_operator.engine.options import OWNED


def refused(engine: dict[str, Any]) -> str:
    with pytest.raises(Refusal) as caught:
        options(engine)
    assert caught.value.reason is Reason.INVALID_ENGINE_ARGS
    return caught.value.message


def test_smallest() -> None:
    assert command({}) == HEAD


def test_executable() -> None:
    assert command({"engine": {"executable": ["/opt/bin/vllm", "serve"]}})[:3] == [
        "/opt/bin/vllm",
        "serve",
        "Qwen/Qwen3-8B",
    ]


@pytest.mark.parametrize(
    ("parallelism", "expected"),
    [
        ({"tensor": 1, "pipeline": 1, "data": 1, "expert": False}, []),
        ({"tensor": 4}, ["--tensor-parallel-size", "4"]),
        (
            {"tensor": 2, "pipeline": 3, "data": 4, "expert": True},
            [
                *("--tensor-parallel-size", "2", "--pipeline-parallel-size", "3", "--data-parallel-size", "4"),
                "--enable-expert-parallel",
            ],
        ),
    ],
)
def test_parallel_sizes(parallelism: dict[str, Any], expected: list[str]) -> None:
    assert command({"parallelism": parallelism})[len(HEAD) :] == expected


@pytest.mark.parametrize("path", ["s3://bucket/model", "gs://bucket/model"])
@pytest.mark.parametrize(
    ("engine", "chosen"),
    [
        ({}, "runai_streamer"),
        ({"loadFormat": "auto"}, "auto"),
        ({"args": {"load_format": "runai_streamer_sharded"}}, "runai_streamer_sharded"),
    ],
)
def test_a_bucket_is_streamed(path: str, engine: dict[str, Any], chosen: str) -> None:
    found = command({"engine": engine}, model_path=path)
    assert found[2] == path
    assert found[len(HEAD) :] == ["--load-format", chosen]


@pytest.mark.parametrize(
    ("engine", "part"),
    [
        ({"loadFormat": "safetensors"}, 'spec.engine.loadFormat is "safetensors", but the model is s3://bucket/model'),
        ({"args": {"load_format": "gguf"}}, 'spec.engine.args.load_format is "gguf"'),
    ],
)
def test_what_cannot_stream_is_refused(engine: dict[str, Any], part: str) -> None:
    with pytest.raises(Refusal) as caught:
        command({"engine": engine}, model_path="s3://bucket/model")
    assert part in caught.value.message
    assert command({"engine": engine}, model_path="/models/x")[len(HEAD) :] != []


def test_revision() -> None:
    assert command({}, revision="main")[len(HEAD) :] == ["--revision", "main"]
    assert command({}, revision="-x")[len(HEAD) :] == ["--revision=-x"]


TYPED: list[tuple[dict[str, Any], list[str]]] = [
    ({"maxModelLen": 8192}, ["--max-model-len", "8192"]),
    ({"maxModelLen": "32k"}, ["--max-model-len", "32k"]),
    ({"maxModelLen": "auto"}, ["--max-model-len", "auto"]),
    ({"maxModelLen": -1}, ["--max-model-len=-1"]),
    ({"gpuMemoryUtilization": 0.9}, ["--gpu-memory-utilization", "0.9"]),
    ({"gpuMemoryUtilization": 1}, ["--gpu-memory-utilization", "1"]),
    ({"cpuOffloadGB": 8.5}, ["--cpu-offload-gb", "8.5"]),
    ({"enablePrefixCaching": True}, ["--enable-prefix-caching"]),
    ({"enablePrefixCaching": False}, ["--no-enable-prefix-caching"]),
    ({"enforceEager": False, "trustRemoteCode": False}, ["--no-enforce-eager", "--no-trust-remote-code"]),
    ({"toolCallParser": "hermes"}, ["--tool-call-parser", "hermes", "--enable-auto-tool-choice"]),
    (
        {"chatTemplate": {"configMapKeyRef": {"name": "t", "key": "x.jinja"}}},
        ["--chat-template", "/etc/vllm/chat-template/x.jinja"],
    ),
    ({"hfOverrides": {"b": 1, "a": {"c": [1, None]}}}, ["--hf-overrides", '{"a":{"c":[1,null]},"b":1}']),
    ({"hfOverrides": {}}, ["--hf-overrides", "{}"]),
    ({"tokenizer": "-x"}, ["--tokenizer=-x"]),
    (
        {"seed": 0, "dtype": "half", "maxModelLen": 1},  # a fixed order, whatever the user's
        ["--max-model-len", "1", "--dtype", "half", "--seed", "0"],
    ),
]


@pytest.mark.parametrize(("engine", "expected"), TYPED, ids=lambda value: str(value)[:60])
def test_typed_options(engine: dict[str, Any], expected: list[str]) -> None:
    assert options(engine) == expected


def test_every_typed_option_is_in_the_table() -> None:
    others = {
        "version",
        "image",
        "image_pull_policy",
        "image_pull_secrets",
        "executable",
        "chat_template",
        "args",
        "env",
    }
    assert {attribute for attribute, _ in TYPED_OPTIONS} == set(Engine.model_fields) - others


ARGS: list[tuple[dict[str, Any], list[str]]] = [
    ({"max-num-queued-reqs": 2}, ["--max-num-queued-reqs", "2"]),
    ({"max_num_queued_reqs": 2}, ["--max-num-queued-reqs", "2"]),
    ({"async-scheduling": True}, ["--async-scheduling"]),
    ({"async-scheduling": False}, ["--no-async-scheduling"]),
    ({"no-async-scheduling": True}, ["--no-async-scheduling"]),
    ({"disable-log-stats": True}, ["--disable-log-stats"]),
    ({"disable-log-stats": False}, []),  # store_true: there is no --no-disable-log-stats
    ({"prefill-schedule-interval": -1}, ["--prefill-schedule-interval=-1"]),
    ({"mm-processor-cache-gb": 4.0}, ["--mm-processor-cache-gb", "4"]),
    ({"watermark": 0.015}, ["--watermark", "0.015"]),
    ({"watermark": 1e-7}, ["--watermark", "1e-07"]),
    ({"watermark": -0.5}, ["--watermark=-0.5"]),
    ({"cudagraph-capture-sizes": [1, 2, 4]}, ["--cudagraph-capture-sizes", "1", "2", "4"]),
    ({"numa-bind-nodes": [-1, 0]}, ["--numa-bind-nodes", "-1", "0"]),
    ({"lora-modules": ["-x"]}, ["--lora-modules=-x"]),
    ({"lora-modules": [{"path": "/p", "name": "n"}, "a=/b"]}, ["--lora-modules", '{"name":"n","path":"/p"}', "a=/b"]),
    ({"middleware": ["a.b", "c.d"]}, ["--middleware", "a.b", "--middleware", "c.d"]),
    ({"allowed-origins": ["https://a", "*"]}, ["--allowed-origins", '["https://a","*"]']),
    ({"allowed-origins": []}, ["--allowed-origins", "[]"]),
    ({"device-ids": [0, 1]}, ["--device-ids", "0,1"]),
    ({"limit-mm-per-prompt": {"video": 0, "image": 2}}, ["--limit-mm-per-prompt", '{"image":2,"video":0}']),
    ({"compilation_config.pass_config.fuse": True}, ["--compilation-config.pass_config.fuse=true"]),
    (
        {"compilation-config.mode": 3, "compilation-config.backend": "1"},
        ['--compilation-config.backend="1"', "--compilation-config.mode=3"],
    ),
    ({"response-role": ""}, ["--response-role", ""]),
    ({"yy": 1, "yx": 2}, ["--yx", "2", "--yy", "1"]),
    ({"config": "/etc/x.yaml"}, ["--config", "/etc/x.yaml"]),  # vLLM looks for the bare word --config
]


@pytest.mark.parametrize(("args", "expected"), ARGS, ids=lambda value: str(value)[:60])
def test_args(args: dict[str, Any], expected: list[str]) -> None:
    assert options({"args": args}) == expected


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"maxModelLen": "32k", "args": {"max_model_len": 32000}}, ["--max-model-len", "32k"]),
        ({"maxModelLen": "auto", "args": {"max-model-len": -1}}, ["--max-model-len", "auto"]),
        (
            {"gpuMemoryUtilization": 0.5, "args": {"device_memory_utilization": "0.50"}},
            ["--gpu-memory-utilization", "0.5"],
        ),
        ({"enforceEager": False, "args": {"no-enforce-eager": True}}, ["--no-enforce-eager"]),
        (
            {"toolCallParser": "hermes", "args": {"enable-auto-tool-choice": True}},
            ["--tool-call-parser", "hermes", "--enable-auto-tool-choice"],
        ),
        ({"args": {"block-size": 16, "block_size": "16"}}, ["--block-size", "16"]),
        (
            {"compilationConfig": {"mode": 3}, "args": {"compilation_config": '{"mode":3}'}},
            ["--compilation-config", '{"mode":3}'],
        ),
        ({"args": {"x": "1", "X": 1}}, ["--X", "1", "--x", "1"]),
    ],
    ids=str,
)
def test_the_same_value_twice_is_said_once(engine: dict[str, Any], expected: list[str]) -> None:
    assert options(engine) == expected


def test_an_option_that_begins_another_is_no_abbreviation() -> None:
    engine = {"tokenizerMode": "slow", "args": {"tokenizer": "x"}}
    assert options(engine) == ["--tokenizer-mode", "slow", "--tokenizer", "x"]


def test_args_come_after_typed_options() -> None:
    assert options({"seed": 1, "args": {"aaa": 1}}) == ["--seed", "1", "--aaa", "1"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    # the same option twice
    ({"maxModelLen": 1, "args": {"max-model-len": 2}}, "spec.engine.maxModelLen sets --max-model-len too"),
    ({"maxModelLen": 1, "args": {"max_model_len": 2}}, "spec.engine.args.max_model_len is 2"),
    ({"maxModelLen": 1, "args": {"max-model": 2}}, "abbreviation of --max-model-len"),
    ({"gpuMemoryUtilization": 0.5, "args": {"device_memory_utilization": 0.6}}, "spec.engine.gpuMemoryUtilization"),
    ({"enforceEager": True, "args": {"no-enforce-eager": True}}, "spec.engine.enforceEager"),
    ({"enforceEager": True, "args": {"no_enforce_eager": True}}, "spec.engine.enforceEager"),
    ({"toolCallParser": "hermes", "args": {"enable-auto-tool-choice": False}}, "spec.engine.toolCallParser"),
    ({"compilationConfig": {"mode": 3}, "args": {"compilation_config.mode": 2}}, "spec.engine.compilationConfig"),
    (
        {"chatTemplate": {"configMapKeyRef": {"name": "t", "key": "k"}}, "args": {"chat-template": "x"}},
        "spec.engine.chatTemplate",
    ),
    ({"args": {"block-size": 1, "block_size": 2}}, "both set --block-size"),
    ({"args": {"async-scheduling": True, "no-async-scheduling": True}}, "both set --async-scheduling"),
    ({"args": {"eplb-config": {}, "eplb_config.window_size": 2}}, "both set --eplb-config"),
    ({"args": {"gpu-memory-utilization": 0.5, "device-memory-utilization": 0.6}}, "both set"),
    # the operator's own
    ({"args": {"port": 9000}}, "--port: the operator sets it"),
    ({"args": {"served_model_name": "x"}}, "use spec.servedModelNames"),
    ({"args": {"api-key": "hunter2"}}, "use spec.auth.apiKeySecretRef"),
    ({"args": {"hf-token": "hunter2"}}, "use spec.hub.tokenSecretRef"),
    ({"args": {"tensor_parallel": 2}}, "abbreviation of --tensor-parallel-size"),
    ({"args": {"hos": "::"}}, "abbreviation of --host"),
    ({"args": {"tp": 2}}, "tensor-parallel-size — use spec.parallelism.tensor"),
    ({"args": {"q": "fp8"}}, "write its long name, quantization"),
    ({"args": {"no-enable-expert-parallel": True}}, "use spec.parallelism.expert"),
    ({"args": {"nnodes": 2}}, "one node"),
    # what cannot be written
    ({"args": {"--max-num-seqs": 2}}, "without leading dashes"),
    ({"args": {"-O3": True}}, "without leading dashes"),
    ({"args": {"a b": 1}}, "write an option's name"),
    ({"args": {"a=b": 1}}, "write an option's name"),
    ({"args": {"": 1}}, "write an option's name"),
    ({"args": {"a\n": 1}}, "write an option's name"),
    ({"args": {"x": None}}, "null"),
    ({"args": {"x": []}}, "empty list"),
    ({"args": {"x": [1, None]}}, "element cannot be null"),
    ({"args": {"x": ["a", "-b"]}}, "takes the element"),
    ({"args": {"x": "--"}}, "cannot read as a value"),
    ({"args": {"x": ["--"]}}, "cannot read as a value"),
    ({"tokenizer": "--"}, "spec.engine.tokenizer is"),
    ({"args": {"x": [-0.5, 1]}}, "takes the element"),
    ({"args": {"x": "a\0b"}}, "NUL"),
    ({"args": {"x": {"k": ["a\0b"]}}}, "NUL"),
    ({"args": {"x": {"a\0b": 1}}}, "NUL"),
    ({"hfOverrides": {"x": "\0"}}, "spec.engine.hfOverrides"),
    ({"args": {"no-x": False}}, "write x: true or x: false"),
    ({"args": {"no-x": 3}}, "write x: true or x: false"),
    ({"args": {"x": float("nan")}}, "cannot be written as JSON"),
]


@pytest.mark.parametrize(("engine", "part"), REFUSED, ids=[str(case[0])[:70] for case in REFUSED])
def test_refused(engine: dict[str, Any], part: str) -> None:
    message = refused(engine)
    assert part in message
    assert message.startswith("spec.engine.")


def test_a_secret_in_args_is_not_repeated_in_the_message() -> None:
    # a message becomes a condition, which more people may read than the spec
    assert "hunter2" not in refused({"args": {"api-key": "hunter2"}})
    assert "hunter2" not in refused({"args": {"hf_token": "hunter2"}})


@pytest.mark.parametrize("option", sorted({*OWNED_OPTIONS, *OWNED}))
def test_owned_options_are_refused_in_every_spelling(option: str) -> None:
    for spelling in {option, option.replace("-", "_"), f"no-{option}", f"{option}.x"}:
        assert f"spec.engine.args.{spelling} " in refused({"args": {spelling: True}})


@pytest.mark.parametrize("short", sorted(newest().short_names))
def test_short_names_are_refused(short: str) -> None:
    assert newest().short_names[short] in refused({"args": {short: 1}})


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (None, []),
        ("0.17.1", []),
        ("0.18.0", ["--shutdown-timeout", "100"]),
        ("0.32.0", ["--shutdown-timeout", "100"]),
        ("0.32.0rc1", ["--shutdown-timeout", "100"]),
        ("1.0.0", ["--shutdown-timeout", "100"]),
    ],
)
def test_shutdown_timeout_is_given_to_versions_that_have_it(version: str | None, expected: list[str]) -> None:
    assert options({}, version=version) == expected


def test_shutdown_timeout_of_the_user_wins() -> None:
    assert options({"args": {"shutdown_timeout": 7}}, version="0.32.0") == ["--shutdown-timeout", "7"]


@pytest.mark.parametrize(
    ("rollout", "seconds"),
    [
        ({}, 100),
        ({"drainSeconds": 0}, 115),
        ({"drainSeconds": 30, "terminationGracePeriodSeconds": 600}, 565),
        ({"terminationGracePeriodSeconds": 20}, None),
        ({"terminationGracePeriodSeconds": 10}, None),
        ({"terminationGracePeriodSeconds": 1}, None),
    ],
)
def test_shutdown_timeout_fits_the_grace_period(rollout: dict[str, Any], seconds: int | None) -> None:
    expected = [] if seconds is None else ["--shutdown-timeout", str(seconds)]
    assert command({"rollout": rollout}, version="0.32.0")[len(HEAD) :] == expected


def test_drain_longer_than_the_grace_period_is_refused() -> None:
    with pytest.raises(Refusal, match=r"spec.rollout.drainSeconds is 120.*120, the default"):
        command({"rollout": {"drainSeconds": 120}}, version="0.32.0")


HOSTILE = [
    *(
        "$(reboot)",
        "`reboot`",
        "; rm -rf /",
        "a b",
        "a\tb",
        "a\nb",
        "'",
        '"',
        "\\",
        "\\n",
        "*",
        "?",
        "~",
        "#",
        "!",
        "&&",
        "|",
    ),
    *(
        ">x",
        "<x",
        "%s",
        "{0}",
        "{version}",
        "$HOME",
        "${HOME}",
        "$$",
        "$(VLLM_API_KEY)",
        "--port",
        "--port=1",
        "-p",
        "-",
    ),
    *(
        "-1",
        "-0.5",
        "--a.b",
        "-a.b",
        "=",
        "=x",
        "@file",
        ":",
        ",",
        "[",
        "]",
        "{",
        "}",
        "{}",
        "[]",
        "null",
        "true",
        "1",
        "0x1",
    ),
    *(
        "ü",
        "日本語",
        "🦙",
        "\u202e",
        "\ufeff",
        "\u2028",
        "\x7f",
        "\r",
        " ",
        "  ",
        "",
        "a" * 10_000,
        "../..",
        "/etc/passwd",
    ),
    *(
        "--served-model-name=x",
        "--model",
        "serve",
        "--config",
        "--help",
        "--help=all",
        "-O3",
        "-tp",
        "-q",
        "1e9999",
        "NaN",
    ),
    *(f"--no-{name}" for name in ("enforce-eager", "x")),
    *(
        "'; DROP TABLE models; --",
        "$(cat /var/run/secrets/token)",
        "\x1b[31m",
        "%00",
        "\\u0000",
        "&#0;",
        "a=b",
        "k1=v1,k2=v2",
    ),
    *(
        "--=",
        "---",
        "- -",
        "-\n",
        "--\n--port",
        "-.",
        "--.",
        "-.x",
        "--x.y=z",
        "on",
        "off",
        "None",
        "😀-",
        "-😀",
        "e\u0301",
        "--\x7f",
    ),
]


def test_hostile_values_are_a_hundred() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 100


@pytest.mark.parametrize("value", HOSTILE, ids=[f"{index}" for index in range(len(HOSTILE))])
def test_hostile_value_stays_one_element(value: str) -> None:
    words = options({"args": {"some-option": value, "zzz": 1}})
    assert words[-2:] == ["--zzz", "1"]
    assert words[:-2] in (["--some-option", value], [f"--some-option={value}"])
    # a word of its own is never taken for an option
    assert len(words) == 3 or not value.startswith("-")


@pytest.mark.parametrize("value", HOSTILE, ids=[f"{index}" for index in range(len(HOSTILE))])
def test_hostile_value_within_json_stays_one_element(value: str) -> None:
    flag, text = options({"args": {"some-option": {"key": [value]}}})
    assert flag == "--some-option"
    assert json.loads(text) == {"key": [value]}


JSON_VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text("ab-.$ ü"),
    ),
    lambda children: st.one_of(st.lists(children, max_size=3), st.dictionaries(st.text("ab"), children, max_size=3)),
    max_leaves=8,
)
ARG_SETS = st.dictionaries(st.from_regex(r"x[a-z]{0,4}([-_.][a-z]{1,3}){0,2}", fullmatch=True), JSON_VALUES, max_size=6)


@given(ARG_SETS, st.randoms(use_true_random=False))
def test_order_of_args_does_not_matter(args: dict[str, Any], generator: random.Random) -> None:
    shuffled = list(args.items())
    generator.shuffle(shuffled)
    results: list[Any] = []
    for given_args in (args, dict(shuffled)):
        try:
            results.append(options({"args": given_args}))
        except Refusal as refusal:
            results.append(refusal.message)
    assert results[0] == results[1]


@given(ARG_SETS)
def test_every_flag_stands_once(args: dict[str, Any]) -> None:
    try:
        words = options({"args": args})
    except Refusal:
        return
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert len(flags) == len(set(flags))
    assert len(flags) == len(args)


@given(st.from_regex(r"[a-z][-_a-z]{0,9}(\.[-_a-z]{1,4})?", fullmatch=True))
def test_canonical_is_a_fixed_point(name: str) -> None:
    assert newest().canonical(newest().canonical(name)) == newest().canonical(name)
