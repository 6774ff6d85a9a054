"""From an order to its reply: at once or when the pictures are made, and the same when repeated."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from api.accounts import Caller
from api.body import Body
from api.dialects.base import Desk, dialect_of
from api.errors import ApiError, BadRequest, IdempotencyRunning
from api.idempotency import HEADER, MAX_KEY_CHARS, Once, Reply
from api.orders import Order
from api.tasks import Task, TaskState

# How long a caller who repeats a request that is still at work had best wait.
RUNNING_RETRY_SECONDS = 2


class NotMade(ApiError):
    """The task ended without its pictures; `reason` is the kind of its error."""

    kind = "not_made"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


async def place(
    request: Request,
    desk: Desk,
    caller: Caller,
    body: Body,
    order: Order,
    answer: Callable[[Task], Reply],
) -> Response:
    """Accept an order and answer at once; a repeated one gets the first answer again."""
    once = once_of(request, desk, body)
    accepted = await desk.darkroom.submit(order, caller, once=once, answer=answer)
    return to_response(accepted.reply or answer(accepted.task), is_replay=accepted.is_replay)


async def place_and_wait(
    request: Request,
    desk: Desk,
    caller: Caller,
    body: Body,
    order: Order,
    answer: Callable[[Task], Reply],
    *,
    is_for_reply: bool = False,
) -> Response:
    """Accept an order and answer once it has ended, or as it stands after the longest wait.

    One that `is_for_reply` is cancelled if its caller leaves before, and nothing else could tell
    what came of it. A repeated one gets the final answer of the first; raises IdempotencyRunning
    while there is none.
    """
    once = once_of(request, desk, body)
    accepted = await desk.darkroom.submit(order, caller, once=once)
    task = accepted.task
    if accepted.reply is not None:
        return to_response(accepted.reply, is_replay=True)
    if not accepted.is_replay:
        try:
            task = await ended_or_left(request, desk, caller, task.id)
        except ClientDisconnect:
            if is_for_reply and once is None and not order.delivery.webhooks:
                await desk.darkroom.cancel(task.id, account=caller.account)
            raise
    else:
        check_ended(task)
    reply = answer(task)
    if once is not None and task.state.ended:
        await desk.darkroom.answered(caller, once, reply)
    return to_response(reply, is_replay=accepted.is_replay)


async def place_and_stay(
    request: Request, desk: Desk, caller: Caller, body: Body, order: Order
) -> Task:
    """Accept an order and stay until it has ended, however long that takes.

    A repeated one leads to the task of the first, from which the same answer is made again.
    Raises ClientDisconnect or IdempotencyRunning.
    """
    once = once_of(request, desk, body)
    accepted = await desk.darkroom.submit(order, caller, once=once)
    task = accepted.task
    if not accepted.is_replay:
        try:
            return await ended_or_left(request, desk, caller, task.id, math.inf)
        except ClientDisconnect:
            await abandon(desk, caller, task)
            raise
    check_ended(task)
    request.state.headers["Idempotent-Replayed"] = "true"
    return task


async def abandon(desk: Desk, caller: Caller, task: Task) -> None:
    """Cancel a task whose caller has left, if its pictures can reach nobody any more."""
    if task.delivery.in_reply:
        await desk.darkroom.cancel(task.id, account=caller.account)


def made(task: Task) -> Task:
    """The task, if it ended with all its pictures; raises NotMade."""
    if task.state is TaskState.SUCCEEDED:
        if not task.failures:
            return task
        first, count = task.failures[0], len(task.job.seeds)
        message = f"{len(task.failures)} of {count} pictures were not made: {first.message}"
        raise NotMade(message, reason=first.kind)
    reason = "cancelled" if task.state is TaskState.CANCELLED else task.error_kind or "failed"
    raise NotMade(task.error_message or f"the pictures were not made: {reason}", reason=reason)


def check_ended(task: Task) -> None:
    """Raise IdempotencyRunning while the task of a repeated order has no final answer."""
    if not task.state.ended:
        raise IdempotencyRunning(
            "the first request with this idempotency key is still at work",
            field=HEADER,
            retry_after_seconds=RUNNING_RETRY_SECONDS,
        )


def once_of(request: Request, desk: Desk, body: Body) -> Once | None:
    """What makes this request count once, if it asks for that; raises BadRequest."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        message = f"{HEADER} must be 1 to {MAX_KEY_CHARS} printable ASCII characters"
        raise BadRequest(message, field=HEADER)
    dialect = dialect_of(request, desk.dialects)
    # The same request at its alias is the same request.
    route = f"{dialect.name} {request.scope['route'].name}"
    return Once(route=route, key=key, fingerprint=body.fingerprint())


async def ended_or_left(
    request: Request, desk: Desk, caller: Caller, task_id: str, seconds: float | None = None
) -> Task:
    """The task once it has ended or the time is up; raises ClientDisconnect if the caller leaves.

    Call it when the request's body has been read.
    """
    seconds = desk.sync_wait_seconds if seconds is None else seconds
    waiting = asyncio.create_task(
        desk.darkroom.wait(task_id, timeout_seconds=seconds, account=caller.account)
    )
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        for task in (waiting, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def to_response(reply: Reply, *, is_replay: bool = False) -> Response:
    """A reply on the wire."""
    headers = dict(reply.headers)
    if is_replay:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(dict(reply.body), status_code=reply.status, headers=headers)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
