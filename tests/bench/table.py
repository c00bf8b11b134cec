"""Results as a Markdown table: `python -m tests.bench.table results.jsonl`."""

import json
import sys
from pathlib import Path


def table(lines: list[str]) -> str:
    """The table of docs/benchmarks.md, under the machine and versions that the results were measured with."""
    results = [json.loads(line) for line in lines if line.startswith("{")]
    if not results:
        return "no results\n"
    versions = ", ".join(f"{name} {number}" for name, number in results[0]["versions"].items())
    rows = ["| Measurement | n | p50 | p99 | max | load |", "|---|---:|---:|---:|---:|---:|"]
    for each in results:
        unit = "" if each["unit"] == "1" else f" {each['unit']}"
        figures = [each[key] for key in ("p50", "p99", "max")] if "p50" in each else [each["value"], "", ""]
        shown = [figure if figure == "" else f"{figure:g}{unit}" for figure in figures]
        rows.append(f"| {each['name']} | {each['n']} | {' | '.join(shown)} | {each['load']:g} |")
    return f"Machine: {results[0]['machine']}. Versions: {versions}.\n\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1]).read_text().splitlines()))
