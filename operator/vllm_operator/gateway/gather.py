"""Objects of the cluster → what the gateway knows. Pure."""

import base64
import binascii
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from vllm_operator.api.endpoint import read_server
from vllm_operator.api.names import ENGINE_KEY, LABEL_MODEL, PORT_NAME, Key, engine_key_secret
from vllm_operator.api.text import shorten
from vllm_operator.api.types import GROUP
from vllm_operator.cluster.base import Object, key_of
from vllm_operator.gateway.naming import adapter_of, own_name
from vllm_operator.gateway.state import ApiKey, Endpoint, External, GatewayModel, GatewayState

LONGEST_REASON = 300
"""Characters of a condition's message that callers are told."""
SHORTEST_KEY = 16
"""Characters that a caller's key has at least: shorter ones can be guessed."""
ANNOTATION_PER_MINUTE = f"{GROUP}/requests-per-minute"
"""On a Secret with keys: how many requests each of them may send to a gateway's replica in a minute."""
MOST_PER_MINUTE = 1_000_000
ANNOTATION_CONCURRENT = f"{GROUP}/concurrent-requests"
"""On a Secret with keys: how many requests of each of them a gateway's replica may have under way at the same time."""
MOST_CONCURRENT = 10_000
SERVICE_LABEL = "kubernetes.io/service-name"


SecretRef = tuple[Key, str]
"""A Secret, and a key in it."""
_KEPT_FIELDS = ("model", "servedModelNames", "route", "auth", "suspend", "replicas", "external")


@dataclass(frozen=True)
class Found:
    """What a look at a host's name has found."""

    addresses: tuple[str, ...] = ()
    """Those that may be asked."""
    problem: str = ""
    """Why there is none."""


@dataclass(frozen=True)
class Gathered:
    """What was read, and what could not be."""

    state: GatewayState
    problems: tuple[str, ...] = ()
    """For the log: what is wrong with a Secret, without anything of its content."""
    unsure: frozenset[Key] = frozenset()
    """Models that have pods, none of which is ready."""


def gather(
    models: Iterable[Object],
    slices: Iterable[Object],
    key_secrets: Iterable[Object],
    named: Mapping[SecretRef, str],
    *,
    largest_body: int,
    found: Mapping[str, Found] = MappingProxyType({}),
    answering: Mapping[Key, frozenset[Endpoint]] = MappingProxyType({}),
) -> Gathered:
    """The state that these objects say.

    `named`: (Secret, key in it) → its value: the keys that vLLM and external endpoints ask for, and certificates of the latter.
    `found`: host of an external endpoint → where it was found.
    `answering`: model → pods that Envoy has and gets answers from. Where none is ready these count, if they are still there: an API server
    that was away for a minute calls all pods unready when it is back, since it has not heard of their nodes, and all serve.
    """
    slices = list(slices)
    ready, unready = _pods(slices)
    pods = {key: others & answering.get(key, frozenset()) for key, others in unready.items()} | ready
    secrets = list(key_secrets)
    callers = {key_of(each): dict(each["metadata"].get("labels") or {}) for each in secrets}
    keys, problems = read_keys(secrets)
    names = _pod_names(slices)
    read = [
        (each, read_model(each, tuple(sorted(pods.get(key_of(each), ()))), callers, named, found))
        for each in models
        if "deletionTimestamp" not in each["metadata"] and (each["spec"].get("route") or {}).get("enabled") is not False
    ]
    state = GatewayState(
        models=tuple(
            one for each, model in read for one in (model, *read_adapters(each, model, names.get(model.key, {})))
        ),
        keys=keys,
        largest_body=largest_body,
    )
    unsure = frozenset(model.key for model in state.models if model.key in unready and model.key not in ready)
    return Gathered(state, problems, unsure)


