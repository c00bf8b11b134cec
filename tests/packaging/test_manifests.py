"""The plain manifests: kustomize, samples, GitOps examples."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from .support import (
    CHART,
    MANIFESTS,
    REPOSITORY,
    KubernetesObject,
    documents,
    environment,
    identity,
    kustomize,
    of_kind,
    only,
    operator_module,
    render,
)

SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))
GITOPS_MODELS = [
    path for path in sorted((MANIFESTS / "gitops" / "models").glob("*.yaml")) if "VLLMModel" in path.read_text()
]
GITOPS = sorted(path for path in (MANIFESTS / "gitops").rglob("*.yaml"))


def _normalised(objects: list[KubernetesObject]) -> dict[Any, KubernetesObject]:
    """Objects by identity, without what only Helm or only kustomize adds."""
    result = {}
    for original in objects:
        thing = copy.deepcopy(original)
        for metadata in (thing["metadata"], thing.get("spec", {}).get("template", {}).get("metadata", {})):
            for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
                metadata.get("labels", {}).pop(label, None)
            annotations = metadata.get("annotations", {})
            annotations.pop("helm.sh/resource-policy", None)
            if not annotations:
                metadata.pop("annotations", None)
        result[identity(thing)] = thing
    return result


def test_base_is_the_chart() -> None:
    """Whoever installs without Helm gets the same operator."""
    chart = _normalised(render())
    base = _normalised([thing for thing in kustomize(MANIFESTS / "base") if thing["kind"] != "Namespace"])
    assert sorted(base) == sorted(chart)
    for key in chart:
        assert base[key] == chart[key], key


def test_base_brings_a_namespace_that_enforces_the_restricted_standard() -> None:
    namespace = only(kustomize(MANIFESTS / "base"), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_chart_carries_the_repository_definition() -> None:
    [original] = [path for path in (REPOSITORY / "crds").glob("*.yaml") if path.name != "kustomization.yaml"]
    copied = CHART / "files" / "crds" / original.name
    assert yaml.safe_load(copied.read_text()) == yaml.safe_load(original.read_text()), (
        "run `python -m vllm_operator.generate`"
    )


def test_overlay_changes_what_it_says() -> None:
    base, overlay = kustomize(MANIFESTS / "base"), kustomize(MANIFESTS / "overlays" / "example")
    deployment = only(overlay, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"].startswith("registry.example.com/")
    before, after = environment(only(base, "Deployment")), environment(deployment)
    assert after == before | {
        "VLLM_OPERATOR_LOG_FORMAT": "text",
        "VLLM_OPERATOR_DEFAULT_GATEWAY": "gateways/inference",
        "VLLM_OPERATOR_IMAGE_NVIDIA": "registry.example.com/mirror/vllm-openai:v{version}",
    }
    assert len(of_kind(overlay, "PodDisruptionBudget")) == 1


def test_versions_agree() -> None:
    """The version stands in several files; a release changes all of them."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    base = yaml.safe_load((MANIFESTS / "base" / "kustomization.yaml").read_text())
    versions = {
        "Chart.yaml version": chart["version"],
        "Chart.yaml appVersion": chart["appVersion"],
        "manifests/base image": base["images"][0]["newTag"],
        "manifests/base label": base["labels"][0]["pairs"]["app.kubernetes.io/version"],
    }
    versions["vllm_operator.__version__"] = operator_module("").__version__
    assert len(set(versions.values())) == 1, versions


@pytest.fixture(scope="module")
def model_type() -> Any:
    """The operator's own type of a VLLMModel."""
    return operator_module("api.types").VLLMModel


@pytest.mark.parametrize("path", SAMPLES + GITOPS_MODELS, ids=lambda path: path.name)
def test_models_validate(path: Path, model_type: Any) -> None:
    for document in documents(path.read_text()):
        assert document["kind"] == "VLLMModel"
        model_type.model_validate(document)


def test_samples_show_the_common_cases() -> None:
    names = {path.stem for path in SAMPLES}
    assert {"qwen3-8b", "tiny-cpu", "llama-70b-tensor-parallel", "gated-model", "pvc-model-with-route"} <= names
    minimal = yaml.safe_load((MANIFESTS / "samples" / "qwen3-8b.yaml").read_text())
    assert set(minimal["spec"]) == {"model"}, "the shortest model needs nothing but spec.model"


def test_chart_example_is_the_minimal_sample() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    [example] = yaml.safe_load(annotations["artifacthub.io/crdsExamples"])
    assert example == yaml.safe_load((MANIFESTS / "samples" / "qwen3-8b.yaml").read_text())


@pytest.mark.parametrize("path", GITOPS, ids=lambda path: str(path.relative_to(MANIFESTS / "gitops")))
def test_gitops_examples_are_yaml(path: Path) -> None:
    assert documents(path.read_text())


def test_gitops_values_are_taken_by_the_chart() -> None:
    application = yaml.safe_load((MANIFESTS / "gitops" / "argocd" / "operator.yaml").read_text())
    argocd = render(application["spec"]["source"]["helm"]["valuesObject"])
    annotations = only(argocd, "CustomResourceDefinition")["metadata"]["annotations"]
    assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
    [release] = of_kind(documents((MANIFESTS / "gitops" / "flux" / "operator.yaml").read_text()), "HelmRelease")
    assert render(release["spec"]["values"])


def test_gitops_models_build() -> None:
    assert {
        thing["metadata"].get("namespace") for thing in of_kind(kustomize(MANIFESTS / "gitops" / "models"), "VLLMModel")
    } == {"models"}
