"""Condition types and reasons: the words in which the operator says how a model is.

Every reason is documented here once; docs/troubleshooting.md and the CRD's description are generated from this table.
"""

from enum import StrEnum


class ConditionType(StrEnum):
    """Aspects of a model. All but Reconciling and Stalled are always there; those two only while they are true."""

    ACCEPTED = "Accepted"
    """The spec can be carried out: it is valid, and everything it refers to exists."""
    SCHEDULED = "Scheduled"
    """Every wanted pod of the newest revision has a node."""
    WORKLOAD_AVAILABLE = "WorkloadAvailable"
    """The newest generation is rolled out and every wanted pod is ready."""
    SERVING = "Serving"
    """The operator's own probe got 200 from /health, and /v1/models lists every served name."""
    ROUTE_READY = "RouteReady"
    """The gateway has accepted the route; behind the gateway for all models: it takes requests for the model."""
    READY = "Ready"
    """A request sent through the route would be answered now."""
    RECONCILING = "Reconciling"
    """kstatus: the operator is working towards the newest generation."""
    STALLED = "Stalled"
    """kstatus: nothing more happens until somebody changes something."""


class Reason(StrEnum):
    """Why a condition is as it is."""

    # Accepted
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    INVALID_ENGINE_ARGS = "InvalidEngineArgs"
    INVALID_PARALLELISM = "InvalidParallelism"
    INVALID_POD_TEMPLATE = "InvalidPodTemplate"
    NOT_IMPLEMENTED = "NotImplemented"
    NEEDS_GATEWAY = "NeedsGateway"
    REFERENCE_NOT_FOUND = "ReferenceNotFound"
    READING_MODEL = "ReadingModel"
    HUB_UNAVAILABLE = "HubUnavailable"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_ACCESS_DENIED = "ModelAccessDenied"
    INVALID_MODEL = "InvalidModel"
    DOES_NOT_FIT = "DoesNotFit"
    CHILD_CONFLICT = "ChildConflict"
    CHILD_REJECTED = "ChildRejected"
    PERMISSION_DENIED = "PermissionDenied"
    # Scheduled
    SCHEDULED = "Scheduled"
    UNSCHEDULABLE = "Unschedulable"
    AWAITING_SCHEDULING = "AwaitingScheduling"
    YIELDING = "Yielding"
    # WorkloadAvailable
    AVAILABLE = "Available"
    STARTING = "Starting"
    ROLLING_OUT = "RollingOut"
    CRASH_LOOP_BACK_OFF = "CrashLoopBackOff"
    CONTAINER_RESTARTED = "ContainerRestarted"
    OUT_OF_MEMORY = "OutOfMemory"
    ILLEGAL_INSTRUCTION = "IllegalInstruction"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    POD_NOT_READY = "PodNotReady"
    PODS_REJECTED = "PodsRejected"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SUSPENDED = "Suspended"
    SCALED_TO_ZERO = "ScaledToZero"
    # Serving
    SERVING = "Serving"
    NO_READY_PODS = "NoReadyPods"
    NOT_PROBED = "NotProbed"
    HEALTH_CHECK_FAILED = "HealthCheckFailed"
    UNREACHABLE = "Unreachable"
    MODEL_NOT_LISTED = "ModelNotListed"
    API_KEY_REJECTED = "ApiKeyRejected"
    EXTERNAL = "External"
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    TLS_FAILED = "TLSFailed"
    NOT_OPENAI = "NotOpenAI"
    # RouteReady
    ROUTE_ACCEPTED = "RouteAccepted"
    BY_GATEWAY = "ByGateway"
    NAME_TAKEN = "NameTaken"
    GATEWAY_NOT_READY = "GatewayNotReady"
    REJECTED_BY_GATEWAY = "RejectedByGateway"
    ROUTE_DISABLED = "RouteDisabled"
    NO_GATEWAY = "NoGateway"
    GATEWAY_API_NOT_INSTALLED = "GatewayAPINotInstalled"
    GATEWAY_NOT_FOUND = "GatewayNotFound"
    AWAITING_GATEWAY = "AwaitingGateway"
    ROUTE_REJECTED = "RouteRejected"
    # Ready
    READY = "Ready"
    # any
    NOT_ACCEPTED = "NotAccepted"
    TERMINATING = "Terminating"
    API_ERROR = "APIError"
    INTERNAL_ERROR = "InternalError"


