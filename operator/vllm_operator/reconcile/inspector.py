"""Facts of models in volumes (claims and images) and buckets: a Job in the model's namespace reads them; its last words tell them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from vllm_operator.api.names import Key, content_hash
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Cluster, Object, key_of
from vllm_operator.hub.errors import HubError, HubUnavailableError
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.library import KEPT, MOST_KEPT, REFUSED_KEPT
from vllm_operator.hub.wire import decode
from vllm_operator.workload.inspect import build_inspect_job
from vllm_operator.workload.source import ModelSource

log = logging.getLogger(__name__)

JOB_NAME = "batch.kubernetes.io/job-name"
"""Label that the Job controller puts on a Job's pods."""


@dataclass(frozen=True)
class Pending:
    """Facts that are still to come."""

    why: str
    stuck: bool = False
    """Whether something keeps the Job from its work."""


@dataclass(frozen=True)
class _Known:
    answer: ModelFacts | HubError
    until: float


class Inspector:
    """Makes Jobs, reads what they say, and takes them away."""

    def __init__(self, cluster: Cluster, *, image: str, clock: Callable[[], float] = monotonic) -> None:
        """`image`: the operator's own."""
        self._cluster = cluster
        self._image = image
        self._clock = clock
        self._known: dict[tuple[str, str, str], _Known] = {}

    async def look_up(
        self, key: Key, uid: str, spec: VLLMModelSpec, source: ModelSource, digests: Mapping[str, str]
    ) -> ModelFacts | Pending:
        """Facts of the model, or why they are still to come. Raises HubError and ApiError.

        `digests`: of the Secrets and ConfigMaps that the spec names; other keys may open what these did not.
        """
        keys = content_hash(dict(digests)) if source.kind == "bucket" else ""
        where = (key.namespace, source.claim or source.image or keys, source.path)
        known = self._known.get(where)
        if known is not None and self._clock() < known.until:
            if isinstance(known.answer, HubError):
                raise known.answer
            return known.answer
        wanted = build_inspect_job(key, uid, spec, source, image=self._image)
        name = wanted["metadata"]["name"]
        job = await self._cluster.get(kinds.JOB, Key(key.namespace, name))
        if job is None:
            await self._cluster.apply(kinds.JOB, wanted)
            log.info("%s: made Job %s to read what the model is", key, name)
            return Pending(f"Job {name} reads what {spec.model} is")
        pods = await self._cluster.list(kinds.POD, namespace=key.namespace, labels={JOB_NAME: name})
        answer = _answer(job, pods)
        if answer is None:
            trouble = _trouble(pods)
            return Pending(f"Job {name} reads what {spec.model} is{trouble}", stuck=bool(trouble))
        if isinstance(answer, HubUnavailableError) and not str(answer).startswith(source.path):
            answer = HubUnavailableError(f"{spec.model}: {answer}")
        while len(self._known) >= MOST_KEPT:
            del self._known[next(iter(self._known))]
        self._known[where] = _Known(answer, self._clock() + (REFUSED_KEPT if isinstance(answer, HubError) else KEPT))
        # Taken away at once: a failed one is then made anew, and nothing is left behind.
        await self._cluster.delete(kinds.JOB, key_of(job), uid=job["metadata"]["uid"])
        log.info("%s: %s", key, f"Job {name}: {answer}" if isinstance(answer, HubError) else f"Job {name} has said it")
        if isinstance(answer, HubError):
            raise answer
        return answer


def _answer(job: Object, pods: list[Object]) -> ModelFacts | HubError | None:
    """What the Job has said; None while it works."""
    failed = _condition(job, "Failed")
    said = [message for pod in pods if (message := _message(pod))]
    for message in said:
        try:
            return decode(message)
        except HubError as error:
            if failed is not None or _condition(job, "Complete") is not None:
                return error
    if failed is not None:
        return HubUnavailableError(
            f"the inspect Job failed: {failed.get('message') or failed.get('reason')}{_trouble(pods)}"
        )
    if _condition(job, "Complete") is not None:
        return HubUnavailableError("the inspect Job has ended and left no message")
    return None


def _condition(job: Object, kind: str) -> Mapping[str, Any] | None:
    conditions = (job.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind and each.get("status") == "True"), None)


def _message(pod: Object) -> str | None:
    """The termination message of a pod that has ended."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("message"):
            return str(ended["message"])
    return None


def _trouble(pods: list[Object]) -> str:
    """What keeps the pod from running, in the cluster's own words; empty when nothing does."""
    for pod in pods:
        status = pod.get("status") or {}
        for condition in status.get("conditions") or []:
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                return f"; no node for its pod: {condition.get('message')}"
        for container in status.get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("message"):
                return f"; its pod waits: {waiting.get('reason')}: {waiting['message']}"
    return ""
