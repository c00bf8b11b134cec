"""spec.defaults → options of `vllm serve`: what a request gets that does not say it itself."""

from collections.abc import Iterator
from typing import Any

from vllm_operator.api.types import Defaults
from vllm_operator.engine.images import parse_version
from vllm_operator.engine.words import refusal, show
from vllm_operator.hub.facts import Traits

GENERATION_CONFIG, TEMPLATE_KWARGS = "override-generation-config", "default-chat-template-kwargs"
PENALTIES_SINCE = (0, 31, 0)
"""First version that heeds both penalties there (get_diff_sampling_param in config/model.py); older ones drop them silently."""

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_tokens": "max_new_tokens",
}
"""Field → key of vLLM's generation config."""
_PENALTIES = ("presence_penalty", "frequency_penalty")


def default_options(
    defaults: Defaults, *, traits: Traits | None, version: str | None
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Options with their value and the field that sets them. Raises Refusal for what the version would not heed."""
    given = {name: value for name in _SAMPLING if (value := getattr(defaults, name)) is not None}
    for name in _PENALTIES:
        if name in given and version is not None and parse_version(version) < PENALTIES_SINCE:
            since = ".".join(map(str, PENALTIES_SINCE[:2]))
            raise refusal(
                f"{_field(name)} is {show(given[name])}: vLLM {version} does not heed it as a default, {since} does; remove it or "
                "set spec.engine.version"
            )
    if given:
        yield GENERATION_CONFIG, {_SAMPLING[name]: value for name, value in given.items()}, _field(next(iter(given)))
    kwargs = dict(defaults.chat_template_kwargs or {})
    field = _field("chat_template_kwargs")
    if defaults.enable_thinking is not None:
        variable = thinking_variable(traits)
        if variable in kwargs:
            raise refusal(
                f"{field}.{variable} is {show(kwargs[variable])}, but {_field('enable_thinking')} sets it too: keep one of them"
            )
        if not kwargs:
            field = _field("enable_thinking")
        kwargs[variable] = defaults.enable_thinking
    if kwargs:
        yield TEMPLATE_KWARGS, kwargs, field


def thinking_variable(traits: Traits | None) -> str:
    """The chat template's variable that says whether the model reasons."""
    markers = traits.template if traits else ()
    return "thinking" if "thinking" in markers and "enable-thinking" not in markers else "enable_thinking"


def _field(name: str) -> str:
    return f"spec.defaults.{Defaults.model_fields[name].alias}"
