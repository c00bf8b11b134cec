"""The Job that reads what a model in a volume or a bucket is."""

from typing import Any

import pytest

from tests.workload.bundles import UID, parse
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import Key, selector_labels
from vllm_operator.workload.inspect import build_inspect_job
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
    def name(uid: str = UID, image: str = IMAGE, **spec: Any) -> str:
        model = parse({"model": "pvc://models/a", **spec})
        made = build_inspect_job(Key("a", "m" * 63), uid, model, resolve_source(model), image=image)
        return str(made["metadata"]["name"])

    assert len(name()) <= 63
    others = {name(uid="other"), name(image="other"), name(model="pvc://models/b"), name(model="s3://models/a")}
    # A Job that waits for a Secret that the user has named wrongly is not waited for once the name is right.
    keys = [{"name": "AWS_PROFILE", "value": "other"}]
    others.add(name(model="s3://models/a", engine={"env": keys}))
    assert name() == name(replicas=3)
    assert name() not in others
    assert len(others) == 5


def test_a_bucket_is_opened_with_what_vllm_has() -> None:
    secret = {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "key"}}}
    found = pod(
        model="s3://models/llama",
        engine={"env": [secret, {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}]},
        scheduling={"serviceAccountName": "reader"},
    )
    (container,) = found["containers"]
    assert container["args"] == ["inspect", "s3://models/llama"]
    assert container["env"] == [secret]
    assert found["serviceAccountName"] == "reader"
    assert "volumes" not in found
    assert "volumeMounts" not in container


def test_a_bucket_is_opened_with_what_pod_template_gives() -> None:
    region = {"name": "AWS_REGION", "value": "eu-west-1"}
    source = {"secretRef": {"name": "s3"}}
    found = pod(
        model="s3://models/llama",
        engine={"env": [{"name": "AWS_REGION", "value": "us-east-1"}]},
        scheduling={"serviceAccountName": "reader"},
        podTemplate={
            "spec": {
                "serviceAccountName": "other",
                "containers": [
                    {"name": "sidecar", "env": [{"name": "AWS_PROFILE", "value": "x"}]},
                    {
                        "name": "vllm",
                        "env": [region],
                        "envFrom": [source],
                        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}, {"name": "big", "mountPath": "/big"}],
                    },
                ],
                "volumes": [
                    {"name": "ca", "configMap": {"name": "ca"}},
                    {"name": "unused", "secret": {"secretName": "other"}},
                    {"name": "big", "persistentVolumeClaim": {"claimName": "big"}},
                ],
            }
        },
    )
    (container,) = found["containers"]
    assert (container["env"], container["envFrom"]) == ([region], [source])
    assert container["volumeMounts"] == [{"name": "ca", "mountPath": "/ca", "readOnly": True}]
    assert found["volumes"] == [{"name": "ca", "configMap": {"name": "ca"}}]
    assert found["serviceAccountName"] == "other"


def test_a_volume_needs_no_keys() -> None:
    found = pod(engine={"env": [{"name": "AWS_REGION", "value": "x"}]}, scheduling={"serviceAccountName": "reader"})
    assert "env" not in found["containers"][0]
    assert "serviceAccountName" not in found


def test_a_pod_template_that_is_none_is_refused() -> None:
    with pytest.raises(Refusal, match=r"spec.podTemplate.spec.containers\[0\].volumeMounts is 'x', but must be a list"):
        pod(model="s3://models/x", podTemplate={"spec": {"containers": [{"name": "vllm", "volumeMounts": "x"}]}})


@pytest.mark.parametrize("model", ["pvc://models", "pvc://models/a/b", "s3://models/a/", "gs://models"])
def test_it_reads_where_vllm_will(model: str) -> None:
    spec = parse({"model": model})
    made = build_inspect_job(Key("a", "m"), UID, spec, resolve_source(spec), image=IMAGE)
    assert made["spec"]["template"]["spec"]["containers"][0]["args"][1] == resolve_source(spec).path
