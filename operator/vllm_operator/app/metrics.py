"""The operator's own metrics."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vllm_operator import __version__
from vllm_operator.api.names import Key

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(
        self,
        states: Callable[[], dict[Key, tuple[str, str]]],
        depth: Callable[[], int],
        sizing_errors: Callable[[], dict[Key, float]] = dict,
    ) -> None:
        self.registry = CollectorRegistry()
        self.passes = Histogram(
            "vllm_operator_reconcile_seconds",
            "Seconds of a reconcile pass, by result.",
            ["result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests = Histogram(
            "vllm_operator_api_request_seconds",
            "Seconds of a request to the API server, by verb, kind and HTTP status (0: no answer).",
            ["verb", "kind", "code"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.writes = Counter(
            "vllm_operator_writes",
            "Objects written or deleted, by verb and kind.",
            ["verb", "kind"],
            registry=self.registry,
        )
        self.leader = Gauge("vllm_operator_leader", "1 while this replica holds the lease.", registry=self.registry)
        Gauge(
            "vllm_operator_queue_depth", "Models that are to be looked at, now or later.", registry=self.registry
        ).set_function(depth)
        Gauge("vllm_operator_build_info", "The operator's version.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)
        self.registry.register(_Models(states, sizing_errors))

    def observe_pass(self, result: str, seconds: float) -> None:
        """Count a reconcile pass."""
        self.passes.labels(result).observe(seconds)

    def observe_request(self, verb: str, kind: str, status: int, seconds: float) -> None:
        """Count a request to the API server."""
        self.requests.labels(verb, kind, str(status)).observe(seconds)

    def observe_write(self, verb: str, kind: str) -> None:
        """Count a write."""
        self.writes.labels(verb, kind).inc()


class _Models(Collector):
    """Number of models by Ready and reason: few series, however many models there are. By model only what one may act on."""

    def __init__(
        self, states: Callable[[], dict[Key, tuple[str, str]]], sizing_errors: Callable[[], dict[Key, float]]
    ) -> None:
        self._states = states
        self._sizing_errors = sizing_errors

    def collect(self) -> Iterable[Metric]:
        """Count now."""
        errors = GaugeMetricFamily(
            "vllm_operator_sizing_error_ratio",
            "By how much the estimated KV cache was larger (or, negative, smaller) than vLLM's own, as a share of that.",
            labels=["namespace", "name"],
        )
        for key, error in sorted(self._sizing_errors().items()):
            errors.add_metric([key.namespace, key.name], error)
        yield errors
        family = GaugeMetricFamily(
            "vllm_operator_models", "Models, by Ready and its reason.", labels=["ready", "reason"]
        )
        for (ready, reason), count in sorted(Tally(self._states().values()).items()):
            family.add_metric([ready, reason], count)
        yield family
