"""States of gateways."""

from typing import Any

from vllm_operator.api.names import Key
from vllm_operator.gateway.state import ApiKey, Endpoint, GatewayModel, GatewayState

TEAM_A, TEAM_B = Key("team-a", "keys"), Key("team-b", "keys")
ALICE = ApiKey(TEAM_A, "alice", "sk-alice-secret")
BOB = ApiKey(TEAM_B, "bob", "sk-bob-secret")

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBqDCCAU+gAwIBAgIUWgqW5VaBKQVaxMClnBrdZDX5RyUwCgYIKoZIzj0EAwIw
KTEnMCUGA1UEAwweYXV0aG9yaXR5IG9mIHRoZSBnb2xkZW4gc3RhdGVzMCAXDTI2
MTEyMTEwMTg0N1oYDzIxMjYxMDI4MTAxODQ3WjApMScwJQYDVQQDDB5hdXRob3Jp
dHkgb2YgdGhlIGdvbGRlbiBzdGF0ZXMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASnHJwxq+QsaSkyIkIJB7J0NgjyOV492HJt7X4f+yMunYsEteeGtL7KdgIuc/tx
4Q39POW1i/ErZNDkYdn6jYydo1MwUTAdBgNVHQ4EFgQUkGkWzDoDG499XrPBfJbi
xGFvLbIwHwYDVR0jBBgwFoAUkGkWzDoDG499XrPBfJbixGFvLbIwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBmKhoUzwVGyTYriP5m9v71OjbgCaEX
IpbkkObbLxz3wQIgMCRQfr9DRrtwsDMfIf+o+tZUWUr8tCcN8OTOKAMBVK8=
-----END CERTIFICATE-----
"""
"""A certificate that signs nothing: its key is thrown away."""


def model(name: str, *endpoints: Endpoint, namespace: str = "models", **fields: Any) -> GatewayModel:
    """A model that everybody may use, unless `callers` says who."""
    values = {"created": "2026-11-21T10:00:00Z", "served_model_names": (name,), **fields}
    return GatewayModel(key=Key(namespace, name), endpoints=endpoints, **values)


def state(*models: GatewayModel, keys: tuple[ApiKey, ...] = (ALICE, BOB), **fields: Any) -> GatewayState:
    return GatewayState(models=models, keys=keys, **fields)
