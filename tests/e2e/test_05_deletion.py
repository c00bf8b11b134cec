"""Deleting a model deletes everything that it owns. After all that use the shared model, because it takes it."""

import time
from collections.abc import Callable

from .api import OWNED, eventually
from .conftest import Served
from .traffic import complete
from .world import World

Measured = Callable[[str], None]


def test_everything_owned_goes(world: World, served: Served, measured: Measured) -> None:
    owned = world.owned(served.namespace, served.name)
    kinds = {each.partition("/")[0] for each in owned}
    # One replica has no budget, a model out of the image no Job that reads it, and one with a route of its own no policy.
    assert kinds == set(OWNED) - {"poddisruptionbudgets", "jobs", "networkpolicies"}, owned
    began = time.monotonic()
    world.cluster.kubectl("-n", served.namespace, "delete", "vllm", served.name, "--timeout=30s")
    measured(f"the VLLMModel was gone after {time.monotonic() - began:.1f} s")
    eventually("the gateway forgets it", lambda: complete(served.url, served.name).status == 404, seconds=60)
    measured(f"the route was gone after {time.monotonic() - began:.1f} s")
    eventually("everything it owned is gone", lambda: world.owned(served.namespace, served.name) == [], seconds=180)
    measured(f"all of {', '.join(sorted(kinds))} were gone after {time.monotonic() - began:.1f} s")
