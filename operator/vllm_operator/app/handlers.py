"""kopf's handlers: they turn events into keys and do nothing else. Asynchronous, since kopf runs others in threads.

Only `on.event` handlers are used: they leave no annotation and no finalizer on anybody's objects.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from vllm_operator.api import types
from vllm_operator.api.names import LABEL_MANAGED_BY, LABEL_MODEL, MANAGED_BY, Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.kinds import Kind
from vllm_operator.reconcile.reconciler import wanted_version

CHILD_DELAY = 0.5
"""Seconds that a child's change waits, so that the burst of a roll-out becomes one pass."""

WantModel = Callable[[Key, str, str], None]
"""Called with key, uid and what is wanted (see wanted_version)."""
Want = Callable[[Key, float], None]
WantGateway = Callable[[Key], None]
WantNodes = Callable[[str | None, Mapping[str, Any]], None]
"""Called with the event's type and the node."""

RELIST_DELAY = 2.0
"""Seconds that a listed child waits: at the start its model is looked at anyway, but after a 410 only the list tells of
what the watch has missed."""

_DELAYS: Mapping[str | None, float] = {"DELETED": 0.0, None: RELIST_DELAY}

_WATCHED = (*kinds.CHILD_KINDS, kinds.POD, kinds.JOB)


def register(
    registry: kopf.OperatorRegistry,
    *,
    want_model: WantModel,
    want: Want,
    want_gateway: WantGateway,
    want_nodes: WantNodes | None,
    gateway_api: bool,
    network_policies: bool,
) -> None:
    """Have models, their children, gateways and nodes watched. `want_nodes`: None when nodes may not be; `gateway_api`,
    `network_policies`: whether these may be.
    """
    # By the official client: in a pod from its ServiceAccount (read again when the API server answers 401), else by kubeconfig.
    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.event(types.GROUP, types.VERSION, types.PLURAL, registry=registry)
    async def model_changed(
        type: str | None, namespace: str | None, name: str | None, uid: str | None, meta: Mapping[str, Any], **_: Any
    ) -> None:
        key = Key(namespace or "", name or "")
        if type == "MODIFIED":
            want_model(key, uid or "", wanted_version(meta))
        else:
            want(key, 0.0)

    async def child_changed(type: str | None, meta: Mapping[str, Any], namespace: str | None, **_: Any) -> None:
        for model in _models(meta):
            want(Key(namespace or "", model), _DELAYS.get(type, CHILD_DELAY))

    left_out = {
        kind
        for kind, watched in ((kinds.HTTP_ROUTE, gateway_api), (kinds.NETWORK_POLICY, network_policies))
        if not watched
    }
    for kind in _WATCHED:
        if kind not in left_out:
            kopf.on.event(*_selector(kind), when=_is_ours, registry=registry, id=f"{kind.plural}_changed")(
                child_changed
            )

    if want_nodes is not None:

        @kopf.on.event(*_selector(kinds.NODE), registry=registry)
        async def node_changed(type: str | None, body: Mapping[str, Any], **_: Any) -> None:
            want_nodes(type, body)

    if gateway_api:

        @kopf.on.event(*_selector(kinds.GATEWAY), registry=registry)
        async def gateway_changed(namespace: str | None, name: str | None, **_: Any) -> None:
            want_gateway(Key(namespace or "", name or ""))


def _models(meta: Mapping[str, Any]) -> set[str]:
    """Models that an object belongs to: by its label, and by its owner, since somebody may have taken the label away."""
    labels = meta.get("labels") or {}
    found = {
        owner.get("name", "")
        for owner in meta.get("ownerReferences") or ()
        if owner.get("kind") == types.KIND and str(owner.get("apiVersion", "")).startswith(f"{types.GROUP}/")
    }
    if labels.get(LABEL_MANAGED_BY) == MANAGED_BY:
        found.add(labels.get(LABEL_MODEL, ""))
    return found - {""}


def _is_ours(meta: Mapping[str, Any], **_: Any) -> bool:
    return bool(_models(meta))


def _selector(kind: Kind) -> tuple[str, str, str]:
    group, _, version = kind.api_version.rpartition("/")
    return group, version, kind.plural


class NoDiffBase(kopf.AnnotationsDiffBaseStorage):
    """Keeps nothing. kopf works out what to store of an object on each event, though no handler of ours asks for differences;
    its deep copies of every object would be a fifth of the operator's CPU.
    """

    def build(self, **_: Any) -> Any:
        """Nothing of the object matters."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""


def kopf_settings() -> kopf.OperatorSettings:
    """Settings that make kopf a mere shell: no annotations, no finalizers, no events, no peering, no scan for kinds at run time."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.queueing.worker_limit = None
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.networking.request_timeout = 60
    # Handlers only turn events into keys: nothing is to be finished at the end, nor a task kept for each object.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.exit_timeout = 0.1
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return settings
