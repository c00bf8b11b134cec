"""The VLLMModel resource, written once: the CRD, the reference documentation and the Python types come from here.

Descriptions are the attribute docstrings; they end up in `kubectl explain vllmmodel.spec`.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from vllm_operator.api.base import (
    DURATION_PATTERN,
    LIST_ATOMIC,
    LIST_SET,
    AnnotationMap,
    DataKey,
    Duration,
    FreeObject,
    IntOrPercent,
    LabelKey,
    LabelMap,
    LabelValue,
    Model,
    Namespace,
    ObjectName,
    Quantity,
    explained,
    list_map,
    rules,
)

GROUP = "vllm-operator.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "VLLMModel"
PLURAL = "vllmmodels"

MODEL_PATTERN = (
    r"^(?:[A-Za-z0-9][-A-Za-z0-9._]*(/[A-Za-z0-9][-A-Za-z0-9._]*)?"
    r"|hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*(@[-A-Za-z0-9._/]+)?"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[-A-Za-z0-9._/]*)?"
    r"|s3://[-A-Za-z0-9._/]+|gs://[-A-Za-z0-9._/]+|oci://[-A-Za-z0-9._/:@]+"
    r"|/[-A-Za-z0-9._/]+)$"
)
MODEL_MESSAGE = (
    "write a Hugging Face id (Qwen/Qwen3-8B), hf://org/name@revision, pvc://claim/path, s3://bucket/path, "
    "gs://bucket/path, oci://registry/image:tag, or an absolute path"
)
ADAPTER_PATTERN = (
    r"^(?:(hf://)?[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[-A-Za-z0-9._/]*)?"
    r"|/[-A-Za-z0-9._/]+)$"
)
ADAPTER_MESSAGE = (
    "write a Hugging Face id (org/name, without a revision: vLLM takes none for an adapter), pvc://claim/path, or an "
    "absolute path"
)
MODEL_NAME_MESSAGE = "write letters, digits, - . _ / :, beginning with a letter or digit"
URL_MESSAGE = "write a URL that begins with http:// or https://, without user, query or fragment"

OWNED_OPTIONS = (
    "model",
    "host",
    "port",
    "served-model-name",
    "api-key",
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "enable-expert-parallel",
    "uds",
    "headless",
)
"""vLLM options that the operator sets itself, from spec.model, servedModelNames, auth and parallelism."""

OWNED_SPELLINGS = tuple(
    sorted(
        {spelling for name in (*OWNED_OPTIONS, "tp", "pp", "dp", "asc") for spelling in (name, name.replace("-", "_"))}
    )
)
"""Keys that spec.engine.args refuses: the owned options and their short forms, with dashes and with underscores."""

_OWNED_SWITCHES = frozenset({"headless", "enable-expert-parallel", "enable_expert_parallel"})

_ARGS_SCHEMA: dict[str, Any] = {
    "x-kubernetes-preserve-unknown-fields": True,
    # CEL sees neither the keys nor the values of a map whose values have no type, but it sees fields that are declared.
    "properties": {
        name: {
            "description": "Refused: the operator sets this option from other fields.",
            **(
                {"type": "boolean"}
                if name in _OWNED_SWITCHES
                else {"x-kubernetes-int-or-string": True, "maxLength": 512}
            ),
        }
        for name in OWNED_SPELLINGS
    },
    **rules(
        (
            " && ".join(f"!has(self.{name.replace('-', '__dash__')})" for name in OWNED_SPELLINGS),
            (
                "model, host, port, uds, headless, api-key, served-model-name and the parallel sizes are set by the "
                "operator: use spec.model, spec.servedModelNames, spec.auth and spec.parallelism"
            ),
        )
    ),
}


class SecretKeyRef(Model):
    """A key of a Secret in the model's namespace."""

    name: ObjectName
    """Name of the Secret."""
    key: DataKey
    """Key in the Secret's data."""


class EnvKeySelector(Model):
    """A key of a Secret or ConfigMap in the model's namespace."""

    name: ObjectName
    """Name of the Secret or ConfigMap."""
    key: DataKey
    """Key in its data."""
    optional: bool | None = None
    """True: a missing object or key is no error, and the variable is not set."""


class FieldRef(Model):
    """A field of the pod."""

    api_version: Annotated[str, Field(max_length=32)] | None = None
    """Version of the schema that fieldPath is written in; v1 when left out."""
    field_path: Annotated[str, Field(min_length=1, max_length=256)]
    """Path of the field, e.g. status.podIP."""


class ResourceFieldRef(Model):
    """A resource of the container."""

    container_name: Annotated[str, Field(max_length=63)] | None = None
    """Name of the container; the vLLM container when left out."""
    resource: Annotated[str, Field(min_length=1, max_length=128)]
    """Resource, e.g. limits.memory."""
    divisor: Quantity | None = None
    """Unit in which the value is given."""


