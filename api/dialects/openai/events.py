"""What happens to a task, as OpenAI's server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from sse_starlette import ServerSentEvent

from api.dialects.base import ErrorContext
from api.dialects.openai import translate
from api.dialects.openai.schema import GenerationRequest
from api.dialects.orders import made
from api.errors import ApiError
from api.previews import as_partial
from api.tasks import Task, TaskUpdate

Action = Literal["image_generation", "image_edit"]
# Partial images are of this picture: those of several could not be told apart.
SHOWN_INDEX = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What all events of one task are made from.

    `read` gets a finished picture's file, `now` the task as it stands.
    """

    action: Action
    task: Task
    wire: GenerationRequest
    context: ErrorContext
    read: Callable[[int], Awaitable[bytes]]
    now: Callable[[], Awaitable[Task]]


class Partials:
    """Chooses the previews to send, spread evenly over the steps of one picture."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._sent = 0

    def number(self, update: TaskUpdate) -> int | None:
        """The place among the partial images of the preview in an update, if it is to be sent."""
        if update.preview is None or update.index != SHOWN_INDEX:
            return None
        step, steps = update.step or 0, update.steps or 1
        due = min(step * (self._wanted + 1) // steps, self._wanted)
        if due <= self._sent:
            return None
        self._sent += 1
        return self._sent - 1

    def end(self) -> None:
        """Send no more: the picture itself is there."""
        self._wanted = 0


async def to_stream(
    updates: AsyncIterator[TaskUpdate], told: Told
) -> AsyncIterator[ServerSentEvent]:
    """Partial images, every picture once it is made, and an error if not all are."""
    partials = Partials(told.wire.partial_images)
    try:
        async with aclosing(updates):  # type: ignore[type-var]
            async for update in updates:
                if (number := partials.number(update)) is not None:
                    yield await _partial(told, update, number)
                if update.output is not None:
                    if update.output.index == SHOWN_INDEX:
                        partials.end()
                    yield await _completed(told, update.output.index)
                if update.state.ended:
                    made(await told.now())
                    return
    except ApiError as error:
        yield _event("error", dict(translate.to_error(error, told.context).body))


async def _partial(told: Told, update: TaskUpdate, number: int) -> ServerSentEvent:
    assert update.preview is not None
    data = await asyncio.to_thread(as_partial, update.preview, told.task, SHOWN_INDEX)
    return _image(told, "partial_image", data, {"partial_image_index": number})


async def _completed(told: Told, index: int) -> ServerSentEvent:
    extra = {"usage": translate.to_usage(told.task, 1), **translate.to_identifier(told.wire)}
    return _image(told, "completed", await told.read(index), extra)


def _image(told: Told, what: str, data: bytes, extra: dict[str, Any]) -> ServerSentEvent:
    name = f"{told.action}.{what}"
    body = {
        "type": name,
        "b64_json": base64.b64encode(data).decode("ascii"),
        "created_at": int(time.time()),
        **translate.to_facts(told.task),
        **extra,
    }
    return _event(name, body)


def _event(name: str, body: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=json.dumps(body), event=name)
