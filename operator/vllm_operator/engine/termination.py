"""How a leaving pod spends its last seconds: drain, finish requests, exit."""

from dataclasses import dataclass

from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import Rollout, VLLMModelSpec

DEFAULT_GRACE_SECONDS = 120
DEFAULT_DRAIN_SECONDS = 15
EXIT_SECONDS = 5
"""What is left for vLLM to leave after its last request, before the kubelet kills it."""


@dataclass(frozen=True)
class Termination:
    """Seconds of a leaving pod. drain_seconds + shutdown_timeout + EXIT_SECONDS ≤ grace_seconds, if shutdown_timeout > 0."""

    drain_seconds: int
    """Between leaving the endpoints and SIGTERM."""
    grace_seconds: int
    """In all, until SIGKILL."""
    shutdown_timeout: int
    """That vLLM waits for requests in flight after SIGTERM; 0: it aborts them at once, which is vLLM's default."""


def decide_termination(spec: VLLMModelSpec) -> Termination:
    """Divide terminationGracePeriodSeconds. Raises Refusal when draining would take all of it.

    A short grace period without drainSeconds shortens the default drain instead of refusing a field nobody wrote.
    """
    rollout = spec.rollout or Rollout()
    grace = rollout.termination_grace_period_seconds or DEFAULT_GRACE_SECONDS
    drain = rollout.drain_seconds
    if drain is None:
        drain = DEFAULT_DRAIN_SECONDS if grace > DEFAULT_DRAIN_SECONDS else grace // 2
    if drain >= grace:
        raise Refusal(
            Reason.INVALID_SPEC,
            f"spec.rollout.drainSeconds is {drain}, which leaves nothing of spec.rollout.terminationGracePeriodSeconds "
            f"({grace}{'' if rollout.termination_grace_period_seconds else ', the default'}); make it less",
        )
    return Termination(drain, grace, max(0, grace - drain - EXIT_SECONDS))
