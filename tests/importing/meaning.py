"""What a command means: the options that vLLM reads of it, whatever their order and spelling."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_operator.api.names import Key
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.engine.catalogue import Option, Type, find, newest
from vllm_operator.engine.parse import read_line
from vllm_operator.engine.words import to_word
from vllm_operator.sizing.plan import decide_plan
from vllm_operator.workload.pods import build_pod_template, unescape_expansion
from vllm_operator.workload.settings import BuildSettings

OF_THE_OPERATOR = {"host": "0.0.0.0", "port": 8000, "shutdown-timeout": 100}
"""Options that every command of the operator's has."""


def pod_words(model: Mapping[str, Any], *, checked: bool = True) -> list[str]:
    """The words that the pods of a VLLMModel run after `vllm serve`."""
    spec = VLLMModelSpec.model_validate(model["spec"])
    key = Key("default", model["metadata"]["name"])
    template = build_pod_template(key, spec, plan=decide_plan(spec), settings=BuildSettings(), checked=checked)
    words = [unescape_expansion(word) for word in template["spec"]["containers"][0]["command"]]
    executable = (model["spec"].get("engine") or {}).get("executable") or ["vllm", "serve"]
    assert words[: len(executable)] == executable
    return words[len(executable) :]


def serve_line(model: Mapping[str, Any], *, checked: bool = True) -> str:
    """The same as a line for a shell."""
    return shlex.join(["vllm", "serve", *pod_words(model, checked=checked)])


def meaning(words: Sequence[str], *, version: str | None = None) -> dict[str, Any]:
    """Model and options of the words after `vllm serve`, but for those that the operator adds."""
    read = read_line(find(version) or newest(), words, checked=False)
    options = {name: given.value for name, given in read.given.items() if given.value != OF_THE_OPERATOR.get(name)}
    return {"positionals": read.positionals, **options}


def words_of(option: Option, value: Any) -> list[str]:
    """An option as people write it, in another way than the operator does."""
    name = option.name.replace("-", "_")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{name}"] if value or option.negatable else []
    if not isinstance(value, list) or option.of == "list":
        return [f"-{option.short[-1]}={to_word(value, '')}" if option.short else f"--{name}={to_word(value, '')}"]
    texts = [to_word(each, "") for each in value]
    if option.type is Type.COMMA_LIST:
        return [f"--{name}={','.join(texts)}"]
    if option.repeated:
        return [f"--{name}={text}" for text in texts]
    return [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
