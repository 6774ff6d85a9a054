"""What APIModels tells of a task's end: one unsigned message, with JSON inside of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from api.dialects.apimodels.translate import STATES, to_failure, to_urls
from api.links import PictureLink
from api.tasks import Task
from api.webhooks import Event, Letter, WebhookStyle

PROVIDER = "darkroom"
# Three times soon after the first, then every minute until half an hour has passed.
RETRY_SECONDS = (1.0, 2.0, 4.0, *(60.0,) * 29)
TIMEOUT_SECONDS = 10.0


def write(event: Event) -> Letter:
    """The task as it ended; there is no signature."""
    told = {"code": 200, "msg": "success", "data": to_data(event.task, event.link)}
    return Letter(body=dumps(told).encode(), headers={"Content-Type": "application/json"})


def to_data(task: Task, link: PictureLink) -> dict[str, Any]:
    """The task; `param` and `resultJson` are JSON as text, the latter null without pictures."""
    state = STATES[task.state]
    completed = state == "completed"
    failure = {"failCode": None, "failMsg": None} if completed else to_failure(task)
    ended_ms = task.created_ms if task.finished_ms is None else task.finished_ms
    return {
        "taskId": task.id,
        "model": to_model(task.request.model),
        "state": state,
        "param": dumps(task.extras.asked or {}),
        "resultJson": dumps({"resultUrls": to_urls(task, link)}) if task.pictures else None,
        **failure,
        "costTime": max(ended_ms - task.created_ms, 0),
        "completeTime": ended_ms,
        "createTime": task.created_ms,
    }


def to_model(name: str) -> str:
    """The name of a model with that of who provides it before."""
    return name if "/" in name else f"{PROVIDER}/{name}"


def dumps(value: Mapping[str, Any]) -> str:
    """JSON as JavaScript writes it: without spaces, and letters as they are."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


WEBHOOKS = WebhookStyle(write=write, retry_seconds=RETRY_SECONDS, timeout_seconds=TIMEOUT_SECONDS)
