"""Models as they are published: what their config.json, tokenizer and chat template have that a recipe looks at.

A template is given by the few words of it that tell it from others, as they stand in it. Sources: the templates that llama.cpp
keeps (github.com/ggml-org/llama.cpp, models/templates), those of vLLM's documentation (github.com/vllm-project/vllm, examples), and the
repositories' own tokenizer_config.json or chat_template.jinja; architectures: config.json (tests/data/models.json has most).
"""

from dataclasses import dataclass
from typing import Any

from vllm_operator.hub.chat_template import read_tokenizer
from vllm_operator.hub.facts import Task, Traits

QWEN25 = (
    'within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}'
    "\\n</tool_call><|im_end|>\\n"
)
QWEN3 = (
    QWEN25 + "{%- if '</think>' in content %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
)
QWEN3_THINKING = QWEN25 + "{%- if '</think>' in content %}{{- '<|im_start|>assistant\\n<think>\\n' }}"
QWEN_XML = "<tool_call>\\n<function=example_function_name>\\n<parameter=example_parameter_1>\\nvalue_1\\n</parameter>"
QWEN35 = (
    QWEN_XML + "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
)
LLAMA3 = (
    '{{- \'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.\' }}'
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)
HERMES3 = '<tool_call>\\n{"arguments": <args-dict>, "name": <function-name>}\\n</tool_call>'
DEEPSEEK_TOOLS = "{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>'}}"
DEEPSEEK_V3 = DEEPSEEK_TOOLS + "{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜>'}}{% endif %}"
DEEPSEEK_R1 = (
    DEEPSEEK_TOOLS + "{%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}"
    "{%- if add_generation_prompt and not ns.is_tool -%}{{'<｜Assistant｜><think>\\n'}}"
)
DEEPSEEK_V31 = (
    "{%- if not thinking is defined -%}{%- set thinking = false -%}{%- endif -%}"
    + DEEPSEEK_TOOLS
    + "{{'<｜Assistant｜>'}}{%- if not thinking -%}{{'</think>'}}{%- else -%}{{'<think>'}}"
)
GLM45 = (
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>"
    "<|assistant|>{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}"
)
GLM47 = (
    "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>"
    "<|assistant|>{{- '</think>' if (enable_thinking is defined and not enable_thinking) else '<think>' -}}"
)
MISTRAL = '{{- "[TOOL_CALLS][" }}{%- for tool_call in message.tool_calls %}'
MAGISTRAL = MISTRAL + "{{- '[THINK]' + block['thinking'] + '[/THINK]' }}"
GEMMA4 = "{{- '<|tool_call>call:' + tool_call['function']['name'] }}{%- if enable_thinking is defined and enable_thinking -%}"
GRANITE4 = '<tool_call>\\n{{"name": <function-name>, "arguments": <args-json-object>}}\\n</tool_call>'
GRANITE33 = "<|tool_call|>{%- if thinking %}Respond to every user query in a comprehensive and detailed way."
KIMI_K2 = "<|im_assistant|>assistant<|im_middle|><|tool_calls_section_begin|><|tool_call_begin|>{{ formatted_id }}"
KIMI_K2_THINKING = KIMI_K2 + "<think></think>{{render_content(message)}}"
MINIMAX_M2 = "{%- set toolcall_begin_token = '<minimax:tool_call>' -%}{{- ']~b]ai' ~ '\\n' ~ '<think>' ~ '\\n' }}"
OLMO3 = "<function_calls>' }}{{- '<|im_start|>assistant\\n' }}"
OLMO3_THINK = "<function_calls>' }}{{- '<|im_start|>assistant\\n<think>' }}"
ERNIE = "<tool_call>\\n' }}{{- '<think>\\n' + reasoning_content + '</think>' }}{{- '<response>' }}"
PHI4_MINI = "{{- '<|tool|>' + message['tools'] + '<|/tool|>' }}"
NEMOTRON3 = (
    QWEN_XML + "{%- set enable_thinking = enable_thinking if enable_thinking is defined else True %}{{- '<think>\\n' }}"
)
NEMOTRON_NANO_2 = "<TOOLCALL>[{{\\\"name\\\": \\\"tool_name1\\\"}}]</TOOLCALL>{{- '<SPECIAL_11>Assistant\\n' -}}{{- '<think>\\n\\n' -}}"
CHATML = (
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'}}{{ '<|im_start|>assistant\\n' }}"
)


@dataclass(frozen=True)
class Published:
    """One model, and what is to be chosen for it by the newest vLLM and by the oldest."""

    model: str
    architecture: str
    model_type: str
    template: str | None
    tools: str | None
    reasoning: str | None
    task: Task = "generate"
    oldest: tuple[str | None, str | None] | None = None
    """Parsers in the oldest version; None: the same."""
    tokens: bool = True
    """Whether tokenizer_config.json lists </think> as a token."""

    @property
    def traits(self) -> Traits:
        """As they are read from the model's files."""
        return Traits(self.architecture, self.model_type, self.task, markers(self.template, think=self.tokens))


