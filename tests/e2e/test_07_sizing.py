"""What was estimated before the start, and what the real vLLM then has."""

import json
from collections.abc import Callable

from tests.cluster.vllm_env import model_path

from .api import eventually
from .conftest import Served, World, sample

Measured = Callable[[str], None]


def test_vllms_own_figures_are_shown(world: World, served: Served) -> None:
    def figures() -> int | None:
        sizing = world.api.get("models", served.namespace, served.name)["status"].get("sizing") or {}
        tokens = (sizing.get("measured") or {}).get("kvCacheTokens")
        return tokens if isinstance(tokens, int) else None

    # 2 layers × (keys + values) × 2 heads × 16 elements × 2 bytes would be 256 bytes a token; whatever it is, 1 GiB holds many.
    assert eventually("vLLM's own figures", figures, seconds=60) > 100_000


def test_the_estimate_on_cpus_is_what_vllm_has(world: World, namespace: str, measured: Measured) -> None:
    """The KV cache is decided from the memory limit, and vLLM allocates it to the token."""
    config = json.loads((model_path() / "config.json").read_text())
    document = sample(modelFacts={"config": config}, resources={"limits": {"memory": "4Gi"}})
    document["metadata"]["name"] = "sized"
    document["spec"]["engine"]["env"] = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
    world.apply(namespace, document)
    model = world.wait_ready(namespace, "sized")
    sizing = model["status"]["sizing"]
    space = sizing["memory"]["kvCache"]
    assert space in ("1Gi", "2Gi"), "4 GiB without the processes' share and the weights, in whole GiB"
    (container,) = world.pod(namespace, "sized")["spec"]["containers"]
    assert {"name": "VLLM_CPU_KVCACHE_SPACE", "value": space.removesuffix("Gi")} in container["env"]

    def figures() -> dict[str, int] | None:
        found = world.api.get("models", namespace, "sized")["status"]["sizing"].get("measured")
        return found if isinstance(found, dict) else None

    seen = eventually("vLLM's own figures", figures, seconds=60)
    measured(f"estimated {sizing['kvCacheTokens']:,} tokens, vLLM has {seen['kvCacheTokens']:,}")
    assert abs(seen["errorPercent"]) <= 1
