"""Writes models.json: facts of published models, as their config.json files on the Hugging Face hub have them.

Run it after a change here: `python tests/data/make_models.py`. What sizing does not read is left out.
"""

import json
from pathlib import Path
from typing import Any

BF16 = {"torch_dtype": "bfloat16"}
LLAMA3 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "tie_word_embeddings": False,
    **BF16,
}
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    **BF16,
}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "head_dim": 128,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    **BF16,
}
QWEN3_MOE = {
    **QWEN3,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "sliding_window": None,
    "tie_word_embeddings": False,
    **BF16,
}
MIXTRAL = {
    **MISTRAL,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    **BF16,
}
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "num_experts_per_tok": 4,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "mxfp4"},
    **BF16,
}
MLA = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_layer_freq": 1,
    "tie_word_embeddings": False,
    **BF16,
}
DEEPSEEK_V3 = {
    **MLA,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "intermediate_size": 18432,
    "first_k_dense_replace": 3,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "num_nextn_predict_layers": 1,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}, "torch_dtype": "float16"}
FP8_BLOCK = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def shape(hidden: int, layers: int, heads: int, kv: int, inner: int, **more: Any) -> dict[str, Any]:
    """The sizes that every config has."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        **more,
    }


MODELS: dict[str, dict[str, Any]] = {
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False, **shape(2048, 22, 32, 4, 5632), **BF16},
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True, **shape(2048, 24, 32, 32, 8192), **BF16},
    "meta-llama/Llama-2-7b-chat-hf": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "float16", **shape(4096, 32, 32, 32, 11008)},
    "meta-llama/Llama-2-70b-chat-hf": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "float16", **shape(8192, 80, 64, 8, 28672)},
    "meta-llama/Llama-3.2-1B-Instruct": {**LLAMA3, "tie_word_embeddings": True, "head_dim": 64, **shape(2048, 16, 32, 8, 8192)},
    "meta-llama/Llama-3.2-3B-Instruct": {**LLAMA3, "tie_word_embeddings": True, "head_dim": 128, **shape(3072, 28, 24, 8, 8192)},
    "meta-llama/Llama-3.1-8B-Instruct": {**LLAMA3, **shape(4096, 32, 32, 8, 14336)},
    "meta-llama/Llama-3.1-70B-Instruct": {**LLAMA3, **shape(8192, 80, 64, 8, 28672)},
    "meta-llama/Llama-3.3-70B-Instruct": {**LLAMA3, **shape(8192, 80, 64, 8, 28672)},
    "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4": {**LLAMA3, **shape(8192, 80, 64, 8, 28672), **AWQ},
    "meta-llama/Llama-3.1-405B-Instruct": {**LLAMA3, **shape(16384, 126, 128, 8, 53248)},
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", **BF16, "text_config": {"model_type": "llama4_text", "vocab_size": 202048, "max_position_embeddings": 10485760, "head_dim": 128, "num_local_experts": 16, "num_experts_per_tok": 1, "intermediate_size_mlp": 16384, "interleave_moe_layer_step": 1, "attention_chunk_size": 8192, "tie_word_embeddings": False, **shape(5120, 48, 40, 8, 8192)}, "vision_config": {"hidden_size": 1408, "num_hidden_layers": 34, "num_attention_heads": 16, "intermediate_size": 5632}},
    "Qwen/Qwen2.5-0.5B-Instruct": {**QWEN25, "vocab_size": 151936, "tie_word_embeddings": True, **shape(896, 24, 14, 2, 4864)},
    "Qwen/Qwen2.5-7B-Instruct": {**QWEN25, **shape(3584, 28, 28, 4, 18944)},
    "Qwen/Qwen2.5-14B-Instruct": {**QWEN25, **shape(5120, 48, 40, 8, 13824)},
    "Qwen/Qwen2.5-32B-Instruct": {**QWEN25, **shape(5120, 64, 40, 8, 27648)},
    "Qwen/Qwen2.5-72B-Instruct": {**QWEN25, **shape(8192, 80, 64, 8, 29568)},
    "Qwen/Qwen2.5-72B-Instruct-AWQ": {**QWEN25, **shape(8192, 80, 64, 8, 29696), **AWQ},
    "Qwen/Qwen2.5-VL-7B-Instruct": {**QWEN25, "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "max_position_embeddings": 128000, **shape(3584, 28, 28, 4, 18944), "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "hidden_act": "silu", "out_hidden_size": 3584, "spatial_merge_size": 2}},
    "Qwen/Qwen3-0.6B": {**QWEN3, "tie_word_embeddings": True, **shape(1024, 28, 16, 8, 3072)},
    "Qwen/Qwen3-4B": {**QWEN3, "tie_word_embeddings": True, **shape(2560, 36, 32, 8, 9728)},
    "Qwen/Qwen3-8B": {**QWEN3, **shape(4096, 36, 32, 8, 12288)},
    "Qwen/Qwen3-14B": {**QWEN3, **shape(5120, 40, 40, 8, 17408)},
    "Qwen/Qwen3-32B": {**QWEN3, **shape(5120, 64, 64, 8, 25600)},
    "Qwen/Qwen3-32B-FP8": {**QWEN3, **shape(5120, 64, 64, 8, 25600), **FP8_BLOCK},
    "Qwen/Qwen3-30B-A3B": {**QWEN3_MOE, "num_experts": 128, "moe_intermediate_size": 768, **shape(2048, 48, 32, 4, 6144)},
    "Qwen/Qwen3-235B-A22B": {**QWEN3_MOE, "num_experts": 128, "moe_intermediate_size": 1536, **shape(4096, 94, 64, 4, 12288)},
    "Qwen/Qwen3-235B-A22B-FP8": {**QWEN3_MOE, "num_experts": 128, "moe_intermediate_size": 1536, **shape(4096, 94, 64, 4, 12288), **FP8_BLOCK},
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": {**QWEN3_MOE, "num_experts": 160, "moe_intermediate_size": 2560, "max_position_embeddings": 262144, **shape(6144, 62, 96, 8, 8192)},
    "Qwen/Qwen3-Next-80B-A3B-Instruct": {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "vocab_size": 151936, "max_position_embeddings": 262144, "head_dim": 256, "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "decoder_sparse_step": 1, "mlp_only_layers": [], "partial_rotary_factor": 0.25, "tie_word_embeddings": False, **shape(2048, 48, 16, 2, 5120), **BF16},
    "mistralai/Mistral-7B-Instruct-v0.3": {**MISTRAL, "vocab_size": 32768, "max_position_embeddings": 32768, **shape(4096, 32, 32, 8, 14336)},
    "mistralai/Mistral-Small-24B-Instruct-2501": {**MISTRAL, "vocab_size": 131072, "max_position_embeddings": 32768, "head_dim": 128, **shape(5120, 40, 32, 8, 32768)},
    "mistralai/Mistral-Large-Instruct-2407": {**MISTRAL, "vocab_size": 32768, "max_position_embeddings": 131072, "head_dim": 128, **shape(12288, 88, 96, 8, 28672)},
    "mistralai/Mixtral-8x7B-Instruct-v0.1": {**MIXTRAL, "vocab_size": 32000, "max_position_embeddings": 32768, **shape(4096, 32, 32, 8, 14336)},
    "mistralai/Mixtral-8x22B-Instruct-v0.1": {**MIXTRAL, "vocab_size": 32768, "max_position_embeddings": 65536, **shape(6144, 56, 48, 8, 16384)},
    "google/gemma-2-9b-it": {**GEMMA2, "head_dim": 256, **shape(3584, 42, 16, 8, 14336)},
    "google/gemma-2-27b-it": {**GEMMA2, "head_dim": 128, **shape(4608, 46, 32, 16, 36864)},
    "google/gemma-3-1b-it": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 262144, "max_position_embeddings": 32768, "head_dim": 256, "sliding_window": 512, "sliding_window_pattern": 6, **shape(1152, 26, 4, 1, 6912), **BF16},
    "google/gemma-3-27b-it": {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", **BF16, "text_config": {"model_type": "gemma3_text", "vocab_size": 262208, "max_position_embeddings": 131072, "head_dim": 128, "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, **shape(5376, 62, 32, 16, 21504)}, "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304}},
    "openai/gpt-oss-20b": {**GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32},
    "openai/gpt-oss-120b": {**GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128},
    "deepseek-ai/DeepSeek-V2-Lite-Chat": {**MLA, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "q_lora_rank": None, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "vocab_size": 102400, "max_position_embeddings": 163840, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}, **shape(2048, 27, 16, 16, 10944)},
    "deepseek-ai/DeepSeek-V3": DEEPSEEK_V3,
    "deepseek-ai/DeepSeek-R1": DEEPSEEK_V3,
    "moonshotai/Kimi-K2-Instruct": {**DEEPSEEK_V3, "model_type": "kimi_k2", "num_attention_heads": 64, "num_key_value_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1, "vocab_size": 163840, "max_position_embeddings": 131072, "rope_scaling": {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}},
    "microsoft/phi-4": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 100352, "max_position_embeddings": 16384, "sliding_window": None, "tie_word_embeddings": False, **shape(5120, 40, 40, 10, 17920), **BF16},
    "microsoft/Phi-3.5-mini-instruct": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 32064, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "sliding_window": 262144, "rope_scaling": {"type": "longrope"}, "tie_word_embeddings": False, **shape(3072, 32, 32, 32, 8192), **BF16},
    "ibm-granite/granite-3.1-8b-instruct": {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "vocab_size": 49155, "max_position_embeddings": 131072, "tie_word_embeddings": True, **shape(4096, 40, 32, 8, 12800), **BF16},
    "zai-org/GLM-4.5-Air": {"architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "head_dim": 128, "n_routed_experts": 128, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "vocab_size": 151552, "max_position_embeddings": 131072, "partial_rotary_factor": 0.5, "tie_word_embeddings": False, **shape(4096, 46, 96, 8, 10944), **BF16},
    "zai-org/GLM-4.5": {"architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "head_dim": 128, "n_routed_experts": 160, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 1536, "first_k_dense_replace": 3, "vocab_size": 151552, "max_position_embeddings": 131072, "partial_rotary_factor": 0.5, "tie_word_embeddings": False, **shape(5120, 92, 96, 8, 12288), **BF16},
    "CohereForAI/c4ai-command-r-plus": {"architectures": ["CohereForCausalLM"], "model_type": "cohere", "vocab_size": 256000, "max_position_embeddings": 8192, "model_max_length": 131072, "tie_word_embeddings": True, "torch_dtype": "float16", **shape(12288, 64, 96, 8, 33792)},
    "tiiuae/falcon-7b-instruct": {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": True, "new_decoder_architecture": False, **BF16},
    "ai21labs/AI21-Jamba-1.5-Mini": {"architectures": ["JambaForCausalLM"], "model_type": "jamba", "vocab_size": 65536, "max_position_embeddings": 262144, "num_experts": 16, "num_experts_per_tok": 2, "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "tie_word_embeddings": False, **shape(4096, 32, 32, 8, 14336), **BF16},
    "BAAI/bge-large-en-v1.5": {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "torch_dtype": "float32", "position_embedding_type": "absolute"},
    "BAAI/bge-m3": {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "vocab_size": 250002, "max_position_embeddings": 8194, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "torch_dtype": "float32", "position_embedding_type": "absolute"},
    "openai/whisper-large-v3": {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "d_model": 1280, "num_hidden_layers": 32, "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20, "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "vocab_size": 51866, "max_source_positions": 1500, "max_target_positions": 448, "torch_dtype": "float16"},
}  # fmt: skip


def main() -> None:
    """Write models.json beside this file."""
    target = Path(__file__).with_name("models.json")
    target.write_text(
        "{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(config, sort_keys=True)}" for name, config in MODELS.items())
        + "\n}\n"
    )


if __name__ == "__main__":
    main()
