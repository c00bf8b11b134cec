"""The words in which the operator speaks."""

import re

from vllm_operator.api.conditions import REASONS, ConditionType, Reason
from vllm_operator.generate import conditions_reference


def test_every_reason_is_documented() -> None:
    assert set(REASONS) == set(Reason)
    for meaning, remedy in REASONS.values():
        assert meaning.endswith(".")
        assert remedy.endswith(".")


def test_words_are_what_kubernetes_takes() -> None:
    for word in [*ConditionType, *Reason]:
        assert re.fullmatch(r"[A-Z][A-Za-z]*", word)


def test_the_reference_has_every_word() -> None:
    text = conditions_reference()
    for word in [*ConditionType, *Reason]:
        assert f"| `{word}` |" in text
