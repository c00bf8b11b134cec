"""What a gateway does, for people and for the operator. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import decide_names
from vllm_operator.gateway.render import (
    AUTHENTICATION,
    CLUSTER,
    EXTENSION,
    LIMITS,
    cluster_of,
    model_of,
)
from vllm_operator.gateway.state import Endpoint, GatewayState
from vllm_operator.gateway.xds import Rejection

JSONObject = dict[str, Any]


def describe_status(
    state: GatewayState,
    clusters: Iterable[Mapping[str, Any]],
    rejections: Iterable[Rejection],
    problems: Mapping[Key, str],
) -> JSONObject:
    """The state, how Envoy finds the pods (its /clusters), what it has not taken, and models of which it could not be told. Without
    keys.
    """
    names = decide_names(state.models)
    healthy = healthy_pods(clusters)
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
                "waiting": problems.get(model.parent or model.key, model.waiting),
                "fallback": None if model.fallback is None else str(model.fallback),
                "pods": [
                    {
                        "address": f"{each.address}:{each.port}",
                        "healthy": each in healthy.get(cluster_of(model), ()),
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
        "rejected": [
            *sorted(
                f"{each.type.rpartition('.')[2]} {', '.join(each.names) or 'of all models'}" for each in rejections
            ),
            *(f"{key}: {text}" for key, text in sorted(problems.items())),
        ],
    }


_WHAT = {
    AUTHENTICATION: "the callers' keys",
    LIMITS: "the limits of keys",
}
"""What Envoy has not taken, in words: by name."""


def describe_rejected(
    rejections: Iterable[Rejection],
    problems: Mapping[Key, str],
    *,
    published: Iterable[str],
    used: Iterable[str] | None,
) -> JSONObject:
    """What the gateway does not do as it was told: `all` is what concerns every model (None: nothing), `models` the rest by model.
    Without keys.

    Of clusters Envoy says that it has not taken them all, not which: those that are `published` and not among those that it has
    (`used`; None: it does not answer), and those that were others when it last had all. The rest it has taken.
    """
    everything: set[str] = set()
    models = {str(key): {text} for key, text in problems.items()}
    for each in rejections:
        if each.type == CLUSTER:
            lacking = set() if used is None else set(published) - set(used)
            for name in lacking | each.changed:
                text = "Envoy has not taken it" if name in lacking else _not_taken("what has changed")
                models.setdefault(model_of(name), set()).add(text)
        else:
            what = {_WHAT.get(name, name) for name in each.names} if each.type == EXTENSION else {"routes of models"}
            everything |= set(map(_not_taken, what))
    return {
        "all": "; ".join(sorted(everything)) or None,
        "models": {name: "; ".join(sorted(texts)) for name, texts in sorted(models.items())},
    }


def _not_taken(what: str) -> str:
    return f"Envoy has not taken {what} and goes on with what it had"


def healthy_pods(clusters: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[Endpoint]]:
    """Cluster → where Envoy sends its requests, by its /clusters."""
    return {str(each.get("name")): frozenset(_healthy(each.get("host_statuses") or ())) for each in clusters}


def _healthy(hosts: Iterable[Mapping[str, Any]]) -> Iterator[Endpoint]:
    for host in hosts:
        address = (host.get("address") or {}).get("socket_address") or {}
        status = host.get("health_status") or {}
        failed = any(value is True for name, value in status.items() if name.startswith("failed_"))
        if status.get("eds_health_status", "HEALTHY") == "HEALTHY" and not failed:
            yield Endpoint(str(address.get("address")), int(address.get("port_value") or 0))
