"""The argument vector of `vllm serve`. Never a shell's: each value is one element, whatever is in it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import PORT
from vllm_operator.api.types import Defaults, Engine, VLLMModelSpec
from vllm_operator.engine.catalogue import Catalogue, Option, Type, find, newest
from vllm_operator.engine.check import check_parser, check_value, resolve
from vllm_operator.engine.defaults import default_options
from vllm_operator.engine.images import parse_version
from vllm_operator.engine.lora import lora_options
from vllm_operator.engine.options import OWNED, SHUTDOWN_TIMEOUT_SINCE
from vllm_operator.engine.recipes import AUTO_TOOLS, NONE, REASONING_PARSER, TOOL_PARSER, choose
from vllm_operator.engine.termination import decide_termination
from vllm_operator.engine.words import refusal, show, to_json, to_word
from vllm_operator.hub.facts import Traits
from vllm_operator.sizing.plan import Plan

CHAT_TEMPLATE_DIRECTORY = "/etc/vllm/chat-template"

# Field of Engine → option, in the order in which they stand in the vector.
TYPED_OPTIONS = (
    ("max_model_len", "max-model-len"),
    ("dtype", "dtype"),
    ("quantization", "quantization"),
    ("kv_cache_dtype", "kv-cache-dtype"),
    ("gpu_memory_utilization", "gpu-memory-utilization"),
    ("max_num_seqs", "max-num-seqs"),
    ("max_num_batched_tokens", "max-num-batched-tokens"),
    ("block_size", "block-size"),
    ("enable_prefix_caching", "enable-prefix-caching"),
    ("enable_chunked_prefill", "enable-chunked-prefill"),
    ("enforce_eager", "enforce-eager"),
    ("trust_remote_code", "trust-remote-code"),
    ("cpu_offload_gb", "cpu-offload-gb"),
    ("tokenizer", "tokenizer"),
    ("tokenizer_mode", "tokenizer-mode"),
    ("load_format", "load-format"),
    ("seed", "seed"),
    ("runner", "runner"),
    ("convert", "convert"),
    ("tool_call_parser", "tool-call-parser"),
    ("reasoning_parser", "reasoning-parser"),
    ("hf_overrides", "hf-overrides"),
    ("speculative_config", "speculative-config"),
    ("compilation_config", "compilation-config"),
)

BUCKETS = ("s3://", "gs://")
STREAMER = "runai_streamer"
"""Load format of a model in a bucket, where the user has chosen none."""
_STREAMING = (STREAMER, "runai_streamer_sharded", "modelexpress", "auto")
"""Load formats that vLLM takes for a bucket (vllm/config/vllm.py)."""
_TYPED_NAMES = frozenset(option for _, option in TYPED_OPTIONS)
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]{0,127}")
_NEGATIVE_INTEGER = re.compile(r"-\d+")


@dataclass(frozen=True)
class _Known:
    """What is known of the options."""

    catalogue: Catalogue
    """Those of the version that is run, or, where it has no catalogue, the newest: for how an option is written."""
    checked: bool
    """Whether they are those of the version: then what is not among them is refused."""

    @classmethod
    def of(cls, version: str | None, *, checked: bool) -> "_Known":
        found = find(version)
        return cls(found or newest(), checked=checked and found is not None)


def build_command(
    spec: VLLMModelSpec,
    *,
    model_path: str,
    served_model_names: Sequence[str],
    plan: Plan,
    revision: str | None = None,
    version: str | None = None,
    host: str = "0.0.0.0",
    checked: bool = True,
    max_lora_rank: int | None = None,
    traits: Traits | None = None,
) -> list[str]:
    """The argument vector for a spec.

    `revision` is the hub revision, when one is given. `version` is vLLM's version when it is known: an option that not
    every version has is left out when it is not. `host` is the address to listen on: without one, vLLM listens on every IPv4
    address only (create_server_socket in launchers/launcher.py), so a cluster without IPv4 needs `::`.

    `max_lora_rank` is the highest rank of adapters that may be loaded; None: vLLM is to take none.

    Options and values are checked against the version's catalogue. Where it has none, or with `checked` false, they are written
    as they are.

    `traits` are what is known of the model, for what the user has not chosen (recipes.py); None: nothing is chosen.

    Raises Refusal(InvalidEngineArgs) naming the field, its value and what would be right.
    """
    engine = spec.engine or Engine()
    known = _Known.of(version, checked=checked)
    command = [*(engine.executable or ("vllm", "serve")), model_path]
    command += ["--host", host, "--port", str(PORT), "--served-model-name", *served_model_names]
    for option, size in (
        ("tensor-parallel-size", plan.tensor_parallel_size),
        ("pipeline-parallel-size", plan.pipeline_parallel_size),
        ("data-parallel-size", plan.data_parallel_size),
    ):
        if size > 1:
            command += [f"--{option}", str(size)]
    if plan.enable_expert_parallel:
        command.append("--enable-expert-parallel")
    if revision is not None:
        command += _render(known, "revision", revision, where="spec.hub.revision")

    typed: dict[str, str] = {}
    """Option → field that sets it."""
    chosen: dict[str, Any] = {}
    """Option → the value of that field."""
    for attribute, option in TYPED_OPTIONS:
        value = getattr(engine, attribute)
        if value is None:
            continue
        field = f"spec.engine.{Engine.model_fields[attribute].alias or attribute}"
        typed[option], chosen[option] = field, value
        if known.checked:
            resolve(known.catalogue, option, where=field)
        if _is_off(option, value):
            continue
        command += _render(known, option, value, where=field)
        if option == TOOL_PARSER:
            # vLLM parses tool calls only with both (validate_parsed_serve_args)
            typed[AUTO_TOOLS], chosen[AUTO_TOOLS] = field, True
            command.append(f"--{AUTO_TOOLS}")
    if engine.chat_template is not None:
        field = "spec.engine.chatTemplate"
        path = f"{CHAT_TEMPLATE_DIRECTORY}/{engine.chat_template.config_map_key_ref.key}"
        typed["chat-template"], chosen["chat-template"] = field, path
        command += _render(known, "chat-template", path, where=field)

    for option, value, field in default_options(spec.defaults or Defaults(), traits=traits, version=version):
        typed[option], chosen[option] = field, value
        if known.checked:
            resolve(known.catalogue, option, where=field)
        command += _render(known, option, value, where=field)

    args = _checked_args(known, engine.args or {}, typed, chosen)
    if known.checked:
        _check_parsers(known.catalogue, engine, typed, args)
        for option, value in choose(spec, traits, version).options.items():
            command += _render(known, option, value, where=f"the recipe's {option}")
    if plan.max_model_len is not None and "max-model-len" not in typed and "max-model-len" not in args:
        command += ["--max-model-len", str(plan.max_model_len)]
    if model_path.startswith(BUCKETS):
        command += _load_format(engine, args, model_path)
    if max_lora_rank is not None:
        command += _lora(known, args, plan, max_lora_rank)
    if "shutdown-timeout" not in args and version is not None and parse_version(version) >= SHUTDOWN_TIMEOUT_SINCE:
        timeout = decide_termination(spec).shutdown_timeout
        if timeout > 0:
            command += ["--shutdown-timeout", str(timeout)]
    for name in sorted(args):
        written, value = args[name]
        command += _render(known, name, value, where=f"spec.engine.args.{written}")
    return command


def _is_off(option: str, value: Any) -> bool:
    """Whether the user wants no such parser."""
    return option in (TOOL_PARSER, REASONING_PARSER) and str(value).lower() == NONE


def _check_parsers(
    catalogue: Catalogue, engine: Engine, typed: Mapping[str, str], args: Mapping[str, tuple[str, Any]]
) -> None:
    """Raise Refusal for parsers that the version does not register, unless a plugin may."""
    for option, chosen, registered in (
        ("tool-call-parser", engine.tool_call_parser, catalogue.tool_parsers),
        ("reasoning-parser", engine.reasoning_parser, catalogue.reasoning_parsers),
    ):
        written, given = args.get(option, (option, None))
        name = given if chosen is None else chosen
        if chosen is not None and _is_off(option, chosen):
            continue
        plugin = "tool-parser-plugin" if option == "tool-call-parser" else "reasoning-parser-plugin"
        if name is not None and plugin not in args:
            check_parser(catalogue, registered, name, where=typed.get(option, f"spec.engine.args.{written}"))


def _load_format(engine: Engine, args: dict[str, tuple[str, Any]], model_path: str) -> list[str]:
    """What streams the weights out of a bucket, unless the user has chosen. Raises Refusal for what cannot."""
    written, given = args.get("load-format", ("load-format", None))
    field = "spec.engine.loadFormat" if engine.load_format is not None else f"spec.engine.args.{written}"
    given = engine.load_format or given
    if given is None:
        return ["--load-format", STREAMER]
    if given not in _STREAMING:
        raise refusal(
            f"{field} is {show(given)}, but the model is {model_path}: for a bucket vLLM takes {', '.join(_STREAMING)}; or leave it out"
        )
    return []


def _lora(known: _Known, args: Mapping[str, tuple[str, Any]], plan: Plan, max_rank: int) -> list[str]:
    """What lets adapters be loaded while vLLM runs. Raises Refusal."""
    options = lora_options(args, max_rank=max_rank)
    if plan.data_parallel_size > 1 and "api-server-count" not in args:
        # vLLM starts as many API servers as there are data-parallel ranks, and loads adapters with one only (cli/serve.py)
        options["api-server-count"] = 1
    words = []
    for name, value in options.items():
        if known.checked:
            resolve(known.catalogue, name, where="spec.adapters")
        words += _render(known, name, value, where="spec.adapters")
    return words


def _checked_args(
    known: _Known, given: Mapping[str, Any], typed: Mapping[str, str], chosen: Mapping[str, Any]
) -> dict[str, tuple[str, Any]]:
    """spec.engine.args by canonical name: → (name as written, value). What a typed field, or another spelling, says as well is left
    out. Raises Refusal for names that cannot stand, and for two values of one option.
    """
    catalogue = known.catalogue
    result: dict[str, tuple[str, Any]] = {}
    for written in sorted(given):
        value = given[written]
        where = f"spec.engine.args.{written}"
        if not _NAME.fullmatch(written):
            raise refusal(
                f"spec.engine.args has {show(written)}: write an option's name without leading dashes: letters, digits, dots, "
                "dashes and underscores, e.g. limit-mm-per-prompt"
            )
        if long := catalogue.short_names.get(written):
            raise refusal(
                f"{where} is a short form that vLLM takes with one dash only: write its long name, {long}"
                + (f" — {OWNED[long]}" if long in OWNED else "")
            )
        name = catalogue.canonical(written)
        negated, name = name.startswith("no-"), catalogue.canonical(name.removeprefix("no-"))
        base = name.partition(".")[0]
        if known.checked and base not in OWNED:
            name = _resolved(catalogue, name, negated=negated, where=where)
            base = name.partition(".")[0]
        if base in OWNED:
            # without the value: it may be a key or token, and a message is read by more people than a spec
            raise refusal(f"{where} is set, but the operator does not let args set --{base}: {OWNED[base]}")
        if negated:
            if value is not True:
                raise refusal(f"{where} is {show(value)}: write {name}: true or {name}: false instead")
            value = False
        if base in typed:
            if name == base and _means_the_same(catalogue, base, value, chosen.get(base)):
                continue
            raise refusal(f"{where} is {show(value)}, but {typed[base]} sets --{base} too: keep one of them")
        for option, instead in (*OWNED.items(), *((o, f"{f} sets it") for o, f in typed.items())):
            # argparse takes any unique beginning of a name for the name, but for names of their own (tokenizer)
            if not known.checked and option.startswith(base) and base not in _TYPED_NAMES:
                raise refusal(f"{where} is set, which vLLM may read as an abbreviation of --{option}: {instead}")
        if name in result and _means_the_same(catalogue, name, value, result[name][1]):
            continue
        for other, (other_written, _) in result.items():
            if other == name or (other.partition(".")[0] == base and base in (name, other)):
                raise refusal(f"{where} and spec.engine.args.{other_written} both set --{base}: keep one of them")
        result[name] = (written, value)
    return result


def _means_the_same(catalogue: Catalogue, name: str, value: Any, other: Any) -> bool:
    """Whether vLLM reads two values of an option as one, e.g. 32k and 32000."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    option = catalogue.option(name)
    if option is None or value is None or other is None:
        return bool(value == other) and type(value) is type(other)
    try:
        read = [
            [option.read(to_word(word, name)) for word in (each if isinstance(each, list) else [each])]
            for each in (value, other)
        ]
    except (ValueError, OverflowError, RecursionError, Refusal):
        return False
    return bool(read[0] == read[1])


