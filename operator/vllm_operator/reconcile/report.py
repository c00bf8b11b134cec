"""Observation → conditions, status and events. Pure, and the only place where status is made.

One small function per condition; each copes with what could not be observed. Messages are sorted and carry no times or
counters that move by themselves, so that status only changes when something did.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_operator.api.conditions import ConditionType, Reason
from vllm_operator.api.text import shorten
from vllm_operator.cluster.base import Object
from vllm_operator.reconcile.observe import Observation, PodObservation, WorkloadObservation
from vllm_operator.serving.external import ExternalState
from vllm_operator.serving.probe import ProbeState, missing_names
from vllm_operator.serving.startup import StartUp

Truth = Literal["True", "False", "Unknown"]

MESSAGE_LIMIT = 4096
"""Most characters of a message; the API allows 32768, people do not."""


@dataclass(frozen=True)
class Verdict:
    """What one condition is to say."""

    type: ConditionType
    status: Truth
    reason: Reason
    message: str


@dataclass(frozen=True)
class Subject:
    """What is reported on."""

    generation: int
    accepted: Verdict
    suspended: bool
    wanted: int
    """Replicas that are wanted now; 0 when suspended."""
    served_model_names: list[str]
    external: bool = False
    """It runs elsewhere: there are no pods."""
    yielding: bool = False
    """An old pod goes first because no GPU is free for the new one."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of status that the plan decides: url, gpus, revision, sizing, engine, selector, servedModelNames."""


TERMINAL = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.INVALID_ENGINE_ARGS,
        Reason.INVALID_PARALLELISM,
        Reason.INVALID_POD_TEMPLATE,
        Reason.NOT_IMPLEMENTED,
        Reason.NEEDS_GATEWAY,
        Reason.CHILD_CONFLICT,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_ACCESS_DENIED,
        Reason.INVALID_MODEL,
        Reason.DOES_NOT_FIT,
    }
)
"""Reasons of Accepted=False that last until somebody does something."""

PENDING = frozenset({Reason.READING_MODEL, Reason.HUB_UNAVAILABLE})
"""Reasons for which it is not known yet whether the spec can be carried out."""


def accepted() -> Verdict:
    """The spec can be carried out."""
    return Verdict(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, "the spec is carried out")


def refused(reason: Reason, message: str) -> Verdict:
    """The spec cannot be carried out, or it is not known yet whether it can."""
    return Verdict(ConditionType.ACCEPTED, "Unknown" if reason in PENDING else "False", reason, message)


def scheduled(subject: Subject, workload: WorkloadObservation) -> Verdict:
    """Every wanted pod of the newest revision has a node."""

    def verdict(status: Truth, reason: Reason, message: str) -> Verdict:
        return Verdict(ConditionType.SCHEDULED, status, reason, message)

    if subject.wanted == 0:
        return verdict("True", _idle_reason(subject), "no pods are wanted")
    if subject.external:
        return verdict("True", Reason.EXTERNAL, "it runs elsewhere: nothing is to be scheduled")
    new = [pod for pod in workload.pods if pod.new and not pod.leaving]
    stuck = [pod for pod in new if pod.unschedulable is not None]
    if stuck:
        said = "; ".join(sorted({pod.unschedulable or "" for pod in stuck}))
        if subject.yielding:
            return verdict("False", Reason.YIELDING, f"an old pod goes first, since the new one finds no node: {said}")
        return verdict("False", Reason.UNSCHEDULABLE, f"{len(stuck)} of {subject.wanted} pods: {said}")
    placed = sum(pod.scheduled for pod in new)
    if placed >= subject.wanted:
        return verdict("True", Reason.SCHEDULED, "every wanted pod has a node")
    if workload.replica_failure is not None:
        return verdict("False", Reason.PODS_REJECTED, workload.replica_failure)
    return verdict("Unknown", Reason.AWAITING_SCHEDULING, f"{placed} of {subject.wanted} pods have a node")


_TROUBLE_ORDER = (
    Reason.IMAGE_PULL_FAILED,
    Reason.CONTAINER_CONFIG_ERROR,
    Reason.OUT_OF_MEMORY,
    Reason.ILLEGAL_INSTRUCTION,
    Reason.CRASH_LOOP_BACK_OFF,
    Reason.CONTAINER_RESTARTED,
)


