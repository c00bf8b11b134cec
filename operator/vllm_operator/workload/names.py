"""How a model is called and reached."""

from vllm_operator.api.names import PORT, Key
from vllm_operator.api.types import VLLMModelSpec


def served_model_names(spec: VLLMModelSpec, name: str) -> list[str]:
    """Names by which requests ask for the model; the first is the one that vLLM answers with."""
    return list(spec.served_model_names or [name])


def service_url(key: Key, cluster_domain: str) -> str:
    """Base URL of a model's Service; the OpenAI API is under /v1."""
    return f"http://{key.name}.{key.namespace}.svc.{cluster_domain}:{PORT}"