class EnvVarSource(Model):
    """Where the value of an environment variable comes from. Set exactly one field."""

    secret_key_ref: EnvKeySelector | None = None
    """A key of a Secret. Editing the Secret rolls out."""
    config_map_key_ref: EnvKeySelector | None = None
    """A key of a ConfigMap. Editing the ConfigMap rolls out."""
    field_ref: FieldRef | None = None
    """A field of the pod."""
    resource_field_ref: ResourceFieldRef | None = None
    """A resource of the container."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                (
                    "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef), "
                    "has(self.resourceFieldRef)].filter(x, x).size() == 1"
                ),
                "set exactly one of secretKeyRef, configMapKeyRef, fieldRef, resourceFieldRef",
            )
        )
    )


class EnvVar(Model):
    """An environment variable of the vLLM container."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=256,
            pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$",
            json_schema_extra=explained("write letters, digits, - . _, not beginning with a digit"),
        ),
    ]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """Its value. Never put a secret here: use valueFrom.secretKeyRef."""
    value_from: EnvVarSource | None = None
    """Where its value comes from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("!(has(self.value) && has(self.valueFrom))", "set value or valueFrom, not both"),
            (
                "!(self.name in ['VLLM_API_KEY', 'HF_TOKEN'] && has(self.value))",
                (
                    "a key or token is never written in plain: "
                    "use spec.auth.apiKeySecretRef, spec.hub.tokenSecretRef or valueFrom"
                ),
            ),
        )
    )


class Hub(Model):
    """Where a Hugging Face model comes from."""

    revision: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=128,
                pattern=r"^[-A-Za-z0-9._/]+$",
                json_schema_extra=explained("write a branch, tag or commit: letters, digits, - . _ /"),
            ),
        ]
        | None
    ) = None
    """Branch, tag or commit of the repository. Same as `hf://org/name@revision`."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with a hub token, for gated and private repositories; reaches the pod as HF_TOKEN."""
    endpoint: (
        Annotated[
            str,
            Field(
                max_length=512,
                pattern=r"^https?://[-A-Za-z0-9.]+(:[0-9]{1,5})?(/[-A-Za-z0-9._/]*)?$",
                json_schema_extra=explained(URL_MESSAGE),
            ),
        ]
        | None
    ) = None
    """URL of a mirror of the hub; reaches the pod as HF_ENDPOINT."""


class ConfigMapKeyRef(Model):
    """A key of a ConfigMap in the model's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: DataKey
    """Key in the ConfigMap's data."""


class ChatTemplate(Model):
    """Where the chat template comes from."""

    config_map_key_ref: ConfigMapKeyRef
    """Key of a ConfigMap that holds the Jinja template. Editing the ConfigMap rolls out."""


class ImagePullSecret(Model):
    """A Secret with registry credentials in the model's namespace."""

    name: ObjectName
    """Name of the Secret."""


OptionText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        pattern=r"^[^\x00-\x1f]+$",
        json_schema_extra=explained("must not contain line breaks or other control characters"),
    ),
]


class ModelFacts(Model):
    """What the model is, given by hand: for models that the operator cannot read, or reads wrongly."""

    config: FreeObject
    """The model's config.json. Nothing is read from anywhere else then."""
    weights: Quantity | None = None
    """Size of the weights, e.g. 16Gi. Default: computed from config."""


class Engine(Model):
    """vLLM itself: its image, its options, its environment.

    The typed options carry vLLM's own names in camelCase; what is left out keeps vLLM's own default.
    """

    version: (
        Annotated[
            str,
            Field(
                max_length=64,
                pattern=r"^[0-9]+\.[0-9]+\.[0-9]+([-.a-zA-Z0-9]*)$",
                json_schema_extra=explained("write a version of vLLM without leading v, e.g. 0.32.0"),
            ),
        ]
        | None
    ) = None
    """vLLM version, e.g. 0.32.0: picks the stock image. Default: the operator's vLLM version."""
    image: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=512,
                pattern=r"^[!-~]+$",
                json_schema_extra=explained(
                    "write an image reference without spaces, e.g. registry.example.com/vllm:v1"
                ),
            ),
        ]
        | None
    ) = None
    """Image to run instead of the stock one."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Default: IfNotPresent."""
    image_pull_secrets: (
        Annotated[list[ImagePullSecret], Field(max_length=16, json_schema_extra=list_map("name"))] | None
    ) = None
    """Secrets with registry credentials."""
    executable: (
        Annotated[
            list[
                Annotated[
                    str,
                    Field(
                        min_length=1,
                        max_length=1024,
                        pattern=r"^[^\x00]+$",
                        json_schema_extra=explained("must not contain a zero byte"),
                    ),
                ]
            ],
            Field(min_length=1, max_length=16, json_schema_extra=LIST_ATOMIC),
        ]
        | None
    ) = None
    """Words that start the server, before the model and the options. Default: [vllm, serve]. Never run by a shell."""

    max_model_len: (
        Annotated[
            int | str,
            Field(
                json_schema_extra={
                    "x-kubernetes-int-or-string": True,
                    "maxLength": 16,
                    **rules(
                        (
                            (
                                "type(self) == int ? (self > 0 || self == -1) : "
                                "self.matches('^(auto|-1|[1-9][0-9]*|[0-9]+(\\\\.[0-9]+)?[kmgt]|[1-9][0-9]*[KMGT])$')"
                            ),
                            (
                                "write a number of tokens, auto, or a number with k (1000) or K (1024), "
                                "e.g. 32768, 32k, 32K"
                            ),
                        )
                    ),
                }
            ),
        ]
        | None
    ) = None
    """Context length in tokens: prompt and answer together. A number, `auto` (the largest that fits), or e.g. 32k
    (32,000) or 32K (32,768). Default: the model's own maximum."""
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] | None = None
    """Data type of weights and activations."""
    quantization: OptionText | None = None
    """Quantization method, e.g. fp8, awq, gptq. Default: what the model's config says."""
    kv_cache_dtype: OptionText | None = None
    """Data type of the KV cache, e.g. auto, fp8."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each GPU's memory that vLLM may use, above 0 and up to 1."""
    max_num_seqs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most sequences computed in one step."""
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Most tokens computed in one step."""
    block_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Tokens in one block of the KV cache."""
    enable_prefix_caching: bool | None = None
    """Reuse the KV cache of prompts that begin alike."""
    enable_chunked_prefill: bool | None = None
    """Split long prompts over several steps."""
    enforce_eager: bool | None = None
    """True: no CUDA graphs and no compilation; starts faster, runs slower."""
    trust_remote_code: bool | None = None
    """True: run Python code that comes with the model."""
    cpu_offload_gb: Annotated[float, Field(ge=0, le=65536)] | None = Field(default=None, alias="cpuOffloadGB")
    """GiB of weights per GPU that are kept in the node's memory."""
    tokenizer: OptionText | None = None
    """Tokenizer's name or path, when it is not the model's own."""
    tokenizer_mode: OptionText | None = None
    """Tokenizer mode, e.g. auto, mistral, slow."""
    load_format: OptionText | None = None
    """Format of the weights, e.g. auto, safetensors, dummy."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """Seed of the random numbers."""
    runner: Literal["auto", "generate", "pooling", "draft"] | None = None
    """What the model is run as."""
    convert: OptionText | None = None
    """Adapter that turns the model into another kind, e.g. embed, classify."""
    tool_call_parser: OptionText | None = None
    """Parser of tool calls; `--enable-auto-tool-choice` is set beside it. Default: by what the model is; none: neither is set."""
    reasoning_parser: OptionText | None = None
    """Parser of reasoning content. Default: by what the model is; none: it is not set."""
    chat_template: ChatTemplate | None = None
    """Chat template, from a ConfigMap. Default: the model's own."""
    hf_overrides: FreeObject | None = None
    """Values put over the model's config.json."""
    speculative_config: FreeObject | None = None
    """Speculative decoding."""
    compilation_config: FreeObject | None = None
    """Compilation and CUDA graphs."""
    args: Annotated[dict[str, Any], Field(max_length=128, json_schema_extra=_ARGS_SCHEMA)] | None = None
    """Any other option of `vllm serve`, by its name without leading dashes: a scalar, true/false for a switch, a list,
    or an object (given to vLLM as JSON)."""
    env: Annotated[list[EnvVar], Field(max_length=128, json_schema_extra=list_map("name"))] | None = None
    """Environment of the vLLM container. Wins over what the operator sets."""


