"""What vLLM writes into its log when it starts: how much memory it found to be taken. Pure.

The lines are vLLM's own (v1/worker/gpu_worker.py, v1/worker/gpu_model_runner.py, model_executor/model_loader/). A worker of each rank
writes them; a CPU has no worker that measures memory.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

LOG_BYTES = 256 * 1024
"""Of a log's beginning that are read; a start takes some 20 kB."""

_WEIGHTS = re.compile(r"Model loading took ([0-9.]+) GiB memory and ([0-9.]+) seconds")
_LOADING = re.compile(r"Loading weights took ([0-9.]+) seconds")
_KV_CACHE = re.compile(r"Available KV cache memory: ([0-9.]+) GiB")
_GRAPHS = re.compile(r"Graph capturing finished in [0-9.]+ secs, took ([0-9.]+) GiB")


@dataclass(frozen=True)
class StartUp:
    """Figures of one start, of the rank that took most; None where vLLM said nothing."""

    weights: float | None = None
    """GiB of a GPU's memory that the model took when it was loaded."""
    kv_cache: float | None = None
    """GiB that were left for the KV cache, of the rank with the least."""
    cuda_graphs: float | None = None
    """GiB that CUDA graphs took."""
    load_seconds: float | None = None
    """Seconds from the first weight to the last."""


def read_start_up(log: str) -> StartUp:
    """Figures in the beginning of a log."""
    weights = _WEIGHTS.findall(log)
    return StartUp(
        weights=_one(max, (each[0] for each in weights)),
        kv_cache=_one(min, _KV_CACHE.findall(log)),
        cuda_graphs=_one(max, _GRAPHS.findall(log)),
        load_seconds=_one(max, [*(each[1] for each in weights), *_LOADING.findall(log)]),
    )


def _one(choose: Callable[[Iterable[float]], float], texts: Iterable[str]) -> float | None:
    numbers = []
    for text in texts:
        try:
            numbers.append(float(text))
        except ValueError:  # 1.2.3 is no number
            continue
    return choose(numbers) if numbers else None