def workload_available(subject: Subject, workload: WorkloadObservation) -> Verdict:
    """The newest generation is rolled out and every wanted pod is ready."""

    def verdict(status: Truth, reason: Reason, message: str) -> Verdict:
        return Verdict(ConditionType.WORKLOAD_AVAILABLE, status, reason, message)

    if subject.accepted.status != "True" and not workload.exists:
        return verdict("False", Reason.NOT_ACCEPTED, "nothing runs, because the spec is not accepted")
    if subject.wanted == 0:
        return verdict(
            "False", _idle_reason(subject), "spec.suspend is true" if subject.suspended else "spec.replicas is 0"
        )
    if subject.external:
        return verdict("True", Reason.EXTERNAL, "it runs elsewhere: there are no pods")
    if workload.rolled_out and workload.available >= subject.wanted:
        return verdict("True", Reason.AVAILABLE, f"{subject.wanted} of {subject.wanted} pods are ready")
    new = [pod for pod in workload.pods if pod.new and not pod.leaving]
    trouble = _worst(new)
    if trouble is not None:
        return verdict("False", *trouble)
    if workload.replica_failure is not None:
        return verdict("False", Reason.PODS_REJECTED, workload.replica_failure)
    if workload.deadline_exceeded is not None:
        return verdict("False", Reason.DEADLINE_EXCEEDED, "the new pods were not ready within startup.budget")
    ready = sum(pod.ready for pod in new)
    old = [pod for pod in workload.pods if not pod.new and not pod.leaving]
    if old or (workload.total > workload.updated and workload.exists):
        return verdict(
            "False", Reason.ROLLING_OUT, f"{ready} of {subject.wanted} new pods are ready; {len(old)} old pods are left"
        )
    if workload.rolled_out:
        return verdict("False", Reason.POD_NOT_READY, f"{ready} of {subject.wanted} pods are ready")
    return verdict("False", Reason.STARTING, f"{ready} of {subject.wanted} pods are ready; the model is being loaded")


def _worst(pods: Sequence[PodObservation]) -> tuple[Reason, str] | None:
    troubles = [(pod.trouble[0], f"pod {pod.name}: {pod.trouble[1]}") for pod in pods if pod.trouble is not None]
    for reason in _TROUBLE_ORDER:
        for found, message in troubles:
            if found is reason:
                return reason, message
    return None


def serving(subject: Subject, observation: Observation, *, previous: Mapping[str, Any] | None = None) -> Verdict:
    """A pod answers /health with 200 and lists every served name, by the operator's own probe.

    An operator that has just started has asked nobody yet: what the status said before stands until then.
    """

    def verdict(status: Truth, reason: Reason, message: str) -> Verdict:
        return Verdict(ConditionType.SERVING, status, reason, message)

    known = _find(previous or {}, ConditionType.SERVING)
    said, words = str(known.get("reason")), str(known.get("message", ""))
    if subject.external:
        external = observation.external
        if external is not None and external.state is ExternalState.OK:
            return verdict("True", Reason.SERVING, "/v1/models lists the model")
        if external is not None:
            return verdict("False", _EXTERNAL_REASONS[external.state], external.detail)
        if known.get("status") in ("True", "False") and said in (Reason.SERVING, *_EXTERNAL_REASONS.values()):
            return verdict("True" if known["status"] == "True" else "False", Reason(said), words)
        return verdict("Unknown", Reason.NOT_PROBED, "the operator has not asked the endpoint yet")
    pods = [pod for pod in observation.workload.pods if pod.ready and not pod.leaving]
    if not pods:
        return verdict("False", Reason.NO_READY_PODS, "no pod is ready")
    failures: list[tuple[Reason, str]] = []
    good = 0
    asked = 0
    for pod in pods:
        result = observation.probes.get(pod.uid)
        if result is None:
            continue
        asked += 1
        missing = missing_names(result, subject.served_model_names) if result.state is ProbeState.OK else []
        if missing:
            failures.append((Reason.MODEL_NOT_LISTED, f"pod {pod.name}: /v1/models lacks {', '.join(sorted(missing))}"))
        elif result.state is not ProbeState.OK:
            failures.append((_PROBE_REASONS[result.state], f"pod {pod.name}: {result.detail}"))
        else:
            good += 1
    if good:
        if failures:
            said = "; ".join(sorted(message for _, message in failures))
            return verdict("True", Reason.SERVING, f"{good} of {len(pods)} ready pods answer; {said}")
        return verdict("True", Reason.SERVING, "/health is 200 and /v1/models lists every served name")
    if failures:
        reason, message = min(failures)
        return verdict("False", reason, message)
    if known.get("status") == "True" and said == Reason.SERVING:
        return verdict("True", Reason.SERVING, words)
    if said in _PROBE_REASONS.values() and any(f"pod {pod.name}: " in words for pod in pods):
        return verdict("False", Reason(said), words)
    return verdict("Unknown", Reason.NOT_PROBED, "the operator has not asked a pod yet")


def _find(status: Mapping[str, Any], wanted: ConditionType) -> Mapping[str, Any]:
    """A condition of a status; empty when it is not there."""
    return next((each for each in status.get("conditions") or [] if each.get("type") == wanted), {})


