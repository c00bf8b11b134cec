"""What the gateway knows: models, where their pods are, and who may ask. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vllm_operator.api.endpoint import Server
from vllm_operator.api.names import Key

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, order=True)
class Endpoint:
    """A pod that may be sent requests."""

    address: str
    port: int


@dataclass(frozen=True)
class ApiKey:
    """A key that callers show."""

    secret: Key
    """Secret that holds it: its keys stand for one team."""
    name: str
    """Name of the key in that Secret; stands in logs, where the value never does."""
    value: str = field(repr=False)
    requests_per_minute: int | None = None
    """Requests for models that each gateway takes from it in a minute; None: all."""
    concurrent_requests: int | None = None
    """Requests for models that each gateway has under way for it at the same time; None: all."""


@dataclass(frozen=True, kw_only=True)
class External:
    """A server outside of the cluster that answers for a model; its addresses are the model's endpoints."""

    server: Server
    """Its name is told to it, and is what its certificate must be for."""
    ca: str | None = None
    """Certificates (PEM) that its own must be signed by; None: those that the system trusts."""
    model_names: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Served name → what it is called there, where that is something else."""


@dataclass(frozen=True, kw_only=True)
class GatewayModel:
    """A model, as callers see it."""

    key: Key
    created: str
    """creationTimestamp, RFC 3339: the older of two models keeps a name that both want."""
    served_model_names: tuple[str, ...]
    endpoints: tuple[Endpoint, ...] = ()
    waiting: str | None = None
    """Why no request can be answered now, for callers; None: it serves."""
    retry_after: int = 10
    """Seconds after which callers should ask again while it does not serve."""
    max_model_len: int | None = None
    """Context in tokens."""
    callers: frozenset[Key] | None = None
    """Secrets whose keys may use it; None: everybody may, without a key."""
    upstream_key: str | None = field(default=None, repr=False)
    """Key that its vLLM asks for."""
    weight: int | None = None
    """Share of the requests among models of one name; None: the oldest has the name alone."""
    balance: Literal["leastRequest", "session", "user", "prefix"] = "leastRequest"
    """How a pod is chosen: the one with least to do, or the one that had the same x-session-id, key, or beginning of the prompt."""
    fallback: Key | None = None
    """Model that answers in its place while it does not serve, if that one serves and all of its callers may use that one too."""
    clamp_max_tokens: bool = False
    """Keep what requests ask for within what max_model_len leaves; nothing is done where that is not known."""
    drop_tools: bool = False
    """Leave tools out of requests: the model does not take them."""
    external: External | None = None
    """Where it is, if it is no model of this cluster."""
    parent: Key | None = None
    """Model whose LoRA adapter this is; its key is then namespace, and model/adapter. None: it is a model."""
    shares_pods: bool = False
    """All of the parent's pods have the adapter, or none: one cluster does for both."""


@dataclass(frozen=True, kw_only=True)
class GatewayState:
    """All that the gateway's configuration follows from."""

    models: tuple[GatewayModel, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    largest_body: int = 64 * MEBIBYTE
    """Bytes of a request's body that are taken at most."""
