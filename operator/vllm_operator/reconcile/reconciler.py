"""One key, one pass: load → decide → build → apply → observe → report.

Every pass starts from live objects, so lost, doubled and reordered events are harmless. Raises ApiError for what the queue
is to retry; everything that a user can do something about becomes a condition.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from secrets import token_urlsafe
from typing import Any

from pydantic import ValidationError

from vllm_operator import __version__
from vllm_operator.api.conditions import ConditionType, Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_REFRESH,
    CONTAINER,
    ENGINE_KEY,
    PORT,
    Key,
    content_hash,
    engine_key_secret,
    revision_name,
    selector_labels,
)
from vllm_operator.api.types import KIND, External, Route, VLLMModelSpec
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Cluster, Object, key_of
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.cluster.kinds import Kind
from vllm_operator.engine.catalogue import find
from vllm_operator.engine.images import resolve_image
from vllm_operator.engine.recipes import as_specified, choose
from vllm_operator.hub.facts import Traits
from vllm_operator.reconcile import report as reporting
from vllm_operator.reconcile import revisions as revs
from vllm_operator.reconcile.adapters import (
    WantedAdapter,
    describe_adapters,
    find_changes,
    known_ranks,
    loaded_in,
    wanted_adapters,
    wanted_before,
)
from vllm_operator.reconcile.drift import covers
from vllm_operator.reconcile.events import EventRecorder
from vllm_operator.reconcile.external import build_target, external_fields, external_references
from vllm_operator.reconcile.gateway_watch import Opinion, Trouble, said_before
from vllm_operator.reconcile.observe import (
    ANNOTATION_TEMPLATE,
    Observation,
    PodObservation,
    RouteObservation,
    WorkloadObservation,
    observe_route,
    observe_workload,
)
from vllm_operator.reconcile.references import LoadedReferences, load_references
from vllm_operator.reconcile.report import Happening, Subject, Verdict
from vllm_operator.reconcile.revisions import Pinned
from vllm_operator.reconcile.rollout import YIELDED, is_yielded, should_yield
from vllm_operator.reconcile.served_names import ServedNames
from vllm_operator.reconcile.sizer import Sizer
from vllm_operator.reconcile.urls import gateway_url
from vllm_operator.serving.adapters import AdapterLoader
from vllm_operator.serving.external import ExternalProber, ExternalTarget
from vllm_operator.serving.probe import Prober, Target
from vllm_operator.sizing.decide import Decided
from vllm_operator.sizing.plan import Plan, decide_plan
from vllm_operator.workload.adapters import Lora, decide_lora, static_adapters
from vllm_operator.workload.children import (
    build_controller_revision,
    build_deployment,
    build_engine_key,
    build_http_route,
    build_network_policy,
    build_pod_disruption_budget,
    build_service,
    revision_inputs,
    service_url,
    sizing_inputs,
)
from vllm_operator.workload.names import generated_key_secret, served_model_names
from vllm_operator.workload.not_implemented import check_implemented
from vllm_operator.workload.pods import build_pod_template, takes_tools
from vllm_operator.workload.references import Reference, pod_references
from vllm_operator.workload.settings import BuildSettings

log = logging.getLogger(__name__)

DECIDED = ("pool", "resourceName", "gpusPerReplica", "tensorParallelSize", "pipelineParallelSize", "maxModelLen")
"""Fields of status.sizing that make two plans different."""
SIZING_ERROR_PERCENT = 10
"""An estimate that is off by more is worth a warning."""


@dataclass(frozen=True)
class Timings:
    """How often things are looked at again, in seconds."""

    resync: float = 300.0
    """A model that nothing happens to."""
    references: float = 30.0
    """A model that refers to Secrets or ConfigMaps: they are read, not watched, so that the operator needs no right to list
    Secrets."""
    waiting: float = 10.0
    """A model that waits for something that does not exist yet."""
    denied: float = 60.0
    """A model whose children the API server does not allow."""
    patience: float = 30.0
    """How long a roll-out waits for a free GPU before an old pod goes first."""

    def after(self, reason: Reason) -> float:
        """When to look again at a model that is refused."""
        if reason in (Reason.MODEL_NOT_FOUND, Reason.MODEL_ACCESS_DENIED, Reason.INVALID_MODEL):
            return self.denied
        if reason in reporting.TERMINAL and reason is not Reason.CHILD_CONFLICT:
            return self.resync
        return self.waiting


@dataclass(frozen=True)
class Loaded:
    """What was read of a model."""

    key: Key
    model: Object
    children: dict[Kind, Object | None]
    revisions: list[Pinned]
    pods: list[Object]
    gateway_api: bool
    """Whether the API server knows HTTPRoute."""
    policies_denied: ApiError | None = None
    """Why NetworkPolicies may not be read; None: they may."""

    @property
    def uid(self) -> str:
        """UID of the model."""
        return str(self.model["metadata"]["uid"])


@dataclass(frozen=True)
class Decision:
    """What is wanted of a model."""

    spec: VLLMModelSpec | None
    """None when it could not be read, or is refused: then only what serves is kept."""
    pinned: Pinned | None
    wanted: int
    suspended: bool
    children: dict[Kind, Object | None]
    """Kinds that are missing are left alone; None: pruned."""
    external: ExternalTarget | None = None
    """The endpoint of a model that runs elsewhere."""
    adapters: tuple[WantedAdapter, ...] = ()
    """LoRA adapters that every pod is to have."""
    references: LoadedReferences = field(default_factory=LoadedReferences)
    api_key: str | None = field(default=None, repr=False)
    """What the operator's own probe asks with."""
    automatic_rollout: bool = True
    revision_history_limit: int = 10


