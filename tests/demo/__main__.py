"""The command line: ``python -m tests.demo up|down``."""

import argparse
import base64
import json
import secrets
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import yaml

from tests.cluster import ClusterError, LocalCluster
from tests.cluster.progress import Progress

from .conditions import Condition, wait_ready
from .installation import CRD, REPOSITORY, SAMPLES, Installation, diagnosis, gateway_values, local_values

NAMESPACE = "demo"
MODEL = "tiny-cpu"
SAMPLE = SAMPLES / "tiny-cpu.yaml"
READY_SECONDS = 600.0
STEPS = 6
TEAM, PERSON = "team-demo", "you"
LOADING = "still-loading"
ANSWER_SECONDS = 60.0
"""Seconds within which the gateway knows of a change; it takes a moment."""


class Demo:
    """The steps from nothing to a chat completion."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._operator = Installation(cluster)
        self._progress = Progress(lambda line: say(f"  {line}"))
        self._begin = time.monotonic()
        self._step = 0
        self._key = ""

    def up(self) -> None:
        """Run all steps; each finds what is there already and goes on from it."""
        with self._next("the local cluster: control plane, and a real node"):
            self._cluster.up(profile="serving", progress=self._progress)
        with self._next("the operator's image, from the Dockerfile, and one of Envoy"):
            image = self._cluster.build_image(progress=self._progress)
            envoy = self._cluster.envoy_image(progress=self._progress)
        with self._next("the operator and its gateway, installed by Helm"):
            values = {**local_values(image), "gateway": gateway_values(envoy)}
            self._shown("helm", *self._operator.command(values))
            self._operator.install(values)
            version = self._operator.helm("list", "--namespace", self._operator.namespace)
            say(indent(version.strip()))
            url = self._operator.gateway_url()
        with self._next(f"a model: {SAMPLE.relative_to(REPOSITORY)}, and a key to use it"):
            self._make_namespace_and_key()
            self._shown("kubectl", "apply", "--namespace", NAMESPACE, "-f", str(SAMPLE.relative_to(REPOSITORY)))
            say(indent(self._cluster.kubectl("apply", "--namespace", NAMESPACE, "-f", SAMPLE).strip()))
            wait_ready(self._cluster, NAMESPACE, MODEL, seconds=READY_SECONDS, show=show_condition)
            self._shown("kubectl", "get", "vllm", "--namespace", NAMESPACE)
            say(indent(self._cluster.kubectl("get", "vllm", "--namespace", NAMESPACE).strip()))
        with self._next("a chat completion: one address for all models, the name says which"):
            self._ask(url, MODEL, expected=200)
            say("    (nonsense: the model is tiny and its weights are random)")
        with self._next("what callers see when something is wrong"):
            self._ask(url, "no-such-model", expected=404)
            self._ask(url, MODEL, expected=401, key=False)
            self._ask_while_loading(url)
        self._what_next(url)

    def _make_namespace_and_key(self) -> None:
        # Server-side, so that what exists is no error.
        namespace = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self._cluster.kubectl("apply", "--server-side", "-f", "-", stdin=namespace)
        words = ("-n", NAMESPACE, "get", "secret", TEAM, "--ignore-not-found", "-o", "json")
        if found := self._cluster.kubectl(*words):
            self._key = base64.b64decode(json.loads(found)["data"][PERSON]).decode()
            return
        self._key = f"sk-{secrets.token_urlsafe(24)}"
        self._shown(
            "kubectl", "create", "secret", "generic", TEAM, f"--from-literal={PERSON}=…", "--namespace", NAMESPACE
        )
        self._shown("kubectl", "label", "secret", TEAM, "vllm-operator.io/api-keys=true", "--namespace", NAMESPACE)
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": TEAM, "namespace": NAMESPACE, "labels": {"vllm-operator.io/api-keys": "true"}},
            "stringData": {PERSON: self._key},
        }
        self._cluster.kubectl("create", "-f", "-", stdin=json.dumps(secret))

    def _ask(self, url: str, model: str, *, expected: int, key: bool = True) -> None:
        """Ask for a completion and show question and answer; the gateway may learn of what has changed a moment later."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16}
        address, kind, text = f"{url}/v1/chat/completions", "Content-Type: application/json", json.dumps(body)
        shown = ["curl", address, *(["-H", "Authorization: Bearer $KEY"] if key else []), "-H", kind, "-d", text]
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self._key}"} if key else {})}
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            status, said, retry_after = post(address, text, headers)
            if status == expected:
                break
            if time.monotonic() > end:
                raise ClusterError(f"{address} answers {status} for {model}, not {expected}: {said}")
            time.sleep(0.2)
        say("  $ " + " ".join(f'"{each}"' if "$" in each else shlex.quote(each) for each in shown))
        say(f"    HTTP {status}" + (f", Retry-After: {retry_after}" if retry_after else ""))
        say(indent(json.dumps(json.loads(said), indent=2, ensure_ascii=False)))

    def _ask_while_loading(self, url: str) -> None:
        """Another model, asked for before it serves, and taken away again."""
        document = yaml.safe_load(SAMPLE.read_text())
        document["metadata"] = {"name": LOADING, "namespace": NAMESPACE}
        self._cluster.kubectl("apply", "-f", "-", stdin=json.dumps(document))
        try:
            words = ("wait", f"vllm/{LOADING}", "--for=condition=Reconciling", f"--timeout={ANSWER_SECONDS:g}s")
            self._cluster.kubectl("-n", NAMESPACE, *words, timeout=ANSWER_SECONDS + 10)
            self._ask(url, LOADING, expected=503)
        finally:
            self._cluster.kubectl("-n", NAMESPACE, "delete", "vllm", LOADING, "--wait=false")

    def down(self) -> None:
        """Remove the model, the operator and the cluster. With a cluster of our own all of it goes at once."""
        own = type(self._cluster) is LocalCluster
        if not own and self._cluster.answers():
            with self._next(f"remove the namespace {NAMESPACE} with its model", of=3):
                words = ("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=150s")
                self._cluster.kubectl(*words, timeout=160)
            with self._next("uninstall the operator", of=3):
                self._operator.uninstall()
                self._cluster.kubectl("delete", "crd", CRD, "--ignore-not-found", "--timeout=60s", timeout=70)
        with self._next("stop the cluster, with the model and the operator in it", of=1 if own else 3):
            self._cluster.down(self._progress)

    def failed(self, error: Exception) -> None:
        """Say what failed, with what a person would look at next."""
        if self._cluster.answers() and self._step >= 3:
            say("\n" + diagnosis(self._cluster, NAMESPACE, installation=self._operator))
        say(f"\nFAILED in step {self._step}: {error}")

    @contextmanager
    def _next(self, title: str, *, of: int = STEPS) -> Iterator[None]:
        self._step += 1
        number = f"[{self._step}/{of}]"
        begin = time.monotonic()
        say(f"\n{number} {title}")
        yield
        now = time.monotonic()
        say(f"{number} done in {now - begin:.1f} s ({now - self._begin:.1f} s since the start)")

    @staticmethod
    def _shown(*words: str) -> None:
        say(f"  $ {shlex.join(words)}")

    def _what_next(self, url: str) -> None:
        environment = f"export {' '.join(self._environment())}"
        say(f"""
The gateway answers at {url} after {time.monotonic() - self._begin:.0f} s. To go on from here:

  # kubectl and helm for this cluster
  {environment}

  # your key, and all models that it opens
  KEY=$(kubectl get secret {TEAM} --namespace {NAMESPACE} -o jsonpath='{{.data.{PERSON}}}' | base64 -d)
  curl {url}/v1/models -H "Authorization: Bearer $KEY"

  # what was decided, why, and what happened since
  kubectl describe vllm {MODEL} --namespace {NAMESPACE}

  # a longer context: a new pod takes over from the old one, and no request fails
  kubectl patch vllm {MODEL} --namespace {NAMESPACE} --type merge --patch '{{"spec":{{"engine":{{"maxModelLen":1024}}}}}}'
  kubectl get vllm --namespace {NAMESPACE} --watch

  # every field of a model
  kubectl explain vllm.spec --recursive

  # remove all of this
  make demo-down
""")

    def _environment(self) -> list[str]:
        tools = str(self._cluster.environment().get("PATH", "")).split(":")[0]
        lines = [f"KUBECONFIG={shlex.quote(str(self._cluster.kubeconfig))}"]
        return [*lines, f"PATH={shlex.quote(tools)}:$PATH"] if tools else lines


