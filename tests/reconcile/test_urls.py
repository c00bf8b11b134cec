"""Where a model is reached from outside."""

from typing import Any

import pytest

from vllm_operator.reconcile.urls import gateway_url

HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}
HTTPS = {"name": "https", "port": 443, "protocol": "HTTPS"}
ADDRESS = [{"type": "IPAddress", "value": "192.0.2.1"}]


def route(path: str = "/ns/m", hostnames: list[str] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"rules": [{"matches": [{"path": {"type": "PathPrefix", "value": path}}]}]}
    return {"spec": {**spec, **({"hostnames": hostnames} if hostnames else {})}}


def gateway(*listeners: dict[str, Any], addresses: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {
        "spec": {"listeners": list(listeners)},
        "status": {"addresses": ADDRESS if addresses is None else addresses},
    }


CASES: list[tuple[str, dict[str, Any], dict[str, Any] | None, dict[str, Any], str | None]] = [
    ("address", route(), gateway(HTTP), {}, "http://192.0.2.1/ns/m"),
    ("https", route(), gateway(HTTPS), {}, "https://192.0.2.1/ns/m"),
    ("other port", route(), gateway({**HTTP, "port": 8080}), {}, "http://192.0.2.1:8080/ns/m"),
    ("https on 80", route(), gateway({**HTTPS, "port": 80}), {}, "https://192.0.2.1:80/ns/m"),
    ("first listener", route(), gateway(HTTP, HTTPS), {}, "http://192.0.2.1/ns/m"),
    ("section", route(), gateway(HTTP, HTTPS), {"sectionName": "https"}, "https://192.0.2.1/ns/m"),
    ("port of the parent", route(), gateway(HTTP, HTTPS), {"port": 443}, "https://192.0.2.1/ns/m"),
    ("tcp is passed over", route(), gateway({**HTTP, "protocol": "TCP"}, HTTPS), {}, "https://192.0.2.1/ns/m"),
    ("hostname of the route", route(hostnames=["a.example"]), gateway(HTTP), {}, "http://a.example/ns/m"),
    ("hostname of the listener", route(), gateway({**HTTP, "hostname": "l.example"}), {}, "http://l.example/ns/m"),
    ("route before listener", route(hostnames=["a.l.example"]), gateway({**HTTP, "hostname": "*.l.example"}), {},
     "http://a.l.example/ns/m"),
    ("wildcards are no address", route(hostnames=["*.example"]), gateway({**HTTP, "hostname": "*.x"}), {},
     "http://192.0.2.1/ns/m"),
    ("hostname without address", route(hostnames=["a.example"]), gateway(HTTP, addresses=[]), {}, "http://a.example/ns/m"),
    ("IPv6", route(), gateway(HTTP, addresses=[{"value": "2001:db8::1"}]), {}, "http://[2001:db8::1]/ns/m"),
    ("root", route("/"), gateway(HTTP), {}, "http://192.0.2.1"),
    ("no gateway", route(), None, {}, None),
    ("no address yet", route(), gateway(HTTP, addresses=[]), {}, None),
    ("no such section", route(), gateway(HTTP), {"sectionName": "other"}, None),
    ("no listener", route(), gateway(), {}, None),
    ("unreadable gateway", route(), {}, {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("route", "gateway", "parent", "url"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_gateway_url(route: Any, gateway: Any, parent: Any, url: str | None) -> None:
    assert gateway_url(route, gateway, parent) == url