class Accelerator(Model):
    """What the model runs on."""

    type: Literal["auto", "nvidia", "amd", "intel", "cpu"] = "auto"
    """Kind of accelerator. `auto`: that of the GPUs that are chosen; where none can be, the operator's default accelerator."""
    product: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=63,
                pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
                json_schema_extra=explained(
                    "write a label's value: letters, digits, - _ ., beginning and ending with a letter or digit"
                ),
            ),
        ]
        | None
    ) = None
    """GPU product as the node's label has it, e.g. NVIDIA-H100-80GB-HBM3."""
    min_memory: Quantity | None = None
    """Least memory of one GPU as it is sold, e.g. 80Gi: one that reports up to a tenth less is taken too."""
    resource_name: (
        Annotated[
            str,
            Field(
                min_length=3,
                max_length=253,
                pattern=r"^[a-z0-9.-]+/[-A-Za-z0-9_.]+$",
                json_schema_extra=explained("write an extended resource as domain/name, e.g. nvidia.com/gpu"),
            ),
        ]
        | None
    ) = None
    """Extended resource that is asked for, e.g. nvidia.com/mig-3g.40gb. Default: that of the accelerator's kind."""
    count: Annotated[int, Field(ge=1, le=64)] | None = None
    """GPUs per replica. Must be tensor × pipeline × data of spec.parallelism when both are given."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                (
                    "!(has(self.type) && self.type == 'cpu') || "
                    "!(has(self.product) || has(self.minMemory) || has(self.resourceName) || has(self.count))"
                ),
                "type cpu takes no product, minMemory, resourceName or count",
            )
        )
    )


class Parallelism(Model):
    """How one replica is spread over GPUs. What is left out is decided by the operator."""

    tensor: Annotated[int, Field(ge=1, le=64)] | None = None
    """--tensor-parallel-size: GPUs that share each layer."""
    pipeline: Annotated[int, Field(ge=1, le=64)] | None = None
    """--pipeline-parallel-size: groups of GPUs that hold successive layers."""
    data: Annotated[int, Field(ge=1, le=64)] | None = None
    """--data-parallel-size: copies of the model behind one server."""
    expert: bool | None = None
    """--enable-expert-parallel: experts are spread over the GPUs instead of being split."""


class Autoscaling(Model):
    """Number of replicas by load. Not implemented yet: a model that sets it is refused with a reason."""

    min_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Least replicas."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Most replicas."""
    target_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests in flight per replica that are aimed at."""
    scale_down_delay: Duration | None = None
    """How long the load must be lower before a replica goes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
                "minReplicas must not exceed maxReplicas",
            )
        )
    )


class Toleration(Model):
    """A taint that the pods tolerate."""

    key: LabelKey | None = None
    """Key of the taint; every taint when left out (operator Exists)."""
    operator: Literal["Exists", "Equal"] | None = None
    """How value is compared. Default: Equal."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every effect when left out."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds that a NoExecute taint is tolerated; for ever when left out."""


