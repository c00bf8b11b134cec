"""LoRA adapters: what pods have, what they are to change, and what is said of it. Pure.

There are no records but the status: what a pod has is asked of the pod (its /v1/models), and what the operator has loaded, so that it
may be unloaded, is what the status names.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.reconcile.observe import PodObservation
from vllm_operator.serving.adapters import Change, Failure
from vllm_operator.serving.probe import ProbeResult, ProbeState
from vllm_operator.workload.adapters import adapter_source, path_of


@dataclass(frozen=True)
class WantedAdapter:
    """An adapter that every pod is to have."""

    name: str
    source: str
    path: str
    """What vLLM is given."""
    rank: int | None = None


def wanted_adapters(spec: VLLMModelSpec, ranks: Mapping[str, int]) -> tuple[WantedAdapter, ...]:
    """Those of a spec. `ranks`: by source. Raises Refusal."""
    return tuple(
        WantedAdapter(each.name, each.source, path_of(each), each.rank or ranks.get(each.source))
        for each in spec.adapters or ()
    )


def wanted_before(status: Mapping[str, Any]) -> tuple[WantedAdapter, ...]:
    """Those that the status names, for a spec that is refused: what served goes on."""
    found = []
    for each in status.get("adapters") or ():
        try:
            path = adapter_source(each["source"]).path
        except Refusal:
            continue
        if each["state"] != "Unloading":
            found.append(WantedAdapter(each["name"], each["source"], path, each.get("rank")))
    return tuple(found)


def known_ranks(status: Mapping[str, Any]) -> dict[str, int]:
    """Source → rank, as it was read once: a branch that moves, or a hub that is away, rolls nothing out. What is known of an adapter
    that vLLM refuses may be wrong.
    """
    return {
        each["source"]: each["rank"]
        for each in status.get("adapters") or ()
        if each.get("rank") and each["state"] != "Failed"
    }


def loaded_in(result: ProbeResult | None) -> dict[str, str] | None:
    """Adapter → what the pod's vLLM was given for it; None: that is not known now."""
    return dict(result.adapters) if result is not None and result.state is ProbeState.OK else None


def find_changes(
    wanted: Sequence[WantedAdapter], status: Mapping[str, Any], loaded: Mapping[str, str], *, static: Collection[str]
) -> list[Change]:
    """What a pod with these adapters is to change. Those that the operator has not loaded (`static`, and what no status names) stay."""
    names = {each.name for each in wanted}
    ours = {each["name"] for each in status.get("adapters") or ()} - names - set(static)
    changes = [Change("unload", name) for name in sorted(ours & loaded.keys())]
    for each in wanted:
        if each.name not in loaded:
            changes.append(Change("load", each.name, each.path))
        elif loaded[each.name] != each.path:
            changes.append(Change("replace", each.name, each.path))
    return changes


def describe_adapters(
    wanted: Sequence[WantedAdapter],
    status: Mapping[str, Any],
    pods: Sequence[PodObservation],
    probes: Mapping[str, ProbeResult],
    failures: Mapping[str, Mapping[str, Failure]],
    *,
    static: Collection[str],
) -> dict[str, Any]:
    """The status's fields. `status`: as it is. `failures`: by pod uid.

    Of a pod that has not been asked yet, by an operator that has just started, what was said before stands.
    """
    taking = [pod for pod in pods if pod.takes_adapters and pod.ready and not pod.leaving]
    names = [each.name for each in wanted]
    recorded = {each["name"]: each for each in status.get("adapters") or ()}
    before = {each["name"]: set(each.get("lacks") or ()) for each in status.get("adapterPods") or ()}
    entries, has = [], {}
    for pod in taking:
        loaded = loaded_in(probes.get(pod.uid))
        if loaded is not None:
            lacks = [name for name in names if name not in loaded]
        elif pod.name in before:
            lacks = [name for name in names if name in before[pod.name] or name not in recorded]
        else:
            continue
        has[pod.name] = (set(names) - set(lacks), loaded)
        entries.append({"name": pod.name, **({"lacks": sorted(lacks)} if lacks else {})})

    def describe(each: WantedAdapter) -> dict[str, Any]:
        def is_right(loaded: Mapping[str, str] | None) -> bool:
            if loaded is not None:
                return loaded.get(each.name) == each.path
            known = recorded.get(each.name) or {}
            return (known.get("source"), known.get("state")) == (each.source, "Loaded")

        done = sum(each.name in names_there and is_right(loaded) for names_there, loaded in has.values())
        failed = sorted(
            f"pod {pod.name}: {failure.message}"
            for pod in taking
            # One of before may not have room for it, and is about to go.
            if pod.new
            and (failure := failures.get(pod.uid, {}).get(each.name)) is not None
            and failure.change.path == each.path
        )
        known = recorded.get(each.name) or {}
        asked = all(loaded_in(probes.get(pod.uid)) is not None for pod in taking)
        if not taking:
            state = "Pending"
        elif failed:
            state = "Failed"
        elif done == len(taking):
            state = "Loaded"
        elif not asked and known.get("state") == "Failed" and known.get("source") == each.source:
            state, failed = "Failed", [known["message"]] if known.get("message") else []
        else:
            state = "Loading"
        message = {"message": failed[0]} if failed else {}
        rank = {} if each.rank is None else {"rank": each.rank}
        return {
            "name": each.name,
            "source": each.source,
            **rank,
            "state": state,
            "pods": f"{done}/{len(taking)}",
            **message,
        }

    found = [describe(each) for each in wanted]
    for name, known in sorted(recorded.items()):
        if name in names or name in static:
            continue
        # Its name is kept until no pod has it: it says that the operator has loaded it.
        there = [loaded_in(probes.get(pod.uid)) for pod in taking]
        left = sum(loaded is None or name in loaded for loaded in there)
        if left:
            kept = {field: known[field] for field in ("name", "source", "rank") if field in known}
            found.append({**kept, "state": "Unloading", "pods": f"{left}/{len(taking)}"})
    return {"adapters": found or None, "adapterPods": entries or None if found else None}
