"""What is read from Deployments, pods and routes."""

from datetime import UTC, datetime
from typing import Any

import pytest

from vllm_operator.api.conditions import Reason
from vllm_operator.reconcile.observe import (
    ANNOTATION_TEMPLATE,
    last_lines,
    observe_pod,
    observe_route,
    observe_workload,
)


def pod(
    *, template: str | None = "new", node: str | None = "node", deleted: bool = False, **status: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "p", "uid": "u", "namespace": "ns"}
    if template is not None:
        metadata["annotations"] = {ANNOTATION_TEMPLATE: template}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}


def is_true(kind: str, value: str = "True", **more: str) -> dict[str, str]:
    return {"type": kind, "status": value, **more}


def container(**state: Any) -> dict[str, Any]:
    return {"name": "vllm", "state": state, "ready": False, "restartCount": 1}


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}

TROUBLES: list[tuple[str, dict[str, Any], Reason | None, str]] = [
    ("pull", container(waiting={"reason": "ImagePullBackOff",
                                "message": 'Back-off pulling image "x": ErrImagePull: rpc error: no such image'}),
     Reason.IMAGE_PULL_FAILED, "container vllm: rpc error: no such image"),
    ("pull error", container(waiting={"reason": "ErrImagePull", "message": "rpc error: no such image"}),
     Reason.IMAGE_PULL_FAILED, "container vllm: rpc error: no such image"),
    ("bad name", container(waiting={"reason": "InvalidImageName"}), Reason.IMAGE_PULL_FAILED, "InvalidImageName"),
    ("config", container(waiting={"reason": "CreateContainerConfigError", "message": 'secret "a" not found'}),
     Reason.CONTAINER_CONFIG_ERROR, 'secret "a" not found'),
    ("run", container(waiting={"reason": "RunContainerError"}), Reason.CONTAINER_CONFIG_ERROR, "RunContainerError"),
    ("memory", container(**ended(137, "OOMKilled")), Reason.OUT_OF_MEMORY, "more memory than its limit"),
    ("instruction", container(**ended(132)), Reason.ILLEGAL_INSTRUCTION, "the node's CPU lacks"),
    ("instruction before", {**container(**BACK_OFF), "lastState": ended(132)}, Reason.ILLEGAL_INSTRUCTION, "AVX2"),
    ("instruction, as a signal", container(**ended(0, signal=4)), Reason.ILLEGAL_INSTRUCTION, "SIGILL"),
    ("instruction, of a child", container(**ended(1, message="Illegal instruction (core dumped)\nbye")),
     Reason.ILLEGAL_INSTRUCTION, "scheduling.nodeSelector"),
    ("instruction, of the engine", container(**ended(1, message="RuntimeError: Engine core initialization failed. See root "
                                                      "cause above. Failed core proc(s): {'EngineCore_DP0': -4}")),
     Reason.ILLEGAL_INSTRUCTION, "engine.image"),
    ("instruction, of a worker", container(**ended(1, message="Worker proc W-1 died unexpectedly (exit code: -4), shutting")),
     Reason.ILLEGAL_INSTRUCTION, "SIGILL"),
    ("no instruction", container(**ended(1, message="Failed core proc(s): {'EngineCore_DP0': -41}")),
     Reason.CRASH_LOOP_BACK_OFF, "exit code 1"),
    ("memory before", {**container(**BACK_OFF), "lastState": ended(137, "OOMKilled")}, Reason.OUT_OF_MEMORY, "memory"),
    ("crash", {**container(**BACK_OFF), "lastState": ended(1, message="one\n\nValueError: too long\n")},
     Reason.CRASH_LOOP_BACK_OFF, "exit code 1: one\nValueError: too long"),
    ("signal", container(**ended(0, signal=9)), Reason.CRASH_LOOP_BACK_OFF, "signal 9"),
    ("crash, running again", {**container(running={}), "restartCount": 1, "lastState": ended(1)},
     Reason.CONTAINER_RESTARTED, "started anew after container vllm ended with exit code 1"),
    ("crashes, running again", {**container(running={}), "restartCount": 2, "lastState": ended(1)},
     Reason.CRASH_LOOP_BACK_OFF, "container vllm ended with exit code 1"),
    ("recovered", {**container(running={}), "ready": True, "lastState": ended(1)}, None, ""),
    ("first start", container(running={}), None, ""),
    ("creating", container(waiting={"reason": "ContainerCreating"}), None, ""),
    ("done", container(**ended(0, "Completed")), None, ""),
    ("ends well again and again", {**container(**BACK_OFF), "lastState": ended(0, "Completed")},
     Reason.CRASH_LOOP_BACK_OFF, "exit code 0"),
    ("nothing known", {"name": "vllm"}, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason", "words"), [row[1:] for row in TROUBLES], ids=[row[0] for row in TROUBLES])
def test_trouble(status: dict[str, Any], reason: Reason | None, words: str) -> None:
    trouble = observe_pod(pod(containerStatuses=[status]), "new").trouble
    assert (trouble[0] if trouble else None) is reason
    assert words in (trouble[1] if trouble else "")
    assert "5m0s" not in (trouble[1] if trouble else ""), "a back-off that grows would make the message move"


def test_an_init_container_may_be_the_trouble() -> None:
    broken = {"name": "fetch", "state": ended(2)}
    found = observe_pod(pod(initContainerStatuses=[broken], containerStatuses=[{"name": "vllm"}]), "new")
    assert found.trouble == (Reason.CRASH_LOOP_BACK_OFF, "container fetch ended with exit code 2")


def test_a_ready_pod() -> None:
    found = observe_pod(
        pod(podIP="10.0.0.1", conditions=[is_true("PodScheduled"), is_true("Ready")],
            containerStatuses=[{"name": "vllm", "restartCount": 2}, {"name": "sidecar", "restartCount": 5}]), "new"
    )  # fmt: skip
    assert (found.name, found.uid, found.address) == ("p", "u", "10.0.0.1")
    assert (found.new, found.ready, found.scheduled, found.leaving, found.restarts) == (True, True, True, False, 2)
    assert found.unschedulable is None


def test_an_unschedulable_pod() -> None:
    placed = is_true("PodScheduled", "False", reason="Unschedulable", message="no room")
    found = observe_pod(pod(node=None, conditions=[{**placed, "lastTransitionTime": "2026-01-01T00:00:00Z"}]), "new")
    assert (found.scheduled, found.unschedulable) == (False, "no room")
    assert found.unschedulable_since == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_gated_pod_is_not_unschedulable() -> None:
    placed = is_true("PodScheduled", "False", reason="SchedulingGated")
    assert observe_pod(pod(node=None, conditions=[placed]), "new").unschedulable is None


@pytest.mark.parametrize(
    ("obj", "leaving"),
    [(pod(), False), (pod(deleted=True), True), (pod(phase="Failed"), True), (pod(phase="Succeeded"), True), (pod(phase="Running"), False)],
)  # fmt: skip
def test_leaving(obj: dict[str, Any], leaving: bool) -> None:
    assert observe_pod(obj, "new").leaving is leaving


@pytest.mark.parametrize(
    ("annotation", "wanted", "new"),
    [("new", "new", True), ("old", "new", False), (None, "new", False), ("x", None, False)],
)
def test_new(annotation: str | None, wanted: str | None, new: bool) -> None:
    assert observe_pod(pod(template=annotation), wanted).new is new


def deployment(*, generation: int = 2, **status: Any) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, "status": {"observedGeneration": generation, **status}}


FULL = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("obj", "rolled_out"),
    [
        (deployment(**FULL), True),
        (deployment(**{**FULL, "replicas": 3}), False),
        (deployment(**{**FULL, "updatedReplicas": 1}), False),
        (deployment(**{**FULL, "availableReplicas": 1}), False),
        (deployment(**{**FULL, "availableReplicas": 1},
                    conditions=[is_true("Progressing", reason="NewReplicaSetAvailable")]), True),
        (deployment(**{**FULL, "observedGeneration": 1}), False),
        (deployment(), False),
        ({"metadata": {"generation": 1}}, False),
        (None, False),
    ],
)  # fmt: skip
def test_rolled_out(obj: dict[str, Any] | None, rolled_out: bool) -> None:
    assert observe_workload(obj, [], wanted=2, template_hash="x").rolled_out is rolled_out


