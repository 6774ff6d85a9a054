"""What Mynth tells of a task's end: signed for registered webhooks, plain for a request's own."""

from __future__ import annotations

import json
from typing import Any

from api.dialects.mynth.bodies import to_errors, to_result, to_type
from api.tasks import TaskState
from api.webhooks import Event, Letter, WebhookStyle, timestamped_signature

EVENT_HEADER = "X-Mynth-Event"
SIGNATURE_HEADER = "X-Mynth-Signature"
RETRY_SECONDS = (1.0, 5.0, 30.0, 300.0, 1800.0, 7200.0)
TIMEOUT_SECONDS = 10.0
# Who else is told, and where, is nobody's business but the caller's.
LEFT_OUT = ("webhook",)


def write(event: Event) -> Letter:
    """The task as it ended; only the one secret of a registered webhook signs it."""
    message = to_message(event)
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", EVENT_HEADER: message["event"]}
    if event.hook is not None:
        headers[SIGNATURE_HEADER] = timestamped_signature(
            event.hook.secret, event.now_seconds, body
        )
    return Letter(body=body, headers=headers)


def to_message(event: Event) -> dict[str, Any]:
    """What is told: the request, and its result or the reasons why there is none."""
    task = event.task
    end = "completed" if task.state is TaskState.SUCCEEDED else "failed"
    asked = dict(task.extras.asked or {})
    message: dict[str, Any] = {
        "event": f"task.{to_type(task)}.{end}",
        "task": {"id": task.id},
        "request": {name: value for name, value in asked.items() if name not in LEFT_OUT},
    }
    if end == "failed":
        return message | {"errors": to_errors(task)}
    return message | {"result": to_result(task, event.link, event.credit_usd)}


WEBHOOKS = WebhookStyle(write=write, retry_seconds=RETRY_SECONDS, timeout_seconds=TIMEOUT_SECONDS)
