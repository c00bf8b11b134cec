"""What vLLM was measured to take, against the estimate."""

import statistics
from typing import Any

import pytest

from tests.sizing.published import DATA, configs
from vllm_operator.hub.config import read_config
from vllm_operator.sizing.kv_cache import build_layout
from vllm_operator.sizing.memory import GIB, Device, EngineOptions, ModelMemory, captured_sizes, gib
from vllm_operator.sizing.planner import Sizing, Wanted, nominal_pool, plan_sizing

# vLLM 0.11.0 on an H100 of 80 GB with 79.18 GiB visible; from llm-d-planner's docs/empirical-vllm-memory-results.md
VISIBLE = 79.18
OPTIONS = EngineOptions(version=(0, 11, 0), gpu_memory_utilization=0.9)
ROWS: list[dict[str, Any]] = [
    {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "max_model_len": 16000,
        "weights": 14.99,
        "activation": 4.76,
        "non_torch": 0.13,
        "kv": 51.38,
    },
    {
        "model": "openai/gpt-oss-20b",
        "max_model_len": 16000,
        "weights": 13.47,
        "activation": 7.38,
        "non_torch": 0.13,
        "kv": 50.28,
    },
    {
        "model": "Qwen/Qwen3-32B",
        "max_model_len": 16000,
        "weights": 61.03,
        "activation": 5.64,
        "non_torch": 0.14,
        "kv": 4.45,
    },
]


