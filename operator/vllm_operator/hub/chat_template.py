"""What a chat template shows of a model: in which form it calls tools, and whether it reasons. Pure.

A template may be long and is written by anybody. Only the names of what is found in it are kept: they are few, and fit into a pod's
termination message (wire.py).
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

LARGEST_TEMPLATE = 1024 * 1024
"""Bytes of a template's file that are read at most; the longest known have 25 kB."""

TEMPLATE = "template"
"""There is a chat template."""
THINK_TOKENS = "think-tokens"
"""The tokenizer has </think> as one token, without which vLLM's parsers of reasoning refuse every request."""

_PATTERNS: Mapping[str, tuple[str, str]] = {
    # Line breaks are real ones in a file, and \n in a text of Jinja's.
    "tool-call-json": (r"<tool_call>(?:\s|\\n){0,8}\{{1,2}\s{0,8}\\?[\"']", "<tool_call>{…}"),
    "tool-call": (r"<tool_call>", "<tool_call>"),
    "function-xml": (r"<function=", "<function=…>"),
    "arg-key": (r"<arg_key>", "<arg_key>"),
    "name-before-arg-key": (r"<tool_call>\{function-name\}<arg_key>", "<tool_call>{function-name}<arg_key>"),
    "tool-calls-bracket": (r"\[TOOL_CALLS\]", "[TOOL_CALLS]"),
    "think-bracket": (r"\[THINK\]", "[THINK]"),
    "kimi-tool-calls": (r"<\|tool_calls_section_begin\|>", "<|tool_calls_section_begin|>"),
    "deepseek-turns": ("<｜Assistant｜>", "<｜Assistant｜>"),
    "llama-json": (
        r"\"name\\?\": function name, \\?\"parameters\\?\": dictionary of argument name",
        '{"name": function name, "parameters": …}',
    ),
    "gemma-tool-call": (r"<\|tool_call>", "<|tool_call>"),
    "granite-tool-call": (r"<\|tool_call\|>", "<|tool_call|>"),
    "phi-tool": (r"<\|tool\|>", "<|tool|>"),
    "function-calls": (r"<function_calls>", "<function_calls>"),
    "minimax-tool-call": (r"<minimax:tool_call>", "<minimax:tool_call>"),
    "seed-tool-call": (r"<seed:tool_call>", "<seed:tool_call>"),
    "tool-calls": (r"<tool_calls>", "<tool_calls>"),
    "lfm-tool-call": (r"<\|tool_call_start\|>", "<|tool_call_start|>"),
    "think-end": (r"</think>", "</think>"),
    "prompt-think": (r"[Aa]ssistant[^{}<]{0,40}<think>", "a prompt that ends in <think>"),
    "enable-thinking": (r"\benable_thinking\b", "enable_thinking"),
    "thinking": (r"\b(?:if|and|or|not|elif) thinking\b|\bthinking is (?:not )?defined\b", "thinking"),
}
_COMPILED = {name: re.compile(pattern) for name, (pattern, _) in _PATTERNS.items()}

MARKERS: Mapping[str, str] = {
    **{name: words for name, (_, words) in _PATTERNS.items()},
    TEMPLATE: "anything",
    THINK_TOKENS: "</think> as one token",
}
"""What can be found → in words, after "the chat template has"."""


def read_template(template: str) -> tuple[str, ...]:
    """Markers of a template, sorted."""
    found = {name for name, pattern in _COMPILED.items() if pattern.search(template)}
    return tuple(sorted(found | {TEMPLATE} if template.strip() else found))


def read_tokenizer(
    files: Collection[str], tokenizer: Mapping[str, Any] | None, template: str | None
) -> tuple[str, ...] | None:
    """Markers of a model's files; None where nothing is known of them.

    `template`: the one that stands in a file of its own, which wins over tokenizer_config.json's, as in transformers.
    """
    if not files and tokenizer is None and template is None:
        return None
    given = (tokenizer or {}).get("chat_template") if template is None else template
    found = set(read_template(_text(given)[:LARGEST_TEMPLATE]))
    tokens = (tokenizer or {}).get("added_tokens_decoder")
    if isinstance(tokens, Mapping) and any(
        isinstance(token, Mapping) and token.get("content") == "</think>" for token in tokens.values()
    ):
        found.add(THINK_TOKENS)
    return tuple(sorted(found))


def _text(given: Any) -> str:
    """A template, or all of several: each has a name then, and vLLM takes `tool_use` for requests with tools."""
    if isinstance(given, list):
        return "\n".join(
            str(each["template"])
            for each in given
            if isinstance(each, Mapping) and isinstance(each.get("template"), str)
        )
    if isinstance(given, Mapping):
        return "\n".join(str(each) for each in given.values() if isinstance(each, str))
    return given if isinstance(given, str) else ""
