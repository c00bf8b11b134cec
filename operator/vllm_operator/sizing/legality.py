"""Parallel sizes that vLLM accepts for a model. Pure.

Two questions, told apart. `verification_accepts` is what vLLM's own configuration check says (ModelConfig.
verify_with_parallel_config); `why_illegal` is what its layers say too when they are made, minutes later: a plan obeys both.
Vocabularies are padded to a multiple of 64, so they stand in the way of odd sizes only, never of a power of two.
"""

from math import gcd

from vllm_operator.hub.facts import LayerCache, ModelFacts

# Classes of vLLM 0.32's registry that do not implement SupportsPP; drafts of speculative decoding left out.
_NO_PIPELINE = frozenset(
    # one word a class: a list of strings would take fifty lines
    """
    AriaForConditionalGeneration BertForMaskedLM BertForSequenceClassification BertForTokenClassification BertModel
    BertSpladeSparseEmbeddingModel BgeM3EmbeddingModel CLIPModel CohereAsrForConditionalGeneration
    ColBERTJinaRobertaModel ColBERTLfm2Model ColBERTModernBertModel ColModernVBertForRetrieval DiffusionGemmaForBlockDiffusion
    EmbeddingGemma2Model FireRedASR2ForConditionalGeneration FunASRForConditionalGeneration GPT2ForSequenceClassification
    Gemma3TextModel Gemma3nForCausalLM Gemma3nForConditionalGeneration GteModel GteNewForSequenceClassification GteNewModel
    HF_ColBERT HrmTextForCausalLM IQuestLoopCoderForCausalLM Idefics3ForConditionalGeneration JinaForRanking
    LlamaBidirectionalForSequenceClassification LlamaBidirectionalModel Mamba2ForCausalLM ModernBertForSequenceClassification
    ModernBertForTokenClassification ModernBertModel NemotronH_Nano_VL_V2 NemotronParseForConditionalGeneration NomicBertModel
    OpenAIPrivacyFilterForTokenClassification PaddleOCRVLForConditionalGeneration Phi4MMForCausalLM RobertaForMaskedLM
    RobertaForSequenceClassification RobertaForTokenClassification RobertaModel SiglipModel SmolVLMForConditionalGeneration
    Terratorch VoyageQwen3BidirectionalEmbedModel WhisperForConditionalGeneration XLMRobertaForSequenceClassification
    XLMRobertaForTokenClassification XLMRobertaModel Zamba2ForCausalLM
    """.split()  # noqa: SIM905
)

VOCABULARY_PADDING = 64
"""vocab_parallel_embedding.py: DEFAULT_VOCAB_PADDING_SIZE."""

_GROUPED = frozenset({"awq", "awq_marlin", "gptq", "gptq_marlin", "compressed-tensors", "auto-round", "inc"})
"""Methods whose kernels refuse a group of weights that lies on two ranks (auto_awq.py, marlin_utils.py)."""

MINIMUM_CAPABILITY = {
    "awq": (7, 5),
    "awq_marlin": (7, 5),
    "gptq": (6, 0),
    "gptq_marlin": (7, 5),
    "fp8": (7, 5),
    "fbgemm_fp8": (8, 0),
    "mxfp4": (8, 0),
    "modelopt": (8, 0),
    "modelopt_fp4": (7, 5),
    "compressed-tensors": (7, 0),
}
"""Quantization → least NVIDIA compute capability (get_min_capability in layers/quantization, 0.32)."""

LEAST_CAPABILITY = (7, 0)
"""What vLLM itself needs."""


REFINED_SINCE = (0, 32, 0)
"""vLLM version known to refine the scales of fp8 experts whose blocks lie on two ranks, instead of refusing them."""

LEAST_REFINED_BLOCK = 32
"""fused_moe/oracle/fp8.py: refine_fp8_moe_block_shape."""