def markers(template: str | None, *, think: bool = False) -> tuple[str, ...]:
    """Markers of a model with this template."""
    tokenizer: dict[str, Any] = {"chat_template": template} if template is not None else {}
    if think:
        tokenizer["added_tokens_decoder"] = {"1": {"content": "<think>"}, "2": {"content": "</think>"}}
    found = read_tokenizer(["config.json"], tokenizer, None)
    assert found is not None
    return found


FAMILIES = (
    Published("Qwen/Qwen3.5-9B", "Qwen3_5ForConditionalGeneration", "qwen3_5", QWEN35, "qwen3_xml", "qwen3"),
    Published(
        "Qwen/Qwen3.5-397B-A17B", "Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", QWEN35, "qwen3_xml", "qwen3"
    ),
    Published("Qwen/Qwen3-Coder-480B-A35B-Instruct", "Qwen3MoeForCausalLM", "qwen3_moe", QWEN_XML, "qwen3_xml", None),
    Published("Qwen/Qwen3-8B", "Qwen3ForCausalLM", "qwen3", QWEN3, "hermes", "qwen3"),
    Published("Qwen/Qwen3-30B-A3B", "Qwen3MoeForCausalLM", "qwen3_moe", QWEN3, "hermes", "qwen3"),
    Published(
        "Qwen/Qwen3-30B-A3B-Thinking-2507", "Qwen3MoeForCausalLM", "qwen3_moe", QWEN3_THINKING, "hermes", "qwen3"
    ),
    Published("Qwen/Qwen3-Next-80B-A3B-Instruct", "Qwen3NextForCausalLM", "qwen3_next", QWEN25, "hermes", None),
    Published("Qwen/Qwen2.5-7B-Instruct", "Qwen2ForCausalLM", "qwen2", QWEN25, "hermes", None, tokens=False),
    Published("Qwen/QwQ-32B", "Qwen2ForCausalLM", "qwen2", QWEN3_THINKING, "hermes", "deepseek_r1"),
    Published(
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "Llama4ForConditionalGeneration",
        "llama4",
        CHATML,
        "llama4_pythonic",
        None,
    ),
    Published(
        "meta-llama/Llama-3.3-70B-Instruct", "LlamaForCausalLM", "llama", LLAMA3, "llama3_json", None, tokens=False
    ),
    Published(
        "meta-llama/Llama-3.2-3B-Instruct", "LlamaForCausalLM", "llama", LLAMA3, "llama3_json", None, tokens=False
    ),
    Published(
        "meta-llama/Llama-3.1-8B-Instruct", "LlamaForCausalLM", "llama", LLAMA3, "llama3_json", None, tokens=False
    ),
    Published(
        "mistralai/Mistral-Nemo-Instruct-2407", "MistralForCausalLM", "mistral", MISTRAL, "mistral", None, tokens=False
    ),
    Published(
        "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
        "Mistral3ForConditionalGeneration",
        "mistral3",
        None,
        "mistral",
        None,
        tokens=False,
    ),
    Published(
        "mistralai/Mistral-Large-Instruct-2411", "MistralForCausalLM", "mistral", MISTRAL, "mistral", None, tokens=False
    ),
    Published(
        "mistralai/Magistral-Small-2509",
        "Mistral3ForConditionalGeneration",
        "mistral3",
        MAGISTRAL,
        "mistral",
        "mistral",
        tokens=False,
    ),
    Published(
        "mistralai/Magistral-Small-2506", "MistralForCausalLM", "mistral", None, "mistral", "mistral", tokens=False
    ),
    Published(
        "deepseek-ai/DeepSeek-R1", "DeepseekV3ForCausalLM", "deepseek_v3", DEEPSEEK_R1, "deepseek_v3", "deepseek_r1"
    ),
    Published(
        "deepseek-ai/DeepSeek-V3", "DeepseekV3ForCausalLM", "deepseek_v3", DEEPSEEK_V3, "deepseek_v3", "deepseek_v3"
    ),
    Published(
        "deepseek-ai/DeepSeek-V3.1", "DeepseekV3ForCausalLM", "deepseek_v3", DEEPSEEK_V31, "deepseek_v31", "deepseek_v3"
    ),
    Published(
        "deepseek-ai/DeepSeek-V3.2", "DeepseekV32ForCausalLM", "deepseek_v32", None, "deepseek_v32", "deepseek_v3"
    ),
    Published("zai-org/GLM-5", "GlmMoeDsaForCausalLM", "glm_moe_dsa", GLM47, "glm47", "glm45"),
    Published("zai-org/GLM-4.7", "Glm4MoeForCausalLM", "glm4_moe", GLM47, "glm47", "glm45"),
    Published("zai-org/GLM-4.7-Flash", "Glm4MoeLiteForCausalLM", "glm4_moe_lite", GLM47, "glm47", "glm45"),
    Published("zai-org/GLM-4.5-Air", "Glm4MoeForCausalLM", "glm4_moe", GLM45, "glm45", "glm45"),
    Published(
        "google/gemma-4-31B-it",
        "Gemma4ForConditionalGeneration",
        "gemma4",
        GEMMA4,
        "gemma4",
        "gemma4",
        oldest=(None, None),
        tokens=False,
    ),
    Published(
        "ibm-granite/granite-4.0-h-small",
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        GRANITE4,
        "granite4",
        None,
        tokens=False,
    ),
    Published(
        "ibm-granite/granite-3.3-8b-instruct",
        "GraniteForCausalLM",
        "granite",
        GRANITE33,
        "granite",
        "granite",
        tokens=False,
    ),
    Published("MiniMaxAI/MiniMax-M2.5", "MiniMaxM2ForCausalLM", "minimax_m2", MINIMAX_M2, "minimax_m2", "minimax_m2"),
    Published(
        "moonshotai/Kimi-K2-Thinking", "DeepseekV3ForCausalLM", "kimi_k2", KIMI_K2_THINKING, "kimi_k2", "kimi_k2"
    ),
    Published(
        "moonshotai/Kimi-K2-Instruct", "DeepseekV3ForCausalLM", "kimi_k2", KIMI_K2, "kimi_k2", None, tokens=False
    ),
    Published(
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "NemotronHForCausalLM",
        "nemotron_h",
        NEMOTRON3,
        "qwen3_coder",
        "nemotron_v3",
    ),
    Published("allenai/Olmo-3-32B-Think", "Olmo3ForCausalLM", "olmo3", OLMO3_THINK, "olmo3", "olmo3", tokens=False),
    Published(
        "baidu/ERNIE-4.5-21B-A3B-Thinking", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", ERNIE, "ernie45", "ernie45"
    ),
    Published(
        "microsoft/Phi-4-mini-instruct", "Phi3ForCausalLM", "phi3", PHI4_MINI, "phi4_mini_json", None, tokens=False
    ),
    Published(
        "openai/gpt-oss-20b",
        "GptOssForCausalLM",
        "gpt_oss",
        "<|start|>assistant<|channel|>",
        "openai",
        "openai_gptoss",
        tokens=False,
    ),
    Published("NousResearch/Hermes-3-Llama-3.1-8B", "LlamaForCausalLM", "llama", HERMES3, "hermes", None, tokens=False),
)
"""One model at least of each family of which vLLM has a parser, with the parsers that vLLM's documentation and recipes name."""

