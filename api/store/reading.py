"""Tasks as their rows tell of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.store import statements
from api.store.rows import to_failure, to_task
from api.store.schema import tasks
from api.tasks import Failure, Task


async def load(
    connection: AsyncConnection, *wanted: ColumnElement[bool], limit: int | None = None
) -> list[Task]:
    """Tasks with their outputs and failures, newest first."""
    query = select(tasks).where(*wanted).order_by(tasks.c.created_ms.desc(), tasks.c.id.desc())
    rows = (await connection.execute(query.limit(limit))).all()
    made: dict[str, list[Any]] = {row.id: [] for row in rows}
    for output in await connection.execute(statements.outputs_of(list(made))):
        made[output.task_id].append(output)
    return await _with_failures(connection, [to_task(row, made[row.id]) for row in rows])


async def _with_failures(connection: AsyncConnection, found: list[Task]) -> list[Task]:
    failed: dict[str, list[Failure]] = {
        task.id: []
        for task in found
        if task.extras.allows_partial and task.attempt and len(task.outputs) < len(task.job.seeds)
    }
    if not failed:
        return found
    for row in await connection.execute(statements.failures_of(list(failed))):
        failed[row.task_id].append(to_failure(row))
    return [replace(task, failures=tuple(failed.get(task.id, ()))) for task in found]