def keep_model(model: Object) -> Object:
    """What is kept of a model: the gateway is told anew when something of it changes."""
    metadata, spec, status = model["metadata"], model.get("spec") or {}, model.get("status") or {}
    return {
        "metadata": {
            name: metadata[name]
            for name in ("namespace", "name", "creationTimestamp", "deletionTimestamp")
            if name in metadata
        },
        "spec": {name: spec[name] for name in _KEPT_FIELDS if name in spec},
        "status": {
            **{
                name: status[name]
                for name in ("servedModelNames", "maxModelLen", "capabilities", "adapters", "adapterPods")
                if name in status
            },
            "conditions": [
                {name: each.get(name) for name in ("type", "status", "reason", "message")}
                for each in status.get("conditions") or ()
                if each.get("type") in ("Ready", "Accepted", "Serving")
            ],
        },
    }


def keep_slice(found: Object) -> Object:
    """What is kept of an EndpointSlice."""
    metadata = found["metadata"]
    return {
        "metadata": {name: metadata.get(name) for name in ("namespace", "name", "labels")},
        "endpoints": found.get("endpoints") or [],
        "ports": found.get("ports") or [],
    }


def keep_secret(secret: Object) -> Object:
    """What is kept of a Secret."""
    metadata = secret["metadata"]
    return {
        "metadata": {name: metadata.get(name) for name in ("namespace", "name", "labels", "annotations")},
        "data": secret.get("data") or {},
    }


def _pods(slices: Iterable[Object]) -> tuple[dict[Key, frozenset[Endpoint]], dict[Key, frozenset[Endpoint]]]:
    """Model → its pods that are ready; and those that are not. Neither has those that are about to end."""
    ready: dict[Key, frozenset[Endpoint]] = {}
    unready: dict[Key, frozenset[Endpoint]] = {}
    for each in slices:
        metadata = each["metadata"]
        labels = metadata.get("labels") or {}
        model = labels.get(LABEL_MODEL, "")
        port = next((port.get("port") for port in each["ports"] if port.get("name") == PORT_NAME), None)
        if port is None or labels.get(SERVICE_LABEL) != model:
            continue
        for endpoint in each["endpoints"]:
            conditions = endpoint.get("conditions") or {}
            if not conditions.get("terminating"):
                found, key = ready if conditions.get("ready") else unready, Key(metadata["namespace"], model)
                addresses = endpoint.get("addresses") or ()
                found[key] = found.get(key, frozenset()) | {Endpoint(address, int(port)) for address in addresses}
    return ready, unready


def _pod_names(slices: Iterable[Object]) -> dict[Key, dict[str, str]]:
    """Model → its pods' addresses → their names."""
    found: dict[Key, dict[str, str]] = {}
    for each in slices:
        metadata = each["metadata"]
        names = found.setdefault(Key(metadata["namespace"], (metadata.get("labels") or {}).get(LABEL_MODEL, "")), {})
        for endpoint in each["endpoints"]:
            pod = (endpoint.get("targetRef") or {}).get("name", "")
            names |= dict.fromkeys(endpoint.get("addresses") or (), pod)
    return found


def read_adapters(model: Object, parent: GatewayModel, pods: Mapping[str, str]) -> list[GatewayModel]:
    """The adapters of a model, each with the pods that have it by the model's status. `pods`: address → name.

    A pod that is ready, and has not been looked at by the operator, has none of them yet.
    """
    status = model.get("status") or {}
    lacking = {each["name"]: each.get("lacks") or () for each in status.get("adapterPods") or ()}
    adapters = []
    for each in status.get("adapters") or ():
        name = each["name"]
        if each["state"] == "Unloading":
            continue
        having = tuple(
            endpoint
            for endpoint in parent.endpoints
            if (pod := pods.get(endpoint.address, "")) in lacking and name not in lacking[pod]
        )
        waiting = parent.waiting
        if waiting is None and not having:
            said = each.get("message") or f"{each['pods']} pods have loaded the adapter"
            waiting = f"Adapter{each['state']}: {_short(said)}"
        adapters.append(
            replace(
                adapter_of(parent, name),
                endpoints=having,
                waiting=waiting,
                # Without a pod there is nothing to have a cluster for.
                shares_pods=not having or having == parent.endpoints,
            )
        )
    return adapters


