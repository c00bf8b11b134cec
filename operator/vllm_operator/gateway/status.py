"""What a gateway does, for people. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm_operator.gateway.naming import decide_names
from vllm_operator.gateway.render import cluster_name
from vllm_operator.gateway.state import GatewayState
from vllm_operator.gateway.xds import Rejection

JSONObject = dict[str, Any]


def describe_status(
    state: GatewayState, clusters: Iterable[Mapping[str, Any]], rejections: Iterable[Rejection]
) -> JSONObject:
    """The state, how Envoy finds the pods (its /clusters), and what it has not taken. Without keys."""
    names = decide_names(state.models)
    health = {str(each.get("name")): _health(each.get("host_statuses") or ()) for each in clusters}
    return {
        "keys": len(state.keys),
        "models": [
            {
                "model": str(model.key),
                "names": sorted(
                    name
                    for name in model.served_model_names
                    if any(share.model is model for share in names.owners.get(name, ()))
                ),
                "waiting": model.waiting,
                "fallback": None if model.fallback is None else str(model.fallback),
                "pods": [
                    {
                        "address": f"{each.address}:{each.port}",
                        "healthy": health.get(cluster_name(model.key), {}).get((each.address, each.port), False),
                    }
                    for each in sorted(model.endpoints)
                ],
            }
            for model in sorted(state.models, key=lambda model: model.key)
        ],
        "names_taken": [
            f"{key}: {name} is {owner}'s, which is older"
            for key, wanted in sorted(names.taken.items())
            for name, owner in sorted(wanted.items())
        ],
        "rejected": sorted(
            f"{each.type.rpartition('.')[2]} {', '.join(each.names) or 'of all models'}" for each in rejections
        ),
    }


def _health(hosts: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], bool]:
    """(address, port) → whether Envoy sends requests there."""
    found = {}
    for host in hosts:
        address = (host.get("address") or {}).get("socket_address") or {}
        status = host.get("health_status") or {}
        failed = any(value is True for name, value in status.items() if name.startswith("failed_"))
        healthy = status.get("eds_health_status", "HEALTHY") == "HEALTHY" and not failed
        found[str(address.get("address")), int(address.get("port_value") or 0)] = healthy
    return found
