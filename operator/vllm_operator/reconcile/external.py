"""Models that run elsewhere: what is asked of their endpoints, and what is said of it. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from vllm_operator.api.conditions import Reason
from vllm_operator.api.endpoint import read_server
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import ANNOTATION_REFRESH, Key, content_hash
from vllm_operator.api.types import External, ExternalCapabilities, VLLMModelSpec
from vllm_operator.cluster.base import Object
from vllm_operator.reconcile.references import LoadedReferences
from vllm_operator.serving.external import ExternalResult, ExternalTarget, ToolsFinding
from vllm_operator.workload.names import names_there
from vllm_operator.workload.references import Reference


def external_references(external: External) -> frozenset[Reference]:
    """Secrets that an external endpoint needs."""
    wanted = (external.api_key_secret_ref, external.ca_secret_ref)
    return frozenset(Reference("Secret", each.name, each.key, False) for each in wanted if each is not None)


def build_target(model: Object, key: Key, spec: VLLMModelSpec, references: LoadedReferences) -> ExternalTarget:
    """Whom to ask, with what. Raises Refusal for a URL that is none."""
    external = spec.external
    assert external is not None
    try:
        server = read_server(external.url)
    except ValueError as error:
        raise Refusal(Reason.INVALID_SPEC, f"spec.external.url: {error}") from error

    def value(reference: Any) -> str | None:
        return None if reference is None else references.secret_value(reference.name, reference.key)

    names = tuple(sorted(set(names_there(spec, key.name).values())))
    refresh = (model["metadata"].get("annotations") or {}).get(ANNOTATION_REFRESH)
    capabilities = external.capabilities or ExternalCapabilities()
    asked = content_hash([external.url, names, references.digests, refresh])
    return ExternalTarget(
        server=server,
        names=names,
        asked=asked,
        api_key=value(external.api_key_secret_ref),
        ca=value(external.ca_secret_ref),
        ask_tools=capabilities.tools is None,
        known=_known(model.get("status") or {}),
    )


def _known(status: Mapping[str, Any]) -> ToolsFinding | None:
    """What the status says was found before: a new operator asks nobody again."""
    found = status.get("external") or {}
    try:
        at = datetime.fromisoformat(found["askedAt"])
        return ToolsFinding((status.get("capabilities") or {}).get("tools"), found["askedHash"], at)
    except (KeyError, ValueError, TypeError):
        return None


def external_fields(
    spec: VLLMModelSpec, target: ExternalTarget, result: ExternalResult | None, previous: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of status. What was found before stands until the endpoint says otherwise."""
    assert spec.external is not None
    given = spec.external.capabilities or ExternalCapabilities()
    before = previous.get("external") or {}
    finding = (result.tools if result is not None else None) or target.known
    if finding is not None and finding.asked != target.asked:
        finding = None
    models = list(result.models[:100]) if result is not None and result.models else before.get("models")
    known_length = previous.get("maxModelLen") if before else None
    length = given.max_model_len
    if length is None:
        length = result.max_model_len if result is not None and result.models else known_length
    tools = given.tools if given.tools is not None else finding.tools if finding is not None else None
    found = {"models": models}
    if finding is not None and given.tools is None:
        at = finding.at.isoformat(timespec="seconds").replace("+00:00", "Z")
        found |= {"askedAt": at, "askedHash": finding.asked}
    return {
        "maxModelLen": length,
        "capabilities": None if tools is None else {"tools": tools},
        "external": {name: value for name, value in found.items() if value is not None} or None,
    }
