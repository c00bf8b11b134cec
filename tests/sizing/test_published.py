"""Plans of published models on many GPU types, as a table that a person can read and dispute.

A difference is a change of what users get: look at it, then `python -m tests.sizing.test_published` writes it anew.
"""

from pathlib import Path

from tests.sizing.published import DATA, GPUS, configs, published
from vllm_operator.sizing.memory import LATEST, EngineOptions
from vllm_operator.sizing.planner import Planner, Sizing, Wanted

GOLDEN: Path = DATA / "plans.txt"


def cell(sizing: Sizing) -> str:
    plan = sizing.plan
    if plan is None:
        return "-"
    sizes = f"{plan.tensor_parallel_size}" + (
        f"×{plan.pipeline_parallel_size}" if plan.pipeline_parallel_size > 1 else ""
    )
    nodes = f"/{plan.nodes}n" if plan.nodes > 1 else ""
    tokens = "max" if plan.max_context else f"{plan.max_model_len / 1000:.1f}k"
    return f"{sizes}{nodes} {tokens}"


def table() -> str:
    lines = [
        "Plan of each model on each GPU type: tensor[×pipeline][/nodes] and context: max, or thousands of tokens.",
        "vLLM 0.32, nodes of 8 GPUs (T4: 4), four of each. -: does not fit, or vLLM has no kernels for it there.",
        "Written by tests/sizing/test_published.py.",
        "",
    ]
    wanted = Wanted(options=EngineOptions(version=LATEST))
    rows = [["model", "GiB", "context", *(pool.name for pool in GPUS)]]
    for name in configs():
        facts = published(name)
        planner = Planner(facts)
        row = [name.partition("/")[2], f"{facts.weights.total / 1024**3:.1f}", str(facts.default_max_model_len)]
        rows.append(row + [cell(planner.plan(wanted, [pool])) for pool in GPUS])
    # fixed widths, so that one changed plan is one changed line
    widths = [40, 7, 9, *(16 for _ in GPUS)]
    lines += ["".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def test_golden() -> None:
    assert table() == GOLDEN.read_text()


def test_there_are_enough() -> None:
    assert len(configs()) >= 40


if __name__ == "__main__":
    GOLDEN.write_text(table())
