"""Sizes that vLLM takes; the real vLLM is asked in test_real_vllm.py."""

from typing import Any

import pytest

from tests.sizing.published import published
from tests.sizing.tiny_models import TINY
from vllm_operator.hub.config import read_config
from vllm_operator.sizing.legality import legal_tensor_sizes, verification_accepts, why_illegal


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", (1, 2)),
        ("Qwen/Qwen2.5-7B-Instruct", (1, 2, 4)),
        ("Qwen/Qwen3-14B", (1, 2, 4, 8)),
        ("meta-llama/Llama-3.1-8B-Instruct", (1, 2, 4, 8)),
        ("tiiuae/falcon-7b-instruct", (1,)),
        ("Qwen/Qwen3-235B-A22B-FP8", (1, 2, 4, 8)),
        ("Qwen/Qwen3-235B-A22B", (1, 2, 4, 8)),
        ("deepseek-ai/DeepSeek-V3", (1, 2, 4, 8)),
        ("openai/gpt-oss-20b", (1, 2, 4, 8)),
        ("ibm-granite/granite-3.1-8b-instruct", (1, 2, 4, 8)),  # a vocabulary of 49155 is padded
        ("google/gemma-3-1b-it", (1, 2, 4)),
        ("microsoft/phi-4", (1, 2)),  # 5 divides all heads, but not the padded vocabulary
    ],
)
def test_published(model: str, sizes: tuple[int, ...]) -> None:
    assert legal_tensor_sizes(published(model), 8) == sizes


def test_fp8_experts_over_block_borders() -> None:
    # 1536 / 8 = 192 is no multiple of 128: refused until vLLM learned to refine the scales, unless experts are dealt out whole
    facts = published("Qwen/Qwen3-235B-A22B-FP8")
    assert legal_tensor_sizes(facts, 8, version=(0, 11, 0)) == (1, 2, 4)
    assert legal_tensor_sizes(facts, 8, version=(0, 11, 0), expert_parallel=True) == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("name", "changes", "tensor", "part"),
    [
        ("llama", {}, 3, "4 attention heads cannot be divided"),
        ("llama", {"num_attention_heads": 12, "num_key_value_heads": 4}, 6, "4 KV heads can neither"),
        ("llama", {"num_attention_heads": 12, "num_key_value_heads": 4}, 3, "4 KV heads can neither"),
        ("llama", {"intermediate_size": 250}, 4, "intermediate size of 250"),
        ("mixtral", {"intermediate_size": 250}, 4, "expert size of 250"),
        ("qwen3_next", {"linear_num_value_heads": 6}, 4, "6 heads of linear attention"),
        ("granite_hybrid", {"mamba_n_groups": 3}, 4, "3 Mamba groups"),
        (
            "llama",
            {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
            4,
            "quantization group 128",
        ),
        (
            "llama",
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
            4,
            "quantization block",
        ),
    ],
)
def test_why(name: str, changes: dict[str, Any], tensor: int, part: str) -> None:
    assert part in str(why_illegal(read_config({**TINY[name], **changes}), tensor))


def test_pipelines() -> None:
    llama = read_config(TINY["llama"])
    assert why_illegal(llama, 1, pipeline_parallel_size=4) is None
    assert "4 layers cannot be spread" in str(why_illegal(llama, 1, pipeline_parallel_size=5))
    bert = read_config(TINY["bert"])
    assert "no pipeline parallelism for BertModel" in str(why_illegal(bert, 1, pipeline_parallel_size=2))
    assert not verification_accepts(bert, 1, pipeline_parallel_size=2)
    assert verification_accepts(llama, 4, pipeline_parallel_size=2)