class LabelSelectorRequirement(Model):
    """A requirement on one label."""

    key: LabelKey
    """Label's key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """Relation of the label to values."""
    values: Annotated[list[LabelValue], Field(max_length=64, json_schema_extra=LIST_ATOMIC)] | None = None
    """Values, for In and NotIn."""


class LabelSelector(Model):
    """Objects chosen by their labels."""

    match_labels: LabelMap | None = None
    """Labels that must be equal."""
    match_expressions: (
        Annotated[list[LabelSelectorRequirement], Field(max_length=16, json_schema_extra=LIST_ATOMIC)] | None
    ) = None
    """Requirements that must all hold."""


class TopologySpreadConstraint(Model):
    """How replicas are spread over zones, nodes or racks."""

    max_skew: Annotated[int, Field(ge=1, le=1000)]
    """Most that two domains may differ in number of replicas."""
    topology_key: LabelKey
    """Node label whose values are the domains."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """What happens to a pod that cannot be placed so."""
    label_selector: LabelSelector | None = None
    """Pods that are counted. Default: the model's own."""
    min_domains: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Least number of domains."""
    match_label_keys: Annotated[list[LabelKey], Field(max_length=16, json_schema_extra=LIST_ATOMIC)] | None = None
    """Pod labels whose values further narrow the pods that are counted."""
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    """Whether node affinity and node selector decide which nodes count."""
    node_taints_policy: Literal["Honor", "Ignore"] | None = None
    """Whether taints decide which nodes count."""


class Scheduling(Model):
    """Where the pods may run; added to what the accelerator needs."""

    node_selector: LabelMap | None = None
    """Labels that the node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=64, json_schema_extra=LIST_ATOMIC)] | None = None
    """Taints that the pods tolerate."""
    affinity: FreeObject | None = None
    """Affinity, as in a pod's spec."""
    topology_spread_constraints: (
        Annotated[list[TopologySpreadConstraint], Field(max_length=16, json_schema_extra=LIST_ATOMIC)] | None
    ) = None
    """How replicas are spread."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods, e.g. nvidia."""
    scheduler_name: ObjectName | None = None
    """Scheduler that places the pods."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods. Its token is not mounted unless podTemplate says so."""


ResourceMap = Annotated[dict[str, Quantity], Field(max_length=16)]


class Resources(Model):
    """CPU, memory and other resources of the vLLM container, besides its GPUs."""

    requests: ResourceMap | None = None
    """What is set aside for the container."""
    limits: ResourceMap | None = None
    """What the container may use at most."""


class CachePersistentVolumeClaim(Model):
    """A PersistentVolumeClaim in the model's namespace."""

    claim_name: ObjectName
    """Name of the claim."""
    sub_path: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=512,
                pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/]*$",
                json_schema_extra=explained("write a relative path of letters, digits, - . _ /"),
            ),
        ]
        | None
    ) = None
    """Directory in the volume. Default: its root."""


class CacheEmptyDir(Model):
    """A directory that lives as long as the pod."""

    size_limit: Quantity | None = None
    """Most that it may hold, e.g. 200Gi."""
    medium: Literal["", "Memory"] | None = None
    """Empty: the node's disk. Memory: the node's memory."""


class CacheHostPath(Model):
    """A directory of the node."""

    path: Annotated[
        str,
        Field(
            min_length=2,
            max_length=512,
            pattern=r"^/[-A-Za-z0-9._/]+$",
            json_schema_extra=explained("write an absolute path of letters, digits, - . _ /"),
        ),
    ]
    """Absolute path on the node."""
    type: Literal["", "DirectoryOrCreate", "Directory"] | None = None
    """What must be there. Default: DirectoryOrCreate."""


class Cache(Model):
    """Where downloaded model files and vLLM's compile cache are kept. Set exactly one field."""

    persistent_volume_claim: CachePersistentVolumeClaim | None = None
    """A volume that outlives the pods; shared by all replicas."""
    empty_dir: CacheEmptyDir | None = None
    """A directory of the pod; every new pod downloads again."""
    host_path: CacheHostPath | None = None
    """A directory of the node; pods on the same node share it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.persistentVolumeClaim), has(self.emptyDir), has(self.hostPath)].filter(x, x).size() == 1",
                "set exactly one of persistentVolumeClaim, emptyDir, hostPath",
            )
        )
    )


class SharedMemory(Model):
    """Shared memory of the pods (/dev/shm), through which the processes of one replica talk."""

    size_limit: Quantity | None = None
    """Most that it may hold. Counts towards the container's memory limit."""


class Startup(Model):
    """How long a pod may take to serve."""

    budget: (
        Annotated[
            str,
            Field(
                max_length=32,
                pattern=DURATION_PATTERN,
                json_schema_extra=rules(
                    (
                        (
                            f"self.matches('{DURATION_PATTERN}') && "
                            "duration(self) >= duration('1m') && duration(self) <= duration('24h')"
                        ),
                        "write a duration from 1m to 24h, e.g. 30m",
                    )
                ),
            ),
        ]
        | None
    ) = None
    """Time from the container's start to /health answering 200, after which it is restarted. Default: 30m."""


class Rollout(Model):
    """How an edit reaches the pods."""

    strategy: Literal["Auto", "Surge", "Recreate"] | None = None
    """Surge: a new pod first, an old one goes when it is ready. Recreate: the old ones go first. Auto (default): as
    Surge, and when the scheduler finds no GPU for the new pod, one old pod goes first."""
    max_surge: IntOrPercent | None = None
    """Pods above replicas during a roll-out. Default: 1."""
    max_unavailable: IntOrPercent | None = None
    """Pods below replicas during a roll-out. Default: 0."""
    min_ready_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """Seconds that a new pod must be ready before it counts."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """Seconds between a pod leaving the endpoints and SIGTERM, in which gateways stop sending to it. Default: 15."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86400)] | None = None
    """Seconds a leaving pod has in all, draining included, to finish its requests. Default: 120."""
    revision_history_limit: Annotated[int, Field(ge=1, le=50)] | None = None
    """Old revisions that are kept. Default: 10."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                (
                    "!(has(self.strategy) && self.strategy == 'Recreate') || "
                    "!(has(self.maxSurge) || has(self.maxUnavailable))"
                ),
                "strategy Recreate takes no maxSurge or maxUnavailable",
            ),
            (
                (
                    "!(has(self.maxSurge) && has(self.maxUnavailable) && "
                    "(self.maxSurge == 0 || self.maxSurge == '0%') && "
                    "(self.maxUnavailable == 0 || self.maxUnavailable == '0%'))"
                ),
                "maxSurge and maxUnavailable cannot both be 0: nothing could ever roll out",
            ),
            (
                (
                    "!has(self.drainSeconds) || !has(self.terminationGracePeriodSeconds) || "
                    "self.drainSeconds < self.terminationGracePeriodSeconds"
                ),
                "drainSeconds must be less than terminationGracePeriodSeconds",
            ),
        )
    )


class ParentRef(Model):
    """A Gateway (or a listener of it) that the route attaches to."""

    group: Annotated[str, Field(max_length=253)] | None = None
    """API group of the parent. Default: gateway.networking.k8s.io."""
    kind: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Kind of the parent. Default: Gateway."""
    namespace: Namespace | None = None
    """Namespace of the parent. Default: the model's."""
    name: ObjectName
    """Name of the parent."""
    section_name: ObjectName | None = None
    """Listener of the Gateway. Default: every listener that takes the route."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the listener."""