REASONS: dict[Reason, tuple[str, str]] = {
    Reason.ACCEPTED: ("The spec is valid and everything it refers to exists.", "Nothing."),
    Reason.INVALID_SPEC: ("A field has a value that cannot be used; the message names it.", "Change the field."),
    Reason.INVALID_ENGINE_ARGS: (
        "An option or a value is none that the vLLM version takes, is given twice, is owned by the operator, or cannot be written "
        "as an argument.",
        "Change the field that the message names.",
    ),
    Reason.INVALID_PARALLELISM: (
        "accelerator.count and the parallel sizes contradict each other.",
        "Make accelerator.count tensor × pipeline × data, or leave it out.",
    ),
    Reason.INVALID_POD_TEMPLATE: (
        "spec.podTemplate cannot be merged over the generated pod template, or the result is no valid pod.",
        "Change the field of podTemplate that the message names; what serves now is left alone.",
    ),
    Reason.NOT_IMPLEMENTED: (
        "The field is part of the API but this operator version does nothing with it yet.",
        "Remove the field, or install a version that has it. It is refused rather than silently ignored.",
    ),
    Reason.NEEDS_GATEWAY: (
        "The field tells the gateway for all models something, and this installation runs none.",
        "Set gateway.enabled in the chart's values, or remove the field.",
    ),
    Reason.REFERENCE_NOT_FOUND: (
        "A Secret or ConfigMap, or a key in it, that the spec refers to does not exist.",
        "Create it; the operator looks again by itself.",
    ),
    Reason.READING_MODEL: (
        "The operator reads the model's config and the headers of its weights.",
        "Wait a few seconds.",
    ),
    Reason.HUB_UNAVAILABLE: (
        "The hub does not answer, so that the operator does not know what the model is; it tries again by itself.",
        "Check the way from the operator to the hub (proxy, NetworkPolicy, hub.endpoint). Or do without: set parallelism.tensor "
        "or accelerator.count, which then is not checked, or modelFacts.",
    ),
    Reason.MODEL_NOT_FOUND: (
        "The hub has no such model or revision.",
        "Correct spec.model or hub.revision; for a private model set hub.tokenSecretRef.",
    ),
    Reason.MODEL_ACCESS_DENIED: (
        "The hub has the model but does not give it to the operator: it is gated, or the token is wrong.",
        "Accept the licence on the model's page, and set hub.tokenSecretRef to a token of that account.",
    ),
    Reason.INVALID_MODEL: (
        "The model's files say nothing that sizing can use.",
        "Check that the repository holds a model for vLLM; give modelFacts.config by hand if it does.",
    ),
    Reason.DOES_NOT_FIT: (
        "No pool of GPUs can serve the model as it is asked for; the message has the numbers and what would fit.",
        "Do one of the things that the message names, or add GPUs; the operator looks again when nodes change.",
    ),
    Reason.CHILD_CONFLICT: (
        "An object with a name that the model needs exists and belongs to somebody else.",
        "Rename the model, or delete the object.",
    ),
    Reason.CHILD_REJECTED: (
        "The API server refuses an object that the model needs, by a policy, a quota or a webhook; the message is its own.",
        "Do what the message says; the operator tries again.",
    ),
    Reason.PERMISSION_DENIED: (
        "The operator may not do something that it needs in this namespace.",
        "Check the operator's Role or ClusterRole and its binding.",
    ),
    Reason.SCHEDULED: ("Every wanted pod has a node.", "Nothing."),
    Reason.UNSCHEDULABLE: (
        "The scheduler finds no node for a pod; the message is the scheduler's.",
        "Free or add GPUs, or change accelerator, parallelism or scheduling.",
    ),
    Reason.AWAITING_SCHEDULING: (
        "A pod has not been looked at by the scheduler yet.",
        "Wait; check that the scheduler runs.",
    ),
    Reason.YIELDING: (
        "No GPU is free for the new pod of a roll-out, so an old pod goes first.",
        "Nothing; the model answers again when the new pod has loaded. Add a spare GPU to have no gap.",
    ),
    Reason.AVAILABLE: ("The newest generation is rolled out and every pod is ready.", "Nothing."),
    Reason.STARTING: ("Pods are pulling, downloading, loading or compiling.", "Wait; startup.budget is the limit."),
    Reason.ROLLING_OUT: ("New pods replace old ones.", "Wait."),
    Reason.CRASH_LOOP_BACK_OFF: (
        "The vLLM container exits again and again; the message has the end of its log.",
        "Read the message; `kubectl logs --previous` has more.",
    ),
    Reason.CONTAINER_RESTARTED: (
        "The vLLM container ended once and loads the model again; the message has the end of its log.",
        "Wait; read the message if it happens again.",
    ),
    Reason.OUT_OF_MEMORY: (
        "The container was killed for using more memory than its limit.",
        "Raise resources.limits.memory.",
    ),
    Reason.ILLEGAL_INSTRUCTION: (
        "The CPU of the pod's node lacks an instruction that the image was built for: AVX2 at least, AVX512 for some images.",
        "Choose nodes that have it (scheduling.nodeSelector; node feature discovery labels them), or set engine.image to an image for "
        "these CPUs.",
    ),
    Reason.IMAGE_PULL_FAILED: (
        "The image cannot be pulled; the message is the kubelet's.",
        "Check engine.image and imagePullSecrets.",
    ),
    Reason.CONTAINER_CONFIG_ERROR: (
        "The container cannot be made; the message is the kubelet's.",
        "Do what the message says.",
    ),
    Reason.POD_NOT_READY: ("A pod that was ready is not any more.", "Look at the pod's events and log."),
    Reason.PODS_REJECTED: (
        "The API server refuses the pods, by quota, policy or admission; the message is its own.",
        "Do what the message says.",
    ),
    Reason.DEADLINE_EXCEEDED: (
        "The new pods did not become ready within startup.budget.",
        "Raise startup.budget, or see why loading takes so long.",
    ),
    Reason.SUSPENDED: ("spec.suspend is true.", "Set it to false to serve again."),
    Reason.SCALED_TO_ZERO: ("spec.replicas is 0.", "Raise replicas to serve."),
    Reason.SERVING: ("A pod answers /health with 200 and lists every served name.", "Nothing."),
    Reason.NO_READY_PODS: ("No pod is ready, so there is nothing to ask.", "See WorkloadAvailable."),
    Reason.NOT_PROBED: ("The operator has not asked a pod yet.", "Wait a few seconds."),
    Reason.HEALTH_CHECK_FAILED: (
        "/health does not answer 200 to the operator; or an external endpoint fails.",
        "Look at the pod's log, or ask who runs the endpoint.",
    ),
    Reason.UNREACHABLE: (
        "The operator cannot connect to a pod that the kubelet calls ready, or to the external endpoint.",
        "Look for a NetworkPolicy or a firewall in between; check the host and the port of external.url.",
    ),
    Reason.MODEL_NOT_LISTED: (
        "/v1/models lacks a served name, or what an external model is called there.",
        "Check podTemplate and args for another served name; spec.model and external.modelNames of an external model.",
    ),
    Reason.API_KEY_REJECTED: (
        "vLLM refuses the API key of spec.auth, or the endpoint that of external.apiKeySecretRef.",
        "Check the Secret; a pod may run with an older key.",
    ),
    Reason.EXTERNAL: ("The model runs elsewhere: it has no pods here.", "Nothing."),
    Reason.ADDRESS_NOT_ALLOWED: (
        "external.url leads to an address that is not public, and that the operator's settings do not allow.",
        "Add its network to gateway.externalNetworks in the chart's values, if models may send requests there.",
    ),
    Reason.TLS_FAILED: (
        "The endpoint speaks no TLS, or its certificate is not accepted; the message says why.",
        "Check external.url, and external.caSecretRef if its certificates are signed by an authority of your own.",
    ),
    Reason.NOT_OPENAI: (
        "The endpoint answers, but /v1/models is not as the OpenAI API has it.",
        "Check the path in external.url: what stands before /v1.",
    ),
    Reason.ROUTE_ACCEPTED: ("The gateway has accepted the route and resolved its backend.", "Nothing."),
    Reason.BY_GATEWAY: ("The gateway for all models takes requests for it.", "Nothing."),
    Reason.NAME_TAKEN: (
        "The gateway takes requests for it by namespace/name; a served name is another model's, which is older.",
        "Choose another in servedModelNames, or give both models route.weight to share it.",
    ),
    Reason.GATEWAY_NOT_READY: (
        "No pod of the gateway for all models is ready, so that nobody takes requests.",
        "Look at the gateway's pods: `kubectl get pods` in the operator's namespace, and their log.",
    ),
    Reason.REJECTED_BY_GATEWAY: (
        "A pod of the gateway for all models could not take what it was told of this model, or of all; the message says what.",
        "Correct what the message names; where it names nothing of yours, it is a bug: please report it with the log of the "
        "gateway's pods.",
    ),
    Reason.ROUTE_DISABLED: (
        "route.enabled is false: neither a route nor the gateway for all models leads to it.",
        "Nothing: the model is reached by its Service.",
    ),
    Reason.NO_GATEWAY: (
        "Neither route.parentRefs nor a default gateway of the operator is set.",
        "Nothing if the Service is enough; else set one.",
    ),
    Reason.GATEWAY_API_NOT_INSTALLED: (
        "The cluster has no HTTPRoute kind.",
        "Install the Gateway API CRDs, or set route.enabled: false.",
    ),
    Reason.GATEWAY_NOT_FOUND: (
        "The Gateway named by route.parentRefs does not exist.",
        "Create it or correct the name.",
    ),
    Reason.AWAITING_GATEWAY: (
        "No gateway has answered for the route yet.",
        "Check that the gateway's controller runs.",
    ),
    Reason.ROUTE_REJECTED: ("The gateway refuses the route; the message is its own.", "Do what the message says."),
    Reason.READY: ("A request sent through the route would be answered now.", "Nothing."),
    Reason.NOT_ACCEPTED: ("The spec is not accepted, so this was not looked at.", "See Accepted."),
    Reason.TERMINATING: ("The model or its namespace is being deleted.", "Nothing."),
    Reason.API_ERROR: (
        "The API server does not answer as it should; the operator tries again.",
        "Look at the API server.",
    ),
    Reason.INTERNAL_ERROR: ("A bug in the operator.", "Report it with the operator's log."),
}
"""Reason → (what it means, what to do)."""