def _resolved(catalogue: Catalogue, name: str, *, negated: bool, where: str) -> str:
    """The canonical name of an option that the version has, for one that may be abbreviated. Raises Refusal."""
    option = resolve(catalogue, name, where=where)
    _, dot, keys = name.partition(".")
    if negated and not option.negatable:
        raise refusal(
            f"{where}: --{option.name} has no --no- form in vLLM {catalogue.version}: it takes {option.expected}"
        )
    if dot and not option.takes_keys:
        raise refusal(f"{where}: --{option.name} has no keys: vLLM {catalogue.version} takes {option.expected}")
    return option.name + dot + keys


def _render(known: _Known, name: str, value: Any, *, where: str) -> list[str]:
    """The words of one option. `name` is canonical."""
    if value is None:
        raise refusal(f"{where} is null: give it a value, or leave it out to keep vLLM's default")
    for text in _strings(value):
        if "\0" in text:
            raise refusal(f"{where} is {show(value)}: an argument cannot hold a NUL character; remove it")
    flag = f"--{name}"
    if "." in name:
        # read back by json.loads, so that the text "1" stays text
        return [f"{flag}={to_json(value, where)}"]
    option = known.catalogue.option(name)
    if known.checked and option is not None:
        check_value(known.catalogue, option, value, where=where)
    if isinstance(value, bool):
        if value:
            return [flag]
        # a switch without a --no- form: false is said by leaving it out
        switch = option is not None and option.type is Type.BOOLEAN and not option.negatable
        return [] if switch else [f"--no-{name}"]
    if isinstance(value, list):
        return _render_list(name, option, value, where=where)
    return _valued(flag, to_word(value, where), where=where)


