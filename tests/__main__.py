"""Runs the layers of tests in order: `python -m tests [verify] [fast] [cluster] [e2e]`; all of them when none is named.

`cluster` and `e2e` bring up the local cluster, once for both, and stop it again unless it was running before.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("verify", "fast", "cluster", "e2e")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__)
    parser.add_argument("layers", nargs="*", metavar="LAYER", help=f"any of {', '.join(LAYERS)}; default: all")
    parser.add_argument("--keep", action="store_true", help="leave the local cluster running")
    arguments = parser.parse_args()
    unknown = set(arguments.layers) - set(LAYERS)
    if unknown:
        parser.error(f"unknown layer {', '.join(sorted(unknown))}; there are {', '.join(LAYERS)}")
    wanted = [layer for layer in LAYERS if layer in (arguments.layers or LAYERS)]
    started = time.monotonic()
    results: list[tuple[str, bool, float]] = []

    def run(name: str, command: Sequence[str]) -> bool:
        print(f"\n=== {name}: {' '.join(command[1:])}", flush=True)
        begun = time.monotonic()
        good = subprocess.run([*command], cwd=ROOT, env=environment(), check=False).returncode == 0
        results.append((name, good, time.monotonic() - begun))
        return good

    python = sys.executable
    pytest = [python, "-m", "pytest", "-q", "--durations=5"]
    if "verify" in wanted:
        run("formatting", [python, "-m", "ruff", "format", "--check", "operator", "tests"])
        run("lint", [python, "-m", "ruff", "check", "operator", "tests"])
        run("types", [python, "-m", "mypy"])
        run("layering", [str(Path(python).with_name("lint-imports")), "--no-cache"])
        run("generated files", [python, "-m", "vllm_operator.generate", "--check"])
    if "fast" in wanted:
        run("fast", [*pytest, "-n", str(min(4, os.cpu_count() or 1)), "-m", "not cluster and not e2e", "tests"])
    if "cluster" in wanted or "e2e" in wanted:
        was_running = (
            subprocess.run(
                [python, "-m", "tests.cluster", "status"], cwd=ROOT, env=environment(), capture_output=True, check=False
            ).returncode
            == 0
        )
        profile = "full" if "e2e" in wanted else "control-plane"
        try:
            if run("cluster up", [python, "-m", "tests.cluster", "up", "--profile", profile]):
                if "cluster" in wanted:
                    run("cluster", [*pytest, "-m", "cluster", "tests"])
                if "e2e" in wanted:
                    run("e2e", [*pytest, "-m", "e2e", "tests"])
        finally:
            if not was_running and not arguments.keep:
                run("cluster down", [python, "-m", "tests.cluster", "down"])
    print("\n=== summary")
    for name, good, seconds in results:
        print(f"  {'ok    ' if good else 'FAILED'} {name:16} {seconds:7.1f} s")
    print(f"  {time.monotonic() - started:.1f} s in all")
    return 0 if all(good for _, good, _ in results) else 1


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "operator"), str(ROOT)))}


if __name__ == "__main__":
    sys.exit(main())
