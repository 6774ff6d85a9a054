"""What our own API tells of a generation's end: signed as Standard Webhooks says."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from api.dialects.darkroom.translate import to_body
from api.webhooks import Event, Letter, WebhookStyle, standard_headers

# Receivers of such messages bound their size; who wants the prompt reads the generation.
LEFT_OUT = ("prompt", "negative_prompt")


def write(event: Event) -> Letter:
    """The generation as it ended, without its texts, as `generation.<state>`."""
    told = to_body(event.task, event.link)
    message = {
        "type": f"generation.{event.task.state.value}",
        "timestamp": datetime.fromtimestamp(event.now_seconds, UTC).isoformat(),
        "data": {name: value for name, value in told.items() if name not in LEFT_OUT},
    }
    body = json.dumps(message, separators=(",", ":")).encode()
    headers = standard_headers(event.message_id, event.secrets, event.now_seconds, body)
    return Letter(body=body, headers={"Content-Type": "application/json"} | headers)


WEBHOOKS = WebhookStyle(write=write)
