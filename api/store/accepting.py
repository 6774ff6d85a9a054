"""A task is kept, or refused: what is judged and written in one transaction."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from api.errors import Overloaded, QueueFull
from api.idempotency import Once
from api.store import ledger, statements
from api.store import once as idempotency
from api.store.company import announce
from api.store.reading import load
from api.store.records import Accepted, Bounds, Submission
from api.store.rows import to_task
from api.store.schema import tasks


async def earlier(
    connection: AsyncConnection, account: str, once: Once, now_ms: int
) -> Accepted | None:
    """The task of the first request that counts once; raises IdempotencyMismatch."""
    found = await idempotency.find(connection, account, once, now_ms=now_ms)
    if found is None:
        return None
    task = (await load(connection, tasks.c.id == found.task_id))[0]
    return Accepted(task=task, reply=found.reply, is_replay=True)


async def keep(connection: AsyncConnection, submission: Submission, now_ms: int) -> Accepted:
    """Queue a task, its price held; raises NoCredits."""
    job, caller = submission.job, submission.caller
    await ledger.hold(
        connection,
        account=job.account,
        key=caller.key,
        task_id=job.id,
        credits=submission.credits,
        now_ms=now_ms,
    )
    inserted = await connection.execute(statements.insert_task(submission, now_ms))
    task = to_task(inserted.one(), ())
    await announce(connection, task.id, task.state)
    reply = submission.answer(task) if submission.answer is not None else None
    if submission.once is not None:
        await idempotency.keep(
            connection,
            job.account,
            submission.once,
            task_id=job.id,
            reply=reply,
            now_ms=now_ms,
        )
    return Accepted(task=task, reply=reply)


async def check_bounds(connection: AsyncConnection, submission: Submission, bounds: Bounds) -> None:
    """Raise QueueFull or Overloaded where there is no room for it."""
    job, key = submission.job, submission.caller.key
    if key is not None and key.max_unfinished is not None:
        query = statements.unfinished_of_key(job.account, key.id)
        if (count := await connection.scalar(query) or 0) >= key.max_unfinished:
            raise QueueFull(
                f"this key may have {key.max_unfinished} unfinished at once and has {count}"
            )
    limits: list[tuple[str | None, int | None, int | None]]
    limits = [(None, bounds.tasks, bounds.images)]
    if bounds.account_tasks is not None or bounds.account_images is not None:
        limits.append((job.account, bounds.account_tasks, bounds.account_images))
    for account, most_tasks, most_images in limits:
        count, images = (await connection.execute(statements.unfinished(account))).one()
        whose = "the queue" if account is None else "your share of the queue"
        full = Overloaded if account is None else QueueFull
        if most_tasks is not None and count + 1 > most_tasks:
            raise full(f"{whose} is full: {count} of {most_tasks} tasks are unfinished")
        if most_images is not None and images + len(job.seeds) > most_images:
            raise full(f"{whose} is full: {images} of {most_images} pictures are unfinished")
