"""vLLM's own parser reads the vectors as they are meant.

The environment is the one of the real node (tests/cluster/vllm_env.py): without it these tests are skipped. For the other versions
that have a catalogue: `make test-catalogue`.
"""

import json
from typing import Any

import pytest

from tests.catalogue.every_option import misdescribed, misimported, misjudged, misread
from tests.catalogue.versions import run_in_vllm
from tests.cluster.settings import VLLM_VERSION
from tests.cluster.vllm_env import environment_path
from tests.engine.commands import command
from tests.engine.families import FAMILIES, TRAPS
from tests.engine.test_command import HOSTILE
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.engine.catalogue import Catalogue, find
from vllm_operator.engine.recipes import choose

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (environment_path() / "bin" / "python").exists(),
        reason="vLLM is not installed: `python -m tests.cluster` makes its environment",
    ),
]

COMMON = {"model_tag": "Qwen/Qwen3-8B", "host": "0.0.0.0", "port": 8000, "served_model_name": ["qwen"]}

ENGINE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"shutdown_timeout": 100, "headless": False, "api_key": None}),
    ({"maxModelLen": "auto"}, {"max_model_len": -1}),
    ({"maxModelLen": -1}, {"max_model_len": -1}),
    ({"maxModelLen": "32K", "dtype": "half"}, {"max_model_len": 32768, "dtype": "half"}),
    *(
        ({field: value}, {attribute: value})
        for field, attribute in (
            ("enforceEager", "enforce_eager"),
            ("trustRemoteCode", "trust_remote_code"),
            ("enablePrefixCaching", "enable_prefix_caching"),
            ("enableChunkedPrefill", "enable_chunked_prefill"),
        )
        for value in (True, False)
    ),
    (
        {"gpuMemoryUtilization": 1, "cpuOffloadGB": 8.5, "blockSize": 16, "seed": 0},
        {"gpu_memory_utilization": 1.0, "cpu_offload_gb": 8.5, "block_size": 16, "seed": 0},
    ),
    ({"maxNumSeqs": 3, "maxNumBatchedTokens": 4000}, {"max_num_seqs": 3, "max_num_batched_tokens": 4000}),
    (
        {
            "quantization": "fp8",
            "kvCacheDtype": "fp8",
            "tokenizer": "x",
            "tokenizerMode": "slow",
            "loadFormat": "dummy",
        },
        {
            "quantization": "fp8",
            "kv_cache_dtype": "fp8",
            "tokenizer": "x",
            "tokenizer_mode": "slow",
            "load_format": "dummy",
        },
    ),
    ({"runner": "pooling", "convert": "embed"}, {"runner": "pooling", "convert": "embed"}),
    (
        {"toolCallParser": "hermes", "reasoningParser": "qwen3"},
        {"tool_call_parser": "hermes", "enable_auto_tool_choice": True, "reasoning_parser": "qwen3"},
    ),
    (
        {"chatTemplate": {"configMapKeyRef": {"name": "t", "key": "x.jinja"}}},
        {"chat_template": "/etc/vllm/chat-template/x.jinja"},
    ),
    ({"hfOverrides": {"a": {"b": 1}}}, {"hf_overrides": {"a": {"b": 1}}}),
    (
        {"speculativeConfig": {"method": "ngram", "num_speculative_tokens": 3}},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
    ),
]

ARGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"async-scheduling": False}, {"async_scheduling": False}),
    ({"no_async_scheduling": True}, {"async_scheduling": False}),
    ({"disable-log-stats": True}, {"disable_log_stats": True}),
    ({"disable-log-stats": False, "aggregate_engine_logging": False}, {"disable_log_stats": False}),
    ({"cudagraph-capture-sizes": [1, 2, 4]}, {"cudagraph_capture_sizes": [1, 2, 4]}),
    ({"numa-bind-nodes": [-1, 0]}, {"numa_bind_nodes": [-1, 0]}),
    ({"numa-bind-nodes": [-1]}, {"numa_bind_nodes": [-1]}),
    ({"ignore-patterns": ["a", "b"]}, {"ignore_patterns": ["a", "b"]}),
    ({"collect-detailed-traces": ["all"]}, {"collect_detailed_traces": ["all"]}),
    ({"middleware": ["a.b", "c.d"]}, {"middleware": ["a.b", "c.d"]}),
    ({"allowed-origins": ["https://a", "*"]}, {"allowed_origins": ["https://a", "*"]}),
    ({"allowed-origins": []}, {"allowed_origins": []}),
    ({"device-ids": [0, 1]}, {"device_ids": [0, 1]}),
    ({"device-ids": 0}, {"device_ids": [0]}),
    (
        {"disable-access-log-for-endpoints": ["/health", "/metrics"]},
        {"disable_access_log_for_endpoints": "/health,/metrics"},
    ),
    ({"limit-mm-per-prompt": {"video": 0, "image": 2}}, {"limit_mm_per_prompt": {"video": 0, "image": 2}}),
    ({"override-generation-config": {"temperature": 0.5}}, {"override_generation_config": {"temperature": 0.5}}),
    (
        {"additional_config.b_c": {"x": 1}, "additional-config.a": "1"},
        {"additional_config": {"b_c": {"x": 1}, "a": "1"}},
    ),
    ({"watermark": 0.015, "mm-processor-cache-gb": 4.0}, {"watermark": 0.015, "mm_processor_cache_gb": 4.0}),
    ({"shutdown_timeout": 7}, {"shutdown_timeout": 7}),
    *(({"response-role": value}, {"response_role": value}) for value in HOSTILE),
    *(
        ({"default-chat-template-kwargs": {"k": [value]}}, {"default_chat_template_kwargs": {"k": [value]}})
        for value in HOSTILE
    ),
    *(({"additional-config.k": value}, {"additional_config": {"k": value}}) for value in HOSTILE),
]

