"""What the service can refuse, in neutral kinds; every dialect dresses them in its own shape.

ApiError
├── BadRequest        malformed body or field
├── NotFound          no such task, image or file
├── NotReady          the picture is not made yet
├── TooLarge          body, part or picture over a limit
├── UnsupportedMedia  not a body or picture type that is taken
├── Forbidden         a link whose signature or expiry does not hold
├── QueueFull         too much waits already
└── Unavailable       starting, draining, or the disk is full

The engine's `Refused` errors pass through beside these: `kind_of`, `field_of` read either.
"""

from __future__ import annotations

from typing import ClassVar

from inference.errors import EngineError, Refused


class ApiError(Exception):
    """A request that cannot be served; the message tells the caller what to change."""

    kind: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.retry_after_seconds = retry_after_seconds


class BadRequest(ApiError):
    """Malformed body or field."""

    kind = "bad_request"


class NotFound(ApiError):
    """No such thing, or not the caller's."""

    kind = "not_found"


class NotReady(ApiError):
    """The task exists; its picture does not, yet or ever."""

    kind = "not_ready"


class TooLarge(ApiError):
    """Over a size limit, which the message states."""

    kind = "too_large"


class UnsupportedMedia(ApiError):
    """A content type or picture format that is not taken."""

    kind = "unsupported_media"


class Forbidden(ApiError):
    """A link whose signature or expiry does not hold."""

    kind = "forbidden"


class QueueFull(ApiError):
    """The queue is at its bound; come back after `retry_after_seconds`."""

    kind = "queue_full"


class Unavailable(ApiError):
    """The service cannot take work now: draining, or out of disk."""

    kind = "unavailable"


STATUS: dict[str, int] = {
    "bad_request": 400,
    "bad_value": 400,
    "unsupported": 400,
    "unknown_model": 404,
    "not_found": 404,
    "not_ready": 404,
    "forbidden": 403,
    "too_large": 413,
    "unsupported_media": 415,
    "queue_full": 429,
    "unavailable": 503,
    "closed": 503,
}


def kind_of(error: ApiError | EngineError) -> str:
    """The neutral kind of either tree."""
    return error.kind


def field_of(error: ApiError | EngineError) -> str | None:
    """The field at fault, where there is one."""
    return error.field if isinstance(error, ApiError | Refused) else None
