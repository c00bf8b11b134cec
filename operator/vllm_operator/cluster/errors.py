"""What can go wrong with a call to the API server, classified once."""

import re
from enum import Enum


class Category(Enum):
    """What to do about an error."""

    TRANSIENT = "transient"
    """Back off and try again; not shown until it lasts."""
    CONFLICT = "conflict"
    """Somebody else wrote first: read again and retry at once."""
    INVALID = "invalid"
    """The object is not valid: terminal until its inputs change."""
    DENIED = "denied"
    """Not allowed: shown, and tried again slowly."""
    TERMINATING = "terminating"
    """The namespace is going or gone: nothing more can be made there."""
    NOT_INSTALLED = "not installed"
    """The API server does not know the kind."""
    NOT_FOUND = "not found"
    """The object is gone."""


class ApiError(Exception):
    """A call to the API server failed.

    `status` is the HTTP status, 0 when no answer came; `reason` is metav1.Status.reason; `retry_after` in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        category: Category,
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.category = category
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.field = field
        """First field that the API server complains of, if it names one."""


_UNFIT = re.compile(
    r"failed to create typed (?:patch|live) object \([^)]*\): \.?(?P<field>[^:]*): "
    r"|.*?\.?(?P<other>[^ :]*): field not declared in schema"
)
"""How server-side apply answers an object that does not fit the schema: HTTP 500 without a reason, and this message."""


def classify(status: int, body: object, *, retry_after: float | None = None) -> ApiError:
    """The error for an HTTP status of 400 and above and the parsed body (a metav1.Status, or anything else)."""
    details: dict[str, object] = {}
    reason = ""
    message = ""
    is_status = isinstance(body, dict) and body.get("kind") == "Status"
    if is_status:
        assert isinstance(body, dict)
        reason = str(body.get("reason") or "")
        message = str(body.get("message") or "")
        found = body.get("details")
        details = found if isinstance(found, dict) else {}
    message = message or f"HTTP {status} from the API server"
    causes = details.get("causes")
    causes = causes if isinstance(causes, list) else []
    if retry_after is None and isinstance(details.get("retryAfterSeconds"), int):
        retry_after = float(str(details["retryAfterSeconds"]))
    field = next((str(cause.get("field")) for cause in causes if isinstance(cause, dict) and cause.get("field")), "")

    def error(category: Category) -> ApiError:
        return ApiError(message, category=category, status=status, reason=reason, retry_after=retry_after, field=field)

    if any(isinstance(cause, dict) and cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return error(Category.TERMINATING)
    unfit = _UNFIT.match(message) if status == 500 else None
    if unfit is not None:
        # An unknown field, a wrong type or a list element that stands twice: trying again would never help.
        field = field or unfit["field"] or unfit["other"] or ""
        return error(Category.INVALID)
    match status:
        case 404:
            if not is_status or details.get("name") is None:
                # The answer for an unknown path is plain text, or a Status without a name.
                return error(Category.NOT_INSTALLED)
            return error(Category.TERMINATING if details.get("kind") == "namespaces" else Category.NOT_FOUND)
        case 409:
            return error(Category.CONFLICT)
        case 400 | 413 | 415 | 422:
            return error(Category.INVALID)
        case 401 | 403:
            return error(Category.DENIED)
        case _:
            # 408, 410, 429, 5xx, and whatever a proxy in between may invent.
            return error(Category.TRANSIENT)