TRAPS = (
    Published(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "Qwen2ForCausalLM", "qwen2", DEEPSEEK_R1, None, "deepseek_r1"
    ),
    Published(
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "LlamaForCausalLM", "llama", DEEPSEEK_R1, None, "deepseek_r1"
    ),
    Published("Qwen/Qwen3-Embedding-0.6B", "Qwen3ForCausalLM", "qwen3", QWEN3, None, None, task="embed"),
    Published("Qwen/Qwen3-Reranker-4B", "Qwen3ForCausalLM", "qwen3", QWEN3, None, None, task="score"),
    Published("BAAI/bge-m3", "XLMRobertaModel", "xlm-roberta", None, None, None, task="embed", tokens=False),
    Published(
        "openai/whisper-large-v3",
        "WhisperForConditionalGeneration",
        "whisper",
        None,
        None,
        None,
        task="transcribe",
        tokens=False,
    ),
    Published("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen3MoeForCausalLM", "qwen3_moe", QWEN25, "hermes", None),
    Published("zai-org/GLM-4.6", "Glm4MoeForCausalLM", "glm4_moe", GLM45, "glm45", "glm45"),
    Published("acme/unknown-model-xyz", "LlamaForCausalLM", "llama", CHATML, None, None, tokens=False),
    Published("acme/qwen3-but-another-template", "Qwen3ForCausalLM", "qwen3", CHATML, None, None),
    Published("acme/deepseek-r1-of-our-own", "Qwen2ForCausalLM", "qwen2", CHATML, None, None, tokens=False),
    Published("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "NemotronHForCausalLM", "nemotron_h", NEMOTRON_NANO_2, None, None),
    Published("microsoft/phi-4", "Phi3ForCausalLM", "phi3", CHATML, None, None, tokens=False),
    Published("allenai/Olmo-3-7B-Instruct", "Olmo3ForCausalLM", "olmo3", OLMO3, "olmo3", None, tokens=False),
    Published("/models/my-finetune", "Qwen3ForCausalLM", "qwen3", QWEN3, "hermes", "qwen3"),
    Published("/models/my-finetune", "LlamaForCausalLM", "llama", HERMES3, "hermes", None, tokens=False),
    Published("/models/my-finetune", "LlamaForCausalLM", "llama", QWEN3_THINKING, "hermes", "deepseek_r1"),
    # A parser of reasoning would refuse every request where <think> is no token.
    Published("/models/my-finetune", "LlamaForCausalLM", "llama", QWEN3_THINKING, "hermes", None, tokens=False),
    Published("pvc://models/llama", "MistralForCausalLM", "mistral", MISTRAL, "mistral", None, tokens=False),
)
"""Models whose names, or whose architecture, alone would lead astray."""
