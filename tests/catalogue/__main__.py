"""Writes catalogue.json, or checks it: `python -m tests.catalogue write|check [VERSION …]`.

`write 0.33.0` adds a version, or replaces that of the same minor version; without versions, all are made anew. `check` has each
version's own parser describe itself, and read every option that the operator writes for it.
"""

import argparse
import json
import sys
from pathlib import Path

from tests.catalogue.every_option import differences
from tests.catalogue.pack import FILE, minor, pack, removals, to_text, unpack
from tests.catalogue.versions import OLDER, run_in_vllm
from tests.cluster import vllm_env
from tests.cluster.progress import Progress
from tests.cluster.settings import ClusterError
from vllm_operator.engine import catalogue


def write(versions: list[str], python: Path | None, progress: Progress) -> None:
    """Write the file with these versions; none: with all that are in it, and the names of older ones."""
    known = json.loads(FILE.read_text()) if FILE.exists() else None
    removed = known["removed"] if known else {}
    described = unpack(known) if known else {}
    progress.expect(len(versions or described))
    for version in versions or [each["version"] for each in described.values()]:
        with progress.task(f"describe vLLM {version}"):
            made = run_in_vllm("describe", version=version, python=python)
        if made["version"] != version:
            raise ClusterError(f"that is vLLM {made['version']}, not {version}")
        described[minor(version)] = made
    if not versions:
        progress.expect(len(OLDER))
        older = []
        for version in OLDER:
            with progress.task(f"names of vLLM {version}"):
                older.append(run_in_vllm("names", version=version))
        removed = removals(older, next(iter(described.values())))
    text = to_text(pack(described.values(), removed))
    FILE.write_text(text, encoding="utf-8")
    progress.say(f"{FILE.name}: {len(described)} versions, {len(text.encode()):,} bytes")


def check(versions: list[str], progress: Progress) -> bool:
    """Whether the file says what vLLM says, and vLLM reads what the operator writes."""
    wanted = versions or list(catalogue.versions())
    progress.expect(len(wanted))
    good = True
    for version in wanted:
        with progress.task(f"check vLLM {version}"):
            found = differences(version)
        for line in found:
            progress.say(f"  {line}")
        good = good and not found
    return good


def main() -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.catalogue", description=__doc__)
    parser.add_argument("command", choices=("write", "check"))
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="e.g. 0.32.0")
    parser.add_argument(
        "--python",
        type=Path,
        help="Python of an environment with the version, where its files alone cannot be imported",
    )
    arguments = parser.parse_args()
    progress = Progress()
    try:
        vllm_env.ensure(progress)
        if arguments.command == "check":
            return 0 if check(arguments.versions, progress) else 1
        write(arguments.versions, arguments.python, progress)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
