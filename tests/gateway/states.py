"""States of gateways."""

from typing import Any

from vllm_operator.api.names import Key
from vllm_operator.gateway.state import ApiKey, Endpoint, GatewayModel, GatewayState

TEAM_A, TEAM_B = Key("team-a", "keys"), Key("team-b", "keys")
ALICE = ApiKey(TEAM_A, "alice", "sk-alice-secret")
BOB = ApiKey(TEAM_B, "bob", "sk-bob-secret")


def model(name: str, *endpoints: Endpoint, namespace: str = "models", **fields: Any) -> GatewayModel:
    """A model that everybody may use, unless `callers` says who."""
    values = {"created": "2026-11-21T10:00:00Z", "served_model_names": (name,), **fields}
    return GatewayModel(key=Key(namespace, name), endpoints=endpoints, **values)


def state(*models: GatewayModel, keys: tuple[ApiKey, ...] = (ALICE, BOB), **fields: Any) -> GatewayState:
    return GatewayState(models=models, keys=keys, **fields)
