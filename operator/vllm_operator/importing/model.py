"""What starts a vLLM → the VLLMModel that does the same, the Secret beside it, and what could not be carried over."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import Key
from vllm_operator.api.types import API_VERSION, KIND, Engine, EnvVar, Hub, Parallelism, VLLMModel, VLLMModelSpec
from vllm_operator.engine.catalogue import Catalogue, find, newest
from vllm_operator.engine.check import check_parser
from vllm_operator.engine.command import BUCKETS, STREAMER, TYPED_OPTIONS
from vllm_operator.engine.options import OWNED
from vllm_operator.engine.parse import Given, Line, read_line
from vllm_operator.engine.termination import decide_termination
from vllm_operator.engine.words import show
from vllm_operator.importing.container import Run, unique
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.secrets import Secret, hide, is_secret_option, is_secret_variable
from vllm_operator.importing.shell import is_open, readable, variables_in
from vllm_operator.importing.start import read_run
from vllm_operator.sizing.plan import decide_plan
from vllm_operator.workload.pods import build_pod_template
from vllm_operator.workload.settings import BuildSettings

JSONObject = dict[str, Any]

_STOCK = re.compile(r"(?:docker\.io/)?vllm/vllm-openai(-rocm|-xpu|-cpu)?(?::[^@]*)?(?:@.*)?")
_TAG = re.compile(r"[^@]*vllm[^:@]*:v?([0-9]+\.[0-9]+\.[0-9]+[-.a-zA-Z0-9]*)(?:@.*)?")
_ACCELERATORS = {"-rocm": "amd", "-xpu": "intel", "-cpu": "cpu"}
_SIZE = re.compile(r"([0-9]+)([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_ELSEWHERE = re.compile(r"/|[a-z0-9]+://")
_FILE = re.compile(r"(?:~|\.{1,2})?/\S+|[^\s{}]+\.(?:jinja|json|py|yaml|yml)")

PARALLELISM = {
    "tensor-parallel-size": "tensor",
    "pipeline-parallel-size": "pipeline",
    "data-parallel-size": "data",
    "enable-expert-parallel": "expert",
}
"""Option → field of spec.parallelism."""

_TYPED = {option: (attribute, Engine.model_fields[attribute].alias or attribute) for attribute, option in TYPED_OPTIONS}
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


@dataclass(frozen=True)
class Imported:
    """What an import gives."""

    model: JSONObject
    secret: JSONObject | None
    notes: tuple[str, ...]
    """What could not be carried over, and what to look at: sentences on one line each, without any secret."""


def import_model(
    text: str,
    *,
    name: str | None = None,
    namespace: str | None = None,
    version: str | None = None,
    service: str | None = None,
) -> Imported:
    """The VLLMModel for a command line, docker run or a compose service.

    `version` is vLLM's, where the text names no image with one. `service` is one of a compose file with several.

    Raises ImportRefused.
    """
    try:
        return _Import(read_run(text, service=service), version).finish(name, namespace)
    except (Refusal, ImportRefused) as refused:
        raise ImportRefused(_for_people(str(refused))) from refused


def derive_name(text: str) -> str:
    """A name for a Kubernetes object that is like a model's, e.g. Qwen/Qwen3-8B → qwen3-8b."""
    last = text.rstrip("/").rpartition("/")[2]
    plain = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"model-{plain}".rstrip("-")
    return plain[:63].rstrip("-")