SPECS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"parallelism": {"tensor": 2, "pipeline": 3, "data": 4, "expert": True}},
        {
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 3,
            "data_parallel_size": 4,
            "enable_expert_parallel": True,
        },
    ),
    (
        {
            "defaults": {
                "temperature": 0,
                "topP": 0.9,
                "topK": -1,
                "minP": 0.1,
                "repetitionPenalty": 1.1,
                "maxTokens": 100,
                "presencePenalty": -0.5,
                "frequencyPenalty": 1,
                "enableThinking": False,
                "chatTemplateKwargs": {"a": "$x"},
            }
        },
        {
            "override_generation_config": {
                "temperature": 0.0,
                "top_p": 0.9,
                "top_k": -1,
                "min_p": 0.1,
                "repetition_penalty": 1.1,
                "max_new_tokens": 100,
                "presence_penalty": -0.5,
                "frequency_penalty": 1.0,
            },
            "default_chat_template_kwargs": {"a": "$x", "enable_thinking": False},
        },
    ),
    *(({"engine": engine}, expected) for engine, expected in ENGINE),
    *(({"engine": {"args": args}}, expected) for args, expected in ARGS),
]


def test_vllm_reads_what_was_meant() -> None:
    expected = [{**COMMON, **attributes} for _, attributes in SPECS]
    cases = [
        (command(spec, version=VLLM_VERSION)[1:], list(wanted))
        for (spec, _), wanted in zip(SPECS, expected, strict=True)
    ]
    read = run_in_vllm("parse", stdin=json.dumps(cases))
    wrong = [(spec, got) for (spec, _), wanted, got in zip(SPECS, expected, read, strict=True) if got != wanted]
    assert wrong == []


def test_vllm_reads_what_was_chosen_for_each_family() -> None:
    attributes = [
        *("tool_call_parser", "enable_auto_tool_choice", "reasoning_parser", "tokenizer_mode", "runner"),
        *("chat_template_content_format", "hf_overrides"),
    ]
    cases, expected = [], []
    for each in (*FAMILIES, *TRAPS):
        options = choose(VLLMModelSpec(model=each.model), each.traits, VLLM_VERSION).options
        cases.append((command({"model": each.model}, version=VLLM_VERSION, traits=each.traits)[1:], attributes))
        expected.append(
            {
                "tool_call_parser": each.tools,
                "enable_auto_tool_choice": each.tools is not None,
                "reasoning_parser": each.reasoning or "",
                "tokenizer_mode": options.get("tokenizer-mode", "auto"),
                "runner": options.get("runner", "auto"),
                "chat_template_content_format": options.get("chat-template-content-format", "auto"),
                "hf_overrides": options.get("hf-overrides", {}),
            }
        )
    read = run_in_vllm("parse", stdin=json.dumps(cases))
    assert [(case[0][1], got) for case, got in zip(cases, read, strict=True)] == [
        (case[0][1], wanted) for case, wanted in zip(cases, expected, strict=True)
    ]


def test_the_catalogue_is_what_vllm_says_of_itself() -> None:
    assert misdescribed(_catalogue()) == []


def test_every_option_is_read_as_it_is_meant() -> None:
    assert misread(_catalogue()) == []


def test_what_is_refused_is_what_vllm_refuses() -> None:
    assert misjudged(_catalogue()) == []


def test_what_is_imported_means_the_same() -> None:
    assert misimported(_catalogue()) == []


def _catalogue() -> Catalogue:
    found = find(VLLM_VERSION)
    assert found is not None
    assert found.version == VLLM_VERSION
    return found
