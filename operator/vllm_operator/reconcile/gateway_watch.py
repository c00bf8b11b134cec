"""Whether the gateway for all models does what it is told: its pods, and what their agents say of Envoy.

It is asked for, not told: RouteReady must not speak of a gateway that nobody sees.
"""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from vllm_operator.api.conditions import ConditionType, Reason
from vllm_operator.api.names import AGENT_PORT, Key
from vllm_operator.api.text import shorten
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Cluster
from vllm_operator.cluster.errors import ApiError
from vllm_operator.reconcile.observe import PodObservation, observe_pod
from vllm_operator.serving.probe import Target

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two looks."""
TIMEOUT = 2.0
"""Seconds that an agent has to answer."""
LARGEST_ANSWER = 1024 * 1024
"""Bytes of an agent's answer that are read at most."""
LONGEST_TEXT = 500
"""Characters of what an agent says of a model."""


@dataclass(frozen=True)
class GatewayPods:
    """How the gateway's pods are found."""

    namespace: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Trouble:
    """Why the gateway does not do for a model what RouteReady would say."""

    reason: Reason
    message: str


Opinion = Trouble | Literal["well", "unknown"]
"""What is known of the gateway and a model. `unknown`: what was said before stands."""


@dataclass(frozen=True)
class Answer:
    """What one agent says that its Envoy has not taken."""

    everything: str | None = None
    """What concerns all models."""
    models: Mapping[Key, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What all pods together showed at one time."""

    ready: int
    """Pods that are ready."""
    answers: tuple[Answer, ...] = ()

    def trouble(self, key: Key) -> Trouble | None:
        """What stands in the way of a model's requests."""
        if not self.ready:
            return Trouble(Reason.GATEWAY_NOT_READY, "no pod of the gateway is ready")
        said = {text for each in self.answers for text in (each.models.get(key), each.everything) if text}
        return Trouble(Reason.REJECTED_BY_GATEWAY, "; ".join(sorted(said))) if said else None


def read_answer(document: Any) -> Answer:
    """What an agent's /rejected says. Raises ValueError for anything else."""
    try:
        everything = document["all"]
        return Answer(
            None if everything is None else _short(everything),
            {Key(*name.split("/")): _short(text) for name, text in document["models"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no answer of an agent: {error}") from error


def _short(text: str) -> str:
    return shorten(" ".join(text.split()), LONGEST_TEXT)


def judge(before: Look | None, now: Look | None, key: Key) -> Opinion:
    """What two looks in a row say of a model: trouble is believed, and its end is, when both show it.

    One look may fall into the moment in which Envoy is told something else, or the only pod is another one. That a pod is ready
    is believed at once.
    """
    if now is None:
        return "unknown"
    found = now.trouble(key)
    if before is None:
        return "unknown" if found else "well"
    last = before.trouble(key)
    if found and last:
        return found
    if found or (last and last.reason is not Reason.GATEWAY_NOT_READY):
        return "unknown"
    return "well"


def said_before(status: Mapping[str, Any]) -> Trouble | None:
    """The trouble of which a model's status speaks."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == ConditionType.ROUTE_READY and condition.get("reason") in (
            Reason.GATEWAY_NOT_READY,
            Reason.REJECTED_BY_GATEWAY,
        ):
            return Trouble(Reason(condition["reason"]), str(condition.get("message", "")))
    return None


class GatewayWatch:
    """Looks at the gateway's pods again and again, and wakes the models of which something else is to be said then."""

    def __init__(
        self,
        cluster: Cluster,
        client: httpx.AsyncClient,
        pods: GatewayPods,
        *,
        models: Callable[[], Iterable[Key]],
        wake: Callable[[Key], None],
        port: int = AGENT_PORT,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._pods = pods
        self._models = models
        self._wake = wake
        self._port = port
        self._jitter = jitter
        self._before: Look | None = None
        self._now: Look | None = None
        self._answers: dict[str, Answer] = {}
        """Pod uid → what its agent has said last: while it is started again, Envoy goes on as it was."""
        self._complaints: set[str] = set()

    def opinion(self, key: Key) -> Opinion:
        """What is known of the gateway and a model."""
        return judge(self._before, self._now, key)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL * (0.8 + 0.4 * self._jitter()))

    async def look(self) -> None:
        """Look once. What cannot be looked at leaves everything as it was known."""
        complaints: set[str] = set()
        try:
            found = await self._cluster.list(kinds.POD, namespace=self._pods.namespace, labels=dict(self._pods.labels))
        except ApiError as error:
            complaints.add(f"the gateway's pods cannot be listed: {error}")
        else:
            pods = [observe_pod(pod, None) for pod in found]
            ready = [pod for pod in pods if pod.ready and not pod.leaving and pod.address]
            answers = await asyncio.gather(*(self._ask(pod) for pod in ready))
            complaints |= {each for each in answers if isinstance(each, str)}
            said = {pod.uid: each for pod, each in zip(ready, answers, strict=True) if isinstance(each, Answer)}
            self._answers = {
                pod.uid: said.get(pod.uid) or self._answers[pod.uid]
                for pod in ready
                if pod.uid in said or pod.uid in self._answers
            }
            self._take(Look(len(ready), tuple(self._answers.values())))
        for complaint in sorted(complaints - self._complaints):
            log.warning("%s", complaint)
        self._complaints = complaints

    def _take(self, look: Look) -> None:
        earlier, self._before, self._now = self._before, self._now, look
        for key in list(self._models()):
            opinion = self.opinion(key)
            if opinion not in ("unknown", judge(earlier, self._before, key)):
                self._wake(key)

    async def _ask(self, pod: PodObservation) -> Answer | str:
        """What a pod's agent says, or why it says nothing."""
        target = Target(pod.name, pod.uid, pod.address or "", self._port)
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._client.stream("GET", f"{target.base_url}/rejected", timeout=TIMEOUT) as answer,
            ):
                answer.raise_for_status()
                return read_answer(json.loads(await _read(answer)))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError) as error:
            return f"gateway pod {pod.name}: its agent does not say what Envoy has not taken: {type(error).__name__}"


async def _read(answer: httpx.Response) -> bytes:
    """The body. Raises ValueError when it is larger than an agent's is."""
    text = b""
    async for part in answer.aiter_bytes():
        text += part
        if len(text) > LARGEST_ANSWER:
            raise ValueError(f"more than {LARGEST_ANSWER} bytes")
    return text