def read_model(
    model: Object,
    endpoints: tuple[Endpoint, ...],
    callers: Mapping[Key, Mapping[str, str]],
    named: Mapping[SecretRef, str],
    found: Mapping[str, Found],
) -> GatewayModel:
    """One model. `callers`: Secrets with keys → their labels."""
    key = key_of(model)
    spec, status = model.get("spec") or {}, model.get("status") or {}
    route, auth = spec.get("route") or {}, spec.get("auth") or {}
    names = status.get("servedModelNames") or spec.get("servedModelNames") or [key.name]
    waiting = None if endpoints else _why(status.get("conditions") or ())
    external = None
    if spec.get("external"):
        # No name waits for a roll-out.
        names = spec.get("servedModelNames") or [key.name]
        external, endpoints, waiting = _read_external(model, names, named, found)
    return GatewayModel(
        key=key,
        created=str(model["metadata"].get("creationTimestamp", "")),
        served_model_names=tuple(name for name in names if name != own_name(key)),
        endpoints=endpoints,
        waiting=waiting,
        max_model_len=status.get("maxModelLen"),
        callers=None if auth.get("mode") == "none" else _callers(key, auth.get("callers"), callers),
        upstream_key=named.get(reference) if (reference := upstream_key_reference(key, spec)) else None,
        weight=route.get("weight"),
        balance=route.get("balance") or "leastRequest",
        fallback=Key(key.namespace, route["fallback"]) if route.get("fallback") else None,
        external=external,
        clamp_max_tokens=bool(route.get("clampMaxTokens")),
        # Where it is not known whether the model takes tools they are passed on.
        drop_tools=bool(route.get("dropUnsupportedTools")) and (status.get("capabilities") or {}).get("tools") is False,
    )


def upstream_key_reference(key: Key, spec: Mapping[str, Any]) -> SecretRef | None:
    """Where the key is that a model's vLLM, or its external endpoint, asks for; None: it asks for none."""
    external = spec.get("external")
    given = (external or spec.get("auth") or {}).get("apiKeySecretRef")
    if given:
        return _reference(key, given)
    return None if external else (Key(key.namespace, engine_key_secret(key.name)), ENGINE_KEY)


def named_secrets(model: Object) -> set[SecretRef]:
    """What a model names in Secrets that have no label to be watched by."""
    key, spec = key_of(model), model.get("spec") or {}
    external = spec.get("external") or {}
    given = (
        external.get("caSecretRef"),
        external.get("apiKeySecretRef"),
        (spec.get("auth") or {}).get("apiKeySecretRef"),
    )
    return {_reference(key, each) for each in given if each}


def external_host(model: Object) -> str | None:
    """Host of a model's external endpoint; None: it has none, or its URL is none."""
    external = (model.get("spec") or {}).get("external")
    try:
        return read_server(external["url"]).host if external else None
    except ValueError:
        return None


def _reference(key: Key, given: Mapping[str, Any]) -> SecretRef:
    return Key(key.namespace, given["name"]), given["key"]


def _read_external(
    model: Object, names: Iterable[str], named: Mapping[SecretRef, str], found: Mapping[str, Found]
) -> tuple[External | None, tuple[Endpoint, ...], str | None]:
    """An external endpoint, its addresses, and why it is not asked now."""
    key, spec, status = key_of(model), model["spec"], model.get("status") or {}
    wanted = spec["external"]
    try:
        server = read_server(wanted["url"])
    except ValueError as error:
        return None, (), f"InvalidSpec: spec.external.url: {error}"
    ca = wanted.get("caSecretRef")
    there = wanted.get("modelNames") or {}
    external = External(
        server=server,
        ca=named.get(_reference(key, ca)) if ca else None,
        model_names={name: there.get(name, spec.get("model", name)) for name in names},
    )
    where = found.get(server.host, Found(problem="its name has not been looked up yet"))
    endpoints = tuple(Endpoint(address, server.port) for address in where.addresses)
    conditions = status.get("conditions") or ()
    by_type = {each.get("type"): each for each in conditions}
    serving, accepted = by_type.get("Serving") or {}, by_type.get("Accepted") or {}
    stopped = bool(spec.get("suspend")) or spec.get("replicas") == 0
    well = serving.get("status") == accepted.get("status") == "True"
    waiting = None if well and not stopped else _why(conditions)
    for reference in (ca, wanted.get("apiKeySecretRef")):
        # Without its certificates another's would do, and without its key it would refuse.
        if reference and _reference(key, reference) not in named:
            waiting = f"ReferenceNotFound: Secret {reference['name']} with the key {reference['key']} is not there"
    if external.ca is not None and not _is_certificate(external.ca):
        waiting = f"TLSFailed: Secret {ca['name']}, key {ca['key']}, is no certificate (PEM)"
    if not endpoints and waiting is None:
        waiting = f"Unreachable: {where.problem}"
    return external, endpoints if waiting is None else (), waiting


