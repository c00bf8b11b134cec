"""kubectl-vllm: kubectl runs it as `kubectl vllm`."""

import argparse
import sys
from collections.abc import Sequence

from vllm_operator.cli import plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    parser = argparse.ArgumentParser(prog="kubectl-vllm", description="Plan models for vLLM on Kubernetes.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    plan.add_command(commands)
    parsed = parser.parse_args(arguments)
    result: int = parsed.run(parsed)
    return result


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
