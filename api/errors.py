"""What the service can refuse, in neutral kinds; every dialect dresses them in its own shape.

ApiError
├── BadRequest           malformed body or field
├── Unauthorized         no key, or none that is known
├── NoCredits            the balance, or what a key may spend, is used up
├── Forbidden            a link that does not hold, a key that may not do this
├── NotFound             no such task, image or file
├── NotReady             the picture is not made yet
├── Conflict             the name is taken
├── Gone                 the picture was deleted when its time was up
├── TooLarge             body, part or picture over a limit
├── UnsupportedMedia     not a body or picture type that is taken
├── IdempotencyMismatch  the idempotency key came with another request before
├── IdempotencyRunning   the first request with that key is not answered yet
├── RateLimited          too many requests of one key
├── QueueFull            too much of one account waits already
├── Overloaded           too much of all accounts waits already
└── Unavailable          starting, draining, or the disk is full
    └── Unsure           nobody can say whether it was done

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


class Unauthorized(ApiError):
    """No key, or none that is known."""

    kind = "unauthorized"


class NoCredits(ApiError):
    """The balance, or what a key may spend in its period, does not suffice."""

    kind = "no_credits"


class NotFound(ApiError):
    """No such thing, or not the caller's."""

    kind = "not_found"


class NotReady(ApiError):
    """The task exists, and its picture not yet."""

    kind = "not_ready"


class Conflict(BadRequest):
    """The name is taken already; not in STATUS, since only our own API has names to give."""

    kind = "conflict"


class Gone(ApiError):
    """The picture was deleted when its time was up."""

    kind = "gone"


class TooLarge(ApiError):
    """Over a size limit, which the message states."""

    kind = "too_large"


class UnsupportedMedia(ApiError):
    """A content type or picture format that is not taken."""

    kind = "unsupported_media"


class Forbidden(ApiError):
    """A link whose signature or expiry does not hold, or a key that may not do this."""

    kind = "forbidden"


class IdempotencyMismatch(ApiError):
    """The idempotency key came with another request before."""

    kind = "idempotency_mismatch"


class IdempotencyRunning(ApiError):
    """The first request with this idempotency key is not answered yet."""

    kind = "idempotency_running"


class RateLimited(ApiError):
    """Too many requests of one key; come back after `retry_after_seconds`."""

    kind = "rate_limited"


class QueueFull(ApiError):
    """Too much of one account, or key, is unfinished; come back after `retry_after_seconds`."""

    kind = "queue_full"


class Overloaded(ApiError):
    """Too much of all accounts is unfinished; come back after `retry_after_seconds`."""

    kind = "overloaded"


class Unavailable(ApiError):
    """The service cannot take work now: draining, or out of disk."""

    kind = "unavailable"


class Unsure(Unavailable):
    """The database went away before it said whether what was asked is kept."""


STATUS: dict[str, int] = {
    "bad_request": 400,
    "bad_value": 400,
    "unauthorized": 401,
    "no_credits": 402,
    "unsupported": 400,
    "unknown_model": 404,
    "not_found": 404,
    "not_ready": 404,
    "forbidden": 403,
    "gone": 410,
    "too_large": 413,
    "unsupported_media": 415,
    "idempotency_running": 409,
    "idempotency_mismatch": 422,
    "rate_limited": 429,
    "queue_full": 429,
    "overloaded": 503,
    "unavailable": 503,
    "closed": 503,
}


def kind_of(error: ApiError | EngineError) -> str:
    """The neutral kind of either tree."""
    return error.kind


def field_of(error: ApiError | EngineError) -> str | None:
    """The field at fault, where there is one."""
    return error.field if isinstance(error, ApiError | Refused) else None