class Reconciler:
    """Brings one model at a time to what its spec says."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        prober: Prober,
        external: ExternalProber,
        loader: AdapterLoader,
        recorder: EventRecorder,
        sizer: Sizer,
        settings: BuildSettings,
        clock: Callable[[], datetime],
        timings: Timings | None = None,
        jitter: Callable[[], float] = random.random,
        on_write: Callable[[str, str], None] = lambda verb, kind: None,
        wake: Callable[[Key], None] = lambda key: None,
        gateway: Callable[[Key], Opinion] | None = None,
    ) -> None:
        self._cluster = cluster
        self._prober = prober
        self._external = external
        self._loader = loader
        self._recorder = recorder
        self._sizer = sizer
        self._settings = settings
        self._clock = clock
        self._timings = timings or Timings()
        self._jitter = jitter
        self._on_write = on_write
        self._wake = wake
        self._gateway_opinion = gateway or (lambda key: "well")
        self._served = ServedNames()
        self._futile: dict[tuple[str, str], tuple[str, str]] = {}
        self._gateways: dict[Key, set[Key]] = {}
        self.states: dict[Key, tuple[str, str]] = {}
        """Key → (status, reason) of Ready, for metrics."""
        self.sizing_errors: dict[Key, float] = {}
        """Key → error of the estimated KV cache, as a share of what vLLM has, for metrics."""
        self._warned: dict[Key, str] = {}
        self.reported: dict[Key, tuple[str, str]] = {}
        """Key → (uid, what is wanted: see wanted_version) that the status speaks of."""

    async def reconcile(self, key: Key) -> float | None:
        """One pass; seconds until the model should be looked at again, or None when it is gone."""
        loaded = await self._load(key)
        if loaded is None:
            self.forget(key)
            return None
        again = self._timings.resync * (0.8 + 0.4 * self._jitter())
        try:
            decision = await self._decide(loaded)
            verdict = reporting.accepted()
            if decision.references.digests:
                again = min(again, self._timings.references * (0.8 + 0.2 * self._jitter()))
        except Refusal as refusal:
            decision = await self._keep(loaded)
            verdict = reporting.refused(refusal.reason, refusal.message)
            again = min(again, self._timings.after(refusal.reason))
        workload = self._observe_workload(loaded, decision)
        yielding, ask_again = self._yielding(loaded, decision, workload)
        if ask_again is not None:
            again = min(again, max(0.1, ask_again.total_seconds()))
        live = dict(loaded.children)
        try:
            live |= await self._apply(loaded, decision, yielding=yielding)
            await self._prune_revisions(loaded, decision)
        except Refusal as refusal:
            verdict = reporting.refused(refusal.reason, refusal.message)
            again = self._timings.denied
        loaded = replace(loaded, children=live)
        workload = self._observe_workload(loaded, decision)
        names = self._served_names(key, decision)
        self._note_names(loaded, decision, names)
        self._watch(key, decision, workload)
        self._change_adapters(loaded, decision, workload)
        if (until := self._loader.again(key)) is not None:
            again = min(again, until)
        route, url = await self._observe_route(loaded, decision)
        observation = Observation(workload, self._prober.results(key), route, self._external.result(key))
        subject = Subject(
            generation=loaded.model["metadata"]["generation"],
            accepted=verdict,
            suspended=decision.suspended,
            wanted=decision.wanted,
            served_model_names=names,
            external=decision.external is not None,
            yielding=yielding,
            fields={
                **self._status_fields(loaded, decision, url, names),
                **self._adapter_fields(loaded, decision, workload),
            },
        )
        await self._report(loaded, subject, observation)
        return again

    def forget(self, key: Key) -> None:
        """The model is gone."""
        self._prober.forget(key)
        self._external.forget(key)
        self._loader.keep(key, ())
        for known in (self.states, self.reported, self.sizing_errors, self._warned):
            known.pop(key, None)
        for models in self._gateways.values():
            models.discard(key)
        for other in self._served.forget(key):
            self._wake(other)

    def models_of_gateway(self, gateway: Key) -> set[Key]:
        """Models whose routes go through a gateway."""
        return set(self._gateways.get(gateway, ()))

    # load

    async def _load(self, key: Key) -> Loaded | None:
        """Read everything live; None when the model is gone or going: what it owns is then the garbage collector's."""
        model = await self._cluster.get(kinds.VLLM_MODEL, key)
        if model is None or "deletionTimestamp" in model["metadata"]:
            return None
        labels = selector_labels(key.name)
        (children, gateway_api, policies_denied), revisions, pods = await asyncio.gather(
            self._load_children(key),
            self._cluster.list(kinds.CONTROLLER_REVISION, namespace=key.namespace, labels=labels),
            self._cluster.list(kinds.POD, namespace=key.namespace, labels=labels),
        )
        return Loaded(
            key=key,
            model=model,
            children=children,
            revisions=revs.read_revisions(revisions, uid=model["metadata"]["uid"]),
            pods=pods,
            gateway_api=gateway_api,
            policies_denied=policies_denied,
        )

    async def _load_children(self, key: Key) -> tuple[dict[Kind, Object | None], bool, ApiError | None]:
        """The children, whether the Gateway API is installed, and why NetworkPolicies may not be read, if they may not."""
        installed, denied = True, None

        async def get(kind: Kind) -> Object | None:
            nonlocal installed, denied
            try:
                return await self._cluster.get(kind, key)
            except ApiError as error:
                if kind is kinds.HTTP_ROUTE and error.category is Category.NOT_INSTALLED:
                    installed = False
                    return None
                if kind is kinds.NETWORK_POLICY and error.category is Category.DENIED:
                    denied = error  # Only who wants one has to know; all the rest of a model is done without.
                    return None
                raise

        found = await asyncio.gather(*(get(kind) for kind in kinds.CHILD_KINDS))
        return dict(zip(kinds.CHILD_KINDS, found, strict=True)), installed, denied

    # decide and build

    async def _decide(self, loaded: Loaded) -> Decision:
        """What is wanted, with its revision, which is made when these inputs have none yet. Raises Refusal."""
        key, uid = loaded.key, loaded.uid
        spec = parse_spec(loaded.model.get("spec") or {})
        check_implemented(spec, gateway=bool(self._settings.gateway_url))
        if spec.external is not None:
            return await self._decide_external(loaded, spec, spec.external)
        # What the spec alone says is checked first, and shows what is referred to: no hub is asked for a spec that cannot be.
        plan = decide_plan(spec, default_accelerator=self._settings.default_accelerator)
        status = loaded.model.get("status") or {}
        ranks = known_ranks(status)
        template, refusal = self._first_template(loaded, spec, plan, self._lora(key, spec, ranks))
        own_key = generated_key_secret(spec, key, self._settings)
        wanted_references = pod_references(template) | _auth_references(spec)
        try:
            references = await load_references(self._cluster, key.namespace, wanted_references)
        except Refusal:
            if own_key is None:
                raise
            await self._make_engine_key(key, uid)
            references = await load_references(self._cluster, key.namespace, wanted_references)
        if own_key is not None:
            self._check_ownership(kinds.SECRET, references.objects.get(("Secret", own_key)), uid)
        ranks, reading = await self._sizer.read_ranks(key, spec, references, ranks)
        lora = self._lora(key, spec, ranks)
        inputs = revision_inputs(spec, adapters=lora.as_json() if lora is not None and spec.adapters else None)
        wanted_hash = revs.inputs_hash(key.name, inputs, references.digests)
        wanted = 0 if spec.suspend else spec.replicas
        pinned = (
            self._but_for_adapters(loaded, spec, references, lora)
            or revs.find(loaded.revisions, wanted_hash)
            or await self._but_for_key(loaded, inputs, references, own_key)
        )
        if pinned is None:
            if refusal is not None:
                raise refusal
            if reading is not None:
                raise Refusal(Reason.READING_MODEL, f"reading what the adapter {reading} is")
            kept = _kept_decision(loaded.revisions, spec)
            data = await self._plan(key, uid, spec, references, lora, kept=kept)
            pinned = await self._new_revision(
                loaded, wanted_hash, data, wanted=wanted, user_template=spec.pod_template is not None
            )
        elif pinned is not loaded.revisions[-1]:
            pinned = await self._write_revision(loaded, pinned.name, pinned.inputs_hash, dict(pinned.data))
        elif self._has_no_node(loaded, pinned, wanted):
            other = await self._plan_anew(loaded, spec, references, pinned, lora)
            if other is not None:
                pinned = await self._new_revision(
                    loaded, wanted_hash, other, wanted=wanted, user_template=spec.pod_template is not None, anew=True
                )
        rollout = spec.rollout
        return Decision(
            spec=spec,
            pinned=pinned,
            wanted=wanted,
            suspended=bool(spec.suspend),
            children={
                kinds.DEPLOYMENT: self._deployment(pinned, wanted),
                kinds.SERVICE: build_service(key, uid),
                kinds.POD_DISRUPTION_BUDGET: build_pod_disruption_budget(key, uid, replicas=wanted),
                kinds.NETWORK_POLICY: build_network_policy(key, uid, spec, self._settings),
                **({kinds.HTTP_ROUTE: build_http_route(key, uid, spec, self._settings)} if loaded.gateway_api else {}),
            },
            adapters=wanted_adapters(spec, ranks),
            references=references,
            api_key=await self._pinned_api_key(key, pinned, references),
            automatic_rollout=rollout is None or rollout.strategy in (None, "Auto"),
            revision_history_limit=(rollout.revision_history_limit if rollout else None) or 10,
        )

    def _lora(self, key: Key, spec: VLLMModelSpec, ranks: Mapping[str, int]) -> Lora | None:
        """What the pods need for adapters. Raises Refusal."""
        return decide_lora(spec, key.name, self._settings, ranks)

    def _first_template(
        self, loaded: Loaded, spec: VLLMModelSpec, plan: Plan, lora: Lora | None
    ) -> tuple[Object, Refusal | None]:
        """What the spec alone comes to, for what it refers to. What was decided once may run an older vLLM, or was decided by an
        operator that knew fewer options, so that its options are not checked again: the refusal is for a spec that is new.

        Raises Refusal.
        """

        def build(*, checked: bool) -> Object:
            return build_pod_template(loaded.key, spec, plan=plan, settings=self._settings, checked=checked, lora=lora)

        try:
            return build(checked=True), None
        except Refusal as refusal:
            if refusal.reason is not Reason.INVALID_ENGINE_ARGS or not loaded.revisions:
                raise
            return build(checked=False), refusal

    async def _decide_external(self, loaded: Loaded, spec: VLLMModelSpec, external: External) -> Decision:
        """What is wanted of a model that runs elsewhere: no children, and what it was before is left without any. Raises Refusal."""
        references = await load_references(self._cluster, loaded.key.namespace, external_references(external))
        return Decision(
            spec=spec,
            pinned=None,
            wanted=0 if spec.suspend else min(spec.replicas, 1),
            suspended=bool(spec.suspend),
            children={kind: None for kind in kinds.CHILD_KINDS if kind is not kinds.HTTP_ROUTE or loaded.gateway_api},
            external=build_target(loaded.model, loaded.key, spec, references),
            references=references,
            revision_history_limit=0,
        )

    async def _plan(
        self,
        key: Key,
        uid: str,
        spec: VLLMModelSpec,
        references: LoadedReferences,
        lora: Lora | None,
        *,
        kept: Decided | None = None,
    ) -> dict[str, Any]:
        """What a revision keeps: the plan (`kept`: one that still holds), and the Deployment that follows from it. Raises Refusal."""
        decided = kept or await self._sizer.decide(key, uid, spec, references)
        traits = _traits(spec, decided, references)
        deployment = build_deployment(
            key,
            uid,
            spec,
            template=build_pod_template(
                key, spec, plan=decided.plan, settings=self._settings, lora=lora, traits=traits
            ),
            references_hash=content_hash(references.digests) if references.digests else "",
        )
        digest = content_hash(deployment["spec"]["template"])
        deployment["spec"]["template"]["metadata"].setdefault("annotations", {})[ANNOTATION_TEMPLATE] = digest
        image = resolve_image(spec, decided.plan, self._settings)
        return {
            "operatorVersion": __version__,
            "templateHash": digest,
            "servedModelNames": served_model_names(spec, key.name),
            "sizing": decided.status,
            "decided": {"inputsHash": content_hash(sizing_inputs(spec)), **decided.as_json()},
            "engine": {
                "image": image.image,
                **({"version": image.version} if image.version else {}),
                "optionsChecked": find(image.version) is not None,
                **_chosen(spec, traits, image.version),
            },
            **({"lora": lora.as_json()} if lora is not None else {}),
            "deployment": deployment,
        }

    async def _plan_anew(
        self, loaded: Loaded, spec: VLLMModelSpec, references: LoadedReferences, pinned: Pinned, lora: Lora | None
    ) -> dict[str, Any] | None:
        """What a revision without a node is to become now that nodes may be others; None: what it is. Raises Refusal."""
        before = pinned.data["sizing"]
        try:
            data = await self._plan(loaded.key, loaded.uid, spec, references, lora)
        except Refusal:
            if await self._sizer.is_lost(spec, before):
                raise
            return None
        # Compared by what was decided: another operator version may write the same plan in other words.
        if all(data["sizing"].get(name) == before.get(name) for name in DECIDED):
            return None
        log.info(
            "%s: planned anew for %s: no pod had a node with %s", loaded.key, data["sizing"].get("pool"), before["pool"]
        )
        return data

    @staticmethod
    def _has_no_node(loaded: Loaded, pinned: Pinned, wanted: int) -> bool:
        """Whether GPUs were decided for the revision, and no pod of it has found any."""
        sizing = pinned.data.get("sizing") or {}
        deployment = loaded.children[kinds.DEPLOYMENT]
        if wanted == 0 or not sizing.get("pool") or deployment is None or not revs.is_owned(deployment, loaded.uid):
            return False
        workload = observe_workload(deployment, loaded.pods, wanted=wanted, template_hash=pinned.template_hash)
        new = [pod for pod in workload.pods if pod.new and not pod.leaving]
        return any(pod.unschedulable for pod in new) and not any(pod.scheduled for pod in new)

    async def _keep(self, loaded: Loaded) -> Decision:
        """What to hold on to while the spec is refused: the newest revision, as it serves now."""
        raw = loaded.model.get("spec") or {}
        pinned = loaded.revisions[-1] if loaded.revisions else None
        deployment = loaded.children[kinds.DEPLOYMENT]
        if deployment is not None and not revs.is_owned(deployment, loaded.uid):
            deployment = None
        suspended = raw.get("suspend") is True
        serving = (deployment or {}).get("spec", {}).get("replicas")
        wanted = 0 if suspended else serving if isinstance(serving, int) else raw.get("replicas", 1)
        children: dict[Kind, Object | None] = {}
        if pinned is not None:
            children = {
                kinds.DEPLOYMENT: self._deployment(pinned, wanted),
                kinds.SERVICE: build_service(loaded.key, loaded.uid),
            }
        if not (self._settings.gateway_url and self._settings.model_network_policy_from):
            # Whatever the spec says: what serves is to be reached by others than a gateway that is no more.
            children[kinds.NETWORK_POLICY] = None
        return Decision(
            spec=None,
            pinned=pinned,
            wanted=wanted,
            suspended=suspended,
            children=children,
            adapters=wanted_before(loaded.model.get("status") or {}),
            api_key=await self._pinned_api_key(loaded.key, pinned),
            automatic_rollout=(raw.get("rollout") or {}).get("strategy") in (None, "Auto"),
        )

    async def _make_engine_key(self, key: Key, uid: str) -> None:
        """See that the Secret with the key that vLLM asks for is there. It is made once and never changed. Raises Refusal."""
        secret = await self._cluster.get(kinds.SECRET, Key(key.namespace, engine_key_secret(key.name)))
        self._check_ownership(kinds.SECRET, secret, uid)
        if secret is not None:
            return
        try:
            await self._cluster.create(kinds.SECRET, build_engine_key(key, uid, token_urlsafe(32)))
        except ApiError as error:
            if error.category is Category.DENIED:
                raise _denied(kinds.SECRET, error) from error
            raise
        self._on_write("create", kinds.SECRET.kind)
        log.info("%s: made the key that its vLLM asks for", key)

    @staticmethod
    def _but_for_adapters(
        loaded: Loaded, spec: VLLMModelSpec, references: LoadedReferences, lora: Lora | None
    ) -> Pinned | None:
        """The newest revision, if its pods take the adapters that are wanted now and nothing else has changed: what was made for
        others, for higher ranks, or for an empty list, restarts nothing.
        """
        latest = loaded.revisions[-1] if loaded.revisions else None
        if lora is None or latest is None or "lora" not in latest.data:
            return None
        made_for = Lora.from_json(latest.data["lora"])
        forms: tuple[Any, ...] = (made_for.as_json(), []) if made_for.holds(lora) else ()
        for adapters in forms:
            inputs = revision_inputs(spec, adapters=adapters)
            if revs.inputs_hash(loaded.key.name, inputs, references.digests) == latest.inputs_hash:
                return latest
        return None

    async def _but_for_key(
        self, loaded: Loaded, inputs: Mapping[str, Any], references: LoadedReferences, own_key: str | None
    ) -> Pinned | None:
        """The newest revision, if all that makes it another is whether vLLM asks for a generated key: a gateway that is switched
        on or off restarts nothing.
        """
        latest = loaded.revisions[-1] if loaded.revisions else None
        if latest is None:
            return None
        name = engine_key_secret(loaded.key.name)
        before = {each for each in pod_references(latest.deployment["spec"]["template"]) if each.name == name}
        if bool(before) == (own_key is not None):
            return None
        digests = {
            label: digest for label, digest in references.digests.items() if label != f"Secret/{name}/{ENGINE_KEY}"
        }
        if before:
            try:
                digests |= (await load_references(self._cluster, loaded.key.namespace, before)).digests
            except Refusal:
                return None
        same = revs.inputs_hash(loaded.key.name, inputs, digests) == latest.inputs_hash
        return latest if same else None

    async def _pinned_api_key(
        self, key: Key, pinned: Pinned | None, references: LoadedReferences | None = None
    ) -> str | None:
        """The API key of the pods as they were decided, for the operator's own probe: while the spec is refused too. The
        Secret may have been read already (`references`).
        """
        containers = pinned.deployment["spec"]["template"]["spec"]["containers"] if pinned is not None else []
        for container in containers:
            for variable in container.get("env") or []:
                selector = (variable.get("valueFrom") or {}).get("secretKeyRef")
                if container["name"] == CONTAINER and variable["name"] == "VLLM_API_KEY" and selector:
                    if references is not None and ("Secret", selector["name"]) in references.objects:
                        return references.secret_value(selector["name"], selector["key"])
                    secret = await self._cluster.get(kinds.SECRET, Key(key.namespace, selector["name"]))
                    found = LoadedReferences(objects={} if secret is None else {("Secret", selector["name"]): secret})
                    return found.secret_value(selector["name"], selector["key"])
        return None

    @staticmethod
    def _deployment(pinned: Pinned, wanted: int) -> Object:
        deployment = pinned.deployment
        return {**deployment, "spec": {**deployment["spec"], "replicas": wanted}}

    async def _new_revision(
        self,
        loaded: Loaded,
        wanted_hash: str,
        data: dict[str, Any],
        *,
        wanted: int,
        user_template: bool,
        anew: bool = False,
    ) -> Pinned:
        """Make the revision, after the API server has taken its Deployment: what it refuses leaves no trace.

        `anew`: there is one for these inputs already, but for GPUs that are gone.
        A crash in between does no harm: the next pass decides the same again and finds the Deployment in place.
        """
        live = loaded.children[kinds.DEPLOYMENT]
        self._check_ownership(kinds.DEPLOYMENT, live, loaded.uid)
        candidate = self._deployment(Pinned("", 0, wanted_hash, data), wanted)
        reason = Reason.INVALID_POD_TEMPLATE if user_template else Reason.INVALID_SPEC
        loaded.children[kinds.DEPLOYMENT] = await self._ensure(kinds.DEPLOYMENT, live, candidate, invalid=reason)
        # A revision's data cannot be changed: another plan for the same inputs has a name of its own.
        digest = content_hash({"inputs": wanted_hash, "data": data}, length=32) if anew else wanted_hash
        return await self._write_revision(loaded, revision_name(loaded.key.name, digest), wanted_hash, data)

    async def _write_revision(self, loaded: Loaded, name: str, wanted_hash: str, data: dict[str, Any]) -> Pinned:
        number = revs.next_number(loaded.revisions)
        obj = build_controller_revision(
            loaded.key, loaded.uid, name=name, inputs_hash=wanted_hash, revision=number, data=data
        )
        try:
            await self._write(kinds.CONTROLLER_REVISION, obj)
        except ApiError as error:
            if error.category is Category.DENIED:
                raise _denied(kinds.CONTROLLER_REVISION, error) from error
            raise
        log.info("%s: revision %s is number %d", loaded.key, obj["metadata"]["name"], number)
        pinned = Pinned(obj["metadata"]["name"], number, wanted_hash, data)
        loaded.revisions[:] = [known for known in loaded.revisions if known.name != pinned.name] + [pinned]
        return pinned

    # apply

    async def _apply(self, loaded: Loaded, decision: Decision, *, yielding: bool) -> dict[Kind, Object | None]:
        """Apply what differs and prune what is not wanted; the objects as they are then. Raises Refusal and ApiError."""

        async def one(kind: Kind, wanted: Object | None) -> tuple[Kind, Object | None]:
            live = loaded.children[kind]
            if wanted is None:
                if live is not None and revs.is_owned(live, loaded.uid):
                    await self._delete(kind, live)
                    live = None
                return kind, live
            if kind is kinds.NETWORK_POLICY and loaded.policies_denied is not None:
                raise _denied(kind, loaded.policies_denied)
            if kind is kinds.DEPLOYMENT and yielding:
                wanted = {**wanted, "spec": {**wanted["spec"], "strategy": YIELDED}}
            self._check_ownership(kind, live, loaded.uid)
            return kind, await self._ensure(kind, live, wanted)

        results = await asyncio.gather(
            *(one(kind, wanted) for kind, wanted in decision.children.items()), return_exceptions=True
        )
        done = {result[0]: result[1] for result in results if not isinstance(result, BaseException)}
        failures = [result for result in results if isinstance(result, BaseException)]
        # What nobody but the API server can mend comes first: a retry may settle the rest too.
        for failure in failures:
            if not isinstance(failure, Refusal):
                raise failure
        for failure in failures:
            raise failure
        return done

    async def _ensure(
        self, kind: Kind, live: Object | None, wanted: Object, *, invalid: Reason = Reason.CHILD_REJECTED
    ) -> Object:
        """Apply the object unless the live one has all of it already. Raises Refusal, with `invalid` when it is not valid."""
        digest = content_hash(wanted)
        annotations = {**(wanted["metadata"].get("annotations") or {}), ANNOTATION_APPLIED: digest}
        wanted = {**wanted, "metadata": {**wanted["metadata"], "annotations": annotations}}
        if live is not None and covers(live, wanted):
            return live
        identity = (kind.kind, (live or {}).get("metadata", {}).get("uid", ""))
        if live is not None and self._futile.get(identity) == (_version(live), digest):
            return live  # The API server holds on to another value than ours: applying again would only spin.
        try:
            try:
                result = await self._write(kind, wanted)
            except ApiError as error:
                if error.category is not Category.INVALID or live is None:
                    raise
                # Perhaps what somebody else has put there excludes ours, e.g. minAvailable our maxUnavailable, and an apply
                # cannot take away what others own.
                result = await self._write(kind, wanted, overwrite=True)
        except ApiError as error:
            if error.category is Category.DENIED:
                raise _denied(kind, error) from error
            if error.category is Category.INVALID:
                raise Refusal(invalid, f"the API server refuses the {kind}: {error.message}") from error
            raise
        if not covers(result, wanted):
            log.error("%s %s: the API server keeps other values than those applied", kind, key_of(wanted))
            self._futile[kind.kind, result["metadata"]["uid"]] = (_version(result), digest)
        return result

    @staticmethod
    def _check_ownership(kind: Kind, live: Object | None, uid: str) -> None:
        """Raise Refusal when somebody else's object has the name."""
        if live is None or revs.is_owned(live, uid):
            return
        metadata = live["metadata"]
        owner = next((each for each in metadata.get("ownerReferences") or [] if each.get("controller")), None)
        if owner is not None and owner.get("kind") == KIND and owner.get("name") == metadata["name"]:
            # Left from a deleted model of the same name; the garbage collector is about to take it.
            raise ApiError(f"{kind} of the model's predecessor is still there", category=Category.CONFLICT)
        holder = f"{owner['kind']} {owner['name']}" if owner else "nobody that Kubernetes knows of"
        raise Refusal(
            Reason.CHILD_CONFLICT,
            f'{kind} "{metadata["name"]}" exists in namespace "{metadata["namespace"]}" and is owned by {holder}; '
            "rename the model or delete that object",
        )

    async def _write(self, kind: Kind, obj: Object, *, overwrite: bool = False) -> Object:
        result = await (self._cluster.overwrite if overwrite else self._cluster.apply)(kind, obj)
        self._on_write("overwrite" if overwrite else "apply", kind.kind)
        log.info("%s: %s %s", key_of(obj), "overwrote" if overwrite else "applied", kind)
        return result

    async def _delete(self, kind: Kind, obj: Object) -> None:
        if await self._cluster.delete(kind, key_of(obj), uid=obj["metadata"]["uid"]):
            self._on_write("delete", kind.kind)
            log.info("%s: pruned %s", key_of(obj), kind)

    async def _prune_revisions(self, loaded: Loaded, decision: Decision) -> None:
        if decision.spec is None:
            return
        current = decision.pinned.name if decision.pinned else ""
        old = revs.superfluous(loaded.revisions, current=current, limit=decision.revision_history_limit)
        for pinned in old:
            where = Key(loaded.key.namespace, pinned.name)
            if await self._cluster.delete(kinds.CONTROLLER_REVISION, where, uid=pinned.uid):
                self._on_write("delete", kinds.CONTROLLER_REVISION.kind)

    # observe

    def _observe_workload(self, loaded: Loaded, decision: Decision) -> WorkloadObservation:
        deployment = loaded.children[kinds.DEPLOYMENT]
        if deployment is not None and not revs.is_owned(deployment, loaded.uid):
            deployment = None
        template_hash = decision.pinned.template_hash if decision.pinned else None
        return observe_workload(deployment, loaded.pods, wanted=decision.wanted, template_hash=template_hash)

    def _yielding(
        self, loaded: Loaded, decision: Decision, workload: WorkloadObservation
    ) -> tuple[bool, timedelta | None]:
        return should_yield(
            workload,
            automatic=decision.automatic_rollout and decision.wanted > 0,
            already=is_yielded(loaded.children[kinds.DEPLOYMENT]),
            now=self._clock(),
            patience=timedelta(seconds=self._timings.patience),
        )

    def _watch(self, key: Key, decision: Decision, workload: WorkloadObservation) -> None:
        """Have those asked who are to answer for the model."""
        if decision.external is not None and decision.wanted:
            self._external.watch(key, decision.external)
        else:
            self._external.forget(key)
        self._prober.watch(key, [target for _, target in _targets(decision, workload)])

    def _change_adapters(self, loaded: Loaded, decision: Decision, workload: WorkloadObservation) -> None:
        """Have the pods load and unload adapters, as far as it is known what they have."""
        key, probes = loaded.key, self._prober.results(loaded.key)
        found = [(pod, target) for pod, target in _targets(decision, workload) if pod.takes_adapters]
        self._loader.keep(key, {pod.uid for pod, _ in found})
        for pod, target in found:
            there = loaded_in(probes.get(pod.uid))
            if there is not None:
                status = loaded.model.get("status") or {}
                changes = find_changes(decision.adapters, status, there, static=_static(decision))
                self._loader.want(key, target, changes)

    def _adapter_fields(self, loaded: Loaded, decision: Decision, workload: WorkloadObservation) -> dict[str, Any]:
        """What the status says of adapters."""
        key = loaded.key
        return describe_adapters(
            decision.adapters,
            loaded.model.get("status") or {},
            workload.pods,
            self._prober.results(key),
            {pod.uid: self._loader.failures(key, pod.uid) for pod in workload.pods if pod.takes_adapters},
            static=_static(decision),
        )

    async def _observe_route(self, loaded: Loaded, decision: Decision) -> tuple[RouteObservation, str | None]:
        """What the gateways say, and the model's URL."""
        key = loaded.key
        inside = service_url(key, self._settings.cluster_domain)
        if decision.spec is None:
            previous = (loaded.model.get("status") or {}).get("url")
            route = loaded.children[kinds.HTTP_ROUTE]
            if route is None or not revs.is_owned(route, loaded.uid):
                return RouteObservation(None, Reason.NOT_ACCEPTED, "the spec is not accepted"), previous
            return observe_route(route, route["spec"].get("parentRefs") or []), previous
        wanted = build_http_route(key, loaded.uid, decision.spec, self._settings)
        if wanted is None:
            disabled = decision.spec.route is not None and decision.spec.route.enabled is False
            if disabled:
                return RouteObservation(
                    True, Reason.ROUTE_DISABLED, f"route.enabled is false; in the cluster: {inside}"
                ), inside
            if shared := self._settings.gateway_url:
                return self._at_gateway(key, loaded.model.get("status") or {}), shared
            message = f"neither route.parentRefs nor a default gateway is set; in the cluster: {inside}"
            return RouteObservation(True, Reason.NO_GATEWAY, message), inside
        if not loaded.gateway_api:
            message = "the cluster has no HTTPRoute kind; install the Gateway API CRDs or set route.enabled: false"
            return RouteObservation(False, Reason.GATEWAY_API_NOT_INSTALLED, message), inside
        parents = wanted["spec"]["parentRefs"]
        gateways = await asyncio.gather(*(self._gateway(key, parent) for parent in parents))
        url = next(
            (
                found
                for gateway, parent in zip(gateways, parents, strict=True)
                if (found := gateway_url(wanted, gateway, parent))
            ),
            inside,
        )
        for gateway, parent in zip(gateways, parents, strict=True):
            if gateway is None and parent.get("kind", "Gateway") == "Gateway":
                where = f"{parent.get('namespace') or key.namespace}/{parent['name']}"
                return RouteObservation(False, Reason.GATEWAY_NOT_FOUND, f"Gateway {where} does not exist"), inside
        return observe_route(loaded.children[kinds.HTTP_ROUTE], parents), url

    def _note_names(self, loaded: Loaded, decision: Decision, names: Sequence[str]) -> None:
        """Let others know, who may want the same names."""
        if not self._settings.gateway_url or decision.spec is None:
            return
        created = str(loaded.model["metadata"].get("creationTimestamp", ""))
        weight = (decision.spec.route or Route()).weight
        adapters = [each.name for each in decision.adapters]
        for other in self._served.note(loaded.key, created=created, names=names, weight=weight, adapters=adapters):
            self._wake(other)

    def _at_gateway(self, key: Key, previous: Mapping[str, Any]) -> RouteObservation:
        """What the gateway for all models does for this one. `previous`: the status as it is."""
        opinion = self._gateway_opinion(key)
        trouble = said_before(previous) if opinion == "unknown" else opinion
        if isinstance(trouble, Trouble):
            return RouteObservation(False, trouble.reason, trouble.message)
        where = f'requests to {self._settings.gateway_url} with "model": "{key}"'
        taken = self._served.taken(key)
        if not taken:
            return RouteObservation(True, Reason.BY_GATEWAY, where)
        others = ", ".join(f"{name} ({owner})" for name, owner in sorted(taken.items()))
        message = f"{where} only: names that other models have: {others}"
        return RouteObservation(True, Reason.NAME_TAKEN, message)

    async def _gateway(self, key: Key, parent: Mapping[str, Any]) -> Object | None:
        if parent.get("kind", "Gateway") != "Gateway":
            return None
        where = Key(parent.get("namespace") or key.namespace, parent["name"])
        self._gateways.setdefault(where, set()).add(key)
        try:
            return await self._cluster.get(kinds.GATEWAY, where)
        except ApiError as error:
            if error.category is Category.DENIED:
                return {}  # An operator of some namespaces may not read a gateway elsewhere: it has no address for us.
            raise

    # report

    @staticmethod
    def _served_names(key: Key, decision: Decision) -> list[str]:
        """Names that the newest revision is to list, or by which an external model is asked for."""
        if decision.external is not None and decision.spec is not None:
            return served_model_names(decision.spec, key.name)
        return list(decision.pinned.data.get("servedModelNames", [])) if decision.pinned else []

    def _status_fields(
        self, loaded: Loaded, decision: Decision, url: str | None, names: Sequence[str]
    ) -> dict[str, Any]:
        key, pinned = loaded.key, decision.pinned
        labels = sorted(selector_labels(key.name).items())
        fields: dict[str, Any] = {
            "url": url,
            "selector": ",".join(f"{label}={value}" for label, value in labels),
            "servedModelNames": list(names) or None,
        }
        if decision.external is not None and decision.spec is not None:
            previous = loaded.model.get("status") or {}
            fields |= external_fields(decision.spec, decision.external, self._external.result(key), previous)
        if pinned is not None:
            sizing = pinned.data.get("sizing") or {}
            fields |= {
                "revision": pinned.name,
                "sizing": sizing or None,
                "engine": pinned.data.get("engine"),
                "gpus": int(sizing.get("gpusPerReplica", 0)) * decision.wanted,
                "capabilities": {"tools": takes_tools(pinned.deployment["spec"]["template"])},
            }
        return fields

    async def _report(self, loaded: Loaded, subject: Subject, observation: Observation) -> None:
        previous = loaded.model.get("status") or {}
        now = self._clock().isoformat(timespec="seconds").replace("+00:00", "Z")
        status = reporting.report(subject, observation, previous=previous, now=now)
        summary = next(condition for condition in status["conditions"] if condition["type"] == "Ready")
        self.states[loaded.key] = (summary["status"], summary["reason"])
        self.reported[loaded.key] = (loaded.uid, wanted_version(loaded.model["metadata"]))
        self._note_sizing_error(loaded.key, status)
        if _same_status(status, previous):
            return
        body = {
            "apiVersion": kinds.VLLM_MODEL.api_version,
            "kind": kinds.VLLM_MODEL.kind,
            # With the uid, so that a model of the same name that has just taken its place does not get it.
            "metadata": {"name": loaded.key.name, "namespace": loaded.key.namespace, "uid": loaded.uid},
            "status": status,
        }
        try:
            await self._cluster.apply_status(kinds.VLLM_MODEL, body)
        except ApiError as error:
            if error.category is Category.NOT_FOUND:
                return  # Deleted while we looked; its event follows.
            raise
        self._on_write("apply", f"{KIND}/status")
        for happening in reporting.transitions(previous, status):
            await self._recorder.record(loaded.model, happening)

    def _note_sizing_error(self, key: Key, status: Mapping[str, Any]) -> None:
        """Keep the estimate's error for the metric, and warn once for each revision."""
        sizing = status.get("sizing") or {}
        percent = (sizing.get("measured") or {}).get("errorPercent")
        if percent is None:
            self.sizing_errors.pop(key, None)
            return
        self.sizing_errors[key] = percent / 100
        revision = str(status.get("revision"))
        if abs(percent) > SIZING_ERROR_PERCENT and self._warned.get(key) != revision:
            self._warned[key] = revision
            log.warning(
                "%s: the KV cache of %s was estimated at %d tokens, and vLLM has %d (%+d %%); please report it",
                key, sizing.get("pool") or "this machine", sizing["kvCacheTokens"], sizing["measured"]["kvCacheTokens"], percent,
            )  # fmt: skip

    async def report_failure(self, key: Key, reason: Reason, message: str) -> None:
        """Say on the model that the operator cannot get on, for failures that last. Keeps the rest of the status."""
        model = await self._cluster.get(kinds.VLLM_MODEL, key)
        if model is None:
            return
        previous = model.get("status") or {}
        self.states[key] = ("Unknown", str(reason))
        generation = model["metadata"]["generation"]
        if any(
            (each["type"], each["reason"], each["observedGeneration"]) == ("Accepted", str(reason), generation)
            for each in previous.get("conditions") or []
        ):
            return  # A message that is another each time would make a write, its event a pass, and so on without backoff.
        now = self._clock().isoformat(timespec="seconds").replace("+00:00", "Z")
        kept = [each for each in previous.get("conditions") or [] if each["type"] not in ("Accepted", "Ready")]
        verdicts = [
            Verdict(ConditionType.ACCEPTED, "Unknown", reason, message),
            Verdict(ConditionType.READY, "Unknown", reason, message),
        ]
        shown = [reporting.make_condition(verdict, generation, previous=previous, now=now) for verdict in verdicts]
        status = {**previous, "observedGeneration": generation, "conditions": [*shown, *kept]}
        if not _same_status(status, previous):
            await self._cluster.apply_status(
                kinds.VLLM_MODEL,
                {
                    "apiVersion": kinds.VLLM_MODEL.api_version,
                    "kind": KIND,
                    "metadata": {"name": key.name, "namespace": key.namespace, "uid": model["metadata"]["uid"]},
                    "status": status,
                },
            )
            await self._recorder.record(model, Happening("Warning", str(reason), message, "Reconcile"))


