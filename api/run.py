"""One claimed task on its way: to the engine, its pictures into storage, its end into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from api.assistants import AssistantFailed
from api.assisting import looked_at, prepared
from api.destinations import DestinationFailed
from api.keeping import Interrupted, Patience, discard, insist, keep
from api.outputs import PREVIEW_MEDIA_TYPE, encode_preview
from api.store import Claim
from api.tasks import Failure, Findings, TaskKind, TaskState, TaskUpdate
from api.workshop import Workshop
from inference.errors import JobError, ModelFailed
from inference.events import Cancelled, Event, Failed, ImageDone, Progress
from inference.job import Job
from inference.pixels import decode

log = structlog.get_logger()

T = TypeVar("T")

ERROR_CHARS = 2000


class Run:
    """A task under one claim, from there to its end or to the loss of the claim.

    Lives on the event loop; the engine's thread reaches it through one callback.
    """

    def __init__(
        self, claim: Claim, workshop: Workshop, *, max_tries: int, on_room: Callable[[], None]
    ) -> None:
        self.task = claim.task
        self.holding = claim.holding
        self.image_seconds: float | None = None
        self._tries = claim.tries
        self._max_tries = max_tries
        self._shop = workshop
        self._on_room = on_room
        self._made = {output.index for output in claim.task.outputs}
        self._failed = {failure.index for failure in claim.task.failures}
        ended = self._made | self._failed
        self._missing = [n for n in range(len(claim.task.job.seeds)) if n not in ended]
        self._in_flight = len(self._missing)
        self._cancel_asked = claim.task.cancel_requested
        self._lost = False
        self._is_leaving = False
        self._patience = Patience()
        # Why it fails if it does: the first of what went wrong.
        self._failure = next(iter(claim.task.failures), None)
        self._reason: str | None = None
        self._has_stepped = False
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._log = log.bind(task_id=self.task.id, attempt=self.task.attempt)

    @property
    def images_in_flight(self) -> int:
        """How many pictures are in the making, or made and not stored yet."""
        return self._in_flight

    @property
    def is_last_try(self) -> bool:
        """Whether it was tried before, maybe in bad company, and will not be again."""
        return 1 < self._tries == self._max_tries

    async def work(self) -> None:
        """Make what is missing and end the task."""
        self._publish(TaskUpdate(task_id=self.task.id, state=TaskState.RUNNING))
        if self._tries > self._max_tries:
            await self._give_up()
        elif self.task.extras.kind is not TaskKind.GENERATE:
            await self._look()
        elif self._missing:
            await self._prepare()
            await self._make_missing()
        await self._end()

    def cancel(self) -> None:
        """The caller wants no more of it."""
        self._cancel_asked = True
        self._patience.end()
        self._shop.engine.cancel(self.task.id)

    def lose(self) -> None:
        """The claim is gone: stop, and write nothing any more."""
        self._lost = True
        self._patience.end()
        self._shop.engine.cancel(self.task.id)

    def leave(self) -> None:
        """The process is to end: what a destination does not take now, the next claim makes."""
        self._is_leaving = True
        self._patience.end()

    async def give_back(self, *, counted: bool) -> None:
        """Leave the task to the next claim; `counted`, as one of the tries it has."""
        self._shop.engine.cancel(self.task.id)
        await self._insist(lambda: self._shop.store.release([self.holding], counted=counted))

    async def _give_up(self) -> None:
        """Fail whatever has no end yet; of a task that is to be cancelled that is not recorded."""
        why = f"gave up after {self._max_tries} attempts"
        self._failure = Failure(index=0, kind="gave_up", message=why)
        if not self._cancel_asked:
            for index in self._missing:
                await self._fail(replace(self._failure, index=index))

    async def _look(self) -> None:
        """Have the assistants say something of the picture that the task was given."""
        try:
            image = self.task.job.images[0]
            data = await self._insist(partial(self._shop.storage.get, image.key))
            picture = await self._in_thread(decode, data)
            findings = await looked_at(self.task, picture, self._shop.assistants)
        except AssistantFailed as error:
            self._failure = self._failure_of(0, error)
        else:
            await self._note(self.task.job, findings)

    async def _prepare(self) -> None:
        """Have the prompt written out, once: a task that runs again makes the same pictures."""
        found = await prepared(self.task, self._shop.assistants)
        if found is not None:
            await self._note(*found)

    async def _note(self, job: Job, findings: Findings) -> None:
        if not await self._insist(lambda: self._shop.store.note(self.holding, job, findings)):
            self.lose()
            return
        self.task = replace(self.task, job=job, findings=findings)

    async def _make_missing(self) -> None:
        job = self.task.job
        pictures = {
            image.key: await self._insist(partial(self._shop.storage.get, image.key))
            for image in job.images
        }
        if self._cancel_asked or self._lost:
            return
        self._log.info("task_started", model=job.model, images=len(self._missing))
        looked_at = partial(self._shop.updates.looked_at, job.id)
        placed = self._shop.loras.placed(job)
        self._shop.engine.submit(placed, pictures, self._emit, self._missing, looked_at)
        owed = len(self._missing)
        async with asyncio.TaskGroup() as keeping:
            while owed:
                event = await self._events.get()
                if isinstance(event, Progress):
                    await self._tell(event)
                    continue
                owed -= 1
                keeping.create_task(self._settle(event))

    def _emit(self, event: Event) -> None:
        # Called on the engine's thread, which may outlive the loop when the process ends. Progress
        # that nobody follows is dropped here: to wake the loop costs the engine a system call.
        if isinstance(event, Progress):
            self._note_step(event)
            if not self._shop.updates.looked_at(self.task.id):
                return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _note_step(self, event: Progress) -> None:
        if event.step and not self._has_stepped:
            self._has_stepped = True
            self._shop.tally.stepped(self.task)

    async def _tell(self, event: Progress) -> None:
        preview = None
        if event.preview is not None:
            preview = await self._in_thread(encode_preview, event.preview)
        self._publish(
            TaskUpdate(
                task_id=self.task.id,
                state=TaskState.RUNNING,
                index=event.index,
                step=event.step,
                steps=event.steps,
                preview=preview,
                preview_media_type=PREVIEW_MEDIA_TYPE if preview else None,
            )
        )

    async def _settle(self, event: ImageDone | Failed | Cancelled) -> None:
        """One picture has ended, well or not; there is room for another once it is stored."""
        match event:
            case ImageDone():
                self.image_seconds = event.seconds
                await self._keep(event)
            case Failed():
                await self._fail(self._failure_of(event.index, event.error))
            case Cancelled():
                pass
        self._in_flight -= 1
        self._on_room()

    async def _fail(self, failure: Failure) -> None:
        """Record that a picture will not be made; it is final, also for the next claim.

        Where nothing is to be had without it, the others need not be made.
        """
        self._log.warning("image_failed", index=failure.index, kind=failure.kind)
        self._failure = self._failure or failure
        if not self.task.extras.allows_partial:
            self._shop.tally.failed(self.task, failure.kind)
            self._shop.engine.cancel(self.task.id)
            return
        if not await self._insist(lambda: self._shop.store.add_failure(self.holding, failure)):
            self.lose()
            return
        self._failed.add(failure.index)
        self._shop.tally.failed(self.task, failure.kind)
        self._publish(TaskUpdate(task_id=self.task.id, state=TaskState.RUNNING, failure=failure))

    def _failure_of(self, index: int, error: JobError) -> Failure:
        """A failure as callers are told of it."""
        why = str(error)
        if error.kind == ModelFailed.kind:
            # The reason names folders of this machine, and clients of a hosted API show what they
            # are told to whoever uses them. Our own API tells it as it does of its models.
            self._log.error("model_failed", reason=why)
            self._reason = _storable(why)
            why = f"the model {self.task.job.model!r} could not be loaded"
        return Failure(index=index, kind=error.kind, message=_storable(why))

    async def _keep(self, event: ImageDone) -> None:
        """Store a picture, then record it."""
        try:
            output = await keep(self.task, event, self._shop, self._patience)
        except DestinationFailed as error:
            await self._fail(self._failure_of(event.index, error))
            return
        except Interrupted:
            self._log.info("delivery_interrupted", index=event.index)
            return
        if not await self._insist(lambda: self._shop.store.add_output(self.holding, output)):
            self._log.warning("image_discarded", index=event.index)
            self.lose()
            await discard(output.key, self._shop)
            return
        self._made.add(event.index)
        self._shop.tally.made(self.task, engine_seconds=event.seconds)
        self._publish(TaskUpdate(task_id=self.task.id, state=TaskState.RUNNING, output=output))

    @property
    def _is_done(self) -> bool:
        if self.task.extras.kind is not TaskKind.GENERATE:
            return self.task.findings.result is not None
        return bool(self._made) and self._all_ended

    @property
    def _all_ended(self) -> bool:
        return len(self._made) + len(self._failed) == len(self.task.job.seeds)

    @property
    def _has_failed(self) -> bool:
        return not self.task.extras.allows_partial or self._all_ended

    async def _end(self) -> None:
        if self._lost:
            self._log.warning("task_lost")
        elif self._is_done:
            await self._finish(TaskState.SUCCEEDED)
        elif self._failure is not None and self._has_failed:
            await self._finish(TaskState.FAILED, self._failure)
        elif self._cancel_asked:
            await self._finish(TaskState.CANCELLED)
        else:
            await self.give_back(counted=not self._is_leaving)

    async def _finish(self, state: TaskState, failure: Failure | None = None) -> None:
        kind, message = (failure.kind, failure.message) if failure else (None, None)
        if kind == ModelFailed.kind and self._reason is not None:
            await self._note(self.task.job, replace(self.task.findings, reason=self._reason))
        task = await self._insist(
            lambda: self._shop.store.finish(
                self.holding, state, error_kind=kind, error_message=message
            )
        )
        if task is None:
            self._log.warning("task_lost")
            return
        self._log.info("task_ended", state=state.value, error_kind=kind)
        self._shop.tally.ended(task)
        self._publish(TaskUpdate(task_id=task.id, state=state, error_message=message))
        if state is TaskState.FAILED:
            for output in task.outputs:
                await discard(output.key, self._shop)

    def _publish(self, update: TaskUpdate) -> None:
        self._shop.updates.publish(update)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._shop.pixels, function, *arguments)

    async def _insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await insist(attempt, self.task)


def _storable(text: str) -> str:
    """Text that every database takes: no NUL, no lone surrogates, not endless."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")[:ERROR_CHARS]