@dataclass
class _Import:
    run: Run
    given_version: str | None
    notes: list[str] = field(default_factory=list)
    spec: JSONObject = field(default_factory=dict)
    engine: JSONObject = field(default_factory=dict)
    args: JSONObject = field(default_factory=dict)
    hub: JSONObject = field(default_factory=dict)
    parallelism: JSONObject = field(default_factory=dict)
    checked: bool = True

    def finish(self, name: str | None, namespace: str | None) -> Imported:
        """The model. Raises ImportRefused and Refusal."""
        catalogue = self._read_image()
        line = read_line(catalogue, self.run.words, checked=self.checked, is_open=is_open)
        self._read_model(line)
        served = self._served_names(line)
        self.name = name or derive_name((served or [self.spec["model"]])[0])
        self.secret = Secret(f"{self.name}-credentials")
        if served and served != [self.name]:
            self.spec["servedModelNames"] = served
        self._read_tools(catalogue, line)
        for given in line.given.values():
            self._read_option(given)
        self._read_keys(line)
        self._read_environment()
        self._read_container()
        return self._whole(namespace)

    # ---- the image, and the version in it

    def _read_image(self) -> Catalogue:
        """What the version takes; sets `checked`."""
        image, version = self.run.image, self.given_version
        if image is not None and is_open(image):
            self.notes.append(f"the image is left out: the value of {_variables(image)} is not known")
            image = None
        if image is not None and len(image) > 512:
            raise ImportRefused("the image's name is longer than 512 characters")
        if image is not None:
            self.engine["image"] = image
            stock, tag = _STOCK.fullmatch(image), _TAG.fullmatch(image)
            tagged = tag and tag[1]
            if tagged and stock:
                version = tagged
            elif tagged and version is None:
                self.notes.append(
                    f"options were checked against vLLM {tagged}, the image's tag; the operator checks them if "
                    f"spec.engine.version says {tagged}"
                )
                found = find(tagged)
                self.checked = found is not None
                return found or newest()
            if stock and stock[1]:
                self.spec["accelerator"] = {"type": _ACCELERATORS[stock[1]]}
        if version is not None:
            self.engine["version"] = version
        found = find(version)
        if version is not None and found is None:
            self.notes.append(
                f"options were not checked: those of vLLM {version} are not known; they were read as {newest().version} reads them"
            )
        elif version is None:
            self.notes.append(
                f"options were checked against vLLM {newest().version}, since the command names no version: --vllm-version does"
            )
        self.checked = version is None or found is not None
        return found or newest()

    # ---- what is served

    def _read_model(self, line: Line) -> None:
        named = [*line.positionals]
        if "model" in line.given:
            named.insert(0, line.given["model"].words[0])
        if "model-tag" in line.given:
            named.insert(0, line.given["model-tag"].words[0])
        if not named:
            raise ImportRefused("the command names no model: vllm serve MODEL")
        model, *others = unique(named)
        for other in others:
            if not is_open(other):
                raise ImportRefused(
                    f"the model is {_shown(model)}, and a word belongs to no option: {_shown(other)}; an option's value that is "
                    "several words must be quoted"
                )
            self.notes.append(f"{readable(other)} is left out: its value is not known")
        if is_open(model):
            raise ImportRefused(
                f"the model is {readable(model)}, and the value of {_variables(model)} is not known: write it"
            )
        self.spec["model"] = model
        try:
            VLLMModelSpec.model_validate({"model": model})
        except ValidationError as error:
            extra: Any = VLLMModelSpec.model_fields["model"].json_schema_extra
            hint = next(iter(extra.values()), "") if isinstance(extra, dict) else ""
            raise ImportRefused(f"the model is {_shown(model)}, which spec.model does not take: {hint}") from error
        if model.startswith("/"):
            self.notes.append(
                f"the model is the directory {_shown(model)}: it must be in the image or be mounted; from a volume, write "
                "model: pvc://CLAIM/PATH"
            )

    def _served_names(self, line: Line) -> list[str]:
        """Names by which requests ask for the model. Without any vLLM takes the model's own."""
        given = line.given.get("served-model-name")
        if given is None or given.is_open:
            model = str(self.spec["model"])
            if _is_served_name(model):
                return [model]
            self.notes.append(f"requests ask for the model by the resource's name, not by {_shown(model)}")
            return []
        names = unique(given.value)
        for each in names:
            if not _is_served_name(each):
                raise ImportRefused(
                    f"{given.flag} is {_shown(each)}, which spec.servedModelNames does not take: write letters, digits, - . _ / : @"
                )
        return names

    @property
    def _of_hub(self) -> bool:
        return _ELSEWHERE.match(str(self.spec["model"])) is None

    # ---- options

    def _read_tools(self, catalogue: Catalogue, line: Line) -> None:
        """One field, toolCallParser, stands for two options; check the names of parsers."""
        for option, plugin, registered in (
            ("tool-call-parser", "tool-parser-plugin", catalogue.tool_parsers),
            ("reasoning-parser", "reasoning-parser-plugin", catalogue.reasoning_parsers),
        ):
            given = line.given.get(option)
            if given is not None and not given.is_open and plugin not in line.given and self.checked:
                check_parser(catalogue, registered, given.value, where=given.flag)
        parser, automatic = line.given.get("tool-call-parser"), line.given.get("enable-auto-tool-choice")
        if parser is None or parser.is_open or parser.option is None:
            return
        if automatic is not None and automatic.value is True:
            if self._put_typed("tool-call-parser", parser.value):
                del line.given["tool-call-parser"], line.given["enable-auto-tool-choice"]
            return
        # spec.engine.toolCallParser would switch tools on, which the command does not
        self.args["tool-call-parser"] = parser.value
        del line.given["tool-call-parser"]
        self.notes.append(
            f"{parser.flag} does nothing without --enable-auto-tool-choice: spec.engine.toolCallParser sets both"
        )

    def _put_typed(self, option: str, value: Any) -> bool:
        """Set the typed field of an option, if there is one that takes the value."""
        if option not in _TYPED:
            return False
        attribute, alias = _TYPED[option]
        if attribute == "max_model_len" and not (value in ("auto", -1) or (isinstance(value, int) and value > 0)):
            return False
        if isinstance(value, dict) and len(value) > 64:
            return False
        try:
            Engine.model_validate({alias: value})
        except ValidationError:
            return False
        self.engine[alias] = value
        return True

    def _read_option(self, given: Given) -> None:
        name, value = given.name, given.value
        if name in ("model", "model-tag", "served-model-name", "api-key", "hf-token"):
            return
        if given.remark:
            kept = given.is_open or given.name in OWNED or is_secret_option(name, value, known=given.option is not None)
            self.notes.append(given.remark + ("" if kept else "; kept in spec.engine.args as it is"))
        earlier = [each for each in given.earlier if each.value != value]
        if earlier and given.option is not None and not given.option.repeated:
            self.notes.append(f"{given.flag} is given {len(given.earlier) + 1} times: vLLM takes the last")
        if given.option is not None and given.option.deprecated:
            self.notes.append(f"{given.flag} is deprecated: {given.option.help}")
        if given.is_open:
            names = _variables(" ".join(_texts(value)))
            self.notes.append(f"{given.flag} is left out: the value of {names} is not known")
        elif name in PARALLELISM:
            field_name = PARALLELISM[name]
            try:
                Parallelism.model_validate({field_name: value})
            except ValidationError as error:
                raise ImportRefused(f"{given.flag} is {value}: spec.parallelism.{field_name} takes 1 to 64") from error
            self.parallelism[field_name] = value
        elif name == "revision":
            self._read_revision(given)
        elif name in ("host", "port"):
            self.run.needless.append(f"--{name}")
        elif name in OWNED:
            self.notes.append(f"{given.flag} is left out: {OWNED[name]}")
        elif is_secret_option(name, value, known=given.option is not None):
            self.notes.append(
                f"{given.flag} is left out: its value looks like a key or token, and an argument can be read by everyone who may see "
                "the pod"
            )
        elif self._is_what_the_operator_does(given):
            return
        elif given.option is None or given.remark or not self._put_typed(name, value):
            self.args[name] = value
            files = [text for text in _texts(value) if _FILE.fullmatch(text.partition("=")[2] or text)]
            if files:
                self.notes.append(
                    f"{given.flag} names {', '.join(_shown(file) for file in files)}: it must be in the image, or be mounted by podTemplate"
                    + ("; or give spec.engine.chatTemplate a ConfigMap" if name == "chat-template" else "")
                )

    def _is_what_the_operator_does(self, given: Given) -> bool:
        """Whether the operator writes just this by itself."""
        if given.name == "shutdown-timeout":
            return bool(given.value == decide_termination(VLLMModelSpec(model="m")).shutdown_timeout)
        return given.name == "load-format" and given.value == STREAMER and str(self.spec["model"]).startswith(BUCKETS)

    def _read_revision(self, given: Given) -> None:
        try:
            Hub.model_validate({"revision": given.value})
        except ValidationError as error:
            raise ImportRefused(f"{given.flag} is {_shown(given.value)}: write a branch, tag or commit") from error
        if self._of_hub:
            self.hub["revision"] = given.value
        else:
            self.notes.append(f"{given.flag} is left out: only models of the Hugging Face hub have revisions")

    # ---- keys and tokens

    def _read_keys(self, line: Line) -> None:
        environment = self.run.environment
        token = _last_word(line.given.get("hf-token"))
        variable = next((name for name in _HUB_TOKENS if name in environment), None)
        if token is None and variable is not None:
            token = environment[variable]
        for name in _HUB_TOKENS:
            environment.pop(name, None)
        if token is not None:
            reference = self.secret.put("HF_TOKEN", token)
            if self._of_hub:
                self.hub["tokenSecretRef"] = reference
            else:
                self.engine.setdefault("env", []).append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
        elif "hf-token" in line.given:
            self.notes.append(f"{line.given['hf-token'].flag} without a value is left out: use spec.hub.tokenSecretRef")
        key = environment.pop("VLLM_API_KEY", None)
        given = line.given.get("api-key")
        keys = [word for each in (*given.earlier, given) for word in each.words] if given is not None else []
        keys = unique(keys or ([key] if key else []))
        if not keys:
            return
        self.spec["auth"] = {"apiKeySecretRef": self.secret.put("api-key", keys[0])}
        for number, each in enumerate(keys[1:], start=2):
            self.secret.put(f"api-key-{number}", each)
        if len(keys) > 1:
            self.notes.append(
                f"vLLM is given the first of {len(keys)} API keys; the others are in the Secret and used by nothing: the gateway for all "
                "models takes several"
            )

    def _read_environment(self) -> None:
        variables: list[JSONObject] = self.engine.pop("env", [])
        for name, value in self.run.environment.items():
            if name == "HF_ENDPOINT" and self._of_hub and not is_open(value) and _is_endpoint(value):
                self.hub["endpoint"] = value
            elif name in ("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"):
                self.run.needless.append(name)
            elif not _is_variable(name):
                self.notes.append(f"the variable {_shown(name)} is left out: a name has letters, digits, - . _")
            elif is_secret_variable(name, value):
                variables.append({"name": name, "valueFrom": {"secretKeyRef": self.secret.put(name, value)}})
            elif is_open(value):
                self.notes.append(f"the variable {name} is left out: the value of {_variables(value)} is not known")
            else:
                variables.append({"name": name, "value": value})
                if name == "CUDA_VISIBLE_DEVICES" and value.split(",") != [
                    str(n) for n in range(len(value.split(",")))
                ]:
                    self.notes.append(f"{name} counts the GPUs of the pod, from 0: it is most likely to be removed")
        if variables:
            self.engine["env"] = variables

    # ---- what the container was given

    def _read_container(self) -> None:
        run = self.run
        if run.executable:
            self.engine["executable"] = [self._closed(word, "the program") for word in run.executable]
            self.notes.append(f"spec.engine.executable is {_shown(' '.join(run.executable))}: the image must have it")
        if run.replicas is not None:
            self.spec["replicas"] = run.replicas
        limits = {}
        if run.memory is not None:
            limits["memory"] = self._size(run.memory, "the memory limit")
        if run.cpus is not None:
            if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", run.cpus):
                limits["cpu"] = run.cpus
            else:
                self.notes.append(f"the CPU limit {_shown(run.cpus)} is left out")
        limits = {name: value for name, value in limits.items() if value is not None}
        if limits:
            self.spec["resources"] = {"limits": limits}
        if (
            run.shared_memory is not None
            and (size := self._size(run.shared_memory, "the size of /dev/shm")) is not None
        ):
            self.spec["sharedMemory"] = {"sizeLimit": size}
        sizes = self.parallelism
        needed = sizes.get("tensor", 1) * sizes.get("pipeline", 1) * sizes.get("data", 1)
        if run.gpus is not None and run.gpus > 0 and run.gpus != needed:
            self.notes.append(
                f"the container is given {run.gpus} GPUs, but the command uses {needed}: spec.parallelism says how many"
            )
        for source, target in run.mounts:
            self.notes.append(self._about_mount(source, target))

    def _closed(self, word: str, what: str) -> str:
        if is_open(word):
            raise ImportRefused(
                f"{what} is {readable(word)}, and the value of {_variables(word)} is not known: write it"
            )
        return word

    def _size(self, text: str, what: str) -> str | None:
        """A size as Docker writes it, as a quantity."""
        match = _SIZE.fullmatch(text)
        if match is None or len(text) > 20:
            self.notes.append(f"{what}, {_shown(text)}, is left out")
            return None
        unit = match[2].upper()
        return match[1] if unit in ("", "B") else f"{match[1]}{unit}i"

    def _about_mount(self, source: str, target: str) -> str:
        what = f"the mount {_shown(f'{source}:{target}' if source else target)} is left out"
        if "cache/huggingface" in target:
            return f"{what}: spec.cache keeps downloads"
        directory = target.rstrip("/")
        if directory and f"{self.spec['model']}/".startswith(f"{directory}/"):
            return f"{what}, and the model is in it: copy it into a PersistentVolumeClaim and write model: pvc://CLAIM/PATH"
        return f"{what}: use podTemplate"

    # ---- the whole

    def _whole(self, namespace: str | None) -> Imported:
        spec = self.spec
        if self.args:
            self.engine["args"] = dict(sorted(self.args.items()))
        for part, value in (("hub", self.hub), ("engine", _in_order(self.engine)), ("parallelism", self.parallelism)):
            if value:
                spec[part] = value
        metadata = {"name": self.name, **({"namespace": namespace} if namespace else {})}
        model = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": _in_spec_order(spec)}
        if hide(readable("\n".join(_texts(model)))) != readable("\n".join(_texts(model))):
            raise ImportRefused(
                "something that looks like a key or token would stand in the model: remove it from the command"
            )
        self._check(model)
        secret = self.secret
        made = None
        if secret.data:
            made = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {**metadata, "name": secret.name},
                "type": "Opaque",
                "stringData": dict(secret.data),
            }
        for key, variables in secret.missing.items():
            self.notes.append(
                f"the value of {variables} is not known: add it to the Secret {secret.name} under the key {key}"
                + ("" if made else f" (kubectl create secret generic {secret.name} --from-literal={key}=...)")
            )
        needless = unique(self.run.needless)
        if needless:
            self.notes.append(f"left out, since Kubernetes or the operator does it: {', '.join(needless)}")
        notes = unique(_for_people(note) for note in (*self.notes, *self.run.notes))
        return Imported(model, made, tuple(notes))

    def _check(self, model: JSONObject) -> None:
        """Raise ImportRefused or Refusal for what the API server or the operator would not take."""
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", self.name):
            raise ImportRefused(
                f"the name {_shown(self.name)} is no name of a VLLMModel: lower-case letters, digits and dashes"
            )
        try:
            spec = VLLMModel.model_validate_json(json.dumps(model), strict=True).spec
        except ValidationError as error:
            problems = unique(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ImportRefused("; ".join(problems[:5])) from error
        understood = self.checked and not any(name for name in self.args if self._is_strange(name))
        settings = BuildSettings()
        build_pod_template(
            Key("default", self.name),
            spec,
            plan=decide_plan(spec, default_accelerator=settings.default_accelerator),
            settings=settings,
            checked=understood,
        )

    def _is_strange(self, name: str) -> bool:
        catalogue = find(self.engine.get("version")) or newest()
        return catalogue.option(name.partition(".")[0]) is None


def _in_order(engine: Mapping[str, Any]) -> JSONObject:
    """Fields in the order in which the API has them."""
    order = [each.alias or name for name, each in Engine.model_fields.items()]
    return {name: engine[name] for name in order if name in engine}


def _in_spec_order(spec: Mapping[str, Any]) -> JSONObject:
    order = [each.alias or name for name, each in VLLMModelSpec.model_fields.items()]
    return {name: spec[name] for name in order if name in spec}


def _texts(value: Any) -> list[str]:
    """Every text in a value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]


def _last_word(given: Given | None) -> str | None:
    return given.words[-1] if given is not None and given.words else None


def _variables(text: str) -> str:
    return ", ".join(f"${name}" for name in unique(variables_in(text)))


def _shown(text: str) -> str:
    return show(readable(text))


def _for_people(text: str) -> str:
    """A message that cannot leave the line that it stands in, whatever was in the command, and that gives no key away."""
    plain = "".join(each if " " <= each <= "~" else each.encode("unicode_escape").decode() for each in readable(text))
    return hide(plain)


def _is_served_name(text: str) -> bool:
    try:
        VLLMModelSpec.model_validate({"model": "m", "servedModelNames": [text]})
    except ValidationError:
        return False
    return True


def _is_endpoint(text: str) -> bool:
    try:
        Hub.model_validate({"endpoint": text})
    except ValidationError:
        return False
    return True


def _is_variable(name: str) -> bool:
    try:
        EnvVar.model_validate({"name": name})
    except ValidationError:
        return False
    return True
