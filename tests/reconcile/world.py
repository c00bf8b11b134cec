"""What is around the operator in a cluster: a Deployment controller, a scheduler, kubelets and a gateway, much simplified.

They work on a MemoryCluster by its test's hands, so nothing that they write counts as a write of the operator.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.reconcile.virtual import loop_clock
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import LABEL_MODEL, Key, content_hash
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object, key_of
from vllm_operator.cluster.memory import MemoryCluster
from vllm_operator.serving.external import ExternalResult, ExternalState, ExternalTarget, ToolsFinding
from vllm_operator.serving.probe import ProbeResult, ProbeState, Target

TEMPLATE = "test/template"
NO_ROOM = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def text_now() -> str:
    return loop_clock().isoformat(timespec="seconds").replace("+00:00", "Z")


class World:
    """Acts whenever a Deployment, Pod, HTTPRoute or Gateway changes."""

    def __init__(self, cluster: MemoryCluster, *, room: int = 1000, loading: float = 5.0) -> None:
        self.cluster = cluster
        self.room = room
        """Pods that fit the nodes."""
        self.loading = loading
        """Seconds from having a node to being ready."""
        self.fewest_ready: int | None = None
        self.broken: tuple[str, str] | None = None
        """Waiting reason and message that the kubelet gives to new pods' containers."""
        self._numbers = 0
        self._due = False
        self._ended = cluster.watch(self._changed)

    def close(self) -> None:
        self._ended()

    def _changed(self, event: str, obj: Object) -> None:
        if obj["kind"] in ("Deployment", "Pod", "HTTPRoute", "Gateway"):
            self.wake()

    def wake(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._act)

    def _act(self) -> None:
        self._due = False
        for deployment in self.cluster.objects(kinds.DEPLOYMENT):
            self._roll(deployment)
        for route in self.cluster.objects(kinds.HTTP_ROUTE):
            self._attach(route)

    # Deployments

    def pods(self, deployment: Object) -> list[Object]:
        uid = deployment["metadata"]["uid"]
        return [
            pod
            for pod in self.cluster.objects(kinds.POD, deployment["metadata"]["namespace"])
            if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences") or [])
        ]

    def _roll(self, deployment: Object) -> None:
        spec = deployment["spec"]
        wanted = spec.get("replicas", 1)
        digest = content_hash(spec["template"])
        pods = self.pods(deployment)
        new = [pod for pod in pods if pod["metadata"]["annotations"][TEMPLATE] == digest]
        old = [pod for pod in pods if pod not in new]
        if spec["strategy"]["type"] == "Recreate":
            surge, missing = 0, wanted
        else:
            surge, missing = (spec["strategy"]["rollingUpdate"][name] for name in ("maxSurge", "maxUnavailable"))
        for pod in new[wanted:]:
            self.cluster.remove(kinds.POD, key_of(pod))
        ready_new = sum(is_ready(pod) for pod in new[:wanted])
        ready_old = sum(is_ready(pod) for pod in old)
        for pod in sorted(old, key=is_ready):
            if not is_ready(pod) or ready_new + ready_old > wanted - missing:
                ready_old -= is_ready(pod)
                old.remove(pod)
                self.cluster.remove(kinds.POD, key_of(pod))
        new = new[:wanted]
        if not (spec["strategy"]["type"] == "Recreate" and old):
            for _ in range(min(wanted - len(new), wanted + surge - len(new) - len(old))):
                new.append(self._make_pod(deployment, digest))
        self._schedule()
        ready = [pod for pod in (self.cluster.peek(kinds.POD, key_of(pod)) for pod in new) if pod and is_ready(pod)]
        done = len(ready) == wanted == len(new) and not old
        answering = len(ready) + ready_old
        self.fewest_ready = answering if self.fewest_ready is None else min(self.fewest_ready, answering)
        status: Object = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(new) + len(old),
            "updatedReplicas": len(new),
            "readyReplicas": answering,
            "availableReplicas": answering,
            "conditions": [
                {
                    "type": "Progressing",
                    "status": "True",
                    "reason": "NewReplicaSetAvailable" if done else "ReplicaSetUpdated",
                    "message": "",
                    "lastUpdateTime": "2026-01-01T00:00:00Z",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        }
        if status != deployment.get("status"):
            self.cluster.set_status(kinds.DEPLOYMENT, key_of(deployment), status)

    def _make_pod(self, deployment: Object, digest: str) -> Object:
        self._numbers += 1
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        return self.cluster.put(
            kinds.POD,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{metadata['name'][:40].rstrip('-')}-{self._numbers:04}",
                    "namespace": metadata["namespace"],
                    "labels": template["metadata"]["labels"],
                    "annotations": {**template["metadata"].get("annotations", {}), TEMPLATE: digest},
                    "ownerReferences": [
                        {
                            "apiVersion": "apps/v1",
                            "kind": "Deployment",
                            "name": metadata["name"],
                            "uid": metadata["uid"],
                            "controller": True,
                        }
                    ],
                },
                "spec": template["spec"],
            },
        )

    def _schedule(self) -> None:
        pods = self.cluster.objects(kinds.POD)
        room = self.room - sum(bool(pod["spec"].get("nodeName")) for pod in pods)
        for pod in pods:
            if pod["spec"].get("nodeName"):
                continue
            if room > 0:
                room -= 1
                self._place(pod)
            elif not (pod.get("status") or {}).get("conditions"):
                condition = {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": NO_ROOM,
                    "lastTransitionTime": text_now(),
                }
                self.cluster.set_status(kinds.POD, key_of(pod), {"phase": "Pending", "conditions": [condition]})

    def _place(self, pod: Object) -> None:
        key = key_of(pod)
        self.cluster.edit(kinds.POD, key, lambda obj: obj["spec"].update(nodeName="node"), manager="scheduler")
        status: Object = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
        if self.broken is not None:
            reason, message = self.broken
            status["containerStatuses"] = [
                {"name": "vllm", "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}
            ]
        else:
            uid = pod["metadata"]["uid"]
            asyncio.get_running_loop().call_later(self.loading, self._loaded, key, uid)
        self.cluster.set_status(kinds.POD, key, status)

    def _loaded(self, key: Key, uid: str) -> None:
        pod = self.cluster.peek(kinds.POD, key)
        if pod is not None and pod["metadata"]["uid"] == uid:
            self.set_ready(key, True)

    def set_ready(self, key: Key, ready: bool) -> None:
        """Say that a pod is ready, or is not any more."""
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ]
        running = {"name": "vllm", "ready": ready, "restartCount": 0, "state": {"running": {}}}
        status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions, "containerStatuses": [running]}
        self.cluster.set_status(kinds.POD, key, status)

    # gateways

    def _attach(self, route: Object) -> None:
        generation = route["metadata"]["generation"]
        accepted = [
            {"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": generation}
            | {"lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind in ("Accepted", "ResolvedRefs")
        ]
        parents = [
            {"parentRef": parent, "controllerName": "test/gateway", "conditions": accepted}
            for parent in route["spec"]["parentRefs"]
            if self.cluster.peek(
                kinds.GATEWAY, Key(parent.get("namespace") or route["metadata"]["namespace"], parent["name"])
            )
        ]
        if parents != (route.get("status") or {}).get("parents"):
            self.cluster.set_status(kinds.HTTP_ROUTE, key_of(route), {"parents": parents})


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def served_names(pod: Object) -> tuple[str, ...]:
    """What vLLM in this pod would list, from its command line."""
    command = pod["spec"]["containers"][0]["command"]
    names: list[str] = []
    reading = False
    for word in command:
        option, equals, value = word.partition("=")
        if option == "--served-model-name":
            reading = True
            names += [value] if equals else []
        elif word.startswith("--"):
            reading = False
        elif reading:
            names.append(word)
    return tuple(sorted(names))


class FakeProber:
    """Answers as the pods' vLLM would, 50 ms after it is told of them."""

    def __init__(self, cluster: MemoryCluster, on_change: Any) -> None:
        self.cluster = cluster
        self.on_change = on_change
        self.kv_cache_tokens: int | None = None
        """What every pod's vLLM says of its KV cache."""
        self.sick: dict[str, ProbeResult] = {}
        """Pod uid → an answer other than the right one."""
        self.adapters: dict[str, dict[str, str]] = {}
        """Pod uid → its adapters."""
        self.keys_used: dict[Key, set[str | None]] = {}
        self._targets: dict[Key, dict[str, Target]] = {}
        self._results: dict[Key, dict[str, ProbeResult]] = {}

    def watch(self, key: Key, targets: list[Target]) -> None:
        self._targets[key] = {target.uid: target for target in targets}
        self.keys_used[key] = {target.api_key for target in targets}
        for gone in self._results.get(key, {}).keys() - self._targets[key].keys():
            del self._results[key][gone]
        for target in targets:
            if target.uid not in self._results.get(key, {}):
                asyncio.get_running_loop().call_later(0.05, self._answer, key, target)

    def forget(self, key: Key) -> None:
        self._targets.pop(key, None)
        self._results.pop(key, None)

    def results(self, key: Key) -> dict[str, ProbeResult]:
        return dict(self._results.get(key, {}))

    async def look(self, key: Key, uid: str) -> None:
        if (target := self._targets.get(key, {}).get(uid)) is not None:
            self._answer(key, target)

    def ask_again(self, key: Key) -> None:
        for target in self._targets.get(key, {}).values():
            self._answer(key, target)

    def _answer(self, key: Key, target: Target) -> None:
        pod = self.cluster.peek(kinds.POD, Key(key.namespace, target.pod))
        if target.uid not in self._targets.get(key, {}) or pod is None:
            return
        adapters = self.adapters.get(target.uid, {})
        result = self.sick.get(target.uid) or ProbeResult(
            ProbeState.OK,
            models=tuple(sorted((*served_names(pod), *adapters))),
            adapters=tuple(sorted(adapters.items())),
            max_model_len=4096,
            kv_cache_tokens=self.kv_cache_tokens,
        )
        if self._results.setdefault(key, {}).get(target.uid) != result:
            self._results[key][target.uid] = result
            self.on_change(key)


class FakeVLLM:
    """Loads adapters as the pods' vLLM would (tests/serving/test_adapters.py has its answers word by word)."""

    def __init__(self, adapters: dict[str, dict[str, str]]) -> None:
        self.adapters = adapters
        """Pod uid → adapter → path."""
        self.refused: dict[str, str] = {}
        """Path → what it is refused with."""
        self.asked: list[tuple[str, str, str]] = []
        """(pod, path of the request, adapter)."""

    async def ask(self, target: Target, path: str, body: Mapping[str, object]) -> tuple[int, str]:
        name, source = str(body["lora_name"]), str(body.get("lora_path", ""))
        self.asked.append((target.pod, path, name))
        await asyncio.sleep(0.5)
        there = self.adapters.setdefault(target.uid, {})
        if path == "/v1/unload_lora_adapter":
            return (200, "Success") if there.pop(name, None) else (404, "not found")
        if source in self.refused:
            return 500, json.dumps({"error": {"message": self.refused[source]}})
        if name in there and not body.get("load_inplace"):
            return 400, json.dumps({"error": {"message": f"The lora adapter '{name}' has already been loaded."}})
        there[name] = source
        return 200, "Success"


class FakeExternal:
    """Answers as endpoints outside would, 50 ms after it is told of them."""

    def __init__(self, on_change: Any) -> None:
        self.on_change = on_change
        self.answers: dict[str, ExternalResult] = {}
        """Host → an answer other than the right one."""
        self.tools: bool | None = True
        self.targets: dict[Key, ExternalTarget] = {}
        self.asked_for_tools: list[Key] = []
        self._results: dict[Key, ExternalResult] = {}

    def watch(self, key: Key, target: ExternalTarget) -> None:
        known = self.targets.get(key)
        self.targets[key] = target
        if known is None or replace(known, known=None) != replace(target, known=None):
            self._results.pop(key, None)
            asyncio.get_running_loop().call_later(0.05, self.answer, key, target)

    def forget(self, key: Key) -> None:
        self.targets.pop(key, None)
        self._results.pop(key, None)

    def result(self, key: Key) -> ExternalResult | None:
        return self._results.get(key)

    def answer(self, key: Key, target: ExternalTarget) -> None:
        if key not in self.targets:
            return
        tools = target.known if target.known is not None and target.known.asked == target.asked else None
        if tools is None and target.ask_tools:
            self.asked_for_tools.append(key)
            tools = ToolsFinding(self.tools, target.asked, loop_clock())
        good = ExternalResult(ExternalState.OK, models=target.names, max_model_len=2048, tools=tools)
        result = self.answers.get(target.server.host) or good
        if self._results.get(key) != result:
            self._results[key] = result
            self.on_change(key)


def model_of(obj: Object) -> Key | None:
    """The model that an object belongs to, as the handlers tell."""
    if obj["kind"] == "VLLMModel":
        return key_of(obj)
    name = (obj["metadata"].get("labels") or {}).get(LABEL_MODEL)
    return Key(obj["metadata"]["namespace"], name) if name else None


def condition(cluster: MemoryCluster, key: Key, kind: str) -> dict[str, Any]:
    """A condition of a model; empty when it is not there."""
    model = cluster.peek(kinds.VLLM_MODEL, key) or {}
    found = [each for each in (model.get("status") or {}).get("conditions") or [] if each["type"] == kind]
    return found[0] if found else {}


def is_so(cluster: MemoryCluster, key: Key, kind: str, status: str, reason: Reason | None = None) -> bool:
    """Whether a condition says this of the newest generation."""
    model = cluster.peek(kinds.VLLM_MODEL, key)
    found = condition(cluster, key, kind)
    return bool(
        model
        and found
        and found["observedGeneration"] == model["metadata"]["generation"]
        and found["status"] == status
        and (reason is None or found["reason"] == reason)
    )
