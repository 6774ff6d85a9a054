"""Between the wire types of registered webhooks and the neutral ones; pure, no I/O."""

from __future__ import annotations

from typing import Any

from api.dialects.darkroom.hooks_schema import HookRequest
from api.dialects.darkroom.translate import to_time
from api.hooks import Hook


def to_events(wire: HookRequest) -> tuple[str, ...] | None:
    """The events that are asked for, None for all."""
    return None if wire.events == "all" else tuple(wire.events)


def to_info(hook: Hook) -> dict[str, Any]:
    """A `HookInfo`."""
    return {
        "id": hook.id,
        "url": hook.url,
        "events": "all" if hook.events is None else list(hook.events),
        "enabled": hook.enabled,
        "failures": hook.failures,
        "created_at": to_time(hook.created_ms),
        "updated_at": to_time(hook.updated_ms),
    }


def to_new(hook: Hook) -> dict[str, Any]:
    """A `NewHook`."""
    return to_info(hook) | {"secret": hook.secret}
