"""The use cases, free of any dialect: submit, get, wait, list, watch, cancel, fetch."""

from __future__ import annotations

import asyncio
import math
import secrets
import string
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from api.checks import check_all, free_bytes
from api.errors import BadRequest, NotFound, NotReady, QueueFull, Unavailable
from api.inputs import PictureLimits, rewrite
from api.storage import input_key
from api.store import Bounds, Submission
from api.tasks import Output, Task, TaskPage, TaskState, TaskUpdate
from api.uncut import Uncut
from api.watch import RECHECK_SECONDS, follow, until_ended
from inference.job import ImageRequest, ImageRole, InputImage
from inference.resolve import resolve

if TYPE_CHECKING:
    from api.dispatcher import Dispatcher
    from api.settings import Settings
    from api.storage import Storage
    from api.store import Store
    from api.watch import Updates
    from inference.catalog import Catalog

log = structlog.get_logger()

ID_ALPHABET = string.ascii_letters + string.digits
# 125 bits: nobody guesses a task, and clients of hosted providers expect ids of this length
ID_CHARS = 21
MAX_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An input picture as it arrived: encoded bytes, not yet checked; `field` names its part."""

    role: ImageRole
    field: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A finished picture's bytes with the record of it."""

    output: Output
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """How much has not ended, in tasks and in pictures, and what one picture lately took."""

    queued_tasks: int
    running_tasks: int
    unfinished_images: int
    seconds_per_image: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`checks` holds "ok" or the reason by the name of what was looked at."""

    ready: bool
    checks: Mapping[str, str]


class Darkroom:
    """What every dialect, the command line and the page enter through.

    Made by `api.build.build`; a route finds it at `services.darkroom`.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        store: Store,
        storage: Storage,
        dispatcher: Dispatcher,
        updates: Updates,
        pixels: Executor,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._store = store
        self._storage = storage
        self._dispatcher = dispatcher
        self._updates = updates
        self._pixels = pixels
        self._uncut = Uncut()
        self._bounds = Bounds(
            tasks=settings.max_queue_tasks,
            images=settings.max_queue_images,
            account_tasks=settings.max_account_tasks,
            account_images=settings.max_account_images,
        )

    async def submit(
        self,
        request: ImageRequest,
        *,
        dialect: str,
        account: str = "",
        uploads: Sequence[Upload] = (),
        priority: int = 0,
    ) -> Task:
        """Accept a request durably; raises Refused or ApiError, and then nothing is kept.

        The request's `images` are made here, from `uploads`.
        """
        task_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARS))
        keys = [input_key(task_id, number) for number in range(len(uploads))]
        request = replace(request, images=_inputs(uploads, keys))
        _refuse_nul(request)
        job = resolve(self._catalog, request, job_id=task_id, account=account, priority=priority)
        credits = self._catalog.price(request, job) * len(job.seeds)
        self._check_open()
        submission = Submission(dialect=dialect, request=request, job=job, credits=credits)
        try:
            await self._store.check_bounds(job, self._bounds)
            task = await self._uncut.run(self._accept(submission, uploads, keys))
        except QueueFull as full:
            full.retry_after_seconds = self._retry_after_seconds()
            raise
        log.info(
            "task_accepted",
            task_id=task_id,
            model=job.model,
            images=len(job.seeds),
            dialect=dialect,
        )
        self._dispatcher.wake()
        return task

    async def get(self, task_id: str, *, account: str = "") -> Task:
        """The task; raises NotFound."""
        task = await self._store.get(task_id)
        if task is None or task.account != account:
            raise NotFound("there is no such task")
        return task

    async def wait(self, task_id: str, *, timeout_seconds: float, account: str = "") -> Task:
        """The task once it has ended, or as it stands when the time is up; raises NotFound."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        with self._updates.subscribe(task_id, looks=False) as subscription:
            while True:
                task = await self.get(task_id, account=account)
                left_seconds = deadline - loop.time()
                if task.state.ended or left_seconds <= 0:
                    return task
                await until_ended(subscription, min(left_seconds, RECHECK_SECONDS))

    async def list(
        self,
        *,
        account: str = "",
        state: TaskState | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> TaskPage:
        """Tasks, newest first; raises BadRequest for a cursor that this service did not give."""
        if not 1 <= limit <= MAX_PAGE:
            raise BadRequest(f"limit must lie between 1 and {MAX_PAGE}", field="limit")
        return await self._store.list(account=account, state=state, limit=limit, cursor=cursor)

    async def watch(self, task_id: str, *, account: str = "") -> AsyncIterator[TaskUpdate]:
        """What happens to a task from now on, starting with its present state, to its end."""

        async def read() -> Task:
            return await self.get(task_id, account=account)

        with self._updates.subscribe(task_id, looks=True) as subscription:
            async for update in follow(subscription, read, self._store.position):
                yield update

    async def cancel(self, task_id: str, *, account: str = "") -> Task:
        """Cancel a queued task at once, a running one at its next step; an ended one stays."""
        task = await self.get(task_id, account=account)
        changed = await self._store.request_cancel(task_id)
        if changed is None:
            return await self.get(task_id, account=account)
        log.info("task_cancel_requested", task_id=task_id, state=changed.state.value)
        self._dispatcher.cancel(task_id)
        if changed.state.ended:
            self._updates.publish(TaskUpdate(task_id=task.id, state=changed.state))
        return changed

    async def image(self, task_id: str, index: int, *, account: str = "") -> StoredImage:
        """A finished picture; raises NotFound, or NotReady while there is none."""
        task = await self.get(task_id, account=account)
        if not 0 <= index < len(task.job.seeds):
            raise NotFound(f"the task has no picture {index}")
        output = next((output for output in task.outputs if output.index == index), None)
        if output is None:
            raise NotReady(f"picture {index} is not made; the task is {task.state}")
        return StoredImage(output=output, data=await self._storage.get(output.key))

    async def queue(self) -> QueueStatus:
        """How much waits and runs."""
        counts = await self._store.counts()
        return QueueStatus(
            queued_tasks=counts.queued_tasks,
            running_tasks=counts.running_tasks,
            unfinished_images=counts.images,
            seconds_per_image=self._dispatcher.seconds_per_image,
        )

    async def health(self) -> Health:
        """Whether work would be taken and done now; never raises, busy is ready."""
        checks = await check_all(self._settings, self._store, self._dispatcher)
        return Health(ready=all(found == "ok" for found in checks.values()), checks=checks)

    async def settle(self) -> None:
        """Wait for what was being accepted when no more is."""
        await self._uncut.settle()

    async def _accept(
        self, submission: Submission, uploads: Sequence[Upload], keys: Sequence[str]
    ) -> Task:
        """Keep the input pictures, then the task; the pictures go again if that fails."""
        kept: list[str] = []
        try:
            for upload, key in zip(uploads, keys, strict=True):
                data = await self._rewrite(upload)
                kept.append(key)
                await self._storage.put(key, data)
            return await self._store.insert(submission, self._bounds)
        except BaseException:
            for key in kept:
                with suppress(Unavailable):
                    await self._storage.delete(key)
            raise

    async def _rewrite(self, upload: Upload) -> bytes:
        limits = PictureLimits(
            max_bytes=self._settings.max_picture_bytes,
            max_megapixels=self._settings.max_picture_megapixels,
        )
        work = partial(rewrite, upload.data, field=upload.field, limits=limits)
        return await asyncio.get_running_loop().run_in_executor(self._pixels, work)

    def _check_open(self) -> None:
        if self._dispatcher.closing:
            raise Unavailable("the service is shutting down", retry_after_seconds=10)
        if free_bytes(self._settings) < self._settings.disk_floor_bytes:
            raise Unavailable("the disk is full; come back later", retry_after_seconds=60)

    def _retry_after_seconds(self) -> int:
        """About when one picture less will wait."""
        return min(max(math.ceil(self._dispatcher.seconds_per_image or 1.0), 1), 60)


def _inputs(uploads: Sequence[Upload], keys: Sequence[str]) -> tuple[InputImage, ...]:
    return tuple(
        InputImage(role=upload.role, key=key) for upload, key in zip(uploads, keys, strict=True)
    )


def _refuse_nul(request: ImageRequest) -> None:
    # PostgreSQL stores no NUL in text, and no model wants one.
    for field in ("prompt", "negative_prompt"):
        if "\0" in (getattr(request, field) or ""):
            raise BadRequest(f"{field} holds a NUL character", field=field)
