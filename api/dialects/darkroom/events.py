"""What happens to a generation, as server-sent events."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from sse_starlette import ServerSentEvent

from api.tasks import TaskState, TaskUpdate

RETRY_MS = 2000
LAST = {
    TaskState.SUCCEEDED: "done",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
}

# The body of the task as it now stands, and that of its picture with a given index.
Body = Callable[[], Awaitable[dict[str, Any]]]


async def to_stream(updates: AsyncIterator[TaskUpdate], body: Body) -> AsyncIterator[Any]:
    """Server-sent events of a task, numbered, up to and with the one that ends it."""
    number = 0
    async with aclosing(updates):  # type: ignore[type-var]
        async for update in updates:
            for name, told in await to_events(update, body):
                number += 1
                yield ServerSentEvent(
                    data=json.dumps(told), event=name, id=str(number), retry=RETRY_MS
                )
            if update.state.ended:
                return


async def to_events(update: TaskUpdate, body: Body) -> list[tuple[str, dict[str, Any]]]:
    """One update as named events; the last carries the whole generation."""
    if update.state.ended:
        return [(LAST[update.state], await body())]
    if update.output is not None:
        images = (await body())["images"]
        return [("image", one) for one in images if one["index"] == update.output.index]
    if update.failure is not None:
        failures = (await body())["failures"]
        return [("image_failed", one) for one in failures if one["index"] == update.failure.index]
    if update.state is TaskState.QUEUED:
        return [("queued", {"position": update.position})]
    if update.step is None:
        return [("running", {})]
    step: dict[str, Any] = {"index": update.index, "step": update.step, "steps": update.steps}
    events: list[tuple[str, dict[str, Any]]] = [("step", step)]
    if update.preview is not None:
        image = f"data:{update.preview_media_type};base64,{_text(update.preview)}"
        events.append(("preview", step | {"image": image}))
    return events


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
