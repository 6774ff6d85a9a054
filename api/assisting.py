"""What assistants do for one task: write its prompt out, rate its pictures, look at one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import structlog

from api.assistants import AssistantFailed, Assistants, Note
from api.tasks import Findings, Rating, RatingWish, Task, TaskKind
from inference.job import Job

if TYPE_CHECKING:
    from PIL.Image import Image

log = structlog.get_logger()

# A search and a prompt writer together; what takes longer is given up and the prompt stays.
PREPARE_SECONDS = 30.0
LOOK_SECONDS = 120.0


async def prepared(task: Task, assistants: Assistants) -> tuple[Job, Findings] | None:
    """The job with its prompt written out, and what that came from; None where it stays as it is.

    A writer that fails costs nobody their pictures.
    """
    wanted = task.extras.magic_prompt or task.extras.real_time
    if not wanted or task.findings.enhanced is not None or assistants.enhancer is None:
        return None
    request, job = task.request, task.job
    try:
        async with asyncio.timeout(PREPARE_SECONDS):
            notes = await _notes(task, assistants)
            enhanced = await assistants.enhancer.enhance(
                request.prompt, request.negative_prompt, notes, job.model
            )
    except (AssistantFailed, TimeoutError) as error:
        log.warning("prompt_not_enhanced", task_id=task.id, reason=str(error) or "too slow")
        return None
    sources = tuple(note.url for note in notes)
    # What the model's LoRAs are woken by stands around the caller's own words.
    written = replace(job, prompt=job.prompt.replace(request.prompt, enhanced.prompt, 1))
    if enhanced.negative_prompt is not None:
        written = replace(written, negative_prompt=enhanced.negative_prompt)
    return written, replace(task.findings, enhanced=enhanced, sources=sources)


async def _notes(task: Task, assistants: Assistants) -> Sequence[Note]:
    if not task.extras.real_time or assistants.searcher is None:
        return ()
    return await assistants.searcher.search(task.request.prompt)


async def rated(picture: Image, wish: RatingWish, assistants: Assistants) -> Rating:
    """The level of a picture, or why there is none; the picture is kept either way."""
    try:
        if assistants.rater is None:
            raise AssistantFailed("no rater is set up")
        async with asyncio.timeout(LOOK_SECONDS):
            return Rating(level=await assistants.rater.rate(picture, wish))
    except (AssistantFailed, TimeoutError) as error:
        log.warning("picture_not_rated", reason=str(error) or "too slow")
        return Rating(error=str(error) or "rating took too long")


async def looked_at(task: Task, picture: Image, assistants: Assistants) -> Findings:
    """What a look at a picture says, as the task asks; raises AssistantFailed."""
    look: Mapping[TaskKind, Callable[[Task, Image, Assistants], Awaitable[dict[str, Any]]]]
    look = {TaskKind.RATE: _rate, TaskKind.ALT: _describe, TaskKind.REVIEW: _review}
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            result = await look[task.extras.kind](task, picture, assistants)
    except TimeoutError:
        raise AssistantFailed(f"{task.extras.kind} took too long") from None
    return replace(task.findings, result=result)


async def _rate(task: Task, picture: Image, assistants: Assistants) -> dict[str, Any]:
    if assistants.rater is None:
        raise AssistantFailed("no rater is set up")
    return {"level": await assistants.rater.rate(picture, task.extras.rating or RatingWish())}


async def _describe(task: Task, picture: Image, assistants: Assistants) -> dict[str, Any]:
    if assistants.viewer is None:
        raise AssistantFailed("no viewer is set up")
    return {"alt": await assistants.viewer.describe(picture)}


async def _review(task: Task, picture: Image, assistants: Assistants) -> dict[str, Any]:
    if assistants.viewer is None:
        raise AssistantFailed("no viewer is set up")
    return asdict(await assistants.viewer.review(picture, task.extras.effort))
