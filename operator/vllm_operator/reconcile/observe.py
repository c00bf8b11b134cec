"""What is: children, pods and probes, read from live objects into values. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import CONTAINER
from vllm_operator.api.types import GROUP
from vllm_operator.cluster.base import Object
from vllm_operator.serving.external import ExternalResult
from vllm_operator.serving.probe import ProbeResult
from vllm_operator.workload.adapters import takes_adapters

ANNOTATION_TEMPLATE = f"{GROUP}/template-hash"
"""On every pod: hash of the pod template it was made from. Tells new pods from old ones."""


@dataclass(frozen=True)
class PodObservation:
    """One pod."""

    name: str
    uid: str
    address: str | None
    new: bool
    """Made from the template that is wanted now."""
    leaving: bool
    ready: bool
    scheduled: bool
    unschedulable: str | None
    """The scheduler's message, when it finds no node."""
    unschedulable_since: datetime | None
    trouble: tuple[Reason, str] | None
    """What keeps the container from running, if anything does."""
    restarts: int
    takes_adapters: bool = False
    """Its vLLM loads LoRA adapters by requests."""


@dataclass(frozen=True)
class WorkloadObservation:
    """The Deployment and its pods."""

    exists: bool
    wanted: int
    total: int
    updated: int
    ready: int
    available: int
    complete: bool
    """The Deployment controller says that it has rolled the newest template out completely."""
    observed: bool
    """The Deployment controller has seen the newest Deployment."""
    deadline_exceeded: str | None
    replica_failure: str | None
    pods: tuple[PodObservation, ...]

    @property
    def rolled_out(self) -> bool:
        """The newest template is all that runs."""
        settled = self.exists and self.observed and self.updated == self.wanted and self.total == self.updated
        return settled and (self.available >= self.wanted or self.complete)


@dataclass(frozen=True)
class RouteObservation:
    """The HTTPRoute and what its gateways say."""

    status: bool | None
    """True: every parent accepts it. False: one refuses. None: no answer yet."""
    reason: Reason
    message: str


@dataclass(frozen=True)
class Observation:
    """Everything that was seen of a model."""

    workload: WorkloadObservation
    probes: Mapping[str, ProbeResult]
    """By pod uid; pods that are ready and not here were not asked yet."""
    route: RouteObservation
    external: ExternalResult | None = None
    """What an external endpoint answered; None: it was not asked yet, or there is none."""


def observe_workload(
    deployment: Object | None, pods: Sequence[Object], *, wanted: int, template_hash: str | None
) -> WorkloadObservation:
    """Read a Deployment and its pods. `template_hash` is that of the template wanted now."""
    status: Mapping[str, Any] = (deployment or {}).get("status") or {}
    metadata: Mapping[str, Any] = (deployment or {}).get("metadata") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    progressing = conditions.get("Progressing", {})
    failure = conditions.get("ReplicaFailure", {})
    seen = tuple(sorted((observe_pod(pod, template_hash) for pod in pods), key=lambda pod: pod.name))
    return WorkloadObservation(
        exists=deployment is not None,
        wanted=wanted,
        total=status.get("replicas") or 0,
        updated=status.get("updatedReplicas") or 0,
        ready=status.get("readyReplicas") or 0,
        available=status.get("availableReplicas") or 0,
        complete=progressing.get("reason") == "NewReplicaSetAvailable",
        observed=(status.get("observedGeneration") or 0) >= (metadata.get("generation") or 1),
        deadline_exceeded=(
            str(progressing.get("message", "")) if progressing.get("reason") == "ProgressDeadlineExceeded" else None
        ),
        replica_failure=str(failure.get("message", "")) if failure.get("status") == "True" else None,
        pods=seen,
    )


def observe_pod(pod: Object, template_hash: str | None) -> PodObservation:
    """Read one pod."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    placed = conditions.get("PodScheduled", {})
    unschedulable = placed.get("status") == "False" and placed.get("reason") == "Unschedulable"
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return PodObservation(
        name=metadata["name"],
        uid=metadata["uid"],
        address=status.get("podIP"),
        new=template_hash is not None and (metadata.get("annotations") or {}).get(ANNOTATION_TEMPLATE) == template_hash,
        leaving="deletionTimestamp" in metadata or status.get("phase") in ("Succeeded", "Failed"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        scheduled=bool(spec.get("nodeName")),
        unschedulable=str(placed.get("message", "")) if unschedulable else None,
        unschedulable_since=_time(placed.get("lastTransitionTime")) if unschedulable else None,
        trouble=next((found for found in map(_trouble, containers) if found is not None), None),
        restarts=sum(
            container.get("restartCount") or 0 for container in containers if container.get("name") == CONTAINER
        ),
        takes_adapters=takes_adapters(pod),
    )


_PULL_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
_CONFIG_REASONS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "PreCreateHookError",
        "PostStartHookError",
    }
)


SIGILL = 4
_ILLEGAL = re.compile(r"Illegal instruction|\bSIGILL\b|\(exit code: -4\)|proc\(s\): \{[^}]*: -4\b")
"""How Python's faulthandler, a shell and vLLM (v1/executor/multiproc_executor.py, v1/engine/utils.py) say it of another process than
the container's first."""


