"""How a roll-out goes on when the new pod finds no GPU. Pure."""

from datetime import datetime, timedelta
from typing import Any

from vllm_operator.cluster.base import Object
from vllm_operator.reconcile.observe import WorkloadObservation

YIELDED: dict[str, Any] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
"""One old pod goes before a new one comes."""


def is_yielded(deployment: Object | None) -> bool:
    """Whether the live Deployment rolls out by taking an old pod down first."""
    return bool(deployment and (deployment.get("spec") or {}).get("strategy") == YIELDED)


def should_yield(
    workload: WorkloadObservation, *, automatic: bool, already: bool, now: datetime, patience: timedelta
) -> tuple[bool, timedelta | None]:
    """Whether an old pod is to go first, and otherwise after how long to ask again.

    Yielding begins when the scheduler has found no node for a new pod during `patience` (an autoscaler may bring one), and
    lasts until the last old pod is gone: giving up earlier would bring the surge pod back.
    """
    if not automatic:
        return False, None
    old = [pod for pod in workload.pods if not pod.new and not pod.leaving and pod.scheduled]
    if not old:
        return False, None
    if already:
        return True, None
    waiting = [pod for pod in workload.pods if pod.new and not pod.leaving and pod.unschedulable is not None]
    if not waiting:
        return False, None
    since = min((pod.unschedulable_since or now) for pod in waiting)
    left = patience - (now - since)
    return (True, None) if left <= timedelta() else (False, left)
