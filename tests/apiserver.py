"""The API server as tests talk to it: requests over kept connections, by a kubeconfig; no process per question."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from kubernetes import client, config

Object = dict[str, Any]


class ApiError(Exception):
    """The server's answer is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Access:
    """Where the API server is and who we are, from a kubeconfig."""

    host: str
    tls: ssl.SSLContext
    ca_file: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_kubeconfig(cls, kubeconfig: Path) -> "Access":
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if not settings.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        if settings.cert_file:
            tls.load_cert_chain(settings.cert_file, settings.key_file)
        token = settings.api_key.get("authorization") or settings.api_key.get("BearerToken")
        headers = {"Authorization": str(token)} if token else {}
        return cls(str(settings.host), tls, str(settings.ssl_ca_cert), headers)


class Requests:
    """Requests to one API server; may be used by several threads."""

    def __init__(self, kubeconfig: Path, *, agent: str, timeout: float = 30.0, connections: int = 32) -> None:
        self.agent = agent
        """Name in the User-Agent header, and of the field manager."""
        self.access = Access.from_kubeconfig(kubeconfig)
        self.http = httpx.Client(
            base_url=self.access.host,
            headers={"Accept": "application/json", "User-Agent": agent, **self.access.headers},
            timeout=timeout,
            # Of connecting only, before anything is sent: one TLS handshake among threads has failed in some hundred thousand.
            transport=httpx.HTTPTransport(
                verify=self.access.tls,
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
                retries=1,
            ),
        )

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Send any request and return the answer; raises ApiError."""
        answer = self.http.request(
            method,
            path,
            params=query,
            content=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content_type},
        )
        if answer.is_error:
            try:
                message = str(answer.json()["message"])
            except (ValueError, KeyError):
                message = answer.text
            raise ApiError(answer.status_code, message)
        found: Object = answer.json()
        return found

    def apply(self, path: str, body: Object, *, manager: str = "", force: bool = True) -> Object:
        """Server-side apply an object at its path, e.g. /api/v1/namespaces/a."""
        return self.request(
            "PATCH",
            path,
            body=body,
            query={"fieldManager": manager or self.agent, "force": str(force).lower(), "fieldValidation": "Strict"},
            content_type="application/apply-patch+yaml",
        )