def wanted_version(metadata: Mapping[str, Any]) -> str:
    """What moves when a user wants something else of a model; its own status moves nothing."""
    refresh = (metadata.get("annotations") or {}).get(ANNOTATION_REFRESH, "")
    return f"{metadata.get('generation', 0)}/{refresh}"


def _targets(decision: Decision, workload: WorkloadObservation) -> list[tuple[PodObservation, Target]]:
    """The pods that answer requests, and how they are asked."""
    return [
        (pod, Target(pod.name, pod.uid, pod.address, PORT, decision.api_key))
        for pod in workload.pods
        if pod.ready and not pod.leaving and pod.address
    ]


def _static(decision: Decision) -> set[str]:
    return static_adapters(decision.spec) if decision.spec is not None else set()


def parse_spec(raw: Mapping[str, Any]) -> VLLMModelSpec:
    """The spec as a value. Raises Refusal naming each field that is wrong."""
    try:
        return VLLMModelSpec.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"spec.{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()[:5]
        ]
        raise Refusal(Reason.INVALID_SPEC, "; ".join(problems)) from error


def _kept_decision(revisions: Sequence[Pinned], spec: VLLMModelSpec) -> Decided | None:
    """What was decided for the newest revision, if nothing that decides about GPUs has changed since."""
    kept = revisions[-1].data.get("decided") if revisions else None
    if not kept or kept.get("inputsHash") != content_hash(sizing_inputs(spec)):
        return None
    try:
        return Decided.from_json(kept)
    except (ValueError, KeyError, TypeError):
        return None