def _trouble(container: Mapping[str, Any]) -> tuple[Reason, str] | None:
    """What is wrong with one container, from its status."""
    name = container.get("name", "")
    state: Mapping[str, Any] = container.get("state") or {}
    waiting: Mapping[str, Any] = state.get("waiting") or {}
    ended: Mapping[str, Any] = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    reason = waiting.get("reason", "")
    message = str(waiting.get("message", ""))
    if reason in _PULL_REASONS:
        # The kubelet goes back and forth between trying and waiting, with two wordings of one error.
        return Reason.IMAGE_PULL_FAILED, f"container {name}: {message.rpartition(': ErrImagePull: ')[2] or reason}"
    if reason in _CONFIG_REASONS:
        return Reason.CONTAINER_CONFIG_ERROR, f"container {name}: {reason}: {message}"
    running = "running" in state and container.get("ready")
    completed = ended.get("exitCode") == 0 and ended.get("reason") == "Completed" and reason != "CrashLoopBackOff"
    if running or not ended or completed:
        return None
    if ended.get("reason") == "OOMKilled":
        return Reason.OUT_OF_MEMORY, f"container {name} was killed: it used more memory than its limit"
    tail = last_lines(str(ended.get("message") or ""))
    if ended.get("exitCode") == 128 + SIGILL or ended.get("signal") == SIGILL or _ILLEGAL.search(tail):
        return Reason.ILLEGAL_INSTRUCTION, (
            f"container {name} ended by an illegal instruction (SIGILL): the node's CPU lacks what the image was built for, such as AVX2 "
            "or AVX512; choose other nodes (scheduling.nodeSelector), or another image (engine.image)"
        )
    cause = f"signal {ended['signal']}" if ended.get("signal") else f"exit code {ended.get('exitCode')}"
    said = f"container {name} ended with {cause}" + (f": {tail}" if tail else "")
    if "running" in state and (container.get("restartCount") or 0) <= 1:
        return Reason.CONTAINER_RESTARTED, f"started anew after {said}"
    return Reason.CRASH_LOOP_BACK_OFF, said


def last_lines(text: str, *, lines: int = 6, most: int = 1200) -> str:
    """The end of a log, short enough for a condition."""
    kept = [line.rstrip() for line in text.strip().splitlines() if line.strip()][-lines:]
    return "\n".join(kept)[-most:]


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def observe_route(route: Object | None, parents: Sequence[Mapping[str, Any]]) -> RouteObservation:
    """Read what gateways say of a route that is wanted; `parents` are its parentRefs."""
    if route is None:
        return RouteObservation(None, Reason.AWAITING_GATEWAY, "the HTTPRoute is not there yet")
    generation = route["metadata"].get("generation", 1)
    answers = (route.get("status") or {}).get("parents") or []
    for parent in parents:
        home = route["metadata"]["namespace"]
        name = f"{parent.get('namespace') or home}/{parent['name']}"
        matching = [
            answer for answer in answers if _parent(answer.get("parentRef") or {}, home) == _parent(parent, home)
        ]
        if not matching:
            return RouteObservation(
                None,
                Reason.AWAITING_GATEWAY,
                f"gateway {name} has not answered for the HTTPRoute; does its controller run?",
            )
        for answer in matching:
            found = _read_parent(name, answer, generation)
            if found is not None:
                return found
    return RouteObservation(True, Reason.ROUTE_ACCEPTED, "every gateway has accepted the route")


def _parent(reference: Mapping[str, Any], home: str) -> tuple[Any, ...]:
    """A parentRef with the Gateway API's defaults, so that a route's and a gateway's spelling of it compare equal."""
    return (
        reference.get("group", "gateway.networking.k8s.io"),
        reference.get("kind", "Gateway"),
        reference.get("namespace") or home,
        reference.get("name"),
        reference.get("sectionName"),
        reference.get("port"),
    )


def _read_parent(name: str, answer: Mapping[str, Any], generation: int) -> RouteObservation | None:
    """What one gateway's answer lacks; None when it accepts the newest route."""
    conditions = {condition["type"]: condition for condition in answer.get("conditions") or []}
    for wanted in ("Accepted", "ResolvedRefs"):
        condition = conditions.get(wanted)
        if condition is None or (condition.get("observedGeneration") or generation) < generation:
            return RouteObservation(
                None, Reason.AWAITING_GATEWAY, f"gateway {name} has not looked at the newest HTTPRoute yet"
            )
        if condition.get("status") != "True":
            said = condition.get("message") or "no message"
            return RouteObservation(
                False,
                Reason.ROUTE_REJECTED,
                f"gateway {name}: {wanted} is {condition['status']}: {condition['reason']}: {said}",
            )
    return None