class RouteTimeouts(Model):
    """Timeouts of the route. None is set by default: a timeout cuts streams."""

    request: Duration | None = None
    """Longest time from the request to the end of the answer."""
    backend_request: Duration | None = None
    """Longest time of one try at the model."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                (
                    "!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s') || "
                    "duration(self.backendRequest) <= duration(self.request)"
                ),
                "backendRequest must not exceed request",
            )
        )
    )


class Route(Model):
    """How the model is reached through a gateway (an HTTPRoute of Gateway API v1)."""

    enabled: bool | None = None
    """False: neither a route nor the gateway for all models; the model is reached by its Service only. Default: true."""
    parent_refs: Annotated[list[ParentRef], Field(min_length=1, max_length=8, json_schema_extra=LIST_ATOMIC)] | None = (
        None
    )
    """Gateways that the route attaches to. Default: the operator's default gateway, but none where the gateway for all models serves
    it."""
    hostnames: (
        Annotated[
            list[
                Annotated[
                    str,
                    Field(
                        min_length=1,
                        max_length=253,
                        json_schema_extra=explained("write a host name, e.g. llm.example.com or *.example.com"),
                        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
                    ),
                ]
            ],
            Field(min_length=1, max_length=16, json_schema_extra=LIST_SET),
        ]
        | None
    ) = None
    """Host names of the route. Default: every host name of the listener."""
    path_prefix: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=512,
                pattern=r"^/([-A-Za-z0-9._~]+(/[-A-Za-z0-9._~]+)*)?$",
                json_schema_extra=explained(
                    "write a path that begins with / and does not end with it, e.g. /team/qwen"
                ),
            ),
        ]
        | None
    ) = None
    """Path under which the model is reached; rewritten to /. Default: /<namespace>/<name>."""
    timeouts: RouteTimeouts | None = None
    """Timeouts of the route."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Share of the requests among models of one served name in one namespace, e.g. 9 and 1; without it the oldest has the name
    alone. Needs the gateway."""
    balance: Literal["leastRequest", "session", "user", "prefix"] | None = None
    """How the gateway spreads requests over replicas. leastRequest (default): to the one with the fewest. session: those with the
    same x-session-id header to the same one. user: those with the same key. prefix: those whose prompts begin alike, so that
    its prefix cache serves them. Needs the gateway."""
    fallback: ObjectName | None = None
    """Model of the same namespace that answers while this one does not serve, for callers that may use it too; the header
    x-vllm-fallback says so. Needs the gateway."""
    clamp_max_tokens: bool | None = None
    """Keep max_tokens of requests within what the context leaves, instead of letting them fail; the answer's header x-vllm-changed
    says so. Needs the gateway."""
    drop_unsupported_tools: bool | None = None
    """Leave tools out of requests if the model does not take them (status.capabilities.tools), instead of letting them fail; the
    answer's header x-vllm-changed says so. Needs the gateway."""


class Caller(Model):
    """Secrets with keys of callers. Only Secrets with the label vllm-operator.io/api-keys count."""

    namespace: Namespace | None = None
    """Namespace of the Secrets; default: the model's own."""
    name: ObjectName | None = None
    """Name of the Secret; default: all in that namespace."""
    match_labels: LabelMap | None = None
    """Labels that the Secrets must have."""


class Auth(Model):
    """Who may use the model."""

    mode: Literal["keys", "none"] | None = None
    """Whether the gateway asks for a key. keys (default): one of `callers`. none: everybody who reaches the gateway may use the
    model. Needs the gateway."""
    callers: Annotated[list[Caller], Field(max_length=32, json_schema_extra=LIST_ATOMIC)] | None = None
    """Whose keys the gateway takes for this model; default: those of all key Secrets in the model's namespace. An empty list:
    nobody's. Needs the gateway."""
    api_key_secret_ref: SecretKeyRef | None = None
    """Secret whose value is the API key that vLLM itself asks for; reaches the pod as VLLM_API_KEY. Editing it rolls out. Behind
    the gateway it may be left out: the operator then generates one."""


class Adapter(Model):
    """A LoRA adapter, which vLLM loads and unloads while it runs."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=128,
            pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/:]*$",
            json_schema_extra=explained(MODEL_NAME_MESSAGE),
        ),
    ]
    """Model name by which requests ask for the adapter. NAMESPACE/MODEL/NAME does always."""
    source: Annotated[
        str, Field(min_length=1, max_length=512, pattern=ADAPTER_PATTERN, json_schema_extra=explained(ADAPTER_MESSAGE))
    ]
    """Where the adapter comes from: a Hugging Face id (org/name), which each pod downloads itself, always from the default branch;
    pvc://claim/path; or an absolute path in the container. Another source is loaded in the place of the one before."""
    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank of the adapter. Default: as the hub says; of a path, at most 16 or what another adapter needs. One that is higher than
    that of all before rolls out."""


class ExternalCapabilities(Model):
    """What an external endpoint can do, said by hand instead of found by asking it."""

    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Context length in tokens. Default: as its /v1/models says."""
    tools: bool | None = None
    """Whether requests with tools are answered. Default: one small request with a tool is sent, once a day."""


