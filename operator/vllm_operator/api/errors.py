"""Why a spec cannot be carried out, as a value that becomes a condition."""

from pydantic import ValidationError

from vllm_operator.api.conditions import Reason


class Refusal(Exception):
    """The spec is refused: it becomes `Accepted=False` with this reason and message.

    The message names the field, its value and what would be right. Terminal until the model or something that it refers
    to changes.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def problems_of_list(error: ValidationError) -> str:
    """What is wrong with a list given as JSON: the first fields, each with its place."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'the list'}: {problem['msg']}"
        for problem in error.errors()[:5]
    )
