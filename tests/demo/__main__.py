"""The command line: ``python -m tests.demo up|down``."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.cluster import ClusterError, LocalCluster
from tests.cluster.progress import Progress

from .conditions import Condition, wait_ready
from .installation import CRD, REPOSITORY, SAMPLES, Installation, diagnosis, local_values

NAMESPACE = "demo"
MODEL = "tiny-cpu"
SAMPLE = SAMPLES / "tiny-cpu.yaml"
READY_SECONDS = 600.0
STEPS = 5


class Demo:
    """The steps from nothing to a chat completion."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._operator = Installation(cluster)
        self._progress = Progress(lambda line: say(f"  {line}"))
        self._begin = time.monotonic()
        self._step = 0

    def up(self) -> None:
        """Run all steps; each finds what is there already and goes on from it."""
        with self._next("the local cluster: control plane, a real node, Traefik as its gateway"):
            self._cluster.up(profile="serving", progress=self._progress)
        with self._next("the operator's image, from the Dockerfile"):
            image = self._cluster.build_image(progress=self._progress)
        with self._next("the operator, installed by Helm"):
            values = local_values(image)
            self._shown("helm", *self._operator.command(values))
            self._operator.install(values)
            version = self._operator.helm("list", "--namespace", self._operator.namespace)
            say(indent(version.strip()))
        with self._next(f"a model: {SAMPLE.relative_to(REPOSITORY)}"):
            self._apply()
            model = wait_ready(self._cluster, NAMESPACE, MODEL, seconds=READY_SECONDS, show=show_condition)
            self._shown("kubectl", "get", "vllm", "--namespace", NAMESPACE)
            say(indent(self._cluster.kubectl("get", "vllm", "--namespace", NAMESPACE).strip()))
        with self._next("a chat completion, through the gateway"):
            url = str(model["status"]["url"])
            self._ask(url)
        self._what_next(url)

    def _apply(self) -> None:
        # Server-side, so that an existing namespace is no error.
        namespace = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self._cluster.kubectl("apply", "--server-side", "-f", "-", stdin=namespace)
        self._shown("kubectl", "apply", "--namespace", NAMESPACE, "-f", str(SAMPLE.relative_to(REPOSITORY)))
        say(indent(self._cluster.kubectl("apply", "--namespace", NAMESPACE, "-f", SAMPLE).strip()))

    def _ask(self, url: str) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16}
        address, kind, text = f"{url}/v1/chat/completions", "Content-Type: application/json", json.dumps(body)
        words = ["--fail-with-body", "--silent", "--show-error", address, "--header", kind, "--data", text]
        self._shown("curl", *words)
        if shutil.which("curl"):
            result = subprocess.run(["curl", *words], capture_output=True, text=True, timeout=120, check=False)
            if result.returncode != 0:
                raise ClusterError(
                    f"curl ended with {result.returncode}: {result.stderr.strip()} {result.stdout.strip()}"
                )
            answer = result.stdout
        else:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(address, data=text.encode(), headers=headers)
            with urllib.request.urlopen(request, timeout=120) as response:
                answer = response.read().decode()
        say(indent(json.dumps(json.loads(answer), indent=2, ensure_ascii=False)))
        say("    (nonsense: the model is tiny and its weights are random)")

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
The model answers at {url} after {time.monotonic() - self._begin:.0f} s. To go on from here:

  # kubectl and helm for this cluster
  {environment}

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
