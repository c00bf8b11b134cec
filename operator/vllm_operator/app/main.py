"""vllm-operator: the command of the operator's image."""

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

from vllm_operator import __version__
from vllm_operator.app import logs
from vllm_operator.app.gateway import (
    GatewayAgent,
    add_agent_arguments,
    add_bootstrap_arguments,
    read_agent_settings,
    write_bootstrap,
)
from vllm_operator.app.operator import Operator
from vllm_operator.app.settings import Settings, SettingsError, add_arguments, read_settings
from vllm_operator.hub.bucket import read_bucket
from vllm_operator.hub.directory import read_directory
from vllm_operator.hub.errors import HubError
from vllm_operator.hub.wire import encode_error, encode_facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the process's exit status."""
    parser = argparse.ArgumentParser(prog="vllm-operator", description="Kubernetes operator for vLLM.")
    parser.add_argument("--version", action="version", version=f"vllm-operator {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run the operator",
        description="Run the operator, in a cluster (as its ServiceAccount) or outside (by KUBECONFIG).",
    )
    add_arguments(run)
    inspect = commands.add_parser(
        "inspect",
        help="read what a model in a directory or a bucket is (in a Job that the operator makes)",
        description="Read a model's config.json and the headers of its weights, and write what the operator needs to know of it.",
    )
    inspect.add_argument("model", metavar="MODEL", help="a directory, s3://bucket/path or gs://bucket/path")
    inspect.add_argument(
        "--output", type=Path, default=Path("/dev/termination-log"), metavar="FILE", help="default: %(default)s"
    )
    gateway = commands.add_parser(
        "gateway",
        help="run the agent of the gateway, beside an Envoy",
        description="Tell the Envoy of this pod which models there are, where they are and who may ask.",
    )
    add_agent_arguments(gateway)
    bootstrap = commands.add_parser(
        "gateway-bootstrap",
        help="write what the gateway's Envoy is started with",
        description="Write Envoy's configuration file: its listener, and where it asks for the rest.",
    )
    add_bootstrap_arguments(bootstrap)
    parsed = parser.parse_args(arguments)
    if parsed.command == "inspect":
        return _inspect(parsed.model, parsed.output)
    try:
        if parsed.command == "gateway-bootstrap":
            write_bootstrap(parsed)
            return 0
        work = _run_agent(parsed) if parsed.command == "gateway" else _run(parsed)
    except SettingsError as error:
        print(f"vllm-operator: {error}", file=sys.stderr)
        return 2
    return asyncio.run(work)


def _inspect(model: str, output: Path) -> int:
    """Write facts, or why there are none."""
    try:
        facts = read_bucket(model) if "://" in model else read_directory(Path(model))
        text = encode_facts(facts)
    except HubError as error:
        print(f"vllm-operator: {error}", file=sys.stderr)
        output.write_text(encode_error(error))
        return 1
    output.write_text(text)
    print(f"{facts.architecture}: {facts.num_layers} layers, {facts.weights.total / 2**30:.2f} GiB of weights")
    return 0


def _run_agent(arguments: argparse.Namespace) -> Coroutine[None, None, int]:
    """The agent of the gateway. Raises SettingsError at once."""
    settings = read_agent_settings(arguments)
    logs.configure(log_format=settings.log_format, level=settings.log_level)
    return GatewayAgent(settings).run()


def _run(arguments: argparse.Namespace) -> Coroutine[None, None, int]:
    """The operator. Raises SettingsError at once."""
    settings = read_settings(arguments)
    logs.configure(log_format=settings.log_format, level=settings.log_level)
    return _operate(settings)


async def _operate(settings: Settings) -> int:
    operator = Operator(settings)
    operator.handle_signals()
    return await operator.run()


if __name__ == "__main__":
    sys.exit(main())
