"""What the gateway itself says of requests that failed: its access log."""

import json
from collections.abc import Iterator

import httpx

from tests.apiserver import ApiError
from tests.cluster import ClusterError
from tests.e2e.world import World

MOST_LINES = 10


def trouble_in_logs(world: World, *, seconds: int = 15) -> list[str]:
    """Lines of the last seconds, of all its pods, of requests that were not answered with 200 or broke off."""
    found: list[str] = []
    try:
        pods = world.gateway_pods()
    except (ApiError, httpx.TransportError) as error:
        return [f"the API server does not tell: {error}"]
    for pod in pods:
        name = pod["metadata"]["name"]
        words = ("logs", name, "-c", "envoy", f"--since={seconds}s")
        try:
            text = world.cluster.kubectl("-n", world.operator.namespace, *words)
        except ClusterError as error:
            found.append(f"{name}: {error}")
            continue
        found += [f"{name}: {line}" for line in bad_lines(text)][:MOST_LINES]
    return found


def bad_lines(text: str) -> Iterator[str]:
    """Lines of an access log that do not tell of a whole answer."""
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # Cut off by the log's rotation.
        if entry.get("status") != 200 or entry.get("flags") not in (None, "-"):
            yield line