def test_rolled_out_to_none() -> None:
    assert observe_workload(deployment(), [], wanted=0, template_hash="x").rolled_out
    assert not observe_workload(None, [], wanted=0, template_hash="x").rolled_out


def test_what_the_deployment_controller_says() -> None:
    obj = deployment(
        conditions=[
            is_true("Progressing", "False", reason="ProgressDeadlineExceeded", message="late"),
            is_true("ReplicaFailure", message="quota"),
        ]
    )
    found = observe_workload(obj, [], wanted=1, template_hash="x")
    assert (found.deadline_exceeded, found.replica_failure) == ("late", "quota")
    found = observe_workload(
        deployment(conditions=[is_true("ReplicaFailure", "False")]), [], wanted=1, template_hash="x"
    )
    assert (found.deadline_exceeded, found.replica_failure) == (None, None)


def test_pods_are_sorted() -> None:
    pods = [pod(), pod(), pod()]
    for number, obj in enumerate(pods):
        obj["metadata"]["name"] = f"p{2 - number}"
    names = [each.name for each in observe_workload(None, pods, wanted=1, template_hash="x").pods]
    assert names == ["p0", "p1", "p2"]


def test_last_lines() -> None:
    assert last_lines("a\n\n  b  \n") == "a\n  b"
    assert last_lines("\n".join(str(number) for number in range(20))) == "14\n15\n16\n17\n18\n19"
    assert len(last_lines("x" * 5000)) == 1200
    assert last_lines("") == ""


