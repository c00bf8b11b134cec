"""What stands beside every measurement, and how many are summed up."""

import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.cluster.settings import KUBERNETES_VERSION
from vllm_operator import __version__


def machine() -> str:
    """Processor, cores and memory of this machine."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} × {names[0] if names else platform.machine()}, {pages / 2**30:.0f} GiB"


def versions() -> dict[str, str]:
    return {
        "operator": __version__,
        "kubernetes": KUBERNETES_VERSION,
        "python": platform.python_version(),
        "kopf": version("kopf"),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
