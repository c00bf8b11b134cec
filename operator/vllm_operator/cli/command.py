"""`kubectl vllm command`: the `vllm serve` line that a model's pods run.

Exit codes: 0 it is printed, 1 the operator would refuse the model, or it runs none, 2 the file or the cluster cannot be read.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import CONTAINER, Key
from vllm_operator.api.types import Engine, Parallelism, VLLMModelSpec
from vllm_operator.cli.files import Usage, read_model
from vllm_operator.cli.kubectl import KubectlError, kubectl
from vllm_operator.sizing.decide import is_fixed
from vllm_operator.sizing.plan import decide_plan
from vllm_operator.workload.adapters import decide_lora
from vllm_operator.workload.not_implemented import check_implemented
from vllm_operator.workload.pods import build_pod_template, unescape_expansion
from vllm_operator.workload.settings import BuildSettings

EXIT_PRINTED, EXIT_NONE, EXIT_USAGE = 0, 1, 2

_EPILOG = """examples:
  kubectl vllm command qwen3-8b
  kubectl vllm command -f model.yaml -o json

With NAME it is the command of the revision that is rolled out, as the cluster has it. With -f it is built here, by what the operator
builds it with; what the operator would have found out (sizes, by the model and the nodes) is left out, and named on standard error.

exit codes: 0 it is printed, 1 the operator would refuse the model, or it runs none, 2 the file or the cluster cannot be read
"""


class NoCommand(Exception):
    """There is a model, but nothing that it runs."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `command`."""
    parser = commands.add_parser(
        "command",
        help="the `vllm serve` line that a model's pods run",
        description="Print the command of a model's vLLM, quoted for a shell.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a VLLMModel in the cluster (runs kubectl)")
    parser.add_argument("-f", "--filename", metavar="FILE", help="a VLLMModel in YAML or JSON; - for standard input")
    parser.add_argument("-n", "--namespace", help="of NAME; default: that of the context")
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json: the words as a list; default: text"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the command, and on standard error what it was built on."""
    try:
        words, notes = _asked(arguments)
    except (Usage, KubectlError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (Refusal, NoCommand) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NONE
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(words) if arguments.output == "json" else shlex.join(words))
    return EXIT_PRINTED


def _asked(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    if (arguments.name is None) == (arguments.filename is None):
        raise Usage("give NAME or -f FILE")
    if arguments.filename is not None:
        return offline(*read_model(arguments.filename))
    return _from_cluster(arguments)


def offline(metadata: Mapping[str, Any], spec: VLLMModelSpec) -> tuple[list[str], list[str]]:
    """The words for a spec, and what was assumed. Raises Refusal and NoCommand."""
    if spec.external is not None:
        raise NoCommand("the model is external: the operator runs nothing for it")
    check_implemented(spec, gateway=True)
    notes = []
    # Adapters are only for models behind the gateway; the words are the same with it and without.
    settings = BuildSettings(gateway_url="http://gateway")
    name = str(metadata.get("name") or "")
    if not name and not spec.served_model_names:
        notes.append('the resource has no name, and neither has the model: "model" is written')
    engine, parallelism = spec.engine or Engine(), spec.parallelism or Parallelism()
    if not is_fixed(spec, default_accelerator=settings.default_accelerator):
        notes.append(
            "the operator chooses the number of GPUs by the model and the nodes: parallelism.tensor is taken for 1"
        )
    elif parallelism.tensor is None and spec.accelerator is not None and spec.accelerator.count is not None:
        notes.append("parallelism.tensor is what accelerator.count leaves")
    if engine.max_model_len is None and not {"max-model-len", "max_model_len"} & (engine.args or {}).keys():
        notes.append("the operator may add --max-model-len, if the model's own maximum does not fit")
    if engine.version is None and engine.image is None:
        notes.append(f"spec.engine.version is not set: the operator's own is taken for vLLM {settings.vllm_version}")
    if engine.tool_call_parser is None or engine.reasoning_parser is None:
        notes.append("the operator may add parsers and options by what the model's files say: status.engine shows them")
    if any(adapter.rank is None for adapter in spec.adapters or ()):
        notes.append("adapters' ranks that the spec does not say are taken for vLLM's default, 16")
    template = build_pod_template(
        Key(str(metadata.get("namespace") or "default"), name or "model"),
        spec,
        plan=decide_plan(spec, default_accelerator=settings.default_accelerator),
        settings=settings,
        lora=decide_lora(spec, name or "model", settings, {}),
    )
    return _words(template), notes


def _from_cluster(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The words of the revision that is rolled out. Raises KubectlError, Usage and NoCommand."""
    where = ["-n", arguments.namespace] if arguments.namespace else []

    def get(kind: str, name: str) -> Any:
        # behind --, or a name that begins with a dash would be an option of kubectl's
        return json.loads(kubectl("get", kind, *where, "-o", "json", "--", name, context=arguments.context))

    try:
        model = get("vllmmodels.vllm-operator.io", arguments.name)
        status = model.get("status") or {}
        revision = status.get("revision")
        if not revision:
            refused = [
                f"{each['reason']}: {each['message']}"
                for each in status.get("conditions") or ()
                if each["type"] == "Accepted" and each["status"] != "True"
            ]
            raise NoCommand(f"{arguments.name} has no revision yet" + (f": {refused[0]}" if refused else ""))
        where = ["-n", model["metadata"]["namespace"]]
        kept = get("controllerrevisions.apps", revision)
        template = kept["data"]["deployment"]["spec"]["template"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Usage(f"kubectl get: the answer is not what was expected: {error!r}") from error
    notes = []
    if status.get("observedGeneration") != model["metadata"].get("generation"):
        notes.append("the newest edit of the model has not been looked at yet")
    return _words(template), notes


def _words(template: Mapping[str, Any]) -> list[str]:
    """What the vLLM container of a pod template runs, as the kubelet hands it over. Raises NoCommand."""
    containers: Sequence[Mapping[str, Any]] = [
        each for each in template["spec"]["containers"] if each.get("name") == CONTAINER
    ]
    words = [word for each in containers for part in ("command", "args") for word in each.get(part) or ()]
    if not words:
        raise NoCommand("the vLLM container has no command: its image's own is run")
    return [unescape_expansion(word) for word in words]