def _valued(flag: str, word: str, *, where: str) -> list[str]:
    """An option with one value. A value that begins with a dash is joined to its flag, or it would be read as an option."""
    if word == "--":
        # Python's argparse drops it, joined or not
        raise refusal(f'{where} is "--", which vLLM\'s parser cannot read as a value: give it another one')
    return [f"{flag}={word}"] if word.startswith("-") else [flag, word]


def _render_list(name: str, option: Option | None, values: list[Any], *, where: str) -> list[str]:
    """The words of an option with several values; how they are written depends on the option."""
    flag = f"--{name}"
    if option is not None and option.of == "list":
        return [flag, to_json(values, where)]
    if not values:
        raise refusal(f"{where} is an empty list: leave it out to keep vLLM's default")
    if any(value is None for value in values):
        raise refusal(f"{where} is {show(values)}: a list's element cannot be null; remove it")
    words = [to_word(value, where) for value in values]
    if option is not None and option.type is Type.COMMA_LIST:
        return _valued(flag, ",".join(words), where=where)
    if len(words) == 1 or (option is not None and option.repeated):
        return [text for word in words for text in _valued(flag, word, where=where)]
    for word in words:
        # argparse takes -1 for a value as long as no option looks like a number; nothing else that begins with a dash
        if word.startswith("-") and not _NEGATIVE_INTEGER.fullmatch(word):
            raise refusal(
                f"{where} is {show(values)}: vLLM's parser takes the element {show(word)} for an option, and offers no way "
                "to write it in a list of several"
            )
    return [flag, *words]


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