class External(Model):
    """An endpoint that somebody else runs: the gateway sends the model's requests there, and there are no pods. spec.model is what
    it is called there. Needs the gateway.
    """

    url: Annotated[
        str,
        Field(
            max_length=1024,
            pattern=r"^https?://[-A-Za-z0-9.]+(:[0-9]{1,5})?(/[-A-Za-z0-9._~/]*)?$",
            json_schema_extra=explained(URL_MESSAGE),
        ),
    ]
    """Base URL of the OpenAI API; /v1 at its end may be left out."""
    api_key_secret_ref: SecretKeyRef | None = None
    """Secret with the key that the endpoint asks for. Callers use the gateway's keys; they never see it."""
    ca_secret_ref: SecretKeyRef | None = None
    """Secret with the certificates (PEM) that the endpoint's own must be signed by. Default: the public authorities."""
    model_names: (
        Annotated[dict[str, Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=64)] | None
    ) = None
    """Served model name → the endpoint's own name, for names that are not spec.model there."""
    capabilities: ExternalCapabilities | None = None
    """Values that win over asking."""


class Defaults(Model):
    """Defaults of requests: what one gets that does not say it itself. They go over the model's own (generation_config.json)."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling."""
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    """Tokens sampled from; 0 or -1: all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least probability relative to the likeliest token."""
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    """Penalty on tokens seen before; above 1 discourages them."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Penalty on tokens that occur in the answer. Needs vLLM 0.31."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Penalty on tokens by how often they occur in the answer. Needs vLLM 0.31."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of an answer. To vLLM it is a limit too: requests that ask for more get no more."""
    enable_thinking: bool | None = None
    """Whether the chat template asks the model to reason, by its variable enable_thinking or thinking."""
    chat_template_kwargs: FreeObject | None = None
    """Variables given to the chat template."""


class PodTemplateMetadata(Model):
    """Metadata of the pods."""

    labels: LabelMap | None = None
    """Labels added to the pods."""
    annotations: AnnotationMap | None = None
    """Annotations added to the pods."""


class PodTemplate(Model):
    """Merged over the generated pod template (strategic merge, as `kubectl patch` does): the last word is the user's.
    The vLLM container is named `vllm`.
    """

    metadata: PodTemplateMetadata | None = None
    """Metadata of the pods."""
    spec: FreeObject | None = None
    """Any field of a pod's spec; lists of containers, volumes, mounts and variables are merged by their keys."""


POD_FIELDS = (
    "hub",
    "modelFacts",
    "engine",
    "accelerator",
    "parallelism",
    "autoscaling",
    "scheduling",
    "resources",
    "cache",
    "sharedMemory",
    "startup",
    "rollout",
    "adapters",
    "podTemplate",
)
"""Fields of the spec that are about pods."""


class VLLMModelSpec(Model):
    """What is wanted."""

    model: Annotated[
        str, Field(min_length=1, max_length=512, pattern=MODEL_PATTERN, json_schema_extra=explained(MODEL_MESSAGE))
    ]
    """The model: a Hugging Face id (Qwen/Qwen3-8B), hf://org/name@revision, pvc://claim/path,
    oci://registry/image:tag (with //path/in/it unless the model is at its root), s3://bucket/path,
    gs://bucket/path, or an absolute path in the container."""
    hub: Hub | None = None
    """Where a Hugging Face model comes from."""
    model_facts: ModelFacts | None = None
    """What the model is, given by hand. Default: read from the model itself."""
    served_model_names: (
        Annotated[
            list[
                Annotated[
                    str,
                    Field(
                        min_length=1,
                        max_length=256,
                        pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/:@]*$",
                        json_schema_extra=explained(MODEL_NAME_MESSAGE),
                    ),
                ]
            ],
            Field(min_length=1, max_length=16, json_schema_extra=LIST_SET),
        ]
        | None
    ) = None
    """Names by which requests ask for the model. Default: the resource's name."""
    engine: Engine | None = None
    """vLLM: version, image, options."""
    accelerator: Accelerator | None = None
    """What the model runs on."""
    parallelism: Parallelism | None = None
    """How one replica is spread over GPUs."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of replicas."""
    autoscaling: Autoscaling | None = None
    """Number of replicas by load. Not implemented yet."""
    suspend: bool | None = None
    """True: no replica runs; everything else is kept."""
    scheduling: Scheduling | None = None
    """Where the pods may run."""
    resources: Resources | None = None
    """CPU and memory of the vLLM container."""
    cache: Cache | None = None
    """Where downloaded model files and the compile cache are kept. Default: an emptyDir."""
    shared_memory: SharedMemory | None = None
    """Shared memory of the pods (/dev/shm)."""
    startup: Startup | None = None
    """How long a pod may take to serve."""
    rollout: Rollout | None = None
    """How an edit reaches the pods."""
    route: Route | None = None
    """How the model is reached through a gateway."""
    auth: Auth | None = None
    """Who may use the model."""
    adapters: Annotated[list[Adapter], Field(max_length=64, json_schema_extra=list_map("name"))] | None = None
    """LoRA adapters. The first one rolls out, with vLLM's options for them; more of them, others and fewer restart nothing. An empty
    list keeps vLLM ready for adapters; without the field it rolls out without. Needs the gateway."""
    external: External | None = None
    """An endpoint that somebody else runs, instead of pods. Needs the gateway."""
    defaults: Defaults | None = None
    """Defaults of requests, for clients that do not say it themselves."""
    pod_template: PodTemplate | None = None
    """Merged over the generated pod template (strategic merge, as `kubectl patch` does): the last word is the
    user's."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                (
                    "!has(self.hub) || !has(self.hub.revision) || "
                    "!(self.model.startsWith('hf://') && self.model.contains('@'))"
                ),
                "the revision is given twice: in hub.revision and in model",
            ),
            (
                "!has(self.hub) || !self.model.matches('^(/|pvc://|s3://|gs://|oci://)')",
                "hub is only for Hugging Face models (org/name or hf://org/name)",
            ),
            (
                (
                    "!has(self.accelerator) || !has(self.accelerator.count) || !has(self.parallelism) || "
                    "!has(self.parallelism.tensor) || self.accelerator.count == self.parallelism.tensor * "
                    "(has(self.parallelism.pipeline) ? self.parallelism.pipeline : 1) * "
                    "(has(self.parallelism.data) ? self.parallelism.data : 1)"
                ),
                "accelerator.count must be parallelism.tensor × pipeline × data",
            ),
            (
                "!has(self.external) || !self.model.matches('^(/|hf://|pvc://|s3://|gs://|oci://)')",
                "with external, model is the endpoint's own name of it, such as gpt-4o or org/name",
            ),
            (
                f"!has(self.external) || ({' && '.join(f'!has(self.{field})' for field in POD_FIELDS)})",
                f"an external model has no pods: remove {', '.join(POD_FIELDS)}",
            ),
            (
                (
                    "!has(self.external) || ((!has(self.auth) || !has(self.auth.apiKeySecretRef)) && (!has(self.route) || "
                    "(!has(self.route.enabled) || self.route.enabled) && !has(self.route.parentRefs)))"
                ),
                (
                    "an external model is reached through the gateway for all models: remove auth.apiKeySecretRef (see "
                    "external.apiKeySecretRef), route.enabled and route.parentRefs"
                ),
            ),
        )
    )


class Condition(Model):
    """One aspect of the model's state, as metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """The aspect."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec that this speaks of."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Why, in one word. docs/troubleshooting.md has a section on each."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, for people."""


