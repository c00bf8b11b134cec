"""What is refused because the vLLM version does not take it, and what is said then."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.catalogue.every_option import WORDS
from tests.engine import model_parser
from tests.engine.commands import HEAD, options
from tests.engine.test_command import HOSTILE, JSON_VALUES
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.engine.catalogue import Catalogue, Option, Type, find, versions
from vllm_operator.engine.options import OWNED
from vllm_operator.engine.words import to_word

VERSION = "0.32.0"


def args(**given: Any) -> dict[str, Any]:
    return {"args": {name.replace("__", "."): value for name, value in given.items()}}


def outcome(engine: dict[str, Any], version: str) -> list[str] | Refusal:
    try:
        return options(engine, version=version)
    except Refusal as refusal:
        return refusal


def refused(engine: dict[str, Any], version: str = VERSION) -> str:
    with pytest.raises(Refusal) as caught:
        options(engine, version=version)
    assert caught.value.reason is Reason.INVALID_ENGINE_ARGS
    return caught.value.message


WHOLE: list[tuple[dict[str, Any], str, str]] = [
    # the whole message
    (
        {"args": {"enable-prefix-cachng": True}},
        "0.32.0",
        "spec.engine.args.enable-prefix-cachng: unknown in vLLM 0.32.0; did you mean enable-prefix-caching?",
    ),
    (
        {"args": {"xyz": True}},
        "0.32.0",
        "spec.engine.args.xyz: unknown in vLLM 0.32.0; vllm serve --help=all lists what it takes",
    ),
    (
        {"args": {"api-kye": "hunter2"}},
        "0.32.0",
        "spec.engine.args.api-kye: unknown in vLLM 0.32.0; did you mean api-key? (use spec.auth.apiKeySecretRef: an argument can be "
        "read by everyone who may see the pod)",
    ),
    # removed
    (
        {"args": {"max_num_partial_prefills": 2}},
        "0.32.0",
        "spec.engine.args.max_num_partial_prefills: not in vLLM 0.32.0: removed in 0.27; use long-prefill-token-threshold instead",
    ),
    (
        {"args": {"swap-space": 4}},
        "0.31.0",
        "spec.engine.args.swap-space: not in vLLM 0.31.0: removed in 0.18; leave it out",
    ),
    (
        {"args": {"no-enable-reasoning": True}},
        "0.24.0",
        "spec.engine.args.no-enable-reasoning: not in vLLM 0.24.0: removed in 0.10; use reasoning-parser instead",
    ),
    # of a later version
    ({"args": {"log-level": "INFO"}}, "0.30.1", "spec.engine.args.log-level: unknown in vLLM 0.30.0; 0.31 has it"),
    # abbreviations
    (
        {"args": {"max-num": 2}},
        "0.25.1",
        "spec.engine.args.max-num: unknown in vLLM 0.25.1, and an abbreviation of several options: max-num-batched-tokens, "
        "max-num-partial-prefills, max-num-seqs",
    ),
    (
        {"args": {"hos": "::"}},
        "0.32.0",
        "spec.engine.args.hos is set, but the operator does not let args set --host: the operator sets it",
    ),
    (
        {"maxModelLen": 1, "args": {"max-model": 2}},
        "0.32.0",
        "spec.engine.args.max-model is 2, but spec.engine.maxModelLen sets --max-model-len too: keep one of them",
    ),
    # values
    (
        {"kvCacheDtype": "fp7"},
        "0.18.1",
        'spec.engine.kvCacheDtype is "fp7": vLLM 0.18.1 takes one of auto, bfloat16, float16, fp8, fp8_ds_mla, fp8_e4m3, fp8_e5m2, '
        "fp8_inc",
    ),
    (
        {"args": {"max-num-seqs": "many"}},
        "0.32.0",
        'spec.engine.args.max-num-seqs is "many": vLLM 0.32.0 takes an integer, at least 1',
    ),
    (
        {"args": {"gpu-memory-utilization": 1.7}},
        "0.32.0",
        "spec.engine.args.gpu-memory-utilization is 1.7: vLLM 0.32.0 takes a number, above 0 and at most 1",
    ),
    # --no- and dotted keys
    (
        {"args": {"no-disable-log-stats": True}},
        "0.32.0",
        "spec.engine.args.no-disable-log-stats: --disable-log-stats has no --no- form in vLLM 0.32.0: it takes true or false",
    ),
    (
        {"args": {"max-num-seqs.x": 1}},
        "0.32.0",
        "spec.engine.args.max-num-seqs.x: --max-num-seqs has no keys: vLLM 0.32.0 takes an integer, at least 1",
    ),
]


@pytest.mark.parametrize(("engine", "version", "message"), WHOLE, ids=[str(case[0])[:60] for case in WHOLE])
def test_whole_message(engine: dict[str, Any], version: str, message: str) -> None:
    assert refused(engine, version) == message


WRONG: list[tuple[dict[str, Any], str]] = [
    (args(block_size=8.5), "takes an integer"),
    (args(block_size=[8, 16]), "takes an integer"),
    (args(block_size={}), "takes an integer"),
    (args(block_size=True), "takes an integer"),
    (args(block_size=""), "takes an integer"),
    (args(async_scheduling="true"), "takes true or false"),
    (args(async_scheduling=1), "takes true or false"),
    (args(async_scheduling=[True]), "takes true or false"),
    (args(response_role=True), "takes text"),
    (args(response_role={"a": 1}), "takes text"),
    (args(response_role=["a", "b"]), "takes text"),
    (args(cudagraph_capture_sizes=[1, "x"]), "takes one value or a list, each an integer"),
    (args(cudagraph_capture_sizes=[True]), "each an integer"),
    (args(eplb_config="yes"), "takes a JSON object"),
    (args(eplb_config=[1]), "takes a JSON object"),
    (args(eplb_config="[1]"), "takes a JSON object"),
    (args(eplb_config="[" * 100_000), "takes a JSON object"),
    (args(allowed_origins={"a": 1}), "takes a JSON list"),
    (args(hf_overrides="{oops}"), "takes text or an object"),
    (args(hf_overrides=[{}, {}]), "takes text or an object"),
    (args(max_num_batched_tokens="32kb"), "also as e.g. 32k or 32K"),
    (args(max_num_batched_tokens="auto"), "also as e.g. 32k or 32K"),
    (args(max_num_batched_tokens="9" * 400 + "k"), "also as e.g. 32k or 32K"),
    (args(max_lora_rank=7), "takes one of 1, 8, 16, 32"),
    (args(moe_backend="tritn"), "takes one of"),
    (args(uvicorn_log_level="INFO"), "takes one of"),
    (args(collect_detailed_traces=["all", "x"]), "each one of all, model, worker"),
    ({"tokenizerMode": "slow", "runner": "draft", "convert": "embeding"}, 'spec.engine.convert is "embeding"'),
    ({"toolCallParser": "hermess"}, "does not register; did you mean hermes? It registers"),
    ({"reasoningParser": "qwen4"}, 'spec.engine.reasoningParser is "qwen4", which vLLM 0.32.0 does not register; did you mean qwen3?'),
    (args(tool_call_parser="minimax"), 'spec.engine.args.tool_call_parser is "minimax", which vLLM 0.32.0 does not register'),
    (args(reasoning_parser="xyz"), "does not register; It registers"),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "part"), WRONG, ids=[str(case[0])[:60] for case in WRONG])
def test_wrong_value(engine: dict[str, Any], part: str) -> None:
    assert part in refused(engine)


RIGHT: list[tuple[dict[str, Any], list[str]]] = [
    (args(block_size="8"), ["--block-size", "8"]),
    (args(block_size=[8]), ["--block-size", "8"]),
    (args(block_size=8.0), ["--block-size", "8"]),
    (args(seed=-1), ["--seed=-1"]),
    (args(numa_bind_nodes="None"), ["--numa-bind-nodes", "None"]),
    (args(response_role=3), ["--response-role", "3"]),
    (args(moe_backend="Deep-GEMM"), ["--moe-backend", "Deep-GEMM"]),
    (args(mm_processor_device="cuda"), ["--mm-processor-device", "cuda"]),
    (args(disable_log_stats=False), []),
    (args(no_async_scheduling=True), ["--no-async-scheduling"]),
    (args(eplb_config='{"window_size": 2k}'), ["--eplb-config", '{"window_size": 2k}']),
    (args(eplb_config__window_size=3), ["--eplb-config.window_size=3"]),
    (args(hf_overrides__a=1), ["--hf-overrides.a=1"]),
    (args(lora_modules={"name": "a", "path": "/b"}), ["--lora-modules", '{"name":"a","path":"/b"}']),
    (args(optimization_level=3), ["--optimization-level", "3"]),
    (args(device_memory_utilization=0.5), ["--gpu-memory-utilization", "0.5"]),
    # abbreviations that argparse takes are written out
    (args(max_model=5), ["--max-model-len", "5"]),
    (args(no_async=True), ["--no-async-scheduling"]),
    (args(eplb__window_size=3), ["--eplb-config.window_size=3"]),
    # a plugin may register what the version has not
    (
        {"toolCallParser": "mine", "args": {"tool-parser-plugin": "/x.py"}},
        ["--tool-call-parser", "mine", "--enable-auto-tool-choice", "--tool-parser-plugin", "/x.py"],
    ),
    (
        args(reasoning_parser="mine", reasoning_parser_plugin="/x.py"),
        ["--reasoning-parser", "mine", "--reasoning-parser-plugin", "/x.py"],
    ),
    (args(reasoning_parser=""), ["--reasoning-parser", ""]),
]


@pytest.mark.parametrize(("engine", "expected"), RIGHT, ids=[str(case[0])[:60] for case in RIGHT])
def test_right_value(engine: dict[str, Any], expected: list[str]) -> None:
    written = options(engine, version=VERSION)
    of_the_operator = written.index("--shutdown-timeout")
    del written[of_the_operator : of_the_operator + 2]
    assert written == expected


UNKNOWN: list[dict[str, Any]] = [
    args(max_num_partial_prefills=2, brand_new=[1, 2]),
    args(async_scheduling="yes"),
    {"toolCallParser": "brand_new"},
    {"kvCacheDtype": "fp7"},
]


@pytest.mark.parametrize("engine", UNKNOWN, ids=str)
@pytest.mark.parametrize("version", [None, "0.17.0", "0.32.1rc1.dev5+g123", "99.0.0"])
def test_nothing_is_checked_without_a_catalogue(engine: dict[str, Any], version: str | None) -> None:
    assert "--shutdown-timeout" in options(engine, version="99.0.0")
    expected = [word for word in options(engine) if word]
    assert [word for word in options(engine, version=version) if word not in ("--shutdown-timeout", "100")] == expected


def test_two_names_of_one_option() -> None:
    message = refused(args(max_num_seq=1, max_num_seqs=2))
    assert (
        message
        == "spec.engine.args.max_num_seqs and spec.engine.args.max_num_seq both set --max-num-seqs: keep one of them"
    )


@pytest.mark.parametrize("value", HOSTILE, ids=[f"{index}" for index in range(len(HOSTILE))])
def test_a_hostile_value_is_one_element_or_refused(value: str) -> None:
    written = options({"args": {"response-role": value}}, version=VERSION)
    assert value in (written[-1], written[-1].removeprefix("--response-role="))
    for name in ("max-num-seqs", "kv-cache-dtype", "eplb-config", "async-scheduling"):
        found = outcome({"args": {name: value}}, VERSION)
        if isinstance(found, list):
            assert (name, found[-1]) in {("max-num-seqs", "1"), ("eplb-config", "{}")}


@settings(max_examples=300)
@given(st.sampled_from(versions()), st.data())
def test_whatever_is_given_is_written_or_refused(version: str, data: st.DataObject) -> None:
    known = _known(version)
    name = data.draw(st.sampled_from(sorted(known.options)))
    written = data.draw(
        st.sampled_from([name, name.replace("-", "_"), f"no-{name}", f"{name}.key", name[:-1], f"{name}x", name[1:]])
    )
    value = data.draw(st.one_of(JSON_VALUES, st.sampled_from(WORDS)))
    found = outcome({"args": {written: value}}, version)
    if isinstance(found, Refusal):
        assert found.reason is Reason.INVALID_ENGINE_ARGS
        assert found.message.startswith("spec.engine.args")
    else:
        model_parser.parse(_parser(version), [*HEAD[2:], *found])


@settings(max_examples=300)
@given(st.sampled_from(versions()), st.data())
def test_a_value_of_the_options_type_is_read_back(version: str, data: st.DataObject) -> None:
    known = _known(version)
    option = known.options[data.draw(st.sampled_from(sorted(known.options.keys() - OWNED.keys())))]
    if option.name in ("tool-call-parser", "reasoning-parser"):
        registered = known.tool_parsers if option.name == "tool-call-parser" else known.reasoning_parsers
        value: Any = data.draw(st.sampled_from(registered))
        meant: Any = value
    else:
        value, meant = data.draw(values(option))
    found = outcome({"args": {option.name: value}}, version)
    if isinstance(found, Refusal):
        # what no list can hold
        assert "takes the element" in found.message
        assert isinstance(value, list)
        assert len(value) > 1
        assert any(to_word(each, "").startswith("-") for each in value)
    else:
        assert model_parser.parse(_parser(version), [*HEAD[2:], *found])[option.name] == meant


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: text != "--"
)
OBJECTS = st.dictionaries(TEXTS, JSON_VALUES, max_size=3)


def values(option: Option) -> st.SearchStrategy[tuple[Any, Any]]:
    """Values of the option's type, with what each means."""
    if option.type is Type.BOOLEAN:
        return st.booleans().map(lambda value: (value, value if value or option.negatable else None))
    if option.of == "list":
        return st.lists(JSON_VALUES, max_size=3).map(lambda value: (value, value))
    if option.type is Type.COMMA_LIST:
        words = st.lists(st.text("abc:/.0-", min_size=1), min_size=1, max_size=3)
        return words.filter(lambda value: value != ["--"]).map(lambda value: (value, option.read(",".join(value))))
    if not option.several:
        return singles(option).map(lambda value: (value, option.read(to_word(value, ""))))
    return st.lists(singles(option), min_size=1, max_size=3).map(
        lambda value: (value, [option.read(to_word(each, "")) for each in value])
    )


