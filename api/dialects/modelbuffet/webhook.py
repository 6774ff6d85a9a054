"""What Model Buffet tells of a generation's end, and how it signs that."""

from __future__ import annotations

import json
from typing import Any

from api.dialects.modelbuffet.translate import to_body
from api.tasks import Task
from api.webhooks import Event, Letter, WebhookStyle, timestamped_signature

SIGNATURE_HEADER = "luxe-signature"
RETRY_SECONDS = (1.0, 5.0, 30.0, 300.0, 1800.0)
TIMEOUT_SECONDS = 10.0


def write(event: Event) -> Letter:
    """The generation as it ended, signed with every secret of the account that still holds."""
    told = to_body(event.task, event.link)
    body = json.dumps(to_message(event.task, told), separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        SIGNATURE_HEADER: signature(event.secrets, event.now_seconds, body),
    }
    return Letter(body=body, headers=headers)


def to_message(task: Task, told: dict[str, Any]) -> dict[str, Any]:
    """The generation at the top and again as `data`: some receivers read it here, some there.

    `created` is when it ended, in seconds since the epoch, and the same in every attempt.
    """
    ended_ms = task.created_ms if task.finished_ms is None else task.finished_ms
    message = {
        "type": f"image.generation.{told['status']}",
        "created": ended_ms // 1000,
        "data": told,
    }
    return told | message


def signature(secrets: tuple[str, ...], timestamp: int, body: bytes) -> str:
    """`t=…,v1=…` over `{t}.{body}`; one `v1` for each secret that still holds, newest first.

    A receiver is to accept any of them, and to refuse a time that lies more than five minutes off.
    """
    signed = [timestamped_signature(secret, timestamp, body) for secret in secrets]
    marks = [one.partition(",")[2] for one in signed]
    return ",".join((f"t={timestamp}", *marks))


WEBHOOKS = WebhookStyle(write=write, retry_seconds=RETRY_SECONDS, timeout_seconds=TIMEOUT_SECONDS)
