"""Spec and plan → pod template."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

from vllm_operator.api.base import Model, parse_duration
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import CONTAINER, ENGINE_KEY, PORT, PORT_NAME, Key, child_labels, selector_labels
from vllm_operator.api.types import (
    GROUP,
    Auth,
    Cache,
    CacheEmptyDir,
    Engine,
    Hub,
    PodTemplate,
    PodTemplateMetadata,
    Resources,
    Scheduling,
    SecretKeyRef,
    SharedMemory,
    Startup,
    VLLMModelSpec,
)
from vllm_operator.engine.command import CHAT_TEMPLATE_DIRECTORY, build_command
from vllm_operator.engine.images import resolve_image
from vllm_operator.engine.lora import ALLOW_UPDATING
from vllm_operator.engine.termination import decide_termination
from vllm_operator.hub.facts import Traits
from vllm_operator.sizing.cpu import NODE_AFFINITY
from vllm_operator.sizing.decide import KV_CACHE_SPACE
from vllm_operator.sizing.plan import RESOURCE_NAMES, Plan
from vllm_operator.workload.adapters import Lora
from vllm_operator.workload.defaults import without_zero_values
from vllm_operator.workload.merge import merge_pod_template
from vllm_operator.workload.names import generated_key_secret, served_model_names
from vllm_operator.workload.quantities import canonical_quantity, checked_quantity, parse_quantity
from vllm_operator.workload.settings import BuildSettings
from vllm_operator.workload.shapes import check_shape
from vllm_operator.workload.source import ModelSource, resolve_source

CACHE_DIRECTORY = "/var/cache/vllm"
DEFAULT_STARTUP_BUDGET = "30m"
PROBE_PERIOD_SECONDS = 5

JSONObject = dict[str, Any]


def build_pod_template(
    key: Key,
    spec: VLLMModelSpec,
    *,
    plan: Plan,
    settings: BuildSettings,
    checked: bool = True,
    lora: Lora | None = None,
    traits: Traits | None = None,
) -> JSONObject:
    """The pod template of a model, spec.podTemplate merged over it, quantities as the API server writes them.

    `checked`: whether the options must be ones that the vLLM version takes, where that is known. `lora`: what adapters need; None:
    there are none. `traits`: what is known of the model, for what the user has not chosen; None: nothing is chosen.

    Raises Refusal when the spec cannot be carried out, or when podTemplate breaks what the operator needs of a pod.
    """
    source = resolve_source(spec)
    generated = {
        "metadata": {
            "labels": child_labels(key.name),
            # kubectl logs and exec choose vLLM when podTemplate adds sidecars
            "annotations": {"kubectl.kubernetes.io/default-container": CONTAINER},
        },
        "spec": {
            "containers": [
                _build_container(
                    key, spec, plan=plan, settings=settings, source=source, checked=checked, lora=lora, traits=traits
                )
            ],
            "volumes": [
                *_build_volumes(spec, source),
                *(volume for volume, _ in _adapter_volumes(spec, lora) if volume),
            ],
            "terminationGracePeriodSeconds": decide_termination(spec).grace_seconds,
            "securityContext": _build_pod_security(settings),
            "automountServiceAccountToken": False,
            # a Service named `vllm` would set VLLM_PORT=tcp://…, which vLLM refuses to start with (get_vllm_port in envs.py)
            "enableServiceLinks": False,
            **_build_scheduling(key, spec, plan),
        },
    }
    secrets = (spec.engine or Engine()).image_pull_secrets
    if secrets:
        generated["spec"]["imagePullSecrets"] = _plain_list(secrets)
    template = spec.pod_template or PodTemplate()
    merged = merge_pod_template(generated, _patch(key, template))
    _check_pod(merged)
    merged["spec"] = without_zero_values(merged["spec"])
    return _with_canonical_quantities(merged)


def takes_tools(template: Mapping[str, Any]) -> bool:
    """Whether vLLM is started so that requests with tools are answered: with tool_choice "auto", which is what clients send, it
    answers 400 otherwise.
    """
    (container,) = (each for each in template["spec"]["containers"] if each["name"] == CONTAINER)
    return "--enable-auto-tool-choice" in (*(container.get("command") or ()), *(container.get("args") or ()))


def escape_expansion(word: str) -> str:
    """A word of a container's command that the kubelet leaves as it is.

    The kubelet replaces $(NAME) by a variable's value and $$ by $ (k8s.io/kubernetes/third_party/forked/golang/expansion).
    """
    return word.replace("$", "$$") if "$(" in word or "$$" in word else word


def unescape_expansion(word: str) -> str:
    """What the kubelet makes of a word that has no $(NAME) of a variable in it."""
    return word.replace("$$", "$")


def _build_container(
    key: Key,
    spec: VLLMModelSpec,
    *,
    plan: Plan,
    settings: BuildSettings,
    source: ModelSource,
    checked: bool,
    lora: Lora | None,
    traits: Traits | None,
) -> JSONObject:
    engine = spec.engine or Engine()
    image = resolve_image(spec, plan, settings)
    command = build_command(
        spec,
        model_path=source.path,
        served_model_names=served_model_names(spec, key.name),
        plan=plan,
        revision=source.revision,
        version=image.version,
        host=settings.listen_address,
        checked=checked,
        max_lora_rank=None if lora is None else lora.max_rank,
        traits=traits,
    )
    container: JSONObject = {
        "name": CONTAINER,
        "image": image.image,
        "imagePullPolicy": engine.image_pull_policy or "IfNotPresent",
        "command": [escape_expansion(word) for word in command],
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "env": _build_environment(key, spec, settings, plan, lora),
        "volumeMounts": [*_build_mounts(spec, source), *(mount for _, mount in _adapter_volumes(spec, lora))],
        **_build_probes(spec),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    drain = decide_termination(spec).drain_seconds
    if drain > 0:
        # the kubelet's own sleep: no shell, no binary in the image. 0 is refused by API servers before 1.33
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": drain}}}
    resources = _build_resources(spec, plan)
    if resources:
        container["resources"] = resources
    return container


def _build_environment(
    key: Key, spec: VLLMModelSpec, settings: BuildSettings, plan: Plan, lora: Lora | None
) -> list[JSONObject]:
    """The operator's variables, then the user's; a user's variable takes the place of the operator's of that name."""
    hub, auth = spec.hub or Hub(), spec.auth or Auth()
    generated: list[JSONObject] = [
        {"name": "HF_HOME", "value": f"{CACHE_DIRECTORY}/huggingface"},
        {"name": "VLLM_CACHE_ROOT", "value": f"{CACHE_DIRECTORY}/vllm"},
        # a cluster tells nobody what it runs unless its owner says so: engine.env can set it back to 0
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    ]
    if settings.run_as_user is not None:
        # a number without an entry in /etc/passwd has no home that it may write to, and no name for getpass.getuser()
        generated += [{"name": "HOME", "value": CACHE_DIRECTORY}, {"name": "USER", "value": "vllm"}]
    if plan.kv_cache_space_gib is not None:
        generated.append({"name": KV_CACHE_SPACE, "value": str(plan.kv_cache_space_gib)})
    generated += _cpu_threads(spec, plan)
    if lora is not None:
        generated.append({"name": ALLOW_UPDATING, "value": "True"})
    if hub.endpoint is not None:
        generated.append({"name": "HF_ENDPOINT", "value": hub.endpoint})
    own_key = generated_key_secret(spec, key, settings)
    api_key = SecretKeyRef(name=own_key, key=ENGINE_KEY) if own_key else auth.api_key_secret_ref
    for name, reference in (("HF_TOKEN", hub.token_secret_ref), ("VLLM_API_KEY", api_key)):
        if reference is not None:
            generated.append(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}
            )
    by_name = {variable["name"]: variable for variable in generated}
    for variable in (spec.engine or Engine()).env or ():
        if variable.value is not None and variable.value_from is not None:
            raise Refusal(
                Reason.INVALID_SPEC, f"spec.engine.env {variable.name} has value and valueFrom: keep one of them"
            )
        by_name[variable.name] = _plain(variable)
    return list(by_name.values())


def _cpu_threads(spec: VLLMModelSpec, plan: Plan) -> list[JSONObject]:
    """As many threads as the CPU limit allows. By itself vLLM takes, and binds to, every core of the node that it sees, whatever
    share of them it may use (utils/ompmultiprocessing.py): the quota would then stop all of them most of the time.
    """
    limit = ((spec.resources or Resources()).limits or {}).get("cpu")
    if plan.accelerator != "cpu" or limit is None:
        return []
    ranks = plan.tensor_parallel_size * plan.pipeline_parallel_size * plan.data_parallel_size
    cores = parse_quantity(checked_quantity(limit, where="spec.resources.limits.cpu", milli=True))
    return [
        {"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "nobind"},
        {"name": "OMP_NUM_THREADS", "value": str(max(1, math.floor(cores / ranks)))},
    ]


def _build_probes(spec: VLLMModelSpec) -> JSONObject:
    """Probes of /health, which answers 200 while the engine lives (vllm/entrypoints/serve/instrumentator/health.py)."""

    def check() -> JSONObject:
        return {"httpGet": {"path": "/health", "port": PORT_NAME, "scheme": "HTTP"}}

    attempts = math.ceil(startup_seconds(spec) / PROBE_PERIOD_SECONDS)
    return {
        "startupProbe": {
            **check(),
            "periodSeconds": PROBE_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "successThreshold": 1,
            "failureThreshold": attempts,
        },
        # out of the endpoints within 15 s of the engine's death
        "readinessProbe": {
            **check(),
            "periodSeconds": PROBE_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        # vLLM exits by itself when its engine dies; this is for a server that hangs. A restart loads the model again,
        # which is dearer than two minutes of a busy event loop
        "livenessProbe": {
            **check(),
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "successThreshold": 1,
            "failureThreshold": 12,
        },
    }


def startup_seconds(spec: VLLMModelSpec) -> float:
    """startup.budget in seconds. Raises Refusal when it is no duration or out of bounds."""
    text = (spec.startup or Startup()).budget or DEFAULT_STARTUP_BUDGET
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise Refusal(Reason.INVALID_SPEC, f"spec.startup.budget is {error}") from error
    if not 60 <= seconds <= 86400:
        raise Refusal(Reason.INVALID_SPEC, f"spec.startup.budget is {text}: it must be between 1m and 24h")
    return seconds


def _build_resources(spec: VLLMModelSpec, plan: Plan) -> JSONObject:
    """The user's requests and limits, and the plan's GPUs in both: an extended resource is not overcommitted."""
    wanted = spec.resources or Resources()
    result: JSONObject = {}
    for field, given in (("requests", wanted.requests), ("limits", wanted.limits)):
        quantities = {
            name: checked_quantity(quantity, where=f"spec.resources.{field}.{name}", milli=True)
            for name, quantity in (given or {}).items()
        }
        if plan.resource_name is not None:
            gpus = str(plan.gpus_per_replica)
            if quantities.get(plan.resource_name, gpus) != gpus:
                raise Refusal(
                    Reason.INVALID_SPEC,
                    f"spec.resources.{field}.{plan.resource_name} is {quantities[plan.resource_name]}, but the plan needs "
                    f"{gpus}: remove it, and use spec.accelerator.count or spec.parallelism",
                )
            quantities[plan.resource_name] = gpus
        if quantities:
            result[field] = quantities
    for name, request in result.get("requests", {}).items():
        limit = result.get("limits", {}).get(name)
        if limit is not None and parse_quantity(request) > parse_quantity(limit):
            raise Refusal(
                Reason.INVALID_SPEC,
                f"spec.resources.requests.{name} is {request}, which is more than spec.resources.limits.{name} ({limit})",
            )
    return result


def _is_in_cache(spec: VLLMModelSpec, source: ModelSource) -> bool:
    """Whether the model is in the very claim that is the cache."""
    claim = (spec.cache or Cache()).persistent_volume_claim
    return claim is not None and claim.claim_name == source.claim


def _build_volumes(spec: VLLMModelSpec, source: ModelSource) -> list[JSONObject]:
    volumes: list[JSONObject] = [
        {"name": "cache", **_cache_volume(spec)},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": _shared_memory(spec)},
    ]
    # one claim as two volumes of a pod can keep the kubelet waiting for ever (kubernetes/kubernetes#28502)
    model = source.volume()
    if model is not None and not _is_in_cache(spec, source):
        volumes.append(model)
    template = (spec.engine or Engine()).chat_template
    if template is not None:
        reference = template.config_map_key_ref
        items = [{"key": reference.key, "path": reference.key}]
        volumes.append({"name": "chat-template", "configMap": {"name": reference.name, "items": items}})
    return volumes


def _adapter_volumes(spec: VLLMModelSpec, lora: Lora | None) -> Iterator[tuple[JSONObject | None, JSONObject]]:
    """The volume and the mount of each claim with adapters; no volume where it is the cache's."""
    cache = (spec.cache or Cache()).persistent_volume_claim
    for number, claim in enumerate(lora.claims if lora is not None else ()):
        found = ModelSource("pvc", "", claim=claim)
        if cache is not None and cache.claim_name == claim:
            yield None, found.mount(volume="cache") or {}
            continue
        name = f"adapters-{number}"
        yield {**(found.volume() or {}), "name": name}, found.mount(volume=name) or {}