def _traits(spec: VLLMModelSpec, decided: Decided, references: LoadedReferences) -> Traits | None:
    """What is known of the model for the choice of its options."""
    if decided.traits is None:
        return None
    template = spec.engine.chat_template if spec.engine else None
    reference = template.config_map_key_ref if template else None
    content = references.config_map_value(reference.name, reference.key) if reference else None
    return as_specified(spec, decided.traits, template=content)


def _chosen(spec: VLLMModelSpec, traits: Traits | None, version: str | None) -> dict[str, Any]:
    """What status.engine says of the model's task and of what was chosen for it."""
    choice = choose(spec, traits, version)
    fields = {
        "task": traits.task if traits else None,
        "toolCallParser": choice.tool_call_parser,
        "reasoningParser": choice.reasoning_parser,
        "reasons": list(choice.reasons),
    }
    return {name: value for name, value in fields.items() if value}


def _version(obj: Object) -> str:
    """What moves when somebody changes the object; a Deployment's resourceVersion moves with its status too, and its generation
    not with its metadata.
    """
    metadata = obj["metadata"]
    if "generation" not in metadata:
        return str(metadata["resourceVersion"])
    ours = {name: metadata.get(name) for name in ("labels", "annotations", "ownerReferences")}
    return f"{metadata['generation']}/{content_hash(ours)}"


def _same_status(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal, whatever the order of the conditions: server-side apply keeps its own."""

    def ordered(status: Mapping[str, Any]) -> dict[str, Any]:
        return {**status, "conditions": sorted(status.get("conditions") or [], key=lambda each: str(each["type"]))}

    return ordered(one) == ordered(other)


def _auth_references(spec: VLLMModelSpec) -> frozenset[Reference]:
    """The API key, which the operator's own probe needs even if podTemplate takes it out of the pod."""
    if spec.auth is None or spec.auth.api_key_secret_ref is None:
        return frozenset()
    reference = spec.auth.api_key_secret_ref
    return frozenset({Reference("Secret", reference.name, reference.key, False)})


def _denied(kind: Kind, error: ApiError) -> Refusal:
    """A 403: either our role lacks something, or a policy or quota stands in the way."""
    ours = error.status == 401 or " cannot " in error.message
    reason = Reason.PERMISSION_DENIED if ours else Reason.CHILD_REJECTED
    return Refusal(reason, f"the API server does not allow the {kind}: {error.message}")
