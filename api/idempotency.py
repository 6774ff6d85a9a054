"""Requests that may be sent twice and are to count once.

Scope is the account and the route. For a day the same key with the same request gets the first
reply again; with another request it is refused, and while the first is still at work it must wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

HEADER = "Idempotency-Key"
MAX_KEY_CHARS = 255
KEEP_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP reply with a JSON body, as it is sent and sent again."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """One request that counts once: `fingerprint` is the same for the same body only."""

    route: str
    key: str
    fingerprint: str


_REPLY = TypeAdapter(Reply)


def dump_reply(reply: Reply) -> str:
    """A reply as JSON text."""
    return _REPLY.dump_json(reply).decode()


def load_reply(text: str) -> Reply:
    """The reply that `dump_reply` wrote."""
    return _REPLY.validate_json(text)