def _cache_volume(spec: VLLMModelSpec) -> JSONObject:
    cache = spec.cache or Cache()
    given = [name for name in ("persistent_volume_claim", "empty_dir", "host_path") if getattr(cache, name) is not None]
    if len(given) > 1:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.cache has {len(given)} of persistentVolumeClaim, emptyDir and hostPath: keep one",
        )
    if cache.persistent_volume_claim is not None:
        return {"persistentVolumeClaim": {"claimName": cache.persistent_volume_claim.claim_name}}
    if cache.host_path is not None:
        kind = cache.host_path.type
        return {"hostPath": {"path": cache.host_path.path, "type": "DirectoryOrCreate" if kind is None else kind}}
    directory = cache.empty_dir or CacheEmptyDir()
    volume: JSONObject = {}
    if directory.medium:
        volume["medium"] = directory.medium
    if directory.size_limit is not None:
        volume["sizeLimit"] = checked_quantity(directory.size_limit, where="spec.cache.emptyDir.sizeLimit")
    return {"emptyDir": volume}


def _shared_memory(spec: VLLMModelSpec) -> JSONObject:
    limit = (spec.shared_memory or SharedMemory()).size_limit
    volume: JSONObject = {"medium": "Memory"}
    if limit is not None:
        volume["sizeLimit"] = checked_quantity(limit, where="spec.sharedMemory.sizeLimit")
    return volume