class MemoryStatus(Model):
    """Memory of each GPU (on CPUs: of the container), estimated before the start."""

    weights: Annotated[str, Field(max_length=32)] | None = None
    """Weights of the fullest rank."""
    activation: Annotated[str, Field(max_length=32)] | None = None
    """Peak of the activations."""
    other: Annotated[str, Field(max_length=32)] | None = None
    """CUDA context, communication buffers and CUDA graphs; on CPUs the processes themselves."""
    kv_cache: Annotated[str, Field(max_length=32)] | None = None
    """What is left for the KV cache."""
    total: Annotated[str, Field(max_length=32)] | None = None
    """What vLLM takes of each GPU in all: gpuMemoryUtilization of its memory."""


class AlternativeStatus(Model):
    """Another plan that would do."""

    pool: Annotated[str, Field(max_length=253)]
    """GPU product."""
    gpus_per_replica: int
    """GPUs that one replica would ask for."""
    tensor_parallel_size: int
    """--tensor-parallel-size."""
    max_model_len: int
    """Context length in tokens."""


class MeasuredStatus(Model):
    """What vLLM itself says after its start."""

    kv_cache_tokens: int | None = None
    """Tokens that the KV cache of one data-parallel rank holds, in sequences of the whole context; of the pod with the fewest."""
    error_percent: int | None = None
    """By how much sizing.kvCacheTokens was too high (positive) or too low (negative)."""
    weights: Annotated[str, Field(max_length=32)] | None = None
    """Memory of a GPU that the model took when it was loaded, as vLLM's log has it; of the rank with the most."""
    kv_cache: Annotated[str, Field(max_length=32)] | None = None
    """Memory of a GPU that was left for the KV cache, as vLLM's log has it; of the rank with the least."""
    cuda_graphs: Annotated[str, Field(max_length=32)] | None = None
    """Memory of a GPU that CUDA graphs took, as vLLM's log has it."""
    load_seconds: int | None = None
    """Seconds that loading the weights took, as vLLM's log has it; of the slowest pod."""


class SizingStatus(Model):
    """What was decided for one replica, and why."""

    accelerator: Annotated[str, Field(max_length=64)] | None = None
    """Kind of accelerator: nvidia, amd, intel or cpu."""
    pool: Annotated[str, Field(max_length=253)] | None = None
    """GPU product that was chosen. Absent when nothing was chosen: reasons say why."""
    resource_name: Annotated[str, Field(max_length=253)] | None = None
    """Extended resource that is asked for, e.g. nvidia.com/gpu."""
    nodes: int | None = None
    """Nodes that one replica is spread over."""
    max_model_len: int | None = None
    """Context length in tokens that was decided."""
    concurrency: Annotated[str, Field(max_length=32)] | None = None
    """Sequences of the whole context that fit at once, e.g. 3.1."""
    memory: MemoryStatus | None = None
    """Memory of each GPU, estimated."""
    kv_cache_tokens: int | None = None
    """Tokens that the KV cache holds, in sequences of the whole context, estimated."""
    kv_bytes_per_token: int | None = None
    """Bytes of the KV cache for one token on each GPU."""
    revision: Annotated[str, Field(max_length=253)] | None = None
    """Commit of the model's repository that the facts were read from."""
    reasons: (
        Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=24, json_schema_extra=LIST_ATOMIC)]
        | None
    ) = None
    """Why, in sentences; also what was not checked."""
    alternatives: Annotated[list[AlternativeStatus], Field(max_length=8, json_schema_extra=LIST_ATOMIC)] | None = None
    """What would do too."""
    measured: MeasuredStatus | None = None
    """vLLM's own figures, once a pod serves."""
    gpus_per_replica: int | None = None
    """GPUs that one replica asks for."""
    tensor_parallel_size: int | None = None
    """--tensor-parallel-size."""
    pipeline_parallel_size: int | None = None
    """--pipeline-parallel-size."""
    data_parallel_size: int | None = None
    """--data-parallel-size."""


