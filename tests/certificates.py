"""Certificates of authorities that tests make for themselves."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """Who signs certificates."""

    folder: Path
    name: str = "authority"

    @property
    def certificate(self) -> str:
        """Its own, as PEM."""
        path = self.folder / f"{self.name}.crt"
        if not path.exists():
            _openssl("req", "-x509", *self._new(self.name), "-days", "2", "-subj", f"/CN={self.name}")
        return path.read_text()

    def server(self, *names: str) -> ssl.SSLContext:
        """For a server that is called so (DNS:NAME or IP:ADDRESS)."""
        assert self.certificate
        issuer = self.folder / self.name
        signed = ("-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-days", "2")
        named = ("-subj", "/CN=server", "-addext", f"subjectAltName={','.join(names)}")
        _openssl("req", "-x509", *self._new("server"), *signed, *named, "-addext", "basicConstraints=critical,CA:FALSE")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        return context

    def _new(self, name: str) -> tuple[str, ...]:
        path = self.folder / name
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        return *key, "-keyout", f"{path}.key", "-out", f"{path}.crt"


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
