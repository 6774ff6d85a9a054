"""How a request becomes a task: checked from the cheapest to the dearest, then kept whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from api.accounts import Caller
from api.assistants import NO_ASSISTANTS, Assistants
from api.checks import free_bytes
from api.copies import check_path
from api.destination_fields import blaming
from api.errors import BadRequest, NotFound, Overloaded, QueueFull, Unavailable, Unsure
from api.idempotency import Once, Reply
from api.orders import Order, Quote, Upload
from api.storage import input_key
from api.store import Accepted, Bounds, Submission
from api.tally import NO_TALLY, Tally
from api.tasks import Task, TaskKind
from api.uncut import Uncut
from inference.job import ImageRequest, InputImage, Job, Mode
from inference.resolve import follow, resolve

if TYPE_CHECKING:
    from api.destinations import Destinations
    from api.dispatcher import Dispatcher
    from api.input_pictures import InputPictures
    from api.loras import FetchedLoras
    from api.settings import Settings
    from api.store import Store
    from inference.catalog import Catalog

log = structlog.get_logger()


class CheckUrl(Protocol):
    """Judges an address that is to be told; `api.outbound.Outbound` does."""

    def check_url(self, text: str, *, field: str) -> str: ...


class Reception:
    """Accepts orders durably, or refuses them and keeps nothing."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        store: Store,
        dispatcher: Dispatcher,
        outbound: CheckUrl,
        pictures: InputPictures,
        loras: FetchedLoras,
        destinations: Destinations,
        assistants: Assistants = NO_ASSISTANTS,
        tally: Tally = NO_TALLY,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._store = store
        self._dispatcher = dispatcher
        self._outbound = outbound
        self._pictures = pictures
        self._loras = loras
        self._destinations = destinations
        self._assistants = assistants
        self._tally = tally
        self._uncut = Uncut()
        self._bounds = Bounds(
            tasks=settings.max_queue_tasks,
            images=settings.max_queue_images,
            account_tasks=settings.max_account_tasks,
            account_images=settings.max_account_images,
        )

    async def accept(
        self,
        order: Order,
        caller: Caller,
        *,
        once: Once | None = None,
        answer: Callable[[Task], Reply] | None = None,
    ) -> Accepted:
        """Keep a new task, or find the one that this order repeats; raises Refused or ApiError."""
        if once is not None:
            earlier = await self._store.earlier(caller.account, once)
            if earlier is not None:
                return earlier
        submission = replace(self._submission(order, caller), once=once, answer=answer)
        if once is not None:
            # Whoever has a key may come back for the pictures.
            submission = replace(submission, delivery=replace(submission.delivery, in_reply=False))
        self._check_open()
        await self._check_destination(submission, order.path_field)
        try:
            await self._store.check_bounds(submission, self._bounds)
            accepted = await self._uncut.run(self._keep(submission, order.uploads))
        except (QueueFull, Overloaded) as full:
            # The first request with this key may have taken the last place since we looked.
            if once is not None and (found := await self._store.earlier(caller.account, once)):
                return found
            full.retry_after_seconds = self._retry_after_seconds()
            raise
        if not accepted.is_replay:
            self._log(accepted.task)
            self._tally.accepted(accepted.task)
            self._dispatcher.wake()
        return accepted

    def quote(self, order: Order, caller: Caller) -> Quote:
        """What an order would become; raises Refused or ApiError, and keeps nothing."""
        submission = self._submission(order, caller)
        return Quote(submission.job, submission.credits)

    async def settle(self) -> None:
        """Wait for what was being accepted when no more is."""
        await self._uncut.settle()

    def _submission(self, order: Order, caller: Caller) -> Submission:
        """Every value decided, nothing read or written yet."""
        task_id = order.new_id()
        request = replace(order.request, images=_inputs(order.uploads, task_id))
        _refuse_nul(request)
        self._assistants.check(order.extras)
        job = self._job(replace(order, request=request), task_id, caller)
        webhooks = tuple(
            self._outbound.check_url(url, field=order.webhook_field)
            for url in order.delivery.webhooks
        )
        self._loras.check(request.loras)
        self._pictures.check(order.uploads)
        return Submission(
            dialect=order.dialect,
            request=request,
            job=job,
            credits=self._catalog.price(request, job) * len(job.seeds) if job.seeds else 0,
            delivery=replace(order.delivery, webhooks=webhooks),
            extras=order.extras,
            caller=caller,
        )

    def _job(self, order: Order, task_id: str, caller: Caller) -> Job:
        if order.extras.kind is not TaskKind.GENERATE:
            return _look_only(order, task_id, caller.account)
        return resolve(
            self._catalog,
            order.request,
            job_id=task_id,
            account=caller.account,
            priority=order.priority,
        )

    async def _keep(self, submission: Submission, uploads: Sequence[Upload]) -> Accepted:
        """Keep the input pictures, then the task; the pictures go again if that makes none."""
        submission = replace(submission, job=await self._loras.fetch(submission.job))
        images = submission.request.images
        sources = await self._pictures.keep(uploads, images)
        try:
            submission = self._following(submission, sources)
            accepted = await self._store.accept(submission, self._bounds)
        except Unsure:
            # The task may be there and need them; of a task that is not, the housekeeper has them.
            raise
        except BaseException:
            await self._pictures.forget(images)
            raise
        if accepted.is_replay:
            await self._pictures.forget(images)
        return accepted

    def _following(self, submission: Submission, sources: Sequence[tuple[int, int]]) -> Submission:
        """The same of a size, and for a price, that only the source pictures tell."""
        if not (sources and submission.job.seeds):
            return submission
        job = follow(self._catalog, submission.request, submission.job, sources[0])
        price = self._catalog.price(submission.request, job)
        return replace(submission, job=job, credits=price * len(job.seeds))

    async def _check_destination(self, submission: Submission, field: str) -> None:
        name, path = submission.delivery.destination, submission.delivery.path
        if path is not None:
            blaming(field, check_path, path)
        if name is None and path is not None:
            raise BadRequest(f"{field} needs a destination to lie in", field=field)
        if name is None:
            return
        try:
            await self._destinations.get(submission.caller.account, name)
        except NotFound:
            known = await self._destinations.list(submission.caller.account)
            names = ", ".join(one.name for one in known) or "none yet"
            raise BadRequest(
                f"this account has no such destination; it has: {names}", field="destination"
            ) from None

    def _check_open(self) -> None:
        if self._dispatcher.closing:
            raise Unavailable("the service is shutting down", retry_after_seconds=10)
        if free_bytes(self._settings) < self._settings.disk_floor_bytes:
            raise Unavailable("the disk is full; come back later", retry_after_seconds=60)

    def _retry_after_seconds(self) -> int:
        """About when one picture less will wait."""
        return min(max(math.ceil(self._dispatcher.seconds_per_image or 1.0), 1), 60)

    def _log(self, task: Task) -> None:
        log.info(
            "task_accepted",
            task_id=task.id,
            model=task.job.model,
            images=len(task.job.seeds),
            dialect=task.dialect,
            account=task.account,
        )


def _look_only(order: Order, task_id: str, account: str) -> Job:
    """The job of a task that makes no picture."""
    return Job(
        id=task_id,
        model="",
        mode=Mode.GENERATE,
        prompt="",
        negative_prompt=None,
        images=order.request.images,
        width=0,
        height=0,
        seeds=(),
        num_inference_steps=0,
        guidance_scale=0,
        strength=0,
        account=account,
        priority=order.priority,
    )


def _inputs(uploads: Sequence[Upload], task_id: str) -> tuple[InputImage, ...]:
    return tuple(
        InputImage(
            role=upload.role,
            key=input_key(task_id, number),
            tag=upload.tag,
            weight=upload.weight,
        )
        for number, upload in enumerate(uploads)
    )


def _refuse_nul(request: ImageRequest) -> None:
    # PostgreSQL stores no NUL in text, and no model wants one.
    for field in ("prompt", "negative_prompt"):
        if "\0" in (getattr(request, field) or ""):
            raise BadRequest(f"{field} holds a NUL character", field=field)