def plan(model: str, max_model_len: int, options: EngineOptions = OPTIONS) -> Sizing:
    facts = read_config(configs()[model])
    return plan_sizing(
        facts,
        Wanted(max_model_len=max_model_len, options=options),
        [nominal_pool("H100", memory_gib=VISIBLE, gpus_per_node=1)],
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_parts(row: dict[str, Any]) -> None:
    sizing = plan(row["model"], row["max_model_len"])
    assert sizing.plan is not None
    memory = sizing.plan.memory
    assert gib(memory.weights) == pytest.approx(row["weights"], rel=0.02)
    assert gib(memory.activation) == pytest.approx(row["activation"], abs=0.2)
    assert gib(memory.kv_cache) < row["kv"] + 0.1


def test_kv_budget() -> None:
    errors = []
    for row in ROWS:
        sizing = plan(row["model"], row["max_model_len"])
        assert sizing.plan is not None
        errors.append(gib(sizing.plan.memory.kv_cache) - row["kv"])
    assert statistics.median(abs(error) for error in errors) <= 0.4
    assert max(errors) <= 1


@pytest.mark.parametrize("options", [OPTIONS, EngineOptions(gpu_memory_utilization=0.9)], ids=["0.11", "newest"])
def test_the_row_that_failed_is_refused(options: EngineOptions) -> None:
    sizing = plan("Qwen/Qwen3-32B", 32000, options)
    assert not sizing.fits
    assert "for 32,000 tokens" in sizing.message
    assert "maxModelLen ≤ 1" in sizing.message


@pytest.mark.parametrize(
    ("model", "tensor", "expected"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", 1, 327_680),
        ("deepseek-ai/DeepSeek-V3", 1, 70_272),
        ("deepseek-ai/DeepSeek-V3", 8, 70_272),
    ],
)
def test_arithmetic(model: str, tensor: int, expected: int) -> None:
    assert build_layout(read_config(configs()[model]), tensor_parallel_size=tensor).bytes_per_token == expected


@pytest.mark.parametrize(
    ("model", "expected"), [("deepseek-ai/DeepSeek-V3", 0.65446), ("Qwen/Qwen2.5-0.5B-Instruct", 0.11444)]
)
def test_gib_at_ten_thousand_tokens(model: str, expected: float) -> None:
    layout = build_layout(read_config(configs()[model]), tensor_parallel_size=1)
    assert layout.bytes_per_token * 10_000 / 1024**3 == pytest.approx(expected, abs=1e-5)


def test_sparse_attention_has_its_own_fp8_layout() -> None:
    config = {
        **configs()["deepseek-ai/DeepSeek-V3"],
        "model_type": "deepseek_v32",
        "architectures": ["DeepseekV32ForCausalLM"],
    }
    facts = read_config({**config, "index_topk": 2048, "index_head_dim": 128})
    assert build_layout(facts, tensor_parallel_size=8).bytes_per_token == 61 * (1152 + 132)
    assert build_layout(facts, tensor_parallel_size=8, element_bytes=1).bytes_per_token == 61 * (656 + 132)


# (model, GPU, its GiB, options, tensor, context, GiB of KV cache) of public logs; each by other people, on other machines
LOGS = [
    (
        "Qwen/Qwen3-235B-A22B-FP8",  # vllm issue 21348
        Device(int(79.18 * GIB), "H100", (9, 0)),
        EngineOptions(version=(0, 9, 2), gpu_memory_utilization=0.9),
        4,
        40960,
        8.11,
    ),
    (
        "Qwen/Qwen2.5-7B-Instruct",
        Device(int(23.53 * GIB), "RTX 4090", (8, 9)),
        EngineOptions(version=(0, 24, 0), gpu_memory_utilization=0.85),
        1,
        2048,
        4.45,
    ),
    (
        "Qwen/Qwen2.5-0.5B-Instruct",
        Device(int(23.53 * GIB), "RTX 4090", (8, 9)),
        EngineOptions(version=(0, 24, 0), gpu_memory_utilization=0.85),
        1,
        2048,
        18.08,
    ),
]


@pytest.mark.parametrize(
    ("model", "gpu", "options", "tensor", "context", "measured"), LOGS, ids=[row[0] for row in LOGS]
)
def test_other_logs(
    model: str, gpu: Device, options: EngineOptions, tensor: int, context: int, measured: float
) -> None:
    memory = ModelMemory(read_config(configs()[model]))
    ours = gib(memory.memory(gpu, options, tensor_parallel_size=tensor, max_model_len=context).kv_cache)
    assert ours == pytest.approx(measured, abs=0.4)


def test_nccl_counts_until_it_starts_first() -> None:
    model = ModelMemory(read_config(configs()["Qwen/Qwen3-8B"]))

    def others(version: tuple[int, int, int], gpu: Device, tensor: int) -> float:
        return gib(
            model.memory(gpu, EngineOptions(version=version), tensor_parallel_size=tensor, max_model_len=4096).non_torch
        )

    large, small = Device(80 * GIB, "H100", (9, 0)), Device(24 * GIB, "RTX 4090", (8, 9))
    assert [others((0, 10, 2), large, tensor) for tensor in (1, 2, 8)] == [0.15, 2.15, 2.15]
    assert [others((0, 11, 0), large, tensor) for tensor in (1, 2, 8)] == [0.15, 1.25, 1.25]
    assert [others((0, 10, 2), small, tensor) for tensor in (1, 2)] == [0.15, 0.45]
    assert [others((0, 11, 0), small, tensor) for tensor in (1, 2)] == [0.15, 0.45]


@pytest.mark.parametrize(("largest", "sizes"), [(1, 1), (2, 2), (4, 3), (8, 4), (256, 35), (512, 51), (1024, 83)])
def test_captured_sizes(largest: int, sizes: int) -> None:
    """51 and 35 stand in vLLM's logs, for 512 and 256."""
    assert captured_sizes(largest) == sizes


@pytest.mark.parametrize(
    ("utilization", "tensor", "version", "warned"),
    [
        (0.9, 2, (0, 32, 0), False),
        (0.97, 1, (0, 32, 0), False),
        (0.995, 1, (0, 32, 0), True),
        (0.98, 2, (0, 32, 0), True),
        (0.98, 2, (0, 10, 2), False),
    ],
)
def test_what_is_taken_beforehand_is_said(
    utilization: float, tensor: int, version: tuple[int, int, int], warned: bool
) -> None:
    wanted = Wanted(tensor=tensor, options=EngineOptions(version=version, gpu_memory_utilization=utilization))
    sizing = plan_sizing(
        read_config(configs()["Qwen/Qwen3-8B"]), wanted, [nominal_pool("H100", memory_gib=79.18, gpus_per_node=8)]
    )
    assert any("may refuse to start" in reason for reason in sizing.reasons) == warned


def documented() -> list[str]:
    """The rows of docs/sizing.md."""
    lines = []
    for row in ROWS:
        sizing = plan(row["model"], row["max_model_len"])
        assert sizing.plan is not None
        memory = sizing.plan.memory
        parts = [
            f"{gib(ours):.2f} / {theirs:.2f}"
            for ours, theirs in (
                (memory.weights, row["weights"]),
                (memory.activation, row["activation"]),
                (memory.non_torch, row["non_torch"]),
                (memory.kv_cache, row["kv"]),
            )
        ]
        lines.append(
            f"| {row['model']} | {row['max_model_len']:,} | {' | '.join(parts)} | {gib(memory.kv_cache) - row['kv']:+.2f} |"
        )
    return lines


def test_the_table_in_the_documentation() -> None:
    text = (DATA.parent.parent / "docs" / "sizing.md").read_text()
    for line in documented():
        assert line in text
