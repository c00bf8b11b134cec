"""The plan: least GPUs, fixed values obeyed, refusals with numbers, and the properties that people rely on."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sizing.published import GPUS, configs, pool, published
from tests.sizing.tiny_models import TINY
from vllm_operator.hub.config import read_config
from vllm_operator.sizing.memory import GIB, Device, EngineOptions
from vllm_operator.sizing.planner import Sizing, SizingPlan, Wanted, nominal_pool, plan_sizing
from vllm_operator.sizing.pools import GpuPool

H100 = pool("H100", 8, 2)
L4 = pool("L4", 4, 2)


def plan(model: str, *pools: GpuPool, **wanted: Any) -> SizingPlan:
    sizing = ask(model, *pools, **wanted)
    assert sizing.plan is not None, sizing.message
    return sizing.plan


def ask(model: str, *pools: GpuPool, **wanted: Any) -> Sizing:
    return plan_sizing(published(model), Wanted(**wanted), pools or (H100,))


def test_least_gpus() -> None:
    decided = plan("Qwen/Qwen3-8B")
    assert (decided.gpus, decided.max_model_len, decided.max_context) == (1, 40960, True)
    assert plan("meta-llama/Llama-3.1-70B-Instruct").tensor_parallel_size == 4
    assert plan("meta-llama/Llama-3.1-70B-Instruct", max_model_len=4096).tensor_parallel_size == 2


def test_one_node_before_pipelines() -> None:
    decided = plan("deepseek-ai/DeepSeek-V3")
    assert (decided.nodes, decided.pipeline_parallel_size, decided.tensor_parallel_size) == (2, 2, 8)
    assert plan("deepseek-ai/DeepSeek-V3", H100, pool("H200", 8, 1)).nodes == 1


def test_smallest_pool_that_fits_and_what_else_would() -> None:
    sizing = ask("Qwen/Qwen3-4B", H100, L4, pool("B200", 8, 1))
    assert sizing.plan is not None
    assert sizing.plan.pool.name == "L4"
    assert [other.pool.name for other in sizing.alternatives] == ["H100", "B200"]
    assert "would do too: 1 × H100" in sizing.message


def test_fewer_gpus_with_a_shorter_context_are_named() -> None:
    sizing = ask("Qwen/Qwen3-32B", H100)
    assert sizing.plan is not None
    assert sizing.plan.gpus == 2
    (cheaper,) = sizing.alternatives
    assert (cheaper.gpus, cheaper.pool.name) == (1, "H100")
    assert 2048 <= cheaper.max_model_len < 40960
    assert not ask("Qwen/Qwen3-32B", H100, max_model_len=40960).alternatives


def test_order_of_pools_does_not_matter() -> None:
    assert ask("Qwen/Qwen3-32B", *GPUS) == ask("Qwen/Qwen3-32B", *reversed(GPUS))


def test_longest_context_is_said_plainly() -> None:
    sizing = ask("Qwen/Qwen3-32B", pool("H100", 1, 1))
    assert sizing.plan is not None
    assert not sizing.plan.max_context
    assert 2048 <= sizing.plan.max_model_len < 40960
    assert (
        f"context {sizing.plan.max_model_len:,} of the model's 40,960 tokens: the largest that fits" in sizing.message
    )


def test_refusal_has_numbers_and_what_would_fit() -> None:
    sizing = ask("Qwen/Qwen3-32B", pool("H100", 1, 1), max_model_len=32000)
    assert not sizing.fits
    assert "per GPU at tensor 1 on H100 for 32,000 tokens; there it fits with maxModelLen ≤" in sizing.message
    assert "kvCacheDtype fp8" in sizing.message
    assert sizing.closest is not None
    within = ask("Qwen/Qwen3-32B", pool("H100", 1, 1), max_model_len=sizing.closest.longest)
    assert within.fits
    assert ask(
        "Qwen/Qwen3-32B", pool("H100", 1, 1), max_model_len=32000, options=EngineOptions(kv_cache_dtype="fp8")
    ).fits


def test_fixed_values_are_obeyed() -> None:
    decided = plan("Qwen/Qwen3-8B", tensor=4, max_model_len=1000)
    assert (decided.tensor_parallel_size, decided.max_model_len) == (4, 1000)
    assert plan("Qwen/Qwen3-8B", gpus=8).tensor_parallel_size == 8
    assert plan("Qwen/Qwen3-8B", tensor=2, pipeline=2).gpus == 4
    assert plan("Qwen/Qwen3-8B", tensor=8, pipeline=2).nodes == 2
    assert plan("Qwen/Qwen3-8B", data=2, tensor=2).gpus == 4


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        (
            {"tensor": 3},
            "32 attention heads cannot be divided by tensor 3; tensor sizes that vLLM takes for Qwen3ForCausalLM: 1, 2, 4, 8",
        ),
        ({"max_model_len": 50000}, "a context of 50,000 tokens is more than the model's own maximum of 40,960"),
        ({"gpus": 8, "tensor": 3}, "8 GPUs cannot be tensor 3"),
        ({"gpus": 3, "pipeline": 1}, "32 attention heads cannot be divided by tensor 3"),
        ({"product": "NVIDIA-L4"}, "product NVIDIA-L4 is wanted"),
        ({"min_memory": 100 * GIB}, "less than the 100.0 that are wanted"),
        ({"vendor": "amd"}, "accelerator amd is wanted"),
        ({"tensor": 32}, "no shape that is wanted fits on nodes of 8 GPUs"),
    ],
)
def test_impossible(wanted: dict[str, Any], part: str) -> None:
    sizing = ask("Qwen/Qwen3-8B", **wanted)
    assert not sizing.fits
    assert part in sizing.message


def test_excluded_nodes_are_named() -> None:
    sizing = plan_sizing(published("Qwen/Qwen3-8B"), Wanted(), (), excluded=("2 × NVIDIA-L4 cordoned",))
    assert sizing.message == "there is no pool of GPUs; not counted: 2 × NVIDIA-L4 cordoned"


def test_quantization_blocks_decide_the_sizes() -> None:
    # 1536 / 8 = 192 is no multiple of 128: a real model that older versions of vLLM refuse at tensor 8
    sizing = ask("Qwen/Qwen3-235B-A22B-FP8", tensor=8, options=EngineOptions(version=(0, 11, 0)))
    assert "quantization block 128×128" in sizing.message
    assert ask("Qwen/Qwen3-235B-A22B-FP8", tensor=8).fits
    assert plan("Qwen/Qwen3-235B-A22B-FP8", tensor=4).gpus == 4


def test_capability() -> None:
    sizing = ask("openai/gpt-oss-20b", pool("T4", 4, 1))
    assert "mxfp4 quantization needs compute capability 8.0, this GPU has 7.5" in sizing.message
    assert not ask("Qwen/Qwen3-0.6B", pool("A100-80GB", 8, 1), options=EngineOptions(kv_cache_dtype="fp8")).fits


def test_mig_and_shared_gpus_are_not_joined() -> None:
    shared = replace(L4, shared=True, notes=("time-slicing",))
    assert not ask("Qwen/Qwen3-32B", shared).fits
    assert "time-slicing" in ask("Qwen/Qwen3-0.6B", shared).message


def test_tight_is_said() -> None:
    longest = ask("Qwen/Qwen3-32B", pool("H100", 1, 1), max_model_len=32000).closest
    assert longest is not None
    sizing = ask("Qwen/Qwen3-32B", pool("H100", 1, 1), max_model_len=longest.longest)
    assert "tight" in sizing.message


def test_older_versions_have_another_default() -> None:
    new = plan("Qwen/Qwen3-8B")
    old = plan("Qwen/Qwen3-8B", options=EngineOptions(version=(0, 21, 3)))
    assert new.memory.budget / H100.device.memory == pytest.approx(0.92)
    assert old.memory.budget / H100.device.memory == pytest.approx(0.9)
    assert not plan("Qwen/Qwen3-8B", options=EngineOptions(version=(0, 11, 0))).memory.cuda_graph_counts


def test_concurrency() -> None:
    one = plan("Qwen/Qwen3-8B")
    assert one.concurrency >= 1
    many = plan("Qwen/Qwen3-8B", concurrency=64)
    assert many.gpus > one.gpus
    assert many.concurrency >= 64


def test_encoders_need_no_cache() -> None:
    decided = plan("BAAI/bge-m3")
    assert decided.layout.bytes_per_block == 0
    assert decided.concurrency == float("inf")


# Batch defaults change at 70 and 160 GiB (EngineArgs.get_batch_defaults), where more memory makes vLLM take more for itself:
# monotony is a property of everything else.
FIXED = EngineOptions(max_num_seqs=256, max_num_batched_tokens=8192)
MODELS = st.sampled_from(sorted(configs()))
MEMORY = st.integers(4, 300)


def best(sizing: Sizing) -> tuple[object, ...]:
    """Larger is better: context, then fewer nodes, then fewer GPUs."""
    found = sizing.plan
    return (0,) if found is None else (found.max_model_len, -found.nodes, -found.gpus)


@given(
    model=MODELS, memory=MEMORY, more=st.integers(0, 100), nodes=st.integers(1, 4), a_node=st.sampled_from([1, 2, 4, 8])
)
def test_more_memory_is_never_worse(model: str, memory: int, more: int, nodes: int, a_node: int) -> None:
    def ask(gib: int) -> Sizing:
        there = GpuPool("X", Device(gib * GIB, "X", (9, 0)), a_node, nodes)
        return plan_sizing(published(model), Wanted(options=FIXED), [there])

    assert best(ask(memory + more)) >= best(ask(memory))


@given(model=MODELS, memory=MEMORY, nodes=st.integers(1, 4), a_node=st.sampled_from([1, 2, 4, 8]), data=st.data())
def test_longer_context_never_needs_fewer_gpus(
    model: str, memory: int, nodes: int, a_node: int, data: st.DataObject
) -> None:
    facts = published(model)
    short, long = sorted(data.draw(st.integers(1, facts.max_model_len)) for _ in range(2))
    there = [GpuPool("X", Device(memory * GIB, "X", (9, 0)), a_node, nodes)]
    first, second = (plan_sizing(facts, Wanted(max_model_len=length), there).plan for length in (short, long))
    if second is not None:
        assert first is not None
        assert first.gpus <= second.gpus
        assert first.nodes <= second.nodes


@given(
    model=MODELS,
    chosen=st.lists(st.sampled_from(GPUS), max_size=4, unique=True),
    fixed=st.sampled_from([None, 1, 2, 4, 8]),
)
def test_same_inputs_same_plan(model: str, chosen: list[GpuPool], fixed: int | None) -> None:
    facts = published(model)
    again = read_config(configs()[model])
    assert plan_sizing(facts, Wanted(tensor=fixed), chosen) == plan_sizing(
        again, Wanted(tensor=fixed), list(reversed(chosen))
    )


@given(model=MODELS, there=st.sampled_from(GPUS))
def test_what_is_planned_fits(model: str, there: GpuPool) -> None:
    found = plan_sizing(published(model), Wanted(), [there]).plan
    if found is None:
        return
    assert found.memory.kv_cache >= 0
    assert found.concurrency >= 1
    assert found.gpus <= there.gpus
    # asked for explicitly, the same plan comes out: what status shows can be written into the spec
    fixed = Wanted(
        tensor=found.tensor_parallel_size,
        pipeline=found.pipeline_parallel_size,
        max_model_len=found.max_model_len,
        gpus=found.gpus,
    )
    again = plan_sizing(published(model), fixed, [there]).plan
    assert again is not None
    assert (again.gpus, again.nodes, again.max_model_len) == (found.gpus, found.nodes, found.max_model_len)


@pytest.mark.parametrize("name", TINY)
def test_every_architecture_has_a_plan(name: str) -> None:
    assert plan_sizing(read_config(TINY[name]), Wanted(), [nominal_pool("L4", memory_gib=22, gpus_per_node=1)]).fits
