"""All children of a model, built with fixed settings: what the tests of this folder compare."""

from collections.abc import Mapping
from typing import Any

from vllm_operator.api.names import Key, content_hash, revision_name
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.sizing.decide import Known, decide
from vllm_operator.sizing.plan import decide_plan
from vllm_operator.workload.adapters import decide_lora
from vllm_operator.workload.children import (
    build_controller_revision,
    build_deployment,
    build_http_route,
    build_network_policy,
    build_pod_disruption_budget,
    build_service,
    revision_inputs,
)
from vllm_operator.workload.not_implemented import check_implemented
from vllm_operator.workload.pods import build_pod_template
from vllm_operator.workload.settings import BuildSettings, GatewayRef

KEY = Key("team-a", "qwen3-8b")
UID = "7c9f7f2e-0000-4000-8000-000000000001"
SETTINGS = BuildSettings(default_gateway=GatewayRef("gateways", "main"))


def parse(spec: Mapping[str, Any]) -> VLLMModelSpec:
    return VLLMModelSpec.model_validate(spec)


def pod_template(spec: Mapping[str, Any], settings: BuildSettings = SETTINGS) -> dict[str, Any]:
    """The pod template of a spec as a user writes it."""
    model = parse(spec)
    plan = decide_plan(model, default_accelerator=settings.default_accelerator)
    lora = decide_lora(model, KEY.name, settings, {})
    return build_pod_template(KEY, model, plan=plan, settings=settings, lora=lora)


def pod(spec: Mapping[str, Any], settings: BuildSettings = SETTINGS) -> dict[str, Any]:
    result: dict[str, Any] = pod_template(spec, settings)["spec"]
    return result


def container(spec: Mapping[str, Any], settings: BuildSettings = SETTINGS) -> dict[str, Any]:
    result: dict[str, Any] = pod(spec, settings)["containers"][0]
    return result


def build_bundle(
    spec: Mapping[str, Any], settings: BuildSettings = SETTINGS, *, key: Key = KEY, known: Known | None = None
) -> list[dict[str, Any]]:
    """All children, as the reconciler puts them together: replicas are 0 while suspended.

    `known`: of the model and the GPUs; None: nothing.
    """
    model = parse(spec)
    check_implemented(model, gateway=bool(settings.gateway_url))
    known = known or Known(unread="this is a test")
    plan = decide(model, known, default_accelerator=settings.default_accelerator).plan
    lora = decide_lora(model, key.name, settings, {})
    template = build_pod_template(key, model, plan=plan, settings=settings, lora=lora)
    replicas = 0 if model.suspend else model.replicas
    deployment = build_deployment(key, UID, model, template=template, references_hash="0123456789abcdef")
    deployment["spec"]["replicas"] = replicas
    children = [
        deployment,
        build_service(key, UID),
        build_pod_disruption_budget(key, UID, replicas=replicas),
        build_network_policy(key, UID, model, settings),
        build_http_route(key, UID, model, settings),
    ]
    return [child for child in children if child is not None]


def build_revision(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The ControllerRevision of a spec's inputs. Not in the bundle: it differs whenever any input does, which proves nothing."""
    inputs = revision_inputs(parse(spec))
    return build_controller_revision(
        KEY,
        UID,
        name=revision_name(KEY.name, content_hash(inputs)),
        inputs_hash=content_hash(inputs),
        revision=1,
        data=inputs,
    )
