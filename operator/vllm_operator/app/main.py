"""vllm-operator: the command of the operator's image."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from vllm_operator import __version__
from vllm_operator.app import logs
from vllm_operator.app.operator import Operator
from vllm_operator.app.settings import Settings, SettingsError, add_arguments, read_settings


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
    parsed = parser.parse_args(arguments)
    try:
        settings = read_settings(parsed)
    except SettingsError as error:
        print(f"vllm-operator: {error}", file=sys.stderr)
        return 2
    logs.configure(log_format=settings.log_format, level=settings.log_level)
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    operator = Operator(settings)
    operator.handle_signals()
    return await operator.run()


if __name__ == "__main__":
    sys.exit(main())
