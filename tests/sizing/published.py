"""Published models and GPU types, for the golden table and the property tests."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from vllm_operator.hub.config import read_config
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.sizing.gpus import find_product
from vllm_operator.sizing.planner import nominal_pool
from vllm_operator.sizing.pools import GpuPool

DATA = Path(__file__).parent.parent / "data"


@cache
def configs() -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = json.loads((DATA / "models.json").read_text())
    return result


@cache
def published(name: str) -> ModelFacts:
    return read_config(configs()[name])


def pool(product: str, gpus_per_node: int, nodes: int) -> GpuPool:
    found = find_product(product)
    assert found is not None
    return nominal_pool(product, memory_gib=found.memory_gib, gpus_per_node=gpus_per_node, nodes=nodes)


GPUS = (
    pool("T4", 4, 4),
    pool("L4", 8, 4),
    pool("A10G", 8, 4),
    pool("L40S", 8, 4),
    pool("A100-40GB", 8, 4),
    pool("A100-80GB", 8, 4),
    pool("H100", 8, 4),
    pool("H200", 8, 4),
    pool("B200", 8, 4),
    pool("B300", 8, 4),
    pool("MI300X", 8, 4),
)
"""Pools of a made-up cluster: what can be rented."""
