"""kubectl-vllm: kubectl runs it as `kubectl vllm`."""

import argparse
import os
import sys
from collections.abc import Sequence

from vllm_operator.cli import command, gateway, importing, plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="kubectl-vllm",
        description="Plan models for vLLM, make them from commands and back, and look at the gateway for all of them.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    plan.add_command(commands)
    importing.add_command(commands)
    command.add_command(commands)
    gateway.add_command(commands)
    parsed = parser.parse_args(arguments)
    result: int = parsed.run(parsed)
    return result


def run() -> None:
    """The console script."""
    try:
        sys.exit(main())
    except BrokenPipeError:
        # Whoever reads has read enough (`| head`). Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    run()