_PROBE_REASONS = {
    ProbeState.UNREACHABLE: Reason.UNREACHABLE,
    ProbeState.UNHEALTHY: Reason.HEALTH_CHECK_FAILED,
    ProbeState.NO_MODELS: Reason.MODEL_NOT_LISTED,
    ProbeState.KEY_REJECTED: Reason.API_KEY_REJECTED,
}


_EXTERNAL_REASONS = {
    ExternalState.NOT_ALLOWED: Reason.ADDRESS_NOT_ALLOWED,
    ExternalState.UNREACHABLE: Reason.UNREACHABLE,
    ExternalState.TLS_FAILED: Reason.TLS_FAILED,
    ExternalState.KEY_REJECTED: Reason.API_KEY_REJECTED,
    ExternalState.UNHEALTHY: Reason.HEALTH_CHECK_FAILED,
    ExternalState.NOT_OPENAI: Reason.NOT_OPENAI,
    ExternalState.MODEL_NOT_LISTED: Reason.MODEL_NOT_LISTED,
}


def route_ready(observation: Observation) -> Verdict:
    """The gateway has accepted the route, or none is wanted."""
    route = observation.route
    status: Truth = "Unknown" if route.status is None else "True" if route.status else "False"
    return Verdict(ConditionType.ROUTE_READY, status, route.reason, route.message)


def ready(subject: Subject, workload: WorkloadObservation, others: Iterable[Verdict]) -> Verdict:
    """A request sent through the route would be answered now, by the newest generation.

    The first condition that does not hold gives reason and message.
    """

    def verdict(status: Truth, reason: Reason, message: str) -> Verdict:
        return Verdict(ConditionType.READY, status, reason, message)

    by_type = {other.type: other for other in others}
    available = by_type[ConditionType.WORKLOAD_AVAILABLE]
    place = by_type[ConditionType.SCHEDULED]
    if subject.accepted.status != "True":
        return verdict("False", subject.accepted.reason, subject.accepted.message)
    if subject.wanted == 0:
        return verdict("False", available.reason, available.message)
    if not workload.rolled_out and not subject.external:
        # What keeps a pod from a node says more than "starting".
        cause = place if place.status == "False" else available
        return verdict("False", cause.reason, cause.message)
    serve = by_type[ConditionType.SERVING]
    if serve.status != "True":
        # A pod that is not ready says why better than a probe that found nobody.
        cause = available if serve.reason is Reason.NO_READY_PODS and available.status == "False" else serve
        return verdict("Unknown" if cause.status == "Unknown" else "False", cause.reason, cause.message)
    route = by_type[ConditionType.ROUTE_READY]
    if route.status != "True":
        return verdict(route.status, route.reason, route.message)
    return verdict("True", Reason.READY, "requests are answered")


def kstatus(subject: Subject, summary: Verdict, workload: WorkloadObservation) -> list[Verdict]:
    """Reconciling or Stalled, each only while true, as kstatus (Flux, kpt, kubectl wait) reads them."""
    if summary.status == "True" or (subject.accepted.status == "True" and subject.wanted == 0):
        return []
    stalled = subject.accepted.status == "False" and subject.accepted.reason in TERMINAL
    if stalled or workload.deadline_exceeded is not None:
        return [Verdict(ConditionType.STALLED, "True", summary.reason, summary.message)]
    return [Verdict(ConditionType.RECONCILING, "True", summary.reason, summary.message)]


def report(subject: Subject, observation: Observation, *, previous: Mapping[str, Any], now: str) -> Object:
    """The whole status.

    `previous` is the status as it is; a condition whose status is unchanged keeps its lastTransitionTime. `now` is RFC 3339.
    """
    workload = observation.workload
    verdicts = [
        subject.accepted,
        scheduled(subject, workload),
        workload_available(subject, workload),
        serving(subject, observation, previous=previous),
        route_ready(observation),
    ]
    summary = ready(subject, workload, verdicts)
    verdicts += [summary, *kstatus(subject, summary, workload)]
    lengths = [result.max_model_len for result in observation.probes.values() if result.max_model_len is not None]
    same_revision = previous.get("revision") == subject.fields.get("revision")
    known_length = previous.get("maxModelLen") if same_revision else None
    fields = dict(subject.fields)
    # What was measured stays until a pod of the revision says otherwise: an operator that has just started has asked nobody yet.
    known_figures = (previous.get("sizing") or {}).get("measured") if same_revision else None
    figures = {**(known_figures or {}), **(measured(fields.get("sizing") or {}, observation) or {})}
    if fields.get("sizing") and figures:
        fields["sizing"] = {**fields["sizing"], "measured": figures}
    return {
        "observedGeneration": subject.generation,
        "conditions": [make_condition(verdict, subject.generation, previous=previous, now=now) for verdict in verdicts],
        "replicas": workload.total,
        "readyReplicas": workload.ready,
        "updatedReplicas": workload.updated,
        "replicaSummary": "external" if subject.external else f"{workload.ready}/{subject.wanted}",
        **{
            name: value
            for name, value in {"maxModelLen": min(lengths, default=known_length), **fields}.items()
            if value is not None
        },
    }


