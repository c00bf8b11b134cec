"""Keys and certificates of the cluster, made with the openssl command: the standard library cannot make any."""

import base64
import json
import shutil
from pathlib import Path

from .commands import run
from .settings import ClusterError, Settings

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

# name -> subject. Every client has its own user, so that the audit log tells whose write it was.
CLIENTS = {
    "admin": "/O=system:masters/CN=kubernetes-admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "kwok": "/O=system:masters/CN=kwok",
    "traefik": "/CN=traefik",
    "coredns": "/CN=coredns",
    "cluster-up": "/O=system:masters/CN=cluster-up",
}


def ensure(settings: Settings) -> None:
    """Make what is missing: the authority, the API server's certificate, the clients' certificates and kubeconfigs."""
    if shutil.which("openssl") is None:
        raise ClusterError("the program openssl is missing: apt-get install openssl")
    pki = settings.pki
    if not (pki / "complete").exists():
        shutil.rmtree(pki, ignore_errors=True)
        pki.mkdir(parents=True)
        pki.chmod(0o700)
        _openssl(
            "req",
            "-x509",
            *_NEW_KEY,
            "-keyout",
            pki / "ca.key",
            "-out",
            pki / "ca.crt",
            "-days",
            "3650",
            "-subj",
            "/CN=vllm-operator-local-cluster",
        )
        _openssl("genrsa", "-out", pki / "service-account.key", "2048")
        _openssl("rsa", "-in", pki / "service-account.key", "-pubout", "-out", pki / "service-account.pub")
        names = (
            "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
            f"DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.0.0.1,IP:{settings.host_address}"
        )
        _sign(pki, "apiserver", "/CN=kube-apiserver", f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
        (pki / "complete").touch()
    for name, subject in [*CLIENTS.items(), ("kubelet", f"/O=system:nodes/CN=system:node:{settings.node_name}")]:
        kubeconfig = pki / f"{name}.kubeconfig"
        if not kubeconfig.exists():
            _sign(pki, name, subject, "extendedKeyUsage=clientAuth\n")
            write_kubeconfig(settings, name, kubeconfig)
    if not settings.kubeconfig.exists():
        write_kubeconfig(settings, "admin", settings.kubeconfig)


def _openssl(*words: str | Path) -> None:
    run(["openssl", *words])


def _sign(pki: Path, name: str, subject: str, extensions: str) -> None:
    request, options = pki / f"{name}.csr", pki / f"{name}.ext"
    options.write_text(extensions)
    _openssl("req", *_NEW_KEY, "-keyout", pki / f"{name}.key", "-out", request, "-subj", subject)
    authority = ("-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial")
    _openssl(
        "x509", "-req", "-in", request, *authority, "-out", pki / f"{name}.crt", "-days", "3650", "-extfile", options
    )
    request.unlink()
    options.unlink()


def write_kubeconfig(settings: Settings, client: str, target: Path) -> None:
    """Write a kubeconfig that carries its certificates in itself, so that it can be copied into a container."""

    def data(name: str) -> str:
        return base64.b64encode((settings.pki / name).read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "vllm-operator-local",
        "clusters": [
            {"name": "local", "cluster": {"server": settings.api_url, "certificate-authority-data": data("ca.crt")}}
        ],
        "users": [
            {
                "name": client,
                "user": {"client-certificate-data": data(f"{client}.crt"), "client-key-data": data(f"{client}.key")},
            }
        ],
        "contexts": [{"name": "vllm-operator-local", "context": {"cluster": "local", "user": client}}],
    }
    target.write_text(json.dumps(document, indent=1))
    target.chmod(0o600)
