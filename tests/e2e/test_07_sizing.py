"""What was estimated before the start, and what the real vLLM then has."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bucket import Bucket, serve_bucket
from tests.cluster.images import full_reference
from tests.cluster.settings import MODEL_PATH, VLLM_IMAGE, Settings
from tests.cluster.vllm_env import model_path

from .api import eventually
from .conftest import Served
from .traffic import complete
from .world import World, sample, unavailable, without_pods

Measured = Callable[[str], None]


def test_vllms_own_figures_are_shown(world: World, served: Served) -> None:
    def figures() -> dict[str, int] | None:
        sizing = world.api.get("models", served.namespace, served.name)["status"].get("sizing") or {}
        measured = sizing.get("measured") or {}
        # The log is read after vLLM's metric, and a moment later.
        return measured if "loadSeconds" in measured else None

    seen = eventually("vLLM's own figures", figures, seconds=60)
    # 2 layers × (keys + values) × 2 heads × 16 elements × 2 bytes would be 256 bytes a token; whatever it is, 1 GiB holds many.
    assert seen["kvCacheTokens"] > 100_000
    # Out of its log; a CPU's worker writes nothing of memory, and so small a model is loaded within a second.
    assert seen["loadSeconds"] in range(60)


def test_the_estimate_on_cpus_is_what_vllm_has(world: World, namespace: str, measured: Measured) -> None:
    """The KV cache is decided from the memory limit, and vLLM allocates it to the token."""
    config = json.loads((model_path() / "config.json").read_text())
    document = sample(modelFacts={"config": config}, resources={"limits": {"memory": "4Gi"}})
    document["metadata"]["name"] = "sized"
    document["spec"]["engine"]["env"] = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
    world.apply(namespace, document)
    model = world.wait_ready(namespace, "sized")
    sizing = model["status"]["sizing"]
    space = sizing["memory"]["kvCache"]
    assert space in ("1Gi", "2Gi"), "4 GiB without the processes' share and the weights, in whole GiB"
    (container,) = world.pod(namespace, "sized")["spec"]["containers"]
    assert {"name": "VLLM_CPU_KVCACHE_SPACE", "value": space.removesuffix("Gi")} in container["env"]

    def figures() -> dict[str, int] | None:
        found = world.api.get("models", namespace, "sized")["status"]["sizing"].get("measured")
        return found if isinstance(found, dict) else None

    seen = eventually("vLLM's own figures", figures, seconds=60)
    measured(f"estimated {sizing['kvCacheTokens']:,} tokens, vLLM has {seen['kvCacheTokens']:,}")
    assert abs(seen["errorPercent"]) <= 1


@pytest.fixture
def claim(world: World, namespace: str) -> Iterator[str]:
    """A claim with the tiny model in it."""
    name = f"{namespace}-models"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "hostPath": {"path": str(model_path()), "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": "models"},
        },
    }
    world.apply(namespace, volume)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": name,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    world.apply(namespace, claim)
    yield "models"
    world.cluster.kubectl("delete", "persistentvolume", name, "--wait=false", "--ignore-not-found")


def test_a_model_in_a_volume_is_read_by_a_job(world: World, namespace: str, claim: str, measured: Measured) -> None:
    document = sample(model=f"pvc://{claim}", resources={"limits": {"memory": "4Gi"}})
    document["metadata"]["name"] = "in-a-volume"
    document["spec"]["engine"]["env"] = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
    began = time.monotonic()
    world.apply(namespace, document)
    world.wait_condition(namespace, "in-a-volume", "Accepted", "True", seconds=60)
    measured(f"read by a Job after {time.monotonic() - began:.1f} s")
    sizing = world.api.get("models", namespace, "in-a-volume")["status"]["sizing"]
    assert "weights" in " ".join(sizing["reasons"]), sizing
    assert sizing["memory"]["kvCache"] in ("1Gi", "2Gi")
    assert world.api.list("jobs", namespace) == []
    world.wait_ready(namespace, "in-a-volume")
    reply = complete(world.api.get("models", namespace, "in-a-volume")["status"]["url"], "in-a-volume")
    assert reply.good, reply


def test_an_empty_volume_is_told_from_a_model(world: World, namespace: str, claim: str) -> None:
    document = without_pods("nothing-there", model=f"pvc://{claim}/no/such/folder")
    world.apply(namespace, document)
    said = world.wait_condition(namespace, "nothing-there", "Accepted", "False", "ModelNotFound", seconds=60)
    assert "/models/models/no/such/folder" in said["message"]


def test_a_model_in_an_image(world: World, namespace: str, measured: Measured) -> None:
    """The image that the pods run has the tiny model in it: here it is only a volume."""
    image = f"{full_reference(VLLM_IMAGE)}/{MODEL_PATH}"
    document = sample(model=f"oci://{image}", resources={"limits": {"memory": "4Gi"}})
    document["metadata"]["name"] = "in-an-image"
    document["spec"]["engine"]["env"] = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
    began = time.monotonic()
    world.apply(namespace, document)
    world.wait_condition(namespace, "in-an-image", "Accepted", "True", seconds=60)
    measured(f"read by a Job after {time.monotonic() - began:.1f} s")
    sizing = world.api.get("models", namespace, "in-an-image")["status"]["sizing"]
    assert sizing["memory"]["kvCache"] in ("1Gi", "2Gi"), sizing
    url = world.wait_ready(namespace, "in-an-image")["status"]["url"]
    assert complete(url, "in-an-image").good


@pytest.fixture
def bucket(world: World, tmp_path: Path) -> Iterator[Bucket]:
    """A bucket that pods reach, with the tiny model in it."""
    if os.environ.get("VLLM_OPERATOR_CLUSTER", "local") != "local":
        unavailable("a bucket on this machine is reached from its own node only")
    with serve_bucket(tmp_path / "bucket", address=Settings.load().host_address) as server:
        server.upload(model_path(), "team/tiny")
        yield server


def test_a_model_in_a_bucket(world: World, namespace: str, bucket: Bucket, measured: Measured) -> None:
    """Its keys are in a Secret: the operator never sees them, the Job that reads the model has them as vLLM does."""
    document = sample(model="s3://models/team/tiny", resources={"limits": {"memory": "4Gi"}})
    document["metadata"]["name"] = "in-a-bucket"
    document["spec"]["engine"]["env"] = [
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": "bucket", "key": name}}}
            for name in bucket.environment
        ),
    ]
    world.apply(namespace, document)
    world.wait_condition(namespace, "in-a-bucket", "Accepted", "False", "ReferenceNotFound")
    wrong = {**bucket.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket"}, "stringData": wrong}
    world.apply(namespace, secret)
    refused = world.wait_condition(namespace, "in-a-bucket", "Accepted", "False", "ModelAccessDenied", seconds=120)
    assert "s3://models/team/tiny: access denied (SignatureDoesNotMatch)" in refused["message"], refused
    began = time.monotonic()
    world.apply(namespace, {**secret, "stringData": bucket.environment})
    world.wait_condition(namespace, "in-a-bucket", "Accepted", "True", seconds=180)
    measured(f"read out of a bucket {time.monotonic() - began:.1f} s after its key was put right")
    sizing = world.api.get("models", namespace, "in-a-bucket")["status"]["sizing"]
    assert sizing["memory"]["kvCache"] in ("1Gi", "2Gi"), sizing
    url = world.wait_ready(namespace, "in-a-bucket")["status"]["url"]
    assert complete(url, "in-a-bucket").good
    assert world.api.list("jobs", namespace) == []
