"""The operator's own probe: what a pod's vLLM answers to /health and /v1/models.

The kubelet's readiness is not enough: it knows nothing of served names, and takes three failures to notice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from vllm_operator.api.names import Key
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.serving.startup import StartUp, read_start_up
from vllm_operator.serving.tasks import cancel

log = logging.getLogger(__name__)

TIMEOUT = 2.0
"""Seconds that one request may take."""
LONGEST_PAUSE = 4.0
"""A pod that goes on not answering is asked less and less often, down to once in so many intervals."""
CACHE_INFO = "vllm:cache_config_info"
LARGEST_METRICS = 4 * 1024 * 1024
"""Characters of /metrics that are read at most."""
FIGURES_PAUSE = 60.0
"""Seconds after which a pod that did not tell its figures is asked for them again."""
FIGURES_TRIES = 5
LOGS_AT_ONCE = 2
"""Logs that are read at the same time: an operator that starts among a thousand pods is in no hurry to know."""
CONFIRM_AFTER = 0.5
"""Seconds after which a failure is looked at again before it is believed."""


class ProbeState(Enum):
    """What a probe found."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    UNHEALTHY = "unhealthy"
    NO_MODELS = "no models"
    KEY_REJECTED = "key rejected"


@dataclass(frozen=True)
class ProbeResult:
    """What one pod answered."""

    state: ProbeState
    detail: str = ""
    """For people; empty when all is well."""
    models: tuple[str, ...] = ()
    """Names in /v1/models, sorted."""
    max_model_len: int | None = None
    """Context length in tokens, as /v1/models has it."""
    kv_cache_tokens: int | None = None
    """Tokens that the KV cache holds, as /metrics has it; None until it was read, and where there is no such cache."""
    start_up: StartUp | None = None
    """What the pod's log says of its start; None until it was read."""
    adapters: tuple[tuple[str, str], ...] = ()
    """LoRA adapters among the models, each with the path or repository that vLLM was given; sorted."""


@dataclass(frozen=True)
class Target:
    """A pod to be asked."""

    pod: str
    uid: str
    address: str
    """IP address of the pod."""
    port: int
    api_key: str | None = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """Base URL of the pod's server."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"


async def probe(client: httpx.AsyncClient, target: Target) -> ProbeResult:
    """Ask one pod. Never raises for what the pod does."""
    try:
        health = await _get(client, f"{target.base_url}/health")
        if health.status_code != 200:
            return ProbeResult(ProbeState.UNHEALTHY, f"/health answers {health.status_code}")
        headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
        answer = await _get(client, f"{target.base_url}/v1/models", headers)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return ProbeResult(ProbeState.UNREACHABLE, f"cannot connect to port {target.port}: {_words(error)}")
    except (httpx.TimeoutException, TimeoutError):
        return ProbeResult(ProbeState.UNHEALTHY, f"no answer within {TIMEOUT:g} s")
    except httpx.HTTPError as error:
        return ProbeResult(ProbeState.UNHEALTHY, f"the answer broke off: {_words(error)}")
    if answer.status_code == 401:
        return ProbeResult(ProbeState.KEY_REJECTED, "/v1/models answers 401 to the key of spec.auth")
    if answer.status_code != 200:
        return ProbeResult(ProbeState.NO_MODELS, f"/v1/models answers {answer.status_code}")
    return _read_models(answer)


async def read_kv_cache_tokens(client: httpx.AsyncClient, target: Target) -> int | None:
    """Tokens that a pod's KV cache holds, by /metrics; None when it does not say. Raises httpx.HTTPError and TimeoutError.

    The first lines of a long text that nobody else needs are kept only if they are the one that is looked for.
    """
    async with asyncio.timeout(TIMEOUT), client.stream("GET", f"{target.base_url}/metrics", timeout=TIMEOUT) as answer:
        read = 0
        async for line in answer.aiter_lines():
            read += len(line)
            if answer.is_success and line.startswith(f"{CACHE_INFO}{{"):
                return _kv_cache_tokens(line)
            if read > LARGEST_METRICS:
                break
    return None


def _kv_cache_tokens(line: str) -> int | None:
    """Tokens by the info metric of vLLM's cache (v1/metrics/loggers.py, CacheConfig.metrics_info).

    `kv_cache_size_tokens` is the concurrency at the whole context × that context, of one data-parallel rank. Older versions have
    only blocks: times the block size they are tokens where every layer keeps every token, and too many for hybrid models.
    """
    try:
        (family,) = text_string_to_metric_families(line + "\n")
        labels = family.samples[0].labels
        if labels.get("kv_cache_size_tokens", "None") != "None":
            return int(labels["kv_cache_size_tokens"])
        return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    except (ValueError, KeyError, IndexError):
        return None


async def _get(client: httpx.AsyncClient, url: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """GET, within TIMEOUT in all: httpx's own timeouts are for each chunk, so a trickle would hold the probe for ever."""
    async with asyncio.timeout(TIMEOUT):
        return await client.get(url, headers=headers, timeout=TIMEOUT)