def verification_accepts(facts: ModelFacts, tensor_parallel_size: int, *, pipeline_parallel_size: int = 1) -> bool:
    """Whether ModelConfig.verify_with_parallel_config accepts these sizes."""
    if facts.attention_heads % tensor_parallel_size:
        return False
    return pipeline_parallel_size == 1 or facts.architecture not in _NO_PIPELINE


def why_illegal(
    facts: ModelFacts,
    tensor_parallel_size: int,
    *,
    pipeline_parallel_size: int = 1,
    expert_parallel: bool = False,
    version: tuple[int, int, int] = REFINED_SINCE,
) -> str | None:
    """Why vLLM would refuse these sizes, or None when it takes them."""
    tp = tensor_parallel_size
    if facts.attention_heads % tp:
        return f"{facts.attention_heads} attention heads cannot be divided by tensor {tp}"
    if pipeline_parallel_size > 1:
        if facts.architecture in _NO_PIPELINE:
            return f"vLLM has no pipeline parallelism for {facts.architecture}"
        if pipeline_parallel_size > facts.num_layers:
            return f"{facts.num_layers} layers cannot be spread over {pipeline_parallel_size} pipeline stages"
    if tp == 1:
        return None
    return (
        _heads(facts, tp)
        or _states(facts, tp)
        or _widths(facts, tp, expert_parallel)
        or _quantized(facts, tp, expert_parallel, version)
    )


def legal_tensor_sizes(
    facts: ModelFacts, most: int, *, expert_parallel: bool = False, version: tuple[int, int, int] = REFINED_SINCE
) -> tuple[int, ...]:
    """Tensor-parallel sizes up to `most` that vLLM takes, rising."""
    return tuple(
        size
        for size in range(1, most + 1)
        if why_illegal(facts, size, expert_parallel=expert_parallel, version=version) is None
    )


def _heads(facts: ModelFacts, tp: int) -> str | None:
    """QKVParallelLinear: KV heads are divided among the ranks, or each is copied to as many ranks."""
    seen: set[int] = set()
    for cache in _attention(facts):
        heads = cache.kv_heads
        if heads in seen:
            continue
        seen.add(heads)
        if heads and (heads % tp if tp < heads else tp % heads):
            return f"{heads} KV heads can neither be divided by tensor {tp} nor copied evenly to as many ranks"
    return None


def _attention(facts: ModelFacts) -> list[LayerCache]:
    if facts.mla is not None:
        return []
    if facts.encoder_only:
        return [LayerCache("full", facts.kv_heads, facts.head_size, facts.head_size)]
    return [cache for layer in facts.caches for cache in layer if cache.kind in ("full", "sliding", "chunked", "cross")]


def _states(facts: ModelFacts, tp: int) -> str | None:
    seen = set()
    for layer in facts.caches:
        for cache in layer:
            state = cache.state
            if state is None or state in seen:
                continue
            seen.add(state)
            if state.heads % tp:
                return f"{state.heads} heads of linear attention cannot be divided by tensor {tp}"
            if state.kind == "gated_delta_net" and state.groups % tp:
                return f"{state.groups} key heads of linear attention cannot be divided by tensor {tp}"
            if state.kind == "mamba2" and state.groups % tp and state.groups != 1:
                # MambaMixer2: groups are divided, or a single one is copied
                return f"{state.groups} Mamba groups cannot be divided by tensor {tp}"
            if state.intermediate_size % tp:
                return f"a state width of {state.intermediate_size} cannot be divided by tensor {tp}"
    return None


