"""From messages to their wire types; pure, no I/O."""

from __future__ import annotations

from typing import Any

from api.deliveries import Message
from api.dialects.darkroom.translate import to_time


def to_message(message: Message) -> dict[str, Any]:
    """A `WebhookMessage`; while one is out, its next attempt is the end of a lease and no plan."""
    is_out = message.is_out
    return {
        "id": message.id,
        "hook_id": message.hook_id,
        "origin": message.origin,
        "state": "delivering" if is_out else message.state.value,
        "attempts": message.attempts,
        "last_status": message.last_status,
        "last_error": None if is_out else message.last_error,
        "next_attempt_at": None if is_out else to_time(message.next_ms),
        "created_at": to_time(message.created_ms),
    }