def _read_models(answer: httpx.Response) -> ProbeResult:
    try:
        data: Any = answer.json()["data"]
        names = tuple(sorted(str(model["id"]) for model in data))
        adapters = tuple(sorted((str(model["id"]), str(model.get("root"))) for model in data if model.get("parent")))
        lengths = [model["max_model_len"] for model in data if isinstance(model.get("max_model_len"), int)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ProbeResult(ProbeState.NO_MODELS, "/v1/models does not answer as the OpenAI API does")
    return ProbeResult(ProbeState.OK, models=names, adapters=adapters, max_model_len=min(lengths, default=None))


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


class Prober:
    """Asks the pods of every model again and again, and tells when an answer changes.

    `read_log` reads the beginning of a pod's log, given the pod's key; it may raise ApiError. None: logs are not read.

    At most `concurrency` of the pods that do not answer are asked at the same time; those that do are asked whenever it is time.
    `on_change(key)` is called then; `results(key)` is what is known now, by pod uid.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        on_change: Callable[[Key], None],
        *,
        interval: float = 3.0,
        concurrency: int = 64,
        read_log: Callable[[Key], Awaitable[str]] | None = None,
    ) -> None:
        self._read_log = read_log
        self._log_slots = asyncio.Semaphore(LOGS_AT_ONCE)
        self._client = client
        self._on_change = on_change
        self._interval = interval
        self._slots = asyncio.Semaphore(concurrency)
        self._targets: dict[Key, dict[str, Target]] = {}
        self._results: dict[Key, dict[str, ProbeResult]] = {}
        self._tasks: dict[tuple[Key, str], asyncio.Task[None]] = {}
        self._reading: set[asyncio.Task[StartUp | None]] = set()

    def watch(self, key: Key, targets: list[Target]) -> None:
        """From now on ask these pods of the model, and no others."""
        wanted = {target.uid: target for target in targets}
        known = self._targets.get(key, {})
        for uid in known.keys() - wanted.keys():
            self._stop(key, uid)
        self._targets[key] = wanted
        for uid in wanted:
            if (key, uid) not in self._tasks:
                self._tasks[key, uid] = asyncio.create_task(self._ask_for_ever(key, uid), name=f"probe {key} {uid}")
        if not wanted:
            self._targets.pop(key, None)

    def forget(self, key: Key) -> None:
        """The model is gone."""
        self.watch(key, [])

    def results(self, key: Key) -> dict[str, ProbeResult]:
        """What each pod answered last, by pod uid; pods not yet asked are missing."""
        return dict(self._results.get(key, {}))

    async def look(self, key: Key, uid: str) -> None:
        """Ask a pod now, because something was changed there. What goes wrong is left to the next time that it is asked."""
        target = self._targets.get(key, {}).get(uid)
        if target is None:
            return
        result, known = await self._ask(target), self._results.get(key, {}).get(uid)
        if result.state is ProbeState.OK and known is not None and uid in self._targets.get(key, {}):
            self._note(key, uid, replace(result, kv_cache_tokens=known.kv_cache_tokens, start_up=known.start_up))

    def _note(self, key: Key, uid: str, result: ProbeResult) -> None:
        before = self._results.setdefault(key, {}).get(uid)
        self._results[key][uid] = result
        if before != result:
            self._on_change(key)

    async def close(self) -> None:
        """Stop asking."""
        await cancel([*self._tasks.values(), *self._reading])
        self._tasks.clear()

    def _stop(self, key: Key, uid: str) -> None:
        task = self._tasks.pop((key, uid), None)
        if task is not None:
            task.cancel()
        results = self._results.get(key, {})
        results.pop(uid, None)
        if not results:
            self._results.pop(key, None)

    async def _ask_for_ever(self, key: Key, uid: str) -> None:
        pause = self._interval
        tokens: int | None = None
        start_up = None if self._read_log else StartUp()
        now, tries, next_try = asyncio.get_running_loop().time, 0, 0.0
        reading: asyncio.Task[StartUp | None] | None = None
        while True:
            target = self._targets[key][uid]
            if self._good(key, uid):
                # No waiting behind pods that do not answer: what is lost must be seen in time.
                result = await self._ask(target)
                if result.state is not ProbeState.OK:
                    # One lost packet or one busy second is no outage; a second look still keeps within 10 s in all.
                    await asyncio.sleep(CONFIRM_AFTER)
                    result = await self._ask(target)
            else:
                async with self._slots:
                    result = await self._ask(target)
            if reading is not None and reading.done():
                start_up, reading = reading.result(), None
            known = tokens is not None and start_up is not None
            if result.state is ProbeState.OK and not known and tries < FIGURES_TRIES and now() >= next_try:
                # Once for each pod: they are settled when the pod has started.
                tries, next_try = tries + 1, now() + FIGURES_PAUSE
                with suppress(httpx.HTTPError, TimeoutError):
                    tokens = tokens or await read_kv_cache_tokens(self._client, target)
                if start_up is None and reading is None:
                    # Beside the probe, which waits neither for the API server nor for other pods' logs.
                    reading = asyncio.create_task(
                        self._look_into_log(Key(key.namespace, target.pod)), name=f"probe log {key} {uid}"
                    )
                    reading.add_done_callback(self._reading.discard)
                    self._reading.add(reading)
            if result.state is ProbeState.OK:
                result = replace(result, kv_cache_tokens=tokens, start_up=start_up)
            pause = (
                self._interval if result.state is ProbeState.OK else min(pause * 1.2, self._interval * LONGEST_PAUSE)
            )
            self._note(key, uid, result)
            await asyncio.sleep(pause)

    async def _look_into_log(self, pod: Key) -> StartUp | None:
        """Figures of a pod's start; None when it is to be tried again."""
        assert self._read_log is not None
        try:
            async with self._log_slots:
                return read_start_up(await self._read_log(pod))
        except ApiError as error:
            # Whoever has taken this right away from the operator does without these figures.
            return StartUp() if error.category is Category.DENIED else None
        except Exception:
            log.exception("%s: its log could not be read", pod)
            return StartUp()  # The probe goes on.

    def _good(self, key: Key, uid: str) -> bool:
        known = self._results.get(key, {}).get(uid)
        return known is not None and known.state is ProbeState.OK

    async def _ask(self, target: Target) -> ProbeResult:
        try:
            return await probe(self._client, target)
        except Exception as error:
            return ProbeResult(ProbeState.UNHEALTHY, f"the probe failed: {type(error).__name__}")


def missing_names(result: ProbeResult, served_model_names: list[str]) -> list[str]:
    """Served names that the pod does not list."""
    return [name for name in served_model_names if name not in result.models]
