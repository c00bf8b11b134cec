"""spec.adapters → what vLLM is asked to load, and what the pods need for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import CONTAINER
from vllm_operator.api.types import Adapter, Engine, VLLMModelSpec
from vllm_operator.engine.lora import ALLOW_UPDATING, DEFAULT_RANK, round_rank
from vllm_operator.engine.words import refusal
from vllm_operator.workload.names import by_gateway_alone, served_model_names
from vllm_operator.workload.settings import BuildSettings
from vllm_operator.workload.source import ModelSource, resolve_claim, resolve_source


@dataclass(frozen=True)
class Lora:
    """What the pods of a model with adapters need, whichever adapters these are."""

    max_rank: int
    """--max-lora-rank."""
    claims: tuple[str, ...] = ()
    """PersistentVolumeClaims with adapters, but for the model's own; sorted."""
    needed: int = 0
    """The highest rank among the adapters; 0: there are none yet."""

    def holds(self, other: "Lora") -> bool:
        """Whether pods that were made for this take the adapters of the other too."""
        return self.max_rank >= other.needed and set(self.claims) >= set(other.claims)

    def as_json(self) -> dict[str, Any]:
        """For a revision."""
        return {"maxRank": self.max_rank, "claims": list(self.claims)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Lora":
        """What `as_json` has made."""
        return cls(int(data["maxRank"]), tuple(data["claims"]))


def adapter_source(source: str) -> ModelSource:
    """Where an adapter is, by its `source`. Raises Refusal."""
    if source.startswith("/"):
        return ModelSource("path", source)
    scheme, separator, rest = source.partition("://")
    if separator and scheme == "pvc":
        return resolve_claim(source, rest, field="spec.adapters[].source")
    repository = rest if separator else source
    if (separator and scheme != "hf") or repository.count("/") != 1 or "@" in repository:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.adapters[].source is {source!r}: write org/name without a revision (vLLM takes none for an adapter), "
            "pvc://claim/path, or an absolute path",
        )
    return ModelSource("hub", repository)


def decide_lora(spec: VLLMModelSpec, name: str, settings: BuildSettings, ranks: Mapping[str, int]) -> Lora | None:
    """What the pods need; None: no adapters are wanted. `ranks`: by source, of adapters of which the spec does not say it.

    An empty list keeps vLLM ready for adapters. Raises Refusal.
    """
    if spec.adapters is None:
        return None
    if not by_gateway_alone(spec, settings):
        if not spec.adapters:
            return None
        raise Refusal(
            Reason.INVALID_SPEC,
            "spec.adapters: whoever reaches the pods could load adapters of his own (POST /adapters of vLLM asks for no key), so "
            "the model must be reached through the gateway for all models alone: remove route.parentRefs and route.enabled",
        )
    _check_names(spec, served_model_names(spec, name))
    needed = max((adapter.rank or ranks.get(adapter.source) or 0 for adapter in spec.adapters), default=0)
    assumed = needed
    if not all(adapter.rank or adapter.source in ranks for adapter in spec.adapters):
        assumed = max(needed, DEFAULT_RANK)
    highest = _argument(spec, "max-lora-rank")
    if not isinstance(highest, int):
        highest = round_rank(assumed or DEFAULT_RANK)
    elif needed > highest:
        raise refusal(f"spec.engine.args.max-lora-rank is {highest}, but an adapter of spec.adapters has rank {needed}")
    found = {adapter_source(adapter.source).claim for adapter in spec.adapters} - {resolve_source(spec).claim}
    claims = tuple(sorted(claim for claim in found if claim is not None))
    return Lora(highest, claims, min(assumed, highest))


def _check_names(spec: VLLMModelSpec, served: Sequence[str]) -> None:
    """Raise Refusal for names that vLLM has for something else."""
    others = {**dict.fromkeys(static_adapters(spec), "engine.args.lora-modules"), **dict.fromkeys(served, "the model")}
    for adapter in spec.adapters or ():
        if adapter.name in others:
            raise Refusal(
                Reason.INVALID_SPEC,
                f"spec.adapters: {adapter.name} is a name of {others[adapter.name]} already: choose another",
            )


def static_adapters(spec: VLLMModelSpec) -> set[str]:
    """Names of adapters that the user gives by engine.args: these are left alone."""
    given = _argument(spec, "lora-modules")
    found = set()
    for each in given if isinstance(given, list) else [given]:
        if isinstance(each, str):
            found.add(each.partition("=")[0])
        elif isinstance(each, Mapping):
            found.add(str(each.get("name")))
    return found


def _argument(spec: VLLMModelSpec, name: str) -> Any:
    args = (spec.engine or Engine()).args or {}
    return args.get(name, args.get(name.replace("-", "_")))


def path_of(adapter: Adapter) -> str:
    """What vLLM is given for an adapter. Raises Refusal."""
    return adapter_source(adapter.source).path


def takes_adapters(pod: Mapping[str, Any]) -> bool:
    """Whether vLLM in a pod, or in pods of a template, loads adapters by requests."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        for variable in container.get("env") or () if container.get("name") == CONTAINER else ():
            if variable.get("name") == ALLOW_UPDATING:
                return str(variable.get("value")).strip().lower() in ("1", "true")
    return False
