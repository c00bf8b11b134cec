"""What the operator and the gateway may do in a cluster: one table, from which every Role and ClusterRole is generated.

A rule that nobody needs is a hole, and a rule that is lacking is a failure at run time; so each has its reason. An
ownerReference with blockOwnerDeletion would need `update` on vllmmodels/finalizers where the admission plugin
OwnerReferencesPermissionEnforcement is on (OpenShift): the operator's ownerReferences must go without it.
"""

from dataclasses import dataclass
from typing import Any

from vllm_operator.api.types import GROUP, PLURAL

READ = ("get", "list", "watch")
MANAGE = ("get", "list", "watch", "create", "patch", "delete")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of a Role, and why it is needed."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    reason: str

    def as_rbac(self) -> dict[str, Any]:
        """Return the rule as a Role writes it."""
        return {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}


CLUSTER_RULES: tuple[Rule, ...] = (
    Rule(
        group=GROUP,
        resources=(PLURAL,),
        verbs=READ,
        reason="Reads what users want. It never writes to a user's object, so it may not.",
    ),
    Rule(
        group=GROUP,
        resources=(f"{PLURAL}/status",),
        verbs=("get", "patch"),
        reason="Reports how a model is, by server-side apply (a patch).",
    ),
    Rule(
        group="apps",
        resources=("deployments", "controllerrevisions"),
        verbs=MANAGE,
        reason="Runs vLLM, and keeps what was decided for each spec, so that nothing is decided anew without need.",
    ),
    Rule(
        group="",
        resources=("services",),
        verbs=MANAGE,
        reason="Gives each model a stable name and address.",
    ),
    Rule(
        group="policy",
        resources=("poddisruptionbudgets",),
        verbs=MANAGE,
        reason="Keeps a drain of nodes from taking all replicas of a model at once.",
    ),
    Rule(
        group="networking.k8s.io",
        resources=("networkpolicies",),
        verbs=("get", "list", "watch", "delete"),
        reason="Takes away what a gateway that is no more has left: it would keep everybody from the models.",
    ),
    Rule(
        group="gateway.networking.k8s.io",
        resources=("httproutes",),
        verbs=MANAGE,
        reason="Puts models behind a gateway, and reads whether the gateway has accepted the route.",
    ),
    Rule(
        group="gateway.networking.k8s.io",
        resources=("gateways",),
        verbs=READ,
        reason="Tells a route whose gateway does not exist from one that waits; finds the address for status.url; sees both change.",
    ),
    Rule(
        group="",
        resources=("pods",),
        verbs=READ,
        reason="Says why a model does not serve (scheduling, image, crash) and asks pods whether they answer.",
    ),
    Rule(
        group="batch",
        resources=("jobs",),
        verbs=MANAGE,
        reason="Reads what a model in a volume is: a short Job of its own image in the model's namespace, taken away afterwards.",
    ),
    Rule(
        group="",
        resources=("secrets", "configmaps"),
        verbs=("get",),
        reason="Rolls out when a referenced Secret or ConfigMap changes. By name only: it may not list them.",
    ),
    Rule(
        group="events.k8s.io",
        resources=("events",),
        verbs=("create",),
        reason="Tells what happened to a model.",
    ),
)
"""Rules for the namespaces whose models the operator looks after: a ClusterRole, or a Role in each namespace."""

LOG_RULES: tuple[Rule, ...] = (
    Rule(
        group="",
        resources=("pods/log",),
        verbs=("get",),
        reason="Reads once, from the first lines of a pod that serves, how much memory vLLM found to be taken; shown next to the estimate.",
    ),
)
"""Rules for the same namespaces that can be left out: what these lines would have told is then left out of the status."""

NODE_RULES: tuple[Rule, ...] = (
    Rule(
        group="",
        resources=("nodes",),
        verbs=("list", "watch"),
        reason="Knows which GPUs there are, so that sizes are decided and not guessed; sees them come and go.",
    ),
)
"""Rules for the whole cluster, also when the operator looks after some namespaces only. Without them nothing is checked."""

OWN_NAMESPACE_RULES: tuple[Rule, ...] = (
    Rule(
        group="coordination.k8s.io",
        resources=("leases",),
        verbs=("get", "create", "patch", "update"),
        reason="One operator of several works at a time: the one that holds the lease.",
    ),
    Rule(
        group="",
        resources=("pods",),
        verbs=("get",),
        reason="Finds its own image, which the Jobs that read models in volumes run.",
    ),
    Rule(
        group="",
        resources=("pods",),
        verbs=("list",),
        reason="Knows whether pods of the gateway are ready, and asks them what Envoy has not taken: models say so.",
    ),
)
"""Rules for the operator's own namespace."""

GATEWAY_OPERATOR_RULES: tuple[Rule, ...] = (
    Rule(
        group="",
        resources=("secrets",),
        verbs=("create",),
        reason="Gives each model's vLLM a generated key, which it asks for under /v1 and some other paths.",
    ),
    Rule(
        group="networking.k8s.io",
        resources=("networkpolicies",),
        verbs=("create", "patch"),
        reason="Lets only the gateway, the operator and whom the chart's values name reach the pods of models.",
    ),
)
"""What the operator may do besides, in the same namespaces, where there is a gateway."""

GATEWAY_RULES: tuple[Rule, ...] = (
    Rule(
        group=GROUP,
        resources=(PLURAL,),
        verbs=READ,
        reason="Knows which models there are, and who may use them.",
    ),
    Rule(
        group="discovery.k8s.io",
        resources=("endpointslices",),
        verbs=("list", "watch"),
        reason="Sends requests to the pods that serve, as they come and go.",
    ),
    Rule(
        group="",
        resources=("secrets",),
        verbs=READ,
        reason="Knows the callers' keys and the models' own, found by label. RBAC knows no labels: watchNamespaces narrows it.",
    ),
)
"""Rules of the gateway's own account for the namespaces whose models it serves: a ClusterRole, or a Role in each namespace."""
