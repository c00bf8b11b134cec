"""`kubectl vllm import`: a `vllm serve` command, docker run or a compose service becomes a VLLMModel. Nothing of it is run.

Exit codes: 0 it is printed, 1 it cannot be a VLLMModel, 2 the question makes no sense.
"""

import argparse
import json
import re
import shlex
import sys
from typing import Any

import yaml

from vllm_operator.api.base import NAMESPACE_PATTERN
from vllm_operator.cli.files import Usage, read_text
from vllm_operator.engine.images import parse_version
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.model import Imported, import_model

EXIT_PRINTED, EXIT_REFUSED, EXIT_USAGE = 0, 1, 2

_EPILOG = """examples:
  kubectl vllm import 'vllm serve Qwen/Qwen3-8B --max-model-len 32k -tp 2'
  kubectl vllm import --file start.sh --name qwen > qwen.yaml
  kubectl vllm import --file compose.yaml --service vllm
  history | tail -1 | cut -c8- | kubectl vllm import -o json

The command is read and never run; variables of this machine are not looked at. What could not be carried over is said on standard
error and in comments. Keys and tokens go to a Secret that is printed beside the model.

exit codes: 0 it is printed, 1 it cannot be a VLLMModel, 2 the question makes no sense
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `import`."""
    parser = commands.add_parser(
        "import",
        help="a VLLMModel from a `vllm serve` command, docker run or a compose service",
        description="Print the VLLMModel that serves what a command serves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "command",
        nargs="*",
        metavar="COMMAND",
        help="vllm serve …, serve …, options alone, python -m vllm.entrypoints.openai.api_server …, docker run … or a compose "
        "service, in quotes, or behind -- as words; default: standard input",
    )
    parser.add_argument("-f", "--file", metavar="FILE", help="read it from a file; - for standard input")
    parser.add_argument("--name", help="of the model; default: made from the served name or the model")
    parser.add_argument("-n", "--namespace", help="of the model; default: none is written")
    parser.add_argument("--service", help="of a compose file with several")
    parser.add_argument(
        "--vllm-version",
        metavar="VERSION",
        type=_version,
        help="vLLM that the command is for, e.g. 0.32.0, unless the image says it; becomes spec.engine.version",
    )
    parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="default: yaml")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the model, and on standard error what could not be carried over."""
    try:
        imported = import_model(
            _text(arguments),
            name=arguments.name,
            namespace=_namespace(arguments.namespace),
            version=arguments.vllm_version,
            service=arguments.service,
        )
    except Usage as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except ImportRefused as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    for note in imported.notes:
        print(f"note: {note}", file=sys.stderr)
    print(as_json(imported) if arguments.output == "json" else as_yaml(imported))
    return EXIT_PRINTED


def as_yaml(imported: Imported) -> str:
    """The model and its Secret; notes as comments."""
    lines = [f"# {note}" for note in imported.notes]
    documents = [imported.model, *([imported.secret] if imported.secret else [])]
    texts = [_dump(each) for each in documents]
    return "\n".join([*lines, "---\n".join(texts).rstrip("\n")])


def as_json(imported: Imported) -> str:
    """The model, or a List of it and its Secret."""
    if imported.secret is None:
        return json.dumps(imported.model, indent=2)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [imported.model, imported.secret]}, indent=2)


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: a reader that takes none is spared them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=10_000)


def _text(arguments: argparse.Namespace) -> str:
    if arguments.command:
        if arguments.file is not None:
            raise Usage("give the command, or --file, not both")
        return arguments.command[0] if len(arguments.command) == 1 else shlex.join(arguments.command)
    if arguments.file is None and sys.stdin.isatty():
        raise Usage("give the command in quotes, or --file FILE")
    return read_text(arguments.file or "-")


def _namespace(text: str | None) -> str | None:
    if text is not None and (len(text) > 63 or re.fullmatch(NAMESPACE_PATTERN, text) is None):
        raise Usage(f"--namespace is {text!r}: write lower-case letters, digits and dashes")
    return text


def _version(text: str) -> str:
    version = text.removeprefix("v")
    parse_version(version)
    return version