def post(address: str, body: str, headers: dict[str, str]) -> tuple[int, str, str | None]:
    """Return status, body and Retry-After of an answer; 0 when there is none."""
    request = urllib.request.Request(address, data=body.encode(), headers=headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=120) as answer:
            return answer.status, answer.read().decode(), answer.headers.get("Retry-After")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers.get("Retry-After")
    except OSError as error:
        return 0, f"{type(error).__name__}: {error}", None


def show_condition(seconds: float, condition: Condition) -> None:
    """Print one condition that changed."""
    first, *others = condition.message.splitlines() or [""]
    line = f"{condition.type:<18}{condition.status:<8}{condition.reason}"
    say(f"  {seconds:6.1f} s  {line}: {first}" + "".join(f"\n{'':12}{other}" for other in others))


def indent(text: str) -> str:
    """Set output off from what the demo itself says."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main() -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="from nothing to a chat completion; can be run again")
    commands.add_parser("down", help="remove the model, the operator and the cluster")
    command = parser.parse_args().command
    try:
        demo = Demo(LocalCluster.load())
    except ClusterError as error:
        say(f"error: {error}")
        return 1
    action: Callable[[], None] = demo.up if command == "up" else demo.down
    try:
        action()
    except (ClusterError, OSError, ValueError) as error:
        demo.failed(error)
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; run it again to go on, or `make demo-down` to remove what is there")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
