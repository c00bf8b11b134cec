"""vLLM's options for LoRA adapters."""

import dataclasses
from typing import Any

import pytest

from vllm_operator.api.errors import Refusal
from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.engine import command
from vllm_operator.engine.catalogue import newest, versions
from vllm_operator.engine.command import build_command
from vllm_operator.engine.lora import RANKS, round_rank
from vllm_operator.sizing.plan import decide_plan


def words(*, rank: int | None = 16, version: str | None = "0.32.0", **spec: Any) -> list[str]:
    """The options that adapters add."""
    model = VLLMModelSpec.model_validate({"model": "org/base", **spec})

    def build(max_lora_rank: int | None) -> list[str]:
        return build_command(
            model,
            model_path="org/base",
            served_model_names=["base"],
            plan=decide_plan(model),
            version=version,
            max_lora_rank=max_lora_rank,
        )

    without = build(None)
    found = build(rank)
    return found[next((n for n, (a, b) in enumerate(zip(found, without, strict=False)) if a != b), len(without)) :][
        : len(found) - len(without)
    ]


def test_without_adapters_nothing_is_added() -> None:
    assert words(rank=None) == []


@pytest.mark.parametrize("version", [*versions(), None, "0.99.0"])
def test_every_version_takes_them(version: str | None) -> None:
    assert words(rank=64, version=version) == [
        *("--enable-lora", "--max-lora-rank", "64", "--max-loras", "4", "--max-cpu-loras", "16")
    ]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"max-loras": 32}, ["--enable-lora", "--max-lora-rank", "16", "--max-cpu-loras", "32"]),
        ({"max_cpu_loras": 2}, ["--enable-lora", "--max-lora-rank", "16", "--max-loras", "2"]),
        ({"enable-lora": True, "max-lora-rank": 16}, ["--max-loras", "4", "--max-cpu-loras", "16"]),
    ],
)
def test_what_the_user_sets_stays(args: dict[str, Any], expected: list[str]) -> None:
    assert words(engine={"args": args}) == expected


def test_one_api_server_where_vllm_would_start_more() -> None:
    assert words(parallelism={"data": 2})[-2:] == ["--api-server-count", "1"]


@pytest.mark.parametrize("args", [{"enable-lora": False}, {"no-enable-lora": True}, {"api-server-count": 2}])
def test_what_contradicts_is_refused(args: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=r"spec\.engine\.args\."):
        words(version=None, engine={"args": args})


def test_a_version_that_lacks_an_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = newest()
    options = {name: option for name, option in known.options.items() if name != "max-cpu-loras"}
    monkeypatch.setattr(command, "find", lambda version: dataclasses.replace(known, options=options))
    with pytest.raises(Refusal, match=rf"spec\.adapters: unknown in vLLM {known.version}; did you mean max-loras"):
        words()


def test_ranks_are_rounded_up_to_what_vllm_takes() -> None:
    option = newest().option("max-lora-rank")
    assert option is not None
    assert option.choices == RANKS
    assert [round_rank(rank) for rank in (1, 2, 8, 9, 257, 512)] == [1, 8, 8, 16, 320, 512]
    with pytest.raises(Refusal, match="more than vLLM takes"):
        round_rank(513)
