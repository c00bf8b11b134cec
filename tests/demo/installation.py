"""Putting the operator into a cluster with Helm, as a user does: the demo and the end-to-end tests share this."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import ClusterError, LocalCluster
from tests.cluster.commands import run
from tests.cluster.settings import OPERATOR_IMAGE

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "charts" / "vllm-operator"
SAMPLES = REPOSITORY / "manifests" / "samples"
GATEWAY = "gateway-system/traefik"
CRD = "vllmmodels.vllm-operator.io"
APPLICATION = "app.kubernetes.io/name=vllm-operator"
ROLLOUT_SECONDS = 180.0


@dataclass(frozen=True)
class Installation:
    """One Helm release of the operator's chart."""

    cluster: LocalCluster
    namespace: str = "vllm-operator-system"
    release: str = "vllm-operator"

    @property
    def user(self) -> str:
        """The operator's name to the API server."""
        return f"system:serviceaccount:{self.namespace}:{self.release}"

    def helm(self, *words: str | Path, timeout: float = 120.0) -> str:
        """Run helm against the cluster and return its output."""
        return run([self.cluster.bin("helm"), "--kubeconfig", self.cluster.kubeconfig, *words], timeout=timeout)

    def command(self, values: Mapping[str, Any]) -> list[str]:
        """Return helm's words that install the release, or change it to these values."""
        words = ["upgrade", "--install", self.release, str(CHART.relative_to(REPOSITORY)), "--namespace"]
        words += [self.namespace, "--create-namespace"]
        for name, value in flatten(values):
            words += ["--set-string" if isinstance(value, str) else "--set", f"{name}={_word(value)}"]
        return words

    def install(self, values: Mapping[str, Any]) -> None:
        """Install or upgrade, and wait until the operator's new pods are ready."""
        words = self.command(values)
        words[words.index(str(CHART.relative_to(REPOSITORY)))] = str(CHART)
        # The definition outlives a release (crds.keep), and tests apply it by themselves: take it over.
        self.helm(*words, "--take-ownership", "--force-conflicts")
        self.rolled_out()

    def rolled_out(self) -> None:
        """Wait until every pod of the operator is of the newest kind and ready."""
        self.cluster.kubectl(
            *(
                "-n",
                self.namespace,
                "rollout",
                "status",
                f"deployment/{self.release}",
                f"--timeout={ROLLOUT_SECONDS:g}s",
            ),
            timeout=ROLLOUT_SECONDS + 10,
        )

    def gateway_url(self) -> str:
        """Wait until the gateway for all models is of the newest kind and ready; return its address."""
        words = ("rollout", "status", f"deployment/{self.release}-gateway", f"--timeout={ROLLOUT_SECONDS:g}s")
        self.cluster.kubectl("-n", self.namespace, *words, timeout=ROLLOUT_SECONDS + 10)
        return self.cluster.service_url(self.namespace, f"{self.release}-gateway")

    def uninstall(self) -> None:
        """Remove the release and its namespace; the definition stays, as a user's would."""
        if self.installed():
            self.helm("uninstall", self.release, "--namespace", self.namespace, "--wait", timeout=180)
        # Of a namespace that is deleted with pods in it Kubernetes looks again after half their grace period: 165 s for the gateway's.
        words = ("wait", "--for=delete", "pod", "--all", "--timeout=360s")
        self.cluster.kubectl("-n", self.namespace, *words, timeout=370)
        self.cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=120s", timeout=130)

    def installed(self) -> bool:
        """Tell whether the release exists."""
        return (self.namespace, self.release) in releases(self.cluster)

    def logs(self, *, tail: int = 40) -> str:
        """Return the end of the log of every pod of the operator."""
        return self.cluster.kubectl("-n", self.namespace, "logs", "-l", APPLICATION, "--prefix", f"--tail={tail}")


def releases(cluster: LocalCluster) -> list[tuple[str, str]]:
    """Return (namespace, name) of every release of the operator's chart in the cluster."""
    words = ("--kubeconfig", str(cluster.kubeconfig), "list", "--all-namespaces", "--output", "json")
    found = json.loads(run([cluster.bin("helm"), *words]) or "[]")
    return [(each["namespace"], each["name"]) for each in found if str(each["chart"]).startswith("vllm-operator-")]


def local_values(image: str = OPERATOR_IMAGE) -> dict[str, Any]:
    """Return the values for an image that was built here, and the local cluster's gateway."""
    repository, _, tag = image.rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag},
        "defaultGateway": GATEWAY,
        # The tag is the same for each build: this is what makes the pods new ones when the code is.
        "podAnnotations": {"vllm-operator\\.io/source": source_hash()},
    }


def gateway_values(envoy: str) -> dict[str, Any]:
    """Return the values that switch the gateway on, with an image of Envoy that was made here."""
    repository, _, tag = envoy.rpartition(":")
    return {
        "enabled": True,
        "envoy": {"image": {"repository": repository, "tag": tag}, "concurrency": 1},
        "podAnnotations": {"vllm-operator\\.io/source": source_hash()},
    }


def source_hash() -> str:
    """Return a hash of what is in the operator's image."""
    digest = hashlib.sha256()
    code = (REPOSITORY / "operator").rglob("*.py")
    for file in [REPOSITORY / "Dockerfile", REPOSITORY / "requirements.lock", *sorted(code)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested values as helm's --set names them: `image.tag`."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return flat


def _word(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"{{{','.join(map(_word, value))}}}"
    return (
        str(value).replace("{", "\\{").replace("}", "\\}").replace(",", "\\,") if isinstance(value, str) else str(value)
    )


def diagnosis(cluster: LocalCluster, namespace: str, *, installation: Installation | None = None) -> str:
    """Return what a person would look at when a model does not become Ready: describe, pods, events, ends of logs."""
    parts: list[str] = []

    def show(title: str, *words: str) -> None:
        try:
            text = cluster.kubectl(*words, timeout=20).strip()
        except ClusterError as error:
            text = str(error)
        if text:
            parts.append(f"--- {title} (kubectl {' '.join(words)})\n{text}")

    show("models", "-n", namespace, "describe", "vllmmodels")
    show("children", "-n", namespace, "get", "deployments,replicasets,pods,services,httproutes", "-o", "wide")
    show("events", "-n", namespace, "get", "events", "--sort-by=.metadata.creationTimestamp")
    show("log of vLLM", "-n", namespace, "logs", "-l", "vllm-operator.io/model", "--all-containers", "--tail=30")
    if installation is not None:
        words = ("-n", installation.namespace, "logs", "-l", APPLICATION, "--prefix", "--tail=40")
        show("operator's pods", "-n", installation.namespace, "describe", "pods", "-l", APPLICATION)
        show("log of the operator", *words)
        pods = cluster.kubectl("-n", installation.namespace, "get", "pods", "-l", APPLICATION, "-o", "json")
        for pod in json.loads(pods)["items"]:
            if any(each["restartCount"] for each in pod["status"].get("containerStatuses") or []):
                name = pod["metadata"]["name"]
                show(
                    "log of the operator before", "-n", installation.namespace, "logs", name, "--previous", "--tail=40"
                )
    return "\n\n".join(parts)
