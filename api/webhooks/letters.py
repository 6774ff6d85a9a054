"""What a webhook says and how it is signed; the writing is each dialect's own."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from api.links import PictureLink
from api.store.hooks import Hook
from api.tasks import Task

# Of Standard Webhooks 1.0.0: at once, then after these, three days and three hours in all.
STANDARD_RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
STANDARD_TIMEOUT_SECONDS = 20.0

SECRET_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a message is written from, anew for every attempt.

    `secrets` are what it is signed with, the newest first: those of the account, or the one of the
    registered webhook `hook` that the message is for. `link` makes a path of ours an absolute
    signed URL; `now_seconds` is the time of the attempt, since the epoch; `credit_usd` is what a
    credit is in dollars.
    """

    message_id: str
    task: Task
    secrets: tuple[str, ...]
    link: PictureLink
    now_seconds: int
    hook: Hook | None = None
    credit_usd: Decimal = Decimal("0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message as it is sent; the bytes are those that were signed."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookStyle:
    """How a dialect tells of a task's end.

    `retry_seconds` are the pauses after the first, second … failed attempt; when they are used up
    the message has failed. `timeout_seconds` is for a whole attempt.
    """

    write: Callable[[Event], Letter]
    retry_seconds: tuple[float, ...] = STANDARD_RETRY_SECONDS
    timeout_seconds: float = STANDARD_TIMEOUT_SECONDS


def standard_headers(
    message_id: str, secrets: Sequence[str], timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers of Standard Webhooks 1.0.0, with one signature for each secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets]
    digests = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests),
    }


def timestamped_signature(secret: str, timestamp: int, body: bytes) -> str:
    """`t=…,v1=…` over time and body; the key is the secret's text as it stands."""
    signed = f"{timestamp}.".encode() + body
    return f"t={timestamp},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"
