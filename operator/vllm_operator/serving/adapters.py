"""Having pods load and unload LoRA adapters, by vLLM's API.

vLLM computes nothing else while it loads an adapter, and downloads one of the hub within that time.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import httpx

from vllm_operator.api.names import Key
from vllm_operator.api.text import shorten
from vllm_operator.serving.probe import Target
from vllm_operator.serving.tasks import cancel

log = logging.getLogger(__name__)

TIMEOUT = 600.0
"""Seconds that a pod may take to load an adapter, and so to download it."""
FIRST_RETRY, LONGEST_RETRY = 10.0, 300.0
"""Seconds after which a pod that has refused an adapter is asked again; doubled each time."""
LONGEST_MESSAGE = 500


@dataclass(frozen=True)
class Change:
    """What a pod is to do with an adapter."""

    do: Literal["load", "replace", "unload"]
    """`replace`: load it in the place of one of that name."""
    name: str
    path: str = ""
    """Path in the container, or repository."""


@dataclass(frozen=True)
class Failure:
    """What a pod did not do."""

    change: Change
    message: str
    tries: int
    until: float
    """When it is asked again, by the loop's clock."""


Ask = Callable[[Target, str, Mapping[str, object]], Awaitable[tuple[int, str]]]
"""POST to a path of a pod: status and body. Raises httpx.HTTPError and TimeoutError."""


def http_ask(client: httpx.AsyncClient) -> Ask:
    """Asks by HTTP."""

    async def ask(target: Target, path: str, body: Mapping[str, object]) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
        async with asyncio.timeout(TIMEOUT):
            answer = await client.post(f"{target.base_url}{path}", json=dict(body), headers=headers, timeout=TIMEOUT)
            return answer.status_code, answer.text

    return ask


class AdapterLoader:
    """Has pods change their adapters, each pod one after the other, and remembers what they refuse.

    It keeps no record of what is loaded: that is what the pods say themselves. `look(key, uid)` is called after a change, to have the
    pod asked what it has, and `wake(key)` when there is something new to be said of the model.
    """

    def __init__(self, ask: Ask, *, look: Callable[[Key, str], Awaitable[None]], wake: Callable[[Key], None]) -> None:
        self._ask = ask
        self._look = look
        self._wake = wake
        self._tasks: dict[tuple[Key, str], asyncio.Task[None]] = {}
        self._failures: dict[tuple[Key, str], dict[str, Failure]] = {}

    def want(self, key: Key, target: Target, changes: Sequence[Change]) -> None:
        """Have a pod make these changes, unless it is at work already or has just refused them."""
        where = (key, target.uid)
        failed = self._failures.get(where, {})
        for name in failed.keys() - {change.name for change in changes}:
            del failed[name]
        now = asyncio.get_running_loop().time()
        due = [
            change
            for change in changes
            if (known := failed.get(change.name)) is None or known.change != change or now >= known.until
        ]
        if due and where not in self._tasks:
            task = asyncio.create_task(self._make(key, target, due), name=f"adapters {key} {target.pod}")
            self._tasks[where] = task

    def keep(self, key: Key, uids: Collection[str]) -> None:
        """Forget the model's other pods."""
        for where in [each for each in (*self._tasks, *self._failures) if each[0] == key and each[1] not in uids]:
            self._failures.pop(where, None)
            if (task := self._tasks.pop(where, None)) is not None:
                task.cancel()

    def failures(self, key: Key, uid: str) -> Mapping[str, Failure]:
        """Adapter → what the pod has refused last."""
        return dict(self._failures.get((key, uid), {}))

    def again(self, key: Key) -> float | None:
        """Seconds until the next refused change is to be tried again; None: there is none. A pod at work wakes its model itself."""
        now = asyncio.get_running_loop().time()
        return min(
            (
                max(0.1, failure.until - now)
                for (model, uid), failed in self._failures.items()
                if model == key and (model, uid) not in self._tasks
                for failure in failed.values()
            ),
            default=None,
        )

    async def close(self) -> None:
        """Give up what is under way."""
        await cancel(self._tasks.values())
        self._tasks.clear()

    async def _make(self, key: Key, target: Target, changes: Sequence[Change]) -> None:
        where = (key, target.uid)
        try:
            for change in changes:
                message = await self._one(target, change)
                if message is None:
                    self._failures.get(where, {}).pop(change.name, None)
                    log.info("%s: pod %s: %s adapter %s", key, target.pod, _DONE[change.do], change.name)
                else:
                    self._note(where, change, message)
                    log.warning("%s: pod %s: adapter %s: %s", key, target.pod, change.name, message)
            # Before the next pass looks, or it would want the same again.
            await self._look(key, target.uid)
        finally:
            if self._tasks.get(where) is asyncio.current_task():
                del self._tasks[where]
        self._wake(key)

    def _note(self, where: tuple[Key, str], change: Change, message: str) -> None:
        failed = self._failures.setdefault(where, {})
        before = failed.get(change.name)
        tries = before.tries + 1 if before is not None and before.change == change else 1
        pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(tries - 1, 10))
        failed[change.name] = Failure(change, message, tries, asyncio.get_running_loop().time() + pause)

    async def _one(self, target: Target, change: Change) -> str | None:
        """Make one change; what was wrong, or None."""
        try:
            if change.do == "unload":
                status, text = await self._ask(target, "/v1/unload_lora_adapter", {"lora_name": change.name})
                # Gone is gone, whoever did it.
                return None if status in (200, 404) else _words(status, text)
            body: dict[str, object] = {"lora_name": change.name, "lora_path": change.path}
            if change.do == "replace":
                body["load_inplace"] = True
            status, text = await self._ask(target, "/v1/load_lora_adapter", body)
            if status == 400 and "already been loaded" in text:
                # Loaded meanwhile, or by an operator before this one: what is there is looked at next. A version that does not know
                # how to replace has it unloaded first.
                if change.do == "replace":
                    await self._ask(target, "/v1/unload_lora_adapter", {"lora_name": change.name})
                return None
            return None if status == 200 else _words(status, text)
        except TimeoutError:
            return f"no answer within {TIMEOUT:g} s"
        except httpx.HTTPError as error:
            return f"the request failed: {str(error) or type(error).__name__}"
        except Exception as error:
            log.exception("a bug in the operator while it changed adapters of pod %s", target.pod)
            return f"the request failed: {type(error).__name__}"


_DONE = {"load": "loaded", "replace": "loaded anew", "unload": "unloaded"}


def _words(status: int, text: str) -> str:
    """What vLLM says is wrong."""
    try:
        said = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"vLLM answers {status}"
        if status == 404:
            said += ": it does not load adapters while it runs"
    return shorten(" ".join(said.split()), LONGEST_MESSAGE)