@lru_cache(maxsize=256)  # They are read whenever anything changes.
def _is_certificate(text: str) -> bool:
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _callers(
    model: Key, wanted: Iterable[Mapping[str, Any]] | None, secrets: Mapping[Key, Mapping[str, str]]
) -> frozenset[Key]:
    """Secrets whose keys open the model: those that `auth.callers` chooses, else all of its own namespace."""

    def chosen(secret: Key, labels: Mapping[str, str], caller: Mapping[str, Any]) -> bool:
        return (
            secret.namespace == (caller.get("namespace") or model.namespace)
            and caller.get("name") in (None, secret.name)
            and all(labels.get(name) == value for name, value in (caller.get("matchLabels") or {}).items())
        )

    entries = [{}] if wanted is None else list(wanted)
    return frozenset(
        secret for secret, labels in secrets.items() if any(chosen(secret, labels, each) for each in entries)
    )


def _why(conditions: Iterable[Mapping[str, Any]]) -> str:
    """Why a model does not serve, as its conditions have it."""
    by_type = {each.get("type"): each for each in conditions}
    ready = by_type.get("Ready")
    if ready is None:
        return "Pending: the operator has not looked at it yet"
    if ready.get("status") == "True":
        return "Starting: its pods are about to be known to the gateway"
    return f"{ready.get('reason')}: {_short(str(ready.get('message') or ''))}"


def _short(message: str) -> str:
    return shorten(" ".join(message.split()), LONGEST_REASON)


def read_keys(secrets: Iterable[Object]) -> tuple[tuple[ApiKey, ...], tuple[str, ...]]:
    """Callers' keys; and what cannot be one, which is left out: Envoy would refuse all keys for it."""
    found: dict[str, ApiKey] = {}
    problems = []
    for secret in sorted(secrets, key=key_of):
        limits = {}
        for annotation, most in ((ANNOTATION_PER_MINUTE, MOST_PER_MINUTE), (ANNOTATION_CONCURRENT, MOST_CONCURRENT)):
            limit = (secret["metadata"].get("annotations") or {}).get(annotation)
            if limit is None:
                continue
            # int() takes no more than 4300 digits.
            if limit.isdecimal() and len(limit) < 10 and 0 < int(limit) <= most:
                limits[annotation] = int(limit)
            else:
                problems.append(
                    f"Secret {key_of(secret)}: {annotation} is {limit[:20]!r}; write a whole number from 1 to {most}"
                )
        for name, text in sorted(secret["data"].items()):
            where = f"Secret {key_of(secret)}, key {name}"
            value = decode(text)
            if value is None or not value.isascii() or not value.isprintable() or " " in value:
                problems.append(f"{where}: no API key: a header takes only printable ASCII without blanks")
            elif len(value) < SHORTEST_KEY:
                problems.append(f"{where}: too short for an API key: write {SHORTEST_KEY} characters or more")
            elif value in found:
                other = found[value]
                problems.append(f"{where}: the same as Secret {other.secret}, key {other.name}, which keeps it")
            else:
                found[value] = ApiKey(
                    secret=key_of(secret),
                    name=name,
                    value=value,
                    requests_per_minute=limits.get(ANNOTATION_PER_MINUTE),
                    concurrent_requests=limits.get(ANNOTATION_CONCURRENT),
                )
    return tuple(found.values()), tuple(problems)


def decode(text: str) -> str | None:
    """A value of a Secret, without the newline that editors leave at its end; None when it is no text."""
    try:
        return base64.b64decode(text, validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        return None
