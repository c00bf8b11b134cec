"""The Job that reads what a model in a volume is."""

from typing import Any

import pytest

from tests.workload.bundles import UID, parse
from vllm_operator.api.names import Key, selector_labels
from vllm_operator.workload.inspect import build_inspect_job, inspect_job_name
from vllm_operator.workload.source import resolve_source

IMAGE = "registry.example.com/vllm-operator:1"


def job(**spec: Any) -> dict[str, Any]:
    model = parse({"model": "pvc://models/llama-70b", **spec})
    return build_inspect_job(Key("team-a", "llama"), UID, model, resolve_source(model), image=IMAGE)


def pod(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = job(**spec)["spec"]["template"]["spec"]
    return found


def test_what_it_runs() -> None:
    (container,) = pod()["containers"]
    assert (container["image"], container["args"]) == (IMAGE, ["inspect", "/models/models/llama-70b"])
    assert container["volumeMounts"] == [{"name": "model", "mountPath": "/models/models", "readOnly": True}]
    assert pod()["volumes"] == [{"name": "model", "persistentVolumeClaim": {"claimName": "models"}}]


def test_the_service_sends_it_no_requests() -> None:
    labels = job()["spec"]["template"]["metadata"]["labels"]
    assert not selector_labels("llama").items() <= labels.items()


def test_it_satisfies_the_restricted_standard() -> None:
    found = pod()
    assert found["securityContext"]["runAsNonRoot"]
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = found["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found["automountServiceAccountToken"] is False


def test_nothing_is_left_behind() -> None:
    made = job()
    assert made["metadata"]["ownerReferences"][0]["uid"] == UID
    assert made["spec"]["ttlSecondsAfterFinished"] > 0
    assert made["spec"]["activeDeadlineSeconds"] > 0


def test_it_goes_where_the_model_may_go() -> None:
    own = {"key": "team", "operator": "Equal", "value": "a"}
    assert own in pod(scheduling={"tolerations": [own]})["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod()["tolerations"]
    assert pod(engine={"imagePullSecrets": [{"name": "mine"}]})["imagePullSecrets"] == [{"name": "mine"}]


def test_names() -> None:
    key = Key("a", "m" * 63)
    source = resolve_source(parse({"model": "pvc://models/a"}))
    name = inspect_job_name(key, UID, source, image=IMAGE)
    assert len(name) <= 63
    others = {
        inspect_job_name(key, "other", source, image=IMAGE),
        inspect_job_name(key, UID, source, image="other"),
        inspect_job_name(key, UID, resolve_source(parse({"model": "pvc://models/b"})), image=IMAGE),
    }
    assert name not in others
    assert len(others) == 3


@pytest.mark.parametrize("model", ["pvc://models", "pvc://models/a/b"])
def test_it_reads_where_vllm_will(model: str) -> None:
    spec = parse({"model": model})
    made = build_inspect_job(Key("a", "m"), UID, spec, resolve_source(spec), image=IMAGE)
    assert made["spec"]["template"]["spec"]["containers"][0]["args"][1] == resolve_source(spec).path
