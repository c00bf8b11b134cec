"""What a soak found: a table for people, one JSON object for programs."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.figures import machine, percentile, versions
from tests.cluster.settings import ENVOY_REQUIREMENT, VLLM_VERSION

from .load import Failure, Rates, Result, Sample, Verdict

FIGURES = ("answer_p50", "answer_p99", "first_byte_p50", "first_byte_p99")


@dataclass
class Report:
    """All that is said of a soak."""

    rates: Rates
    result: Result
    changes: Mapping[str, Sequence[float]]
    """What was changed → the seconds that each time took; in the order in which it was done first."""
    failures: Sequence[Failure] = ()
    trouble: Sequence[str] = field(default=())
    """Changes that did not come about."""

    @property
    def good(self) -> bool:
        """Whether nothing failed."""
        return not self.trouble and all(each.verdict is Verdict.GOOD for each in self.result.samples)

    def document(self) -> dict[str, Any]:
        """One object of plain values."""
        samples = self.result.samples
        by_vllm = [each for each in samples if each.vllm]
        late = [each.late for each in samples]
        return {
            "name": "gateway: soak",
            "good": self.good,
            "seconds": round(self.result.seconds, 1),
            "rate": {"wanted": self.rates.requests, "sent": round(self.result.rate, 1)},
            **_counts(samples),
            "by_stand_in": _figures([each for each in samples if not each.vllm]),
            "by_vllm": _figures(by_vllm),
            "changes": {
                name: {
                    "times": len(seconds),
                    "seconds": round(sum(seconds), 1),
                    **_counts(during := [each for each in samples if each.change == name]),
                    # vLLM on a CPU takes its time; one answer of it in a hundred would be the p99.
                    **_milliseconds([each for each in during if not each.vllm]),
                }
                for name, seconds in self.changes.items()
            },
            "load": {
                "late_p99_ms": _ms(percentile(late, 0.99)) if late else None,
                "late_max_ms": _ms(max(late, default=0.0)),
                "cpu_share": round(self.result.cpu_seconds / self.result.seconds, 2),
            },
            "failures": [str(each) for each in self.failures],
            "trouble": list(self.trouble),
            "versions": {**versions(), "envoy": ENVOY_REQUIREMENT.partition("==")[2], "vllm": VLLM_VERSION},
            "machine": machine(),
        }

    def json(self) -> str:
        """One line."""
        return json.dumps(self.document(), ensure_ascii=False)

    def text(self) -> str:
        """A table in Markdown, and what it means."""
        found = self.document()
        titles = ["requests", "streams", "failed", "cut", "answer p50", "p99", "first byte p50", "p99"]
        lines = [
            f"{found['requests']} requests, {found['streams']} of them streams, in {found['seconds']:g} s: "
            f"{found['failed']} failed, {found['cut']} cut. {found['rate']['sent']:g} a second were sent, "
            f"{found['rate']['wanted']:g} wanted.",
            f"Answered by stand-ins for vLLM: {_share(found, 'by_stand_in')}; by vLLM {VLLM_VERSION} on a CPU: "
            f"{_share(found, 'by_vllm')}.",
            "",
            f"| While | times | seconds | {' | '.join(titles)} |",
            "|---" + "|---:" * (2 + len(titles)) + "|",
        ]
        for name, row in found["changes"].items():
            lines.append(f"| {name} | {row['times']} | {row['seconds']:g} | {_cells(row)} |")
        for name in ("by_stand_in", "by_vllm"):
            lines.append(
                f"| *all, answered {name.replace('_', ' ', 1).replace('_', '-')}* | | | {_cells(found[name])} |"
            )
        load = found["load"]
        lines += [
            "",
            "Milliseconds, from when a request was due. *answer*: requests without a stream, until the answer was whole; "
            "*first byte*: streams. The rows of changes have the stand-ins' figures.",
            f"The load itself was late by {load['late_p99_ms']} ms (p99) and {load['late_max_ms']} ms at most, and used "
            f"{load['cpu_share']:.0%} of a core. Machine: {found['machine']}.",
        ]
        lines += [f"TROUBLE {each}" for each in found["trouble"]]
        lines += [f"FAILED {each}" for each in found["failures"]]
        return "\n".join(lines)


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    verdicts = Counter(each.verdict for each in samples)
    return {
        "requests": len(samples),
        "streams": sum(each.stream for each in samples),
        "failed": verdicts[Verdict.FAILED],
        "cut": verdicts[Verdict.CUT],
    }


def _milliseconds(samples: Iterable[Sample]) -> dict[str, float | None]:
    good = [each for each in samples if each.verdict is Verdict.GOOD]
    answers = [each.seconds for each in good if not each.stream]
    firsts = [each.first for each in good if each.stream and each.first is not None]
    values = (percentile(found, share) if found else None for found in (answers, firsts) for share in (0.5, 0.99))
    return {name: None if value is None else _ms(value) for name, value in zip(FIGURES, values, strict=True)}


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    return {**_counts(samples), **_milliseconds(samples)}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _share(found: Mapping[str, Any], part: str) -> str:
    count = found[part]["requests"]
    return f"{count} ({count / max(1, found['requests']):.1%})"


def _cells(row: Mapping[str, Any]) -> str:
    cells = [row[name] for name in ("requests", "streams", "failed", "cut", *FIGURES)]
    return " | ".join("" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells)
