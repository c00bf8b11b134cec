"""The part of `decide` that has to look around: what the model is, and which GPUs the cluster has. It decides nothing itself."""

from collections.abc import Mapping
from dataclasses import replace

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import Key
from vllm_operator.api.types import Engine, Hub, VLLMModelSpec
from vllm_operator.hub.errors import (
    GatedModelError,
    HubError,
    HubUnavailableError,
    InvalidModelError,
    ModelNotFoundError,
)
from vllm_operator.hub.hugging_face import AdapterFacts, HubFacts
from vllm_operator.hub.library import HubSource, Library
from vllm_operator.hub.read import facts_by_hand
from vllm_operator.reconcile.inspector import Inspector, Pending
from vllm_operator.reconcile.nodes import Nodes
from vllm_operator.reconcile.references import LoadedReferences
from vllm_operator.sizing.decide import Decided, Known, decide, is_fixed, still_there
from vllm_operator.sizing.pools import Pools, read_pools
from vllm_operator.sizing.wanted import pod_constraints, read_bytes, read_version
from vllm_operator.workload.adapters import adapter_source
from vllm_operator.workload.settings import BuildSettings
from vllm_operator.workload.source import ModelSource, resolve_source

HUB_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HOME"})
"""Variables by which a pod may find a model that the operator does not."""

_REASONS: tuple[tuple[type[HubError], Reason], ...] = (
    (GatedModelError, Reason.MODEL_ACCESS_DENIED),
    (ModelNotFoundError, Reason.MODEL_NOT_FOUND),
    (InvalidModelError, Reason.INVALID_MODEL),
)


class Sizer:
    """Sizes of models."""

    def __init__(
        self,
        nodes: Nodes,
        library: Library[HubFacts],
        *,
        inspector: Inspector | None,
        settings: BuildSettings,
        asks_hub: bool = True,
        adapters: Library[AdapterFacts] | None = None,
    ) -> None:
        """`inspector`: None when no Jobs can be made. `asks_hub`: False when only hubs that a model names itself are to be asked.
        `adapters`: None when no hub is asked about LoRA adapters.
        """
        self._adapters = adapters
        self._asks_hub = asks_hub
        self._nodes = nodes
        self._library = library
        self._inspector = inspector
        self._settings = settings

    async def decide(self, key: Key, uid: str, spec: VLLMModelSpec, references: LoadedReferences) -> Decided:
        """The plan for a spec. Raises Refusal, also while the model's files are being read, and ApiError."""
        known = await self._known(key, uid, spec, references)
        if known.facts is not None:
            known = replace(known, pools=await self._pools(spec))
        return decide(
            spec,
            known,
            default_accelerator=self._settings.default_accelerator,
            version=read_version(self._settings.vllm_version),
        )

    async def read_ranks(
        self, key: Key, spec: VLLMModelSpec, references: LoadedReferences, known: Mapping[str, int]
    ) -> tuple[dict[str, int], str | None]:
        """Ranks of the adapters of which the spec does not say them, by source, as far as they can be known (`known`: from before);
        and the source of one that is being read. What the hub does not tell is vLLM's to find out.
        """
        hub = spec.hub or Hub()
        token = hub.token_secret_ref
        ranks, reading = {}, None
        for source in sorted({each.source for each in spec.adapters or () if each.rank is None}):
            if source in known:
                ranks[source] = known[source]
                continue
            place = adapter_source(source)
            if place.kind != "hub" or self._adapters is None or (not self._asks_hub and hub.endpoint is None):
                continue
            value = references.secret_value(token.name, token.key) if token is not None else None
            try:
                read = await self._adapters.look_up(HubSource(place.path, None, hub.endpoint, value), key)
            except HubError:
                continue
            if read is None:
                reading = source
            else:
                ranks[source] = read.rank
        return ranks, reading

    async def is_lost(self, spec: VLLMModelSpec, sizing: dict[str, object]) -> bool:
        """Whether the pool that was decided on is not there any more."""
        pools = await self._pools(spec)
        return pools is not None and not still_there(sizing, pools)

    async def _pools(self, spec: VLLMModelSpec) -> Pools | None:
        nodes = await self._nodes.read()
        if nodes is None and not self._settings.declared_pools:
            return None
        tolerations, selector = pod_constraints(spec)
        return read_pools(
            nodes or (), tolerations=tolerations, node_selector=selector, declared=self._settings.declared_pools
        )

    async def _known(self, key: Key, uid: str, spec: VLLMModelSpec, references: LoadedReferences) -> Known:
        """What the model is; pools come later. Raises Refusal."""
        if spec.model_facts is not None:
            weights = spec.model_facts.weights
            try:
                return Known(
                    facts=facts_by_hand(
                        spec.model_facts.config, weights_bytes=None if weights is None else read_bytes(str(weights))
                    )
                )
            except HubError as error:
                raise Refusal(Reason.INVALID_SPEC, f"spec.modelFacts.config: {error}") from error
        source = resolve_source(spec)
        try:
            match source.kind:
                case "hub":
                    return await self._of_hub(key, spec, source, references)
                case "pvc" | "oci" | "bucket":
                    return await self._by_job(key, uid, spec, source, references)
                case _:
                    return Known(
                        unread="the model is a path in the container, which the operator cannot read; give modelFacts"
                    )
        except HubUnavailableError as error:
            return Known(unread=str(error), may_come=True)
        except HubError as error:
            fixed = is_fixed(spec, default_accelerator=self._settings.default_accelerator)
            own = source.kind == "hub" and any(
                variable.name in HUB_VARIABLES for variable in (spec.engine or Engine()).env or ()
            )
            if own or (fixed and isinstance(error, InvalidModelError)):
                return Known(unread=str(error))
            reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
            raise Refusal(reason, str(error)) from error

    async def _of_hub(self, key: Key, spec: VLLMModelSpec, source: ModelSource, references: LoadedReferences) -> Known:
        hub = spec.hub or Hub()
        if not self._asks_hub and hub.endpoint is None:
            return Known(unread="the operator is set to ask no hub")
        token = hub.token_secret_ref
        wanted = HubSource(
            source.path,
            source.revision,
            hub.endpoint,
            references.secret_value(token.name, token.key) if token is not None else None,
        )
        read = await self._library.look_up(wanted, key)
        if read is None:
            raise Refusal(Reason.READING_MODEL, f"reading what {source.path} is")
        return Known(facts=read.facts, commit=read.commit)

    async def _by_job(
        self, key: Key, uid: str, spec: VLLMModelSpec, source: ModelSource, references: LoadedReferences
    ) -> Known:
        if self._inspector is None:
            return Known(
                unread=f"{spec.model} is read by a Job, and the operator does not know its own image to make one with; give modelFacts"
            )
        found = await self._inspector.look_up(key, uid, spec, source, references.digests)
        if isinstance(found, Pending) and found.stuck:
            return Known(unread=found.why, may_come=True)
        if isinstance(found, Pending):
            raise Refusal(Reason.READING_MODEL, found.why)
        return Known(facts=found)
