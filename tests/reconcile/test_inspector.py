"""Models in volumes: a Job says what they are, and goes."""

from base64 import b64encode
from itertools import pairwise
from typing import Any

import pytest

from tests.reconcile.harness import KEY, Operator, World, make_cluster, make_model, settle
from tests.reconcile.test_sizing import H100, L40S, MODELS, status
from tests.reconcile.virtual import eventually, virtual
from tests.sizing.published import published
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.memory import MemoryCluster
from vllm_operator.hub.errors import GatedModelError, InvalidModelError, ModelNotFoundError
from vllm_operator.hub.wire import encode_error, encode_facts
from vllm_operator.reconcile.inspector import JOB_NAME

SPEC = {"model": "pvc://models/qwen"}


async def the_job(cluster: MemoryCluster) -> Object:
    await eventually(lambda: cluster.objects(kinds.JOB), within=180)
    (job,) = cluster.objects(kinds.JOB)
    return job


def pod_of(job: Object, status: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job['metadata']['name'][:50]}-1",
            "namespace": "default",
            "labels": {JOB_NAME: job["metadata"]["name"]},
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": job["metadata"]["name"],
                    "uid": job["metadata"]["uid"],
                }
            ],
        },
        "spec": job["spec"]["template"]["spec"],
        "status": status,
    }


def finish(cluster: MemoryCluster, job: Object, message: str | None, *, condition: str = "Complete") -> None:
    """The Job's pod ends, and then the Job."""
    state: dict[str, Any] = {"exitCode": 0 if condition == "Complete" else 1}
    if message is not None:
        state["message"] = message
    ended = {"containerStatuses": [{"name": "inspect", "ready": False, "state": {"terminated": state}}]}
    cluster.put(kinds.POD, pod_of(job, ended))
    said = {"type": condition, "status": "True", "reason": "BackoffLimitExceeded", "message": "it gave up"}
    cluster.set_status(kinds.JOB, Key("default", job["metadata"]["name"]), {"conditions": [said]})


@virtual
async def test_facts_come_from_the_volume() -> None:
    cluster = make_cluster()
    World(cluster)
    for each in (L40S, H100):
        cluster.put(kinds.NODE, each)
    cluster.put(MODELS, make_model(SPEC))
    async with Operator(cluster) as operator:
        await operator.until("Accepted", "Unknown", Reason.READING_MODEL)
        job = await the_job(cluster)
        assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "operator:1"
        assert not cluster.objects(kinds.DEPLOYMENT)
        finish(cluster, job, encode_facts(published("Qwen/Qwen3-32B")))
        await operator.until("Ready", "True", within=60)
        sizing = status(cluster)["sizing"]
        assert (sizing["pool"], sizing["tensorParallelSize"]) == ("NVIDIA-L40S", 2)
        assert not cluster.objects(kinds.JOB), "nothing is left behind"
        await settle(cluster)
        assert not cluster.objects(kinds.JOB), "what is pinned is not read again"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ModelNotFoundError("no config.json"), Reason.MODEL_NOT_FOUND), (InvalidModelError("bad"), Reason.INVALID_MODEL)],
)
@virtual
async def test_what_the_job_does_not_find(error: Any, reason: Reason) -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    # A way of its own to the hub is none to the volume.
    cluster.put(MODELS, make_model({**SPEC, "engine": {"env": [{"name": "HF_HUB_OFFLINE", "value": "1"}]}}))
    async with Operator(cluster) as operator:
        finish(cluster, await the_job(cluster), encode_error(error), condition="Failed")
        await operator.until("Accepted", "False", reason)
        # Somebody copies the model there: it is looked at again.
        finish(cluster, await the_job(cluster), encode_facts(published("Qwen/Qwen3-8B")))
        await operator.until("Ready", "True", within=180)


@virtual
async def test_a_job_that_cannot_run_is_shown_and_stops_nothing_that_is_fixed() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model(SPEC))
    async with Operator(cluster) as operator:
        job = await the_job(cluster)
        stuck = {"conditions": [{"type": "PodScheduled", "status": "False", "message": 'claim "models" not found'}]}
        cluster.put(kinds.POD, pod_of(job, stuck))
        await operator.until("Accepted", "Unknown", Reason.HUB_UNAVAILABLE, within=30)
        found = next(each for each in status(cluster)["conditions"] if each["type"] == "Accepted")
        assert 'claim "models" not found' in found["message"]
        cluster.edit(MODELS, KEY, lambda obj: obj["spec"].update(parallelism={"tensor": 2}))
        await operator.until("Ready", "True", within=60)
        assert "not checked" in status(cluster)["sizing"]["reasons"][0]


@virtual
async def test_a_job_that_says_nothing_is_made_again() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    cluster.put(MODELS, make_model(SPEC))
    async with Operator(cluster) as operator:
        first = await the_job(cluster)
        finish(cluster, first, None, condition="Failed")
        await operator.until("Accepted", "Unknown", Reason.HUB_UNAVAILABLE)
        await eventually(
            lambda: [job for job in cluster.objects(kinds.JOB) if job["metadata"]["uid"] != first["metadata"]["uid"]],
            within=180,
        )
        finish(cluster, await the_job(cluster), encode_facts(published("Qwen/Qwen3-8B")))
        await operator.until("Ready", "True", within=60)


@virtual
async def test_a_deleted_model_takes_its_job_with_it() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(MODELS, make_model(SPEC))
    async with Operator(cluster):
        await the_job(cluster)
        cluster.remove(MODELS, KEY)
        await eventually(lambda: not cluster.objects(kinds.JOB), within=10)


@virtual
async def test_a_bucket_is_looked_at_again_with_other_keys() -> None:
    cluster = make_cluster()
    World(cluster)
    cluster.put(kinds.NODE, H100)
    reference = {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "key"}}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3", "namespace": "default"}}
    cluster.put(kinds.SECRET, {**secret, "data": {"key": b64encode(b"wrong").decode()}})
    cluster.put(MODELS, make_model({"model": "s3://models/qwen", "engine": {"env": [reference]}}))
    async with Operator(cluster) as operator:
        job = await the_job(cluster)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["env"] == [reference]
        finish(cluster, job, encode_error(GatedModelError("s3://models/qwen: access denied")), condition="Failed")
        await operator.until("Accepted", "False", Reason.MODEL_ACCESS_DENIED)
        said = next(each for each in status(cluster)["conditions"] if each["type"] == "Accepted")
        assert said["message"] == "s3://models/qwen: access denied"
        assert not cluster.objects(kinds.JOB)
        cluster.put(kinds.SECRET, {**secret, "data": {"key": b64encode(b"right").decode()}})
        finish(cluster, await the_job(cluster), encode_facts(published("Qwen/Qwen3-8B")))
        await operator.until("Ready", "True", within=60)
        (deployment,) = cluster.objects(kinds.DEPLOYMENT)
        command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
        assert command[2] == "s3://models/qwen"
        assert ("--load-format", "runai_streamer") in pairwise(command)
