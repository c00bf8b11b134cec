"""Where a model is reached from outside. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_operator.cluster.base import Object

_DEFAULT_PORTS = {"http": 80, "https": 443}


def gateway_url(route: Object, gateway: Object | None, parent: Mapping[str, Any]) -> str | None:
    """Base URL of a route through its first gateway; None when the gateway has no address yet."""
    if gateway is None:
        return None
    listeners: Sequence[Mapping[str, Any]] = (gateway.get("spec") or {}).get("listeners") or []
    listener = next((each for each in listeners if _suits(each, parent)), None)
    if listener is None:
        return None
    scheme = "https" if listener.get("protocol") in ("HTTPS", "TLS") else "http"
    addresses = (gateway.get("status") or {}).get("addresses") or []
    names = [*(route["spec"].get("hostnames") or []), listener.get("hostname")]
    host = next((name for name in names if name and not name.startswith("*")), None)
    host = host or (addresses[0]["value"] if addresses else None)
    if host is None:
        return None
    port = int(listener["port"])
    where = f"[{host}]" if ":" in host else host
    suffix = "" if _DEFAULT_PORTS[scheme] == port else f":{port}"
    return f"{scheme}://{where}{suffix}{_prefix(route).rstrip('/')}"


def _suits(listener: Mapping[str, Any], parent: Mapping[str, Any]) -> bool:
    if listener.get("protocol") not in ("HTTP", "HTTPS", "TLS"):
        return False
    if parent.get("sectionName") is not None:
        return bool(listener.get("name") == parent["sectionName"])
    return parent.get("port") in (None, listener.get("port"))


def _prefix(route: Object) -> str:
    return str(route["spec"]["rules"][0]["matches"][0]["path"]["value"])
