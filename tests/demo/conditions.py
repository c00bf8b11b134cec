"""Following a model's conditions as the API server reports them."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

from tests.cluster import ClusterError, LocalCluster

Object = dict[str, Any]
ORDER = ("Accepted", "Scheduled", "WorkloadAvailable", "Serving", "RouteReady", "Ready", "Reconciling", "Stalled")


@dataclass(frozen=True)
class Condition:
    """One condition as it is shown."""

    type: str
    status: str
    reason: str
    message: str


def conditions(model: Object) -> dict[str, Condition]:
    """Return a model's conditions by type, in the order in which they come true."""
    found = (model.get("status") or {}).get("conditions") or []
    known = {each["type"]: each for each in found}
    types = [name for name in ORDER if name in known] + sorted(known.keys() - set(ORDER))
    return {
        name: Condition(name, known[name]["status"], known[name]["reason"], known[name].get("message", ""))
        for name in types
    }


def is_ready(model: Object) -> bool:
    """Tell whether the newest generation is Ready."""
    status = model.get("status") or {}
    ready = conditions(model).get("Ready")
    current = status.get("observedGeneration") == model["metadata"]["generation"]
    return current and ready is not None and ready.status == "True"


def follow(cluster: LocalCluster, namespace: str, name: str, *, seconds: float) -> Iterator[Object]:
    """Yield the model now and after each change, until `seconds` are over."""
    words = [cluster.bin("kubectl"), "--kubeconfig", cluster.kubeconfig, "--namespace", namespace, "get"]
    process = subprocess.Popen(
        [*map(str, words), "vllmmodels", name, "--watch", "--output=json"], stdout=subprocess.PIPE, text=True
    )
    found: Queue[Object | None] = Queue()

    def read() -> None:
        assert process.stdout is not None
        decoder, text = json.JSONDecoder(), ""
        for line in process.stdout:
            text += line
            if line.startswith("}"):  # The end of an object; kubectl indents all that is inside.
                found.put(decoder.decode(text))
                text = ""
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + seconds
    try:
        while (left := deadline - time.monotonic()) > 0:
            try:
                model = found.get(timeout=left)
            except Empty:
                return
            if model is None:
                raise ClusterError("kubectl's watch of the model ended")
            yield model
    finally:
        process.terminate()
        process.wait()


def wait_ready(
    cluster: LocalCluster, namespace: str, name: str, *, seconds: float, show: Callable[[float, Condition], None]
) -> Object:
    """Wait until the model is Ready and call `show` for each condition that changes. Return the model.

    Raises ClusterError when the time is over, or when the operator says that nothing more will happen (Stalled).
    """
    begin = time.monotonic()
    shown: dict[str, Condition] = {}
    for model in follow(cluster, namespace, name, seconds=seconds):
        now = conditions(model)
        for condition in now.values():
            if shown.get(condition.type) != condition:
                show(time.monotonic() - begin, condition)
        shown = now
        if is_ready(model):
            return model
        stalled = now.get("Stalled")
        if stalled is not None and stalled.status == "True":
            raise ClusterError(f"model {namespace}/{name} is stalled: {stalled.reason}: {stalled.message}")
    ready = shown.get("Ready")
    said = f"{ready.reason}: {ready.message}" if ready else "the operator has said nothing about it"
    raise ClusterError(f"model {namespace}/{name} is not Ready after {seconds:.0f} s: {said}")