# routes

PARENT = {"namespace": "gw", "name": "g"}


def answer(parent: dict[str, Any], **conditions: tuple[str, int]) -> dict[str, Any]:
    return {
        "parentRef": parent,
        "conditions": [
            {"type": kind, "status": status, "reason": "R", "message": "said", "observedGeneration": generation}
            for kind, (status, generation) in conditions.items()
        ],
    }


def route(*answers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": "m", "generation": 2}, "status": {"parents": list(answers)}}


GOOD = {"Accepted": ("True", 2), "ResolvedRefs": ("True", 2)}
ROUTES: list[tuple[str, dict[str, Any] | None, list[dict[str, Any]], bool | None, Reason]] = [
    ("none", None, [PARENT], None, Reason.AWAITING_GATEWAY),
    ("no answer", route(), [PARENT], None, Reason.AWAITING_GATEWAY),
    ("accepted", route(answer(PARENT, **GOOD)), [PARENT], True, Reason.ROUTE_ACCEPTED),
    ("own namespace", route(answer({"name": "g"}, **GOOD)), [{"name": "g"}], True, Reason.ROUTE_ACCEPTED),
    ("own namespace, spelt out", route(answer({"name": "g", "namespace": "ns"}, **GOOD)), [{"name": "g"}], True,
     Reason.ROUTE_ACCEPTED),
    ("other namespace", route(answer({"name": "g"}, **GOOD)), [PARENT], None, Reason.AWAITING_GATEWAY),
    ("other section", route(answer({**PARENT, "sectionName": "a"}, **GOOD)), [{**PARENT, "sectionName": "b"}], None,
     Reason.AWAITING_GATEWAY),
    ("other port", route(answer({**PARENT, "port": 80}, **GOOD)), [{**PARENT, "port": 443}], None, Reason.AWAITING_GATEWAY),
    ("other kind", route(answer({**PARENT, "kind": "Service"}, **GOOD)), [PARENT], None, Reason.AWAITING_GATEWAY),
    ("kind, spelt out", route(answer({**PARENT, "kind": "Gateway"}, **GOOD)), [PARENT], True, Reason.ROUTE_ACCEPTED),
    ("refused", route(answer(PARENT, Accepted=("False", 2), ResolvedRefs=("True", 2))), [PARENT], False,
     Reason.ROUTE_REJECTED),
    ("no backend", route(answer(PARENT, Accepted=("True", 2), ResolvedRefs=("False", 2))), [PARENT], False,
     Reason.ROUTE_REJECTED),
    ("old answer", route(answer(PARENT, Accepted=("True", 1), ResolvedRefs=("True", 1))), [PARENT], None,
     Reason.AWAITING_GATEWAY),
    ("old refusal", route(answer(PARENT, Accepted=("False", 1))), [PARENT], None, Reason.AWAITING_GATEWAY),
    ("half an answer", route(answer(PARENT, Accepted=("True", 2))), [PARENT], None, Reason.AWAITING_GATEWAY),
    ("one of two", route(answer(PARENT, **GOOD)), [PARENT, {"name": "h"}], None, Reason.AWAITING_GATEWAY),
    ("two controllers, one refuses", route(answer(PARENT, **GOOD), answer(PARENT, Accepted=("False", 2))), [PARENT],
     False, Reason.ROUTE_REJECTED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("obj", "parents", "status", "reason"), [row[1:] for row in ROUTES], ids=[r[0] for r in ROUTES]
)
def test_route(obj: Any, parents: list[dict[str, Any]], status: bool | None, reason: Reason) -> None:
    found = observe_route(obj, parents)
    assert (found.status, found.reason) == (status, reason)
    if reason is Reason.ROUTE_REJECTED:
        assert "gateway gw/g" in found.message
        assert "said" in found.message
