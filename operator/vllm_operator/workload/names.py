"""How a model is called and reached."""

from vllm_operator.api.names import PORT, Key, engine_key_secret
from vllm_operator.api.types import Engine, Route, VLLMModelSpec
from vllm_operator.workload.settings import BuildSettings


def served_model_names(spec: VLLMModelSpec, name: str) -> list[str]:
    """Names by which requests ask for the model; the first is the one that vLLM answers with."""
    return list(spec.served_model_names or [name])


def names_there(spec: VLLMModelSpec, name: str) -> dict[str, str]:
    """Served names of an external model → what its endpoint calls it."""
    known = (spec.external.model_names if spec.external is not None else None) or {}
    return {served: known.get(served, spec.model) for served in served_model_names(spec, name)}


def by_gateway_alone(spec: VLLMModelSpec, settings: BuildSettings) -> bool:
    """Whether requests are to come by the gateway for all models and in no other way: not by a route of the model's own nor,
    with route.enabled: false, by its Service.
    """
    route = spec.route or Route()
    return bool(settings.gateway_url) and not route.parent_refs and route.enabled is not False


def generated_key_secret(spec: VLLMModelSpec, key: Key, settings: BuildSettings) -> str | None:
    """Secret with a generated key that vLLM is to ask for; None where callers need another one, and where the user has said which."""
    if not by_gateway_alone(spec, settings):
        return None
    if spec.auth is not None and spec.auth.api_key_secret_ref is not None:
        return None
    if any(variable.name == "VLLM_API_KEY" for variable in (spec.engine or Engine()).env or ()):
        return None
    return engine_key_secret(key.name)


def service_url(key: Key, cluster_domain: str) -> str:
    """Base URL of a model's Service; the OpenAI API is under /v1."""
    return f"http://{key.name}.{key.namespace}.svc.{cluster_domain}:{PORT}"
