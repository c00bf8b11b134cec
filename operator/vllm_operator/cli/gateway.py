"""`kubectl vllm gateway`: what the gateway for all models does now, as its own pods say.

Exit codes: 0 all is well, 1 something is wrong with the gateway (no pod answers, or something was rejected), 2 the cluster cannot be asked.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_operator.api.names import AGENT_PORT
from vllm_operator.cli.kubectl import KubectlError, kubectl

EXIT_WELL, EXIT_TROUBLE, EXIT_USAGE = 0, 1, 2
SELECTOR = "app.kubernetes.io/part-of=vllm-operator"
CONTAINER = "agent"

_EPILOG = """examples:
  kubectl vllm gateway
  kubectl vllm gateway -n vllm-operator-system -o json

It runs kubectl, which needs the right to list pods and to `get` pods/proxy where the gateway is.
exit codes: 0 all is well, 1 a pod does not answer or something was rejected, 2 the cluster cannot be asked
"""


@dataclass
class _Model:
    """A model, as all gateway pods together see it."""

    names: list[str]
    waiting: str | None
    fallback: str | None
    pods: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `gateway`."""
    parser = commands.add_parser(
        "gateway",
        help="what the gateway for all models does: names, pods, their health, and what was rejected",
        description="What the gateway for all models does now: names, pods, their health, and what it could not take.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--namespace", help="where the gateway is [default: wherever one is found]")
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="[default: text]")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask every pod of the gateway and show what they say."""
    try:
        found = _ask_all(arguments)
    except KubectlError as error:
        print(f"kubectl-vllm: {error}", file=sys.stderr)
        return EXIT_USAGE
    trouble = not found or any("error" in each or each["rejected"] for each in found)
    if arguments.output == "json":
        print(json.dumps({"gateways": found}, indent=2))
    elif not found:
        print("No gateway was found. Is gateway.enabled set in the chart's values?", file=sys.stderr)
    else:
        print("\n".join(describe(found)))
    return EXIT_TROUBLE if trouble else EXIT_WELL


def _ask_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    where = ["-n", arguments.namespace] if arguments.namespace else ["--all-namespaces"]
    pods = json.loads(kubectl("get", "pods", *where, "-l", SELECTOR, "-o", "json", context=arguments.context))
    found = []
    for pod in pods["items"]:
        if all(each["name"] != CONTAINER for each in pod["spec"]["containers"]):
            continue
        metadata = pod["metadata"]
        conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions") or ()}
        said: dict[str, Any] = {
            "namespace": metadata["namespace"],
            "pod": metadata["name"],
            "ready": conditions.get("Ready") == "True",
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{AGENT_PORT}/proxy/status"
        try:
            said |= json.loads(kubectl("get", "--raw", path, context=arguments.context))
        except (KubectlError, ValueError) as error:
            said["error"] = str(error)
        found.append(said)
    return found


def describe(gateways: Sequence[dict[str, Any]]) -> list[str]:
    """Two tables, and what is wrong, as lines."""
    rows: list[tuple[str, ...]] = [("GATEWAY POD", "READY", "MODELS", "KEYS", "REJECTED")]
    for each in gateways:
        pod = f"{each['namespace']}/{each['pod']}"
        if "error" in each:
            rows.append((pod, str(each["ready"]), "?", "?", f"does not answer: {each['error']}"))
            continue
        rejected = str(len(each["rejected"]))
        rows.append((pod, str(each["ready"]), str(len(each["models"])), str(each["keys"]), rejected))
    lines = [*_table(rows), ""]
    models = _merged(gateways)
    rows = [("MODEL", "NAMES", "PODS", "STATE")]
    for key, model in sorted(models.items()):
        healthy = len(model.pods - model.unhealthy)
        state = "serves" if model.waiting is None else model.waiting
        if model.waiting is None and not healthy:
            state = "no pod answers /health to the gateway"
        if model.waiting is not None and model.fallback:
            state = f"{model.fallback} answers in its place; {state}"
        rows.append((key, ", ".join(model.names) or "-", f"{healthy}/{len(model.pods)}", state))
    lines += _table(rows) if models else ["no models"]
    problems = {
        *(f"rejected: {text}" for each in gateways for text in each.get("rejected", ())),
        *(text for each in gateways for text in each.get("problems", ())),
        *(text for each in gateways for text in each.get("names_taken", ())),
    }
    return [*lines, *(["", *sorted(problems)] if problems else [])]


def _merged(gateways: Sequence[dict[str, Any]]) -> dict[str, _Model]:
    models: dict[str, _Model] = {}
    for gateway in gateways:
        for said in gateway.get("models", ()):
            model = models.setdefault(said["model"], _Model(said["names"], said["waiting"], said["fallback"]))
            model.pods |= {each["address"] for each in said["pods"]}
            model.unhealthy |= {each["address"] for each in said["pods"] if not each["healthy"]}
    return models


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
