"""Who may reach a model's pods, as a NetworkPolicy has it."""

import ipaddress
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from vllm_operator.api.base import Model
from vllm_operator.api.errors import problems_of_list
from vllm_operator.api.types import LabelSelector


class IPBlock(Model):
    """Addresses."""

    cidr: str
    """Such as 10.0.0.0/8."""
    except_: list[str] | None = Field(default=None, alias="except")
    """Ranges within it that are left out."""

    @field_validator("cidr", "except_")
    @classmethod
    def _is_range(cls, value: str | list[str] | None) -> str | list[str] | None:
        for text in [value] if isinstance(value, str) else value or []:
            if "/" not in text:
                raise ValueError(f"{text!r} is no range of addresses: write e.g. 10.0.0.0/8")
            ipaddress.ip_network(text)
        return value


class NetworkPolicyPeer(Model):
    """One who may connect, as the API server takes it: pods, or addresses."""

    pod_selector: LabelSelector | None = None
    """Pods; of the policy's own namespace where no namespaces are chosen."""
    namespace_selector: LabelSelector | None = None
    """Namespaces; all of their pods where none are chosen."""
    ip_block: IPBlock | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "NetworkPolicyPeer":
        chosen = self.pod_selector is not None or self.namespace_selector is not None
        if chosen == (self.ip_block is not None):
            raise ValueError("write podSelector, namespaceSelector, both, or ipBlock alone")
        return self

    def as_json(self) -> dict[str, Any]:
        """Return it as the API server shows it: an empty selector chooses all, and within one nothing is empty."""
        document = self.model_dump(by_alias=True, exclude_none=True, mode="json")
        return {name: _without_empty(value) for name, value in document.items()}


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty(inner) for name, inner in value.items() if inner not in ({}, [])}
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value


_PEERS = TypeAdapter(tuple[NetworkPolicyPeer, ...])


def read_peers(text: str) -> tuple[NetworkPolicyPeer, ...]:
    """Peers, from JSON. Raises ValueError naming each field that is wrong."""
    try:
        return _PEERS.validate_json(text)
    except ValidationError as error:
        raise ValueError(problems_of_list(error)) from error