def singles(option: Option) -> st.SearchStrategy[Any]:
    """One value that can be written as one word."""
    least = option.least if option.least is not None else option.above
    most = option.most if option.most is not None else option.below
    whole = st.integers(
        None if least is None else int(least) + (option.above is not None), None if most is None else int(most)
    )
    match option.type:
        case _ if option.choices:
            return st.sampled_from(option.choices)
        case Type.INTEGER:
            return st.one_of(whole, whole.map(str))
        case Type.NUMBER:
            open_low, open_high = option.above is not None, option.below is not None
            return st.floats(
                least, most, exclude_min=open_low, exclude_max=open_high, allow_nan=False, allow_infinity=False
            )
        case Type.HUMAN_READABLE | Type.HUMAN_READABLE_OR_AUTO:
            return st.one_of(
                whole, st.from_regex(r"[1-9][0-9]{0,3}(\.[0-9])?[kmgt]|[1-9][0-9]{0,3}[KMGT]", fullmatch=True)
            )
        case Type.JSON:
            return OBJECTS
        case Type.JSON_OR_TEXT:
            return st.one_of(OBJECTS, TEXTS.filter(lambda text: "{" not in text))
        case _:
            return TEXTS


@cache
def _known(version: str) -> Catalogue:
    found = find(version)
    assert found is not None
    return found


@cache
def _parser(version: str) -> Any:
    return model_parser.make_parser(_known(version))