def _widths(facts: ModelFacts, tp: int, expert_parallel: bool) -> str | None:
    """ColumnParallelLinear, RowParallelLinear and VocabParallelEmbedding divide without a rest (distributed/utils.py: divide)."""
    padded_vocabulary = -(-facts.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING
    if padded_vocabulary % tp:
        return f"a vocabulary of {facts.vocab_size}, padded to {padded_vocabulary}, cannot be divided by tensor {tp}"
    # said by the sparse blocks of Qwen, DeepSeek, GLM and others; Mixtral's does not
    if facts.experts and tp > facts.experts and not expert_parallel and facts.model_type != "mixtral":
        return f"tensor {tp} is more than the {facts.experts} experts"
    if facts.intermediate_size % tp and _has_dense(facts):
        return f"an intermediate size of {facts.intermediate_size} cannot be divided by tensor {tp}"
    padded = facts.quantization is not None and facts.quantization.method == "mxfp4"
    if facts.experts and not expert_parallel and not padded and facts.expert_intermediate_size % tp:
        return f"an expert size of {facts.expert_intermediate_size} cannot be divided by tensor {tp}"
    return None


def _quantized(facts: ModelFacts, tp: int, expert_parallel: bool, version: tuple[int, int, int]) -> str | None:
    found = facts.quantization
    if found is None or found.experts_only:
        return None
    dense = [("intermediate size", facts.intermediate_size)] if _has_dense(facts) else []
    experts = [("expert size", facts.expert_intermediate_size)] if facts.experts and not expert_parallel else []
    if found.block is not None:
        rows, columns = found.block
        for name, width in (*dense, *experts):  # validate_fp8_block_shape, validate_fp8_block_shape_moe
            part = width // tp
            if part % rows == 0 and part % columns == 0:
                continue
            refinable = name == "expert size" and found.method == "fp8" and version >= REFINED_SINCE
            if refinable and gcd(rows, columns, part, facts.hidden_size) >= LEAST_REFINED_BLOCK:
                continue
            return (
                f"{name} {width} at tensor {tp} leaves {part}, no multiple of the quantization block {rows}×{columns}"
            )
        if facts.mla is None and facts.attention_heads and facts.attention_heads * facts.head_size // tp % columns:
            return (
                f"{facts.attention_heads} heads of {facts.head_size} at tensor {tp} leave "
                f"{facts.attention_heads * facts.head_size // tp} a rank, no multiple of the quantization block {columns}"
            )
    elif found.group_size and found.method in _GROUPED:
        inputs = [*dense, *experts]
        if facts.mla is None and facts.attention_heads:
            inputs.append(("attention output", facts.attention_heads * facts.head_size))
        for name, width in inputs:
            if width // tp % found.group_size and found.group_size < width:
                return f"{name} {width} at tensor {tp} leaves {width // tp}, no multiple of the quantization group {found.group_size}"
    return None


def _has_dense(facts: ModelFacts) -> bool:
    """Whether some layer has a feed-forward of intermediate_size."""
    if not facts.experts:
        return not facts.architecture.startswith(("Mamba", "FalconMamba"))
    return (
        any(layer.experts == 0 and layer.sharded for layer in facts.weights.layers)
        and facts.expert_intermediate_size != facts.intermediate_size
    )


def why_unsupported(
    facts: ModelFacts, capability: tuple[int, int] | None, *, kv_cache_dtype: str = "auto"
) -> str | None:
    """Why an NVIDIA GPU of this compute capability cannot run the model; None when it can, or is unknown."""
    if capability is None:
        return None
    shown = f"{capability[0]}.{capability[1]}"
    if capability < LEAST_CAPABILITY:
        return f"vLLM needs compute capability {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}, this GPU has {shown}"
    if facts.quantization is not None:
        least = MINIMUM_CAPABILITY.get(facts.quantization.method)
        if least is not None and capability < least:
            return f"{facts.quantization.method} quantization needs compute capability {least[0]}.{least[1]}, this GPU has {shown}"
    if kv_cache_dtype.startswith("fp8") and capability < (8, 9):
        return f"an fp8 KV cache needs compute capability 8.9, this GPU has {shown}"
    if any(cache.kind == "indexer" for layer in facts.caches for cache in layer) and capability < (9, 0):
        return f"DeepSeek's sparse attention needs compute capability 9.0, this GPU has {shown}"
    return None
