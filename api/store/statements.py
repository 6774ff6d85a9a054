"""The SQL of the queue: every change of a task is one statement.

A task moves only forward, and the WHERE clauses hold that: whoever runs a task names its worker
and attempt in every write, and a write that finds no such row changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Subquery,
    Table,
    Update,
    and_,
    case,
    exists,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from api.store.records import Holding, Submission
from api.store.rows import (
    dump_delivery,
    dump_extras,
    dump_findings,
    dump_rating,
    dump_request,
)
from api.store.schema import QUEUED, RUNNING, UNFINISHED, failures, outputs, tasks
from api.tasks import Failure, Findings, Output, Task, TaskState
from inference.job import Job, dump_job


def insert_task(submission: Submission, now_ms: int) -> ReturningInsert[*tuple[Any, ...]]:
    """A new row, queued."""
    job = submission.job
    statement = insert(tasks).values(
        id=job.id,
        dialect=submission.dialect,
        account=job.account,
        key_id=submission.caller.key_id,
        state=TaskState.QUEUED,
        priority=job.priority,
        request=dump_request(submission.request),
        job=dump_job(job),
        delivery=dump_delivery(submission.delivery),
        extras=dump_extras(submission.extras),
        images=len(job.seeds),
        credits=submission.credits,
        attempt=0,
        releases=0,
        cancel_requested=False,
        created_ms=now_ms,
    )
    return statement.returning(*tasks.c)


def unfinished(account: str | None = None) -> Select[int, int]:
    """How many tasks and pictures have not ended, in all or of one account."""
    query = select(func.count(), func.coalesce(func.sum(tasks.c.images), 0)).where(UNFINISHED)
    return query if account is None else query.where(tasks.c.account == account)


def unfinished_of_key(account: str, key_id: str) -> Select[int]:
    """How many tasks of one key have not ended."""
    mine = and_(tasks.c.account == account, tasks.c.key_id == key_id)
    return select(func.count()).where(UNFINISHED, mine)


def unfinished_by_state() -> Select[str, int, int]:
    """State, tasks and pictures of what has not ended."""
    images = func.coalesce(func.sum(tasks.c.images), 0)
    return select(tasks.c.state, func.count(), images).where(UNFINISHED).group_by(tasks.c.state)


def ahead_of(task: Task) -> Select[int]:
    """How many queued tasks are claimed before this one."""
    older = tuple_(tasks.c.created_ms, tasks.c.id) < tuple_(task.created_ms, task.id)
    same = and_(tasks.c.priority == task.job.priority, older)
    return select(func.count()).where(QUEUED, or_(tasks.c.priority > task.job.priority, same))


def claim(
    worker: str,
    *,
    now_ms: int,
    lease_ms: int,
    running_here: Collection[str],
    takes_over: bool = True,
) -> ReturningUpdate[*tuple[Any, ...]]:
    """Lease the next task: a queued one, or one whose lease ran out and is not `running_here`.

    Who does not take over gets of the latter only what was given back, which has no lease.
    """
    waiting = _next(QUEUED)
    ended = tasks.c.lease_until_ms < (now_ms if takes_over else 1)
    lost = _next(and_(RUNNING, ended, tasks.c.id.not_in(running_here)))
    # Two lookups in two indexes: an OR would sort the whole queue for every claim.
    both = union_all(select(waiting), select(lost)).subquery()
    chosen = select(both.c.id).order_by(both.c.priority.desc(), both.c.created_ms, both.c.id)
    statement = update(tasks).where(tasks.c.id == chosen.limit(1).scalar_subquery())
    return statement.values(
        state=TaskState.RUNNING,
        attempt=tasks.c.attempt + 1,
        worker=worker,
        lease_until_ms=now_ms + lease_ms,
        started_ms=func.coalesce(tasks.c.started_ms, now_ms),
    ).returning(*tasks.c)


def _next(wanted: ColumnElement[bool]) -> Subquery:
    columns = tasks.c.priority, tasks.c.created_ms, tasks.c.id
    query = select(*columns).where(wanted).limit(1)
    query = query.order_by(tasks.c.priority.desc(), tasks.c.created_ms, tasks.c.id)
    # Whoever claims at the same time gets another; SQLite is not told, there one claims at a time.
    return query.with_for_update(skip_locked=True).subquery()


def held_by(holding: Holding) -> ColumnElement[bool]:
    """The fence: this row, still run under this worker and attempt."""
    return and_(
        RUNNING,
        tasks.c.id == holding.task_id,
        tasks.c.worker == holding.worker,
        tasks.c.attempt == holding.attempt,
    )


def held_by_any(held: Collection[Holding]) -> ColumnElement[bool]:
    """The fence for many rows in one statement."""
    rows = [(holding.task_id, holding.worker, holding.attempt) for holding in held]
    return and_(RUNNING, tuple_(tasks.c.id, tasks.c.worker, tasks.c.attempt).in_(rows))


def heartbeat(
    held: Collection[Holding], *, now_ms: int, lease_ms: int
) -> ReturningUpdate[str, bool]:
    """Extend every lease that still holds; their ids and whether they are to be cancelled."""
    extended = update(tasks).where(held_by_any(held)).values(lease_until_ms=now_ms + lease_ms)
    return extended.returning(tasks.c.id, tasks.c.cancel_requested)


def insert_output(holding: Holding, output: Output) -> Insert:
    """A stored picture of a task that is still held, unless its end is recorded already."""
    values = {**asdict(output), "rating": dump_rating(output.rating)}
    return _insert_end(outputs, holding, values)


def insert_failure(holding: Holding, failure: Failure) -> Insert:
    """A failed picture of a task that is still held, unless its end is recorded already."""
    return _insert_end(failures, holding, asdict(failure))


def _insert_end(table: Table, holding: Holding, values: dict[str, Any]) -> Insert:
    values = {"task_id": holding.task_id, **values}
    row = select(*(literal(value, table.c[name].type) for name, value in values.items()))
    recorded = (
        exists().where(ends.c.task_id == holding.task_id, ends.c.index == values["index"])
        for ends in (outputs, failures)
    )
    # Locked, so that the task is not claimed by another before this is kept.
    held = row.select_from(tasks).where(held_by(holding), *map(not_, recorded)).with_for_update()
    return insert(table).from_select(list(values), held)


def note(holding: Holding, job: Job, findings: Findings) -> Update:
    """What came up while a held task runs, and the job as it is to be made from then on."""
    changed = update(tasks).where(held_by(holding))
    return changed.values(job=dump_job(job), findings=dump_findings(findings))


def outputs_of(task_ids: Sequence[str]) -> Select[*tuple[Any, ...]]:
    """The pictures of some tasks, in order."""
    return select(outputs).where(outputs.c.task_id.in_(task_ids)).order_by(outputs.c.index)


def failures_of(task_ids: Sequence[str]) -> Select[*tuple[Any, ...]]:
    """The failed pictures of some tasks, in order."""
    return select(failures).where(failures.c.task_id.in_(task_ids)).order_by(failures.c.index)


def finish(
    holding: Holding,
    state: TaskState,
    *,
    now_ms: int,
    error_kind: str | None,
    error_message: str | None,
) -> Update:
    """End a held task; it succeeds only with an end for each picture, and one that was made."""
    statement = update(tasks).where(held_by(holding))
    if state is TaskState.SUCCEEDED:
        made, failed = (
            select(func.count()).where(ends.c.task_id == holding.task_id).scalar_subquery()
            for ends in (outputs, failures)
        )
        statement = statement.where(made + failed == tasks.c.images, or_(failed == 0, made > 0))
    return statement.values(
        state=state,
        finished_ms=now_ms,
        worker=None,
        lease_until_ms=None,
        error_kind=error_kind,
        error_message=error_message,
    )


def request_cancel(task_id: str, *, now_ms: int) -> Update:
    """Mark a task for its end, and end it at once unless somebody runs it."""
    free = or_(QUEUED, tasks.c.lease_until_ms < now_ms)
    return (
        update(tasks)
        .where(UNFINISHED, tasks.c.id == task_id)
        .values(
            cancel_requested=True,
            state=case((free, TaskState.CANCELLED), else_=tasks.c.state),
            finished_ms=case((free, now_ms), else_=None),
        )
    )


def unfinished_in_reply() -> Select[str]:
    """The ids of tasks that have not ended and that only their callers could get."""
    # Exact: quotes inside a string of the JSON text are escaped.
    alone = tasks.c.delivery.contains('"in_reply":true', autoescape=True)
    return select(tasks.c.id).where(UNFINISHED, alone)


def release(held: Collection[Holding], *, counted: bool) -> Update:
    """Give tasks back for the next claim; not `counted`, the claim is as if it never was.

    They stay `running`: nobody shall see a task go backwards.
    """
    released = int(not counted)
    return (
        update(tasks)
        .where(held_by_any(held))
        .values(worker=None, lease_until_ms=0, releases=tasks.c.releases + released)
    )


def expire_leases() -> Update:
    """End every lease."""
    return update(tasks).where(RUNNING).values(worker=None, lease_until_ms=0)
