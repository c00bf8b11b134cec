"""Spec + facts + pools → the plan that the builders take, or why there is none."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.sizing.published import pool, published
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import SizingStatus, VLLMModelSpec
from vllm_operator.sizing.decide import Decided, Known, decide, still_there
from vllm_operator.sizing.pools import GpuPool, Pools, Toleration
from vllm_operator.sizing.wanted import pod_constraints, read_bytes, read_tokens, read_version, wanted_from_spec

H100 = pool("H100", 8, 2)
QWEN8, QWEN32 = "Qwen/Qwen3-8B", "Qwen/Qwen3-32B"


def parse(model: str = QWEN8, **spec: Any) -> VLLMModelSpec:
    return VLLMModelSpec.model_validate({"model": model, **spec})


def decided(model: str, *pools: GpuPool, **spec: Any) -> Decided:
    result = decide(parse(model, **spec), Known(facts=published(model), pools=Pools(pools or (H100,)), commit="c0ffee"))
    SizingStatus.model_validate(result.status)
    return result


def refused(known: Known, model: str = QWEN8, **spec: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decide(parse(model, **spec), known)
    return caught.value


def test_plan() -> None:
    result = decided(QWEN8)
    plan, status = result.plan, result.status
    assert (plan.accelerator, plan.resource_name, plan.gpus_per_replica) == ("nvidia", "nvidia.com/gpu", 1)
    assert plan.max_model_len is None, "the model's own maximum is vLLM's default"
    assert status["maxModelLen"] == 40960
    assert (status["pool"], status["nodes"], status["tensorParallelSize"]) == (H100.name, 1, 1)
    assert status["revision"] == "c0ffee"
    assert status["kvBytesPerToken"] == 2 * 36 * 8 * 128 * 2
    assert set(status["memory"]) == {"weights", "activation", "other", "kvCache", "total"}
    assert "the model's maximum" in " ".join(status["reasons"])


def test_the_pool_is_pinned_with_its_tolerations() -> None:
    mine = replace(
        H100, node_selector=(("gpu", "h100"),), tolerations=(Toleration(key="team", value="a", effect="NoSchedule"),)
    )
    plan = decided(QWEN8, mine).plan
    assert plan.node_selector == {"gpu": "h100"}
    assert plan.tolerations == ({"key": "team", "operator": "Equal", "value": "a", "effect": "NoSchedule"},)


def test_several_nodes_are_refused_and_said() -> None:
    refusal = refused(
        Known(facts=published("deepseek-ai/DeepSeek-V3"), pools=Pools((H100,))), "deepseek-ai/DeepSeek-V3"
    )
    assert refusal.reason is Reason.DOES_NOT_FIT
    assert "2 nodes" in refusal.message
    assert "one node only" in refusal.message


def test_a_context_that_was_chosen_is_passed_on() -> None:
    result = decided(QWEN32, pool("H100", 1, 1))
    assert result.plan.max_model_len is not None
    assert result.plan.max_model_len < 40960
    assert result.status["maxModelLen"] == result.plan.max_model_len
    assert decided(QWEN32, pool("H100", 1, 1), engine={"maxModelLen": 1000}).plan.max_model_len is None


@pytest.mark.parametrize("args", [{"max-model-len": 1000}, {"max_model_len": "1k"}])
def test_options_in_args_count(args: dict[str, Any]) -> None:
    assert decided(QWEN32, pool("H100", 1, 1), engine={"args": args}).status["maxModelLen"] == 1000


def test_alternatives() -> None:
    result = decided(QWEN8, H100, pool("L40S", 4, 1))
    assert result.status["pool"] == "L40S"
    assert [other["pool"] for other in result.status["alternatives"]] == ["H100"]


def test_what_is_fixed_is_obeyed_and_checked() -> None:
    assert decided(QWEN8, parallelism={"tensor": 4}).plan.tensor_parallel_size == 4
    assert decided(QWEN8, accelerator={"count": 2}).plan.tensor_parallel_size == 2
    refusal = refused(Known(facts=published(QWEN32), pools=Pools((H100,))), QWEN32, parallelism={"tensor": 3})
    assert refusal.reason is Reason.DOES_NOT_FIT
    assert "cannot be divided by tensor 3" in refusal.message


def test_nothing_fits() -> None:
    refusal = refused(
        Known(facts=published(QWEN32), pools=Pools((pool("T4", 1, 1),), excluded=("2 × L4 cordoned",))), QWEN32
    )
    assert refusal.reason is Reason.DOES_NOT_FIT
    assert "GiB" in refusal.message
    assert "2 × L4 cordoned" in refusal.message


def test_no_gpus_at_all() -> None:
    known = Known(facts=published(QWEN8), pools=Pools((), excluded=("1 × T4 not ready",)))
    refusal = refused(known)
    assert refusal.reason is Reason.DOES_NOT_FIT
    assert "1 × T4 not ready" in refusal.message
    assert "gpuPools" in refusal.message
    free = decide(parse(parallelism={"tensor": 2}), known)
    assert free.plan.tensor_parallel_size == 2
    assert "not checked" in free.status["reasons"][0]


def test_a_product_without_nodes_is_unchecked_when_its_size_is_fixed() -> None:
    known = Known(facts=published(QWEN8), pools=Pools((H100,)))
    spec: dict[str, Any] = {"accelerator": {"product": "B200", "count": 1}}
    result = decide(parse(**spec), known)
    assert result.plan.node_selector == {"nvidia.com/gpu.product": "B200"}
    assert "there are: H100" in result.status["reasons"][0]
    assert refused(known, accelerator={"product": "B200"}).reason is Reason.DOES_NOT_FIT


def test_a_hub_that_is_away_keeps_only_those_waiting_whose_sizes_are_open() -> None:
    known = Known(unread="cannot reach it", may_come=True)
    assert refused(known).reason is Reason.HUB_UNAVAILABLE
    result = decide(parse(parallelism={"tensor": 2}), known)
    assert result.plan.tensor_parallel_size == 2
    assert "cannot reach it" in result.status["reasons"][0]
    assert decide(parse(accelerator={"type": "cpu"}), known).plan.accelerator == "cpu"


@pytest.mark.parametrize("known", [Known(unread="a path"), Known(facts=published(QWEN8), pools=None)])
def test_what_cannot_be_known_is_said(known: Known) -> None:
    result = decide(parse(), known)
    assert result.plan.tensor_parallel_size == 1
    assert "not checked" in result.status["reasons"][0]
    assert "guess" in result.status["reasons"][1]
    assert "pool" not in result.status


def test_on_cpus_the_cache_is_what_the_limit_leaves() -> None:
    known = Known(facts=published("Qwen/Qwen3-0.6B"))
    cpu: dict[str, Any] = {"accelerator": {"type": "cpu"}}
    result = decide(parse(**cpu, resources={"limits": {"memory": "16Gi"}}), known)
    assert result.plan.kv_cache_space_gib is not None
    assert result.status["memory"]["kvCache"] == f"{result.plan.kv_cache_space_gib}Gi"
    assert decide(parse(**cpu), known).plan.kv_cache_space_gib is None
    own = decide(
        parse(
            **cpu,
            resources={"limits": {"memory": "16Gi"}},
            engine={"env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"}]},
        ),
        known,
    )
    assert own.plan.kv_cache_space_gib is None
    refusal = refused(known, **cpu, resources={"limits": {"memory": "2Gi"}})
    assert refusal.reason is Reason.DOES_NOT_FIT
    assert "resources.limits.memory" in refusal.message


def test_whether_a_pool_is_still_there() -> None:
    status = decided(QWEN8, parallelism={"tensor": 8}).status
    assert still_there(status, Pools((H100,)))
    assert not still_there(status, Pools((pool("H100", 4, 4),)))
    assert not still_there(status, Pools((pool("L4", 8, 1),)))


def test_constraints_of_scheduling_and_of_the_pod_template() -> None:
    tolerations, selector = pod_constraints(
        parse(
            scheduling={"nodeSelector": {"a": "1", "b": "2"}, "tolerations": [{"key": "x", "operator": "Exists"}]},
            podTemplate={"spec": {"nodeSelector": {"b": None, "c": "3"}, "tolerations": [{"key": "y", "value": "z"}]}},
        )
    )
    assert selector == {"a": "1", "c": "3"}
    assert tolerations == (Toleration("x", "Exists"), Toleration("y", "Equal", "z"))


def test_what_a_spec_wants() -> None:
    wanted = wanted_from_spec(
        VLLMModelSpec.model_validate(
            {
                "model": "a/b",
                "accelerator": {"type": "amd", "count": 8, "minMemory": "80Gi"},
                "parallelism": {"pipeline": 2, "expert": True},
                "engine": {"kvCacheDtype": "fp8", "cpuOffloadGB": 2, "version": "0.21.0", "maxModelLen": "auto"},
            }
        )
    )
    assert (wanted.vendor, wanted.gpus, wanted.pipeline, wanted.max_model_len, wanted.min_memory) == (
        "amd",
        8,
        2,
        None,
        80 * 1024**3,
    )
    assert (wanted.options.kv_cache_dtype, wanted.options.cpu_offload_bytes, wanted.options.version) == (
        "fp8",
        2 * 1024**3,
        (0, 21, 0),
    )
    assert wanted.options.expert_parallel


def test_numbers() -> None:
    assert [read_tokens(text) for text in ("32k", "32K", 16000, "1.5k", "auto", -1)] == [
        32000,
        32768,
        16000,
        1500,
        None,
        None,
    ]
    assert [read_bytes(text) for text in ("80Gi", "1.5G", "7", "x")] == [80 * 2**30, 1_500_000_000, 7, None]
    assert read_version("v0.32.0rc1") == (0, 32, 0)


@pytest.mark.parametrize(
    ("product", "minimum"), [("H100", "80Gi"), ("A100-80GB", "80Gi"), ("L40S", "48Gi"), ("T4", "16Gi"), ("L4", "24Gi")]
)
def test_a_minimum_is_meant_as_gpus_are_sold(product: str, minimum: str) -> None:
    model = "Qwen/Qwen3-0.6B"
    assert decided(model, pool(product, 1, 1), accelerator={"minMemory": minimum}).status["pool"] == product
    known = Known(facts=published(model), pools=Pools((pool("L4", 1, 1),)))
    assert refused(known, model, accelerator={"minMemory": "40Gi"}).reason is Reason.DOES_NOT_FIT


@pytest.mark.parametrize(
    "known",
    [
        Known(unread="a path"),
        Known(facts=published(QWEN8), pools=None),
        Known(facts=published(QWEN8), pools=Pools((H100,))),
    ],
)
def test_a_minimum_that_cannot_be_obeyed_is_refused(known: Known) -> None:
    spec: dict[str, Any] = {"accelerator": {"minMemory": "80Gi", "count": 1, "product": "B200"}}
    refusal = refused(known, **spec)
    assert refusal.reason is Reason.INVALID_SPEC
    assert "spec.accelerator.minMemory is 80Gi" in refusal.message


def test_a_mig_slice_goes_by_its_gpus_product_too() -> None:
    resource = "nvidia.com/mig-3g.40gb"
    mig = replace(
        pool("A100-40GB", 1, 1),
        name="NVIDIA-A100 mig-3g.40gb",
        resource_name=resource,
        node_selector=(("nvidia.com/gpu.product", "NVIDIA-A100"),),
    )
    spec: dict[str, Any] = {"product": "NVIDIA-A100", "resourceName": resource}
    assert decided("Qwen/Qwen3-0.6B", mig, accelerator=spec).status["resourceName"] == resource


def test_on_cpus_a_context_beyond_the_models_is_refused() -> None:
    known = Known(facts=published("Qwen/Qwen3-0.6B"))
    spec: dict[str, Any] = {"accelerator": {"type": "cpu"}, "resources": {"limits": {"memory": "64Gi"}}}
    assert "own maximum of 40,960" in refused(known, **spec, engine={"maxModelLen": 100000}).message


def test_a_decision_can_be_kept() -> None:
    result = decided(QWEN32, replace(H100, tolerations=(Toleration("team", "Exists"),)))
    assert Decided.from_json(json.loads(json.dumps(result.as_json()))) == result


def test_quantities_as_the_api_server_takes_them() -> None:
    texts = ("1e3", "16E9", "1.5e1", "500m", "1Ei", "+1", ".5Ki", "5.")
    assert [read_bytes(text) for text in texts] == [1000, 16 * 10**9, 15, 1, 2**60, 1, 512, 5]
    assert read_bytes("1e3Ki") is None