class EngineStatus(Model):
    """What is run."""

    version: Annotated[str, Field(max_length=64)] | None = None
    """vLLM version, when it is known."""
    image: Annotated[str, Field(max_length=512)] | None = None
    """Image of the vLLM container."""
    options_checked: bool | None = None
    """Whether the options were checked against those that this vLLM version takes. False: the version is not known, or its options
    are not (a custom image without spec.engine.version, a nightly build, a version newer than the operator)."""
    task: Annotated[str, Field(max_length=32)] | None = None
    """What the model is for, as its files say: generate, embed, score (reranking), classify, reward or transcribe."""
    tool_call_parser: Annotated[str, Field(max_length=256)] | None = None
    """Parser of tool calls, whoever chose it."""
    reasoning_parser: Annotated[str, Field(max_length=256)] | None = None
    """Parser of reasoning content, whoever chose it."""
    reasons: (
        Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=8, json_schema_extra=LIST_ATOMIC)]
        | None
    ) = None
    """Why these parsers and options, and what the vLLM version lacks."""


class CapabilitiesStatus(Model):
    """What the model can do."""

    tools: bool | None = None
    """Whether requests with tools are answered; missing: that is not known."""


class ExternalStatus(Model):
    """What was found at the endpoint."""

    models: (
        Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=100, json_schema_extra=LIST_ATOMIC)]
        | None
    ) = None
    """Models that it lists; the first hundred."""
    asked_at: Annotated[str, Field(max_length=64)] | None = None
    """When it was asked last whether it takes tools."""
    asked_hash: Annotated[str, Field(max_length=64)] | None = None
    """Hash of what it was asked about then: the endpoint, the model and the key."""


class AdapterStatus(Model):
    """A LoRA adapter, as the pods have it."""

    name: Annotated[str, Field(max_length=128)]
    """Model name by which requests ask for it."""
    source: Annotated[str, Field(max_length=512)]
    """Where it comes from."""
    rank: int | None = None
    """Its rank, when that is known."""
    state: Literal["Pending", "Loading", "Loaded", "Failed", "Unloading"]
    """Pending: no pod is ready for it. Loading: not every ready pod has it. Loaded: all have. Failed: a pod's vLLM refuses it.
    Unloading: it is not wanted any more, and some pod still has it."""
    pods: Annotated[str, Field(max_length=32)]
    """Ready pods that have it, and ready pods that take adapters, e.g. 1/2."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What vLLM said, when it failed."""


class AdapterPodStatus(Model):
    """A ready pod and its adapters."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the pod."""
    lacks: (
        Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=64, json_schema_extra=LIST_ATOMIC)]
        | None
    ) = None
    """Adapters that it does not have; the gateway asks it for none of these."""


class VLLMModelStatus(Model):
    """What was found and decided. Written by the operator only."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec that this status speaks of."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))] | None = None
    """Accepted, Scheduled, WorkloadAvailable, Serving, RouteReady, and the summary Ready."""
    url: Annotated[str, Field(max_length=1024)] | None = None
    """Base URL of the model; the OpenAI API is under /v1."""
    replicas: int | None = None
    """Pods that exist."""
    ready_replicas: int | None = None
    """Pods that are ready."""
    updated_replicas: int | None = None
    """Pods of the newest revision."""
    replica_summary: Annotated[str, Field(max_length=32)] | None = None
    """Ready and wanted replicas, e.g. 1/2."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for autoscalers."""
    gpus: int | None = None
    """GPUs that all wanted replicas ask for."""
    max_model_len: int | None = None
    """Context length in tokens, as the server itself reports it."""
    served_model_names: (
        Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=16, json_schema_extra=LIST_ATOMIC)]
        | None
    ) = None
    """Names by which requests ask for the model."""
    revision: Annotated[str, Field(max_length=253)] | None = None
    """ControllerRevision that is rolled out: what was decided for this spec."""
    sizing: SizingStatus | None = None
    """What was decided for one replica."""
    engine: EngineStatus | None = None
    """What is run."""
    capabilities: CapabilitiesStatus | None = None
    """What the model can do."""
    external: ExternalStatus | None = None
    """What was found at an external endpoint."""
    adapters: Annotated[list[AdapterStatus], Field(max_length=200, json_schema_extra=LIST_ATOMIC)] | None = None
    """LoRA adapters that are wanted, and those that are about to go."""
    adapter_pods: Annotated[list[AdapterPodStatus], Field(max_length=2000, json_schema_extra=LIST_ATOMIC)] | None = None
    """Ready pods that adapters have been loaded into, or are being."""


class VLLMModel(Model):
    """A model served by vLLM."""

    api_version: Annotated[str, Field(alias="apiVersion")] = API_VERSION
    """vllm-operator.io/v1alpha1"""
    kind: str = KIND
    """VLLMModel"""
    metadata: dict[str, Any]
    """Standard object metadata."""
    spec: VLLMModelSpec
    """What is wanted."""
    status: VLLMModelStatus | None = None
    """What was found and decided."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                (
                    "metadata.name must be at most 63 characters: lower-case letters, digits and dashes, "
                    "beginning with a letter"
                ),
            )
        )
    )
