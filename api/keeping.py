"""A picture that was made becomes a file: encoded, stored, copied to where its task wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import structlog

from api.assisting import rated
from api.destinations import DestinationFailed, Pause
from api.errors import Unavailable
from api.outputs import EncodedPicture, encode_as
from api.storage import output_key
from api.tasks import Output, Task
from api.workshop import Workshop
from inference.events import ImageDone

log = structlog.get_logger()

T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 5.0


class Interrupted(Exception):
    """There is no time for another try: the task is to end, or to go on elsewhere."""


class Patience:
    """Waits for as long as it is asked to; once it has ended, raises Interrupted instead."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Wait no more, also where somebody does already."""
        self._ended.set()

    async def __call__(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
            raise Interrupted


async def insist(
    attempt: Callable[[], Awaitable[T]], task: Task, pause: Pause = asyncio.sleep
) -> T:
    """Try until it works: the work is done, and a full disk or a locked database will pass."""
    pause_seconds = 0.1
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            log.warning(
                "retrying",
                task_id=task.id,
                attempt=task.attempt,
                reason=str(error),
                pause_seconds=pause_seconds,
            )
            await pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


async def keep(task: Task, event: ImageDone, shop: Workshop, pause: Pause) -> Output:
    """Put a picture where it belongs, with a `pause` before another try to deliver its copy.

    Raises DestinationFailed, or Interrupted as `pause` does, and then nothing is left of it.
    """
    job, index = task.job, event.index
    encoded = await asyncio.get_running_loop().run_in_executor(
        shop.pixels, encode_as, event.picture, job, index, task.delivery, shop.style
    )
    key = output_key(task.id, task.attempt, index, encoded.extension)
    await insist(lambda: _put(key, encoded.data, shop), task)
    try:
        copy_url = await _deliver(task, index, encoded, shop, pause)
    except (DestinationFailed, Interrupted):
        await discard(key, shop)
        raise
    output = _output(encoded, index=index, key=key, seed=job.seeds[index], copy_url=copy_url)
    if (wish := task.extras.rating) is not None:
        output = replace(output, rating=await rated(event.picture, wish, shop.assistants))
    return output


async def discard(key: str, shop: Workshop) -> None:
    """Drop a file that is for nobody; what stays, the housekeeper finds."""
    with suppress(Unavailable):
        await shop.storage.delete(key)


async def _deliver(
    task: Task, index: int, encoded: EncodedPicture, shop: Workshop, pause: Pause
) -> str | None:
    if task.delivery.destination is None:
        return None
    return await insist(lambda: shop.deliver(task, index, encoded, pause), task, pause)


async def _put(key: str, data: bytes, shop: Workshop) -> None:
    try:
        await shop.storage.put(key, data)
    except Unavailable:
        # No row names the key yet; what may lie there half-written must not block the retry.
        await discard(key, shop)
        raise


def _output(
    encoded: EncodedPicture, *, index: int, key: str, seed: int, copy_url: str | None
) -> Output:
    return Output(
        index=index,
        key=key,
        media_type=encoded.media_type,
        width=encoded.width,
        height=encoded.height,
        seed=seed,
        size_bytes=len(encoded.data),
        sha256=encoded.sha256,
        destination_url=copy_url,
    )