def _build_mounts(spec: VLLMModelSpec, source: ModelSource) -> list[JSONObject]:
    cache: JSONObject = {"name": "cache", "mountPath": CACHE_DIRECTORY}
    claim = (spec.cache or Cache()).persistent_volume_claim
    if claim is not None and claim.sub_path is not None:
        if ".." in claim.sub_path.split("/"):
            raise Refusal(
                Reason.INVALID_SPEC,
                f"spec.cache.persistentVolumeClaim.subPath is {claim.sub_path!r}: it must stay in the volume, without ..",
            )
        cache["subPath"] = claim.sub_path
    mounts: list[JSONObject] = [
        cache,
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    model = source.mount(volume="cache") if _is_in_cache(spec, source) else source.mount()
    if model is not None:
        mounts.append(model)
    if (spec.engine or Engine()).chat_template is not None:
        mounts.append({"name": "chat-template", "mountPath": CHAT_TEMPLATE_DIRECTORY, "readOnly": True})
    return mounts


def _build_pod_security(settings: BuildSettings) -> JSONObject:
    """The restricted Pod Security Standard, but for running as non-root when no user is set: stock images run as root."""
    security: JSONObject = {"seccompProfile": {"type": "RuntimeDefault"}}
    user = settings.run_as_user
    if user is not None:
        security |= {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user}
        # a large cache would otherwise be walked file by file at each start
        security["fsGroupChangePolicy"] = "OnRootMismatch"
    return security


def _build_scheduling(key: Key, spec: VLLMModelSpec, plan: Plan) -> JSONObject:
    """Fields of the pod's spec that say where it may run; only those that are set."""
    wanted = spec.scheduling or Scheduling()
    result: JSONObject = {}
    selector = dict(plan.node_selector)
    for label, value in (wanted.node_selector or {}).items():
        if selector.get(label, value) != value:
            raise Refusal(
                Reason.INVALID_SPEC,
                f"spec.scheduling.nodeSelector {label} is {value!r}, but spec.accelerator.product is {selector[label]!r}: "
                "make them equal or remove one",
            )
        selector[label] = value
    if selector:
        result["nodeSelector"] = selector
    tolerations = _plain_list(wanted.tolerations or ())
    for toleration in (*_gpu_tolerations(plan), *map(dict, plan.tolerations)):
        if toleration not in tolerations:
            tolerations.append(toleration)
    if tolerations:
        result["tolerations"] = tolerations
    affinity = {
        **({"nodeAffinity": copy.deepcopy(NODE_AFFINITY)} if plan.accelerator == "cpu" else {}),
        **(wanted.affinity or {}),
    }
    if affinity or wanted.affinity is not None:
        result["affinity"] = affinity
    constraints = _plain_list(wanted.topology_spread_constraints or ())
    for constraint in constraints:
        constraint.setdefault("labelSelector", {"matchLabels": selector_labels(key.name)})
    if constraints:
        result["topologySpreadConstraints"] = constraints
    # Always named: the API server copies it into the older field serviceAccount, which nobody owns, so that leaving it out
    # later would bring it back from there.
    result["serviceAccountName"] = wanted.service_account_name or "default"
    for field, name in (
        ("priorityClassName", wanted.priority_class_name),
        ("runtimeClassName", wanted.runtime_class_name),
        ("schedulerName", wanted.scheduler_name),
    ):
        if name is not None:
            result[field] = name
    return result


def _gpu_tolerations(plan: Plan) -> Iterator[JSONObject]:
    """Tolerations of the taint that keeps other pods off GPU nodes. Its usual key is the vendor's resource name, also on nodes
    that offer slices under another name, e.g. nvidia.com/mig-3g.40gb.
    """
    if plan.resource_name is None:
        return
    for name in dict.fromkeys((RESOURCE_NAMES.get(plan.accelerator, plan.resource_name), plan.resource_name)):
        yield {"key": name, "operator": "Exists", "effect": "NoSchedule"}


def _patch(key: Key, template: PodTemplate) -> JSONObject:
    """spec.podTemplate as a patch. Raises Refusal when it would take the operator's own labels away from the pods."""
    metadata = template.metadata or PodTemplateMetadata()
    own = selector_labels(key.name)
    for field, given in (("labels", metadata.labels or {}), ("annotations", metadata.annotations or {})):
        for name, value in given.items():
            if (name in own or name.partition("/")[0] == GROUP) and not (field == "labels" and own.get(name) == value):
                raise Refusal(
                    Reason.INVALID_POD_TEMPLATE,
                    f"spec.podTemplate.metadata.{field} {name} is {value!r}, but the operator finds the model's pods by it: remove it",
                )
    patch: JSONObject = {}
    if template.metadata is not None:
        patch["metadata"] = _plain(template.metadata)
    if template.spec is not None:
        patch["spec"] = template.spec
    return patch


def _check_pod(template: JSONObject) -> None:
    """Raise Refusal when spec.podTemplate took away what the operator needs of a pod."""
    where = "spec.podTemplate.spec"
    spec = template.get("spec")
    if not isinstance(spec, dict) or "containers" not in spec:
        raise Refusal(Reason.INVALID_POD_TEMPLATE, f"{where} removes the containers: leave the container {CONTAINER!r}")
    check_shape(spec)
    containers = spec["containers"]
    container = next((c for c in containers if c.get("name") == CONTAINER), None)
    if container is None:
        raise Refusal(
            Reason.INVALID_POD_TEMPLATE,
            f"{where}.containers removes the container {CONTAINER!r}, which serves the model: keep it",
        )
    ports = {port.get("name") for c in containers for port in c.get("ports") or ()}
    if PORT_NAME not in ports:
        raise Refusal(
            Reason.INVALID_POD_TEMPLATE,
            f"{where}.containers leaves no port named {PORT_NAME!r}, which the Service and the probes use: keep the name",
        )
    restart = spec.get("restartPolicy", "Always")
    if restart != "Always":
        raise Refusal(
            Reason.INVALID_POD_TEMPLATE, f"{where}.restartPolicy is {restart!r}: a Deployment takes Always only"
        )


def _with_canonical_quantities(template: JSONObject) -> JSONObject:
    """The template with every quantity as the API server writes it, so that what is read back compares equal."""
    spec = template["spec"]
    where = "spec.podTemplate.spec"
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            path = f"{where}.{field} {container['name']}"
            _canonicalise_maps(container.get("resources"), path=f"{path} resources")
            for variable in container.get("env") or ():
                reference = (variable.get("valueFrom") or {}).get("resourceFieldRef")
                _canonicalise(reference, "divisor", path=f"{path} env {variable.get('name')}")
    _canonicalise_maps(spec.get("resources"), path=f"{where}.resources")
    for name in spec.get("overhead") or {}:
        _canonicalise(spec["overhead"], name, path=f"{where}.overhead", milli=True)
    for volume in spec.get("volumes") or ():
        path = f"{where}.volumes {volume['name']}"
        _canonicalise(volume.get("emptyDir"), "sizeLimit", path=path)
        claim = ((volume.get("ephemeral") or {}).get("volumeClaimTemplate") or {}).get("spec") or {}
        _canonicalise_maps(claim.get("resources"), path=path)
        for source in (volume.get("downwardAPI") or {}).get("items") or ():
            _canonicalise(source.get("resourceFieldRef"), "divisor", path=path)
    return template


def _canonicalise_maps(resources: Any, *, path: str) -> None:
    for field in ("requests", "limits"):
        quantities = resources.get(field) if isinstance(resources, Mapping) else None
        for name in quantities or {}:
            _canonicalise(quantities, name, path=f"{path}.{field}", milli=True)


def _canonicalise(holder: Any, field: str, *, path: str, milli: bool = False) -> None:
    """Rewrite one quantity in place; the template is this module's own copy."""
    if not isinstance(holder, dict) or holder.get(field) is None:
        return
    try:
        holder[field] = canonical_quantity(holder[field], milli=milli)
    except ValueError as error:
        raise Refusal(Reason.INVALID_POD_TEMPLATE, f"{path}.{field} is {error}: write e.g. 500m, 4 or 16Gi") from error


def _plain(model: Model) -> JSONObject:
    """An object of the API as JSON has it, without what is not set."""
    return model.model_dump(by_alias=True, exclude_none=True, mode="json")


def _plain_list(models: Any) -> list[JSONObject]:
    return [_plain(model) for model in models]