def measured(sizing: Mapping[str, Any], observation: Observation) -> Object | None:
    """What vLLM says of its memory, next to what was estimated; None when no pod of the revision has said anything."""
    new = {pod.uid for pod in observation.workload.pods if pod.new}
    said = [result for uid, result in observation.probes.items() if uid in new]
    starts = [result.start_up or StartUp() for result in said]
    tokens = min((each.kv_cache_tokens for each in said if each.kv_cache_tokens is not None), default=None)
    estimate = sizing.get("kvCacheTokens")
    figures = {
        "kvCacheTokens": tokens,
        "errorPercent": round(100 * (estimate - tokens) / tokens) if estimate is not None and tokens else None,
        "weights": _gib(max, (each.weights for each in starts)),
        "kvCache": _gib(min, (each.kv_cache for each in starts)),
        "cudaGraphs": _gib(max, (each.cuda_graphs for each in starts)),
        "loadSeconds": max(
            (math.ceil(each.load_seconds) for each in starts if each.load_seconds is not None), default=None
        ),
    }
    return {name: value for name, value in figures.items() if value is not None} or None


def _gib(choose: Callable[[Iterable[float]], float], values: Iterable[float | None]) -> str | None:
    known = [value for value in values if value is not None]
    return f"{choose(known):.2f}Gi" if known else None


def make_condition(verdict: Verdict, generation: int, *, previous: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The condition as metav1.Condition has it."""
    before = _find(previous, verdict.type)
    unchanged = before.get("status") == verdict.status
    return {
        "type": str(verdict.type),
        "status": verdict.status,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if unchanged else now,
        "reason": str(verdict.reason),
        "message": shorten(verdict.message, MESSAGE_LIMIT),
    }


def _idle_reason(subject: Subject) -> Reason:
    return Reason.SUSPENDED if subject.suspended else Reason.SCALED_TO_ZERO


@dataclass(frozen=True)
class Happening:
    """Something worth an Event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    action: str


def transitions(previous: Mapping[str, Any], status: Mapping[str, Any]) -> list[Happening]:
    """Events for conditions that changed: Accepted and Ready, whenever status or reason moved."""
    before = {condition["type"]: condition for condition in previous.get("conditions") or []}
    happenings: list[Happening] = []
    for condition in status["conditions"]:
        if condition["type"] not in (ConditionType.ACCEPTED, ConditionType.READY):
            continue
        known = before.get(condition["type"], {})
        if (known.get("status"), known.get("reason")) == (condition["status"], condition["reason"]):
            continue
        if condition["reason"] == Reason.NOT_PROBED:
            continue  # Lasts for milliseconds.
        if condition["type"] == ConditionType.READY and _says_nothing_new(status, condition):
            continue
        quiet = condition["status"] == "True" or condition["reason"] in _CALM
        happenings.append(
            Happening("Normal" if quiet else "Warning", condition["reason"], condition["message"], condition["type"])
        )
    return [*happenings, *_of_adapters(previous, status)]


def _of_adapters(previous: Mapping[str, Any], status: Mapping[str, Any]) -> list[Happening]:
    """Events for adapters that every pod has now, or that a pod refuses."""
    before = {each["name"]: each for each in previous.get("adapters") or ()}
    found = []
    for each in status.get("adapters") or ():
        known = before.get(each["name"], {})
        if (known.get("state"), known.get("source")) == (each["state"], each["source"]):
            continue
        if each["state"] == "Loaded":
            found.append(
                Happening("Normal", "AdapterLoaded", f"{each['name']}: {each['pods']} pods have it", "Adapter")
            )
        elif each["state"] == "Failed":
            said = f"{each['name']}: {each.get('message', '')}"
            found.append(Happening("Warning", "AdapterFailed", said, "Adapter"))
    return found


_CALM = frozenset(
    str(reason)
    for reason in (
        Reason.STARTING,
        Reason.ROLLING_OUT,
        Reason.AWAITING_SCHEDULING,
        Reason.AWAITING_GATEWAY,
        Reason.NOT_PROBED,
        Reason.SUSPENDED,
        Reason.SCALED_TO_ZERO,
        Reason.YIELDING,
    )
)


def _says_nothing_new(status: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    """Ready only repeats Accepted, which has its own event."""
    return any(
        other["type"] == ConditionType.ACCEPTED and other["status"] != "True" and other["reason"] == condition["reason"]
        for other in status["conditions"]
    )
