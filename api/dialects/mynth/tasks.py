"""The routes of Mynth's tasks: two for whoever holds a task's token, the others for keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.accounts import Caller
from api.dialects.base import Desk, DeskOf
from api.dialects.callers import CallerOf
from api.dialects.mynth import bodies, compat, replies, translate
from api.dialects.mynth.callers import ReaderOf, TaskId
from api.errors import BadRequest, NotFound
from api.tasks import Task

# Pages of any origin may read these.
FOR_PAGES = (r"/tasks/[^/]+/(status|result|results)",)

polled = APIRouter()
keyed = APIRouter()


@polled.head("/tasks/{task_id}/status", include_in_schema=False)
@polled.get("/tasks/{task_id}/status", response_model=replies.TaskStatus)
async def status(task_id: TaskId, desk: DeskOf, caller: ReaderOf) -> Any:
    """How a task stands; may be asked as often as one likes."""
    told = bodies.to_status(await desk.darkroom.get(task_id, account=caller.account))
    return JSONResponse(compat.beside(told)) if desk.mynth_compat else told


@polled.head("/tasks/{task_id}/result", include_in_schema=False)
@polled.get(
    "/tasks/{task_id}/result", response_model=replies.TaskResult, response_model_exclude_unset=True
)
async def result(
    task_id: TaskId, request: Request, desk: DeskOf, caller: ReaderOf
) -> dict[str, Any]:
    """What came of a task, null until it is completed."""
    task = await desk.darkroom.get(task_id, account=caller.account)
    return bodies.to_task_result(task, desk.link_at(desk.base_url(request)), desk.credit_usd)


@polled.get("/tasks/{task_id}/results", response_model=replies.OldImages, include_in_schema=False)
async def results(
    task_id: TaskId, request: Request, desk: DeskOf, caller: ReaderOf
) -> dict[str, Any]:
    """The pictures as clients of before June 2026 read them, where those are served."""
    if not desk.mynth_compat:
        raise NotFound("there is nothing here; the result is at /tasks/{id}/result")
    task = await desk.darkroom.get(task_id, account=caller.account)
    link = desk.link_at(desk.base_url(request))
    return compat.to_old_images(bodies.to_result(task, link, desk.credit_usd))


@keyed.get("/tasks/{task_id}", response_model=replies.Task, response_model_exclude_unset=True)
async def read(task_id: TaskId, request: Request, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """All of a task."""
    task = await desk.darkroom.get(task_id, account=caller.account)
    return bodies.to_task(task, desk.link_at(desk.base_url(request)), desk.credit_usd)


@keyed.get("/tasks", response_model=replies.TaskList)
async def list_tasks(
    desk: DeskOf,
    caller: CallerOf,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="the last task so far")] = None,
) -> dict[str, Any]:
    """The caller's tasks, newest first, from the one `after` another on."""
    behind = await _behind(desk, caller, after) if after is not None else None
    page = await desk.darkroom.list(
        account=caller.account, dialect=translate.NAME, limit=limit, after=behind
    )
    return {"data": [bodies.to_line(task, desk.credit_usd) for task in page.tasks]}


async def _behind(desk: Desk, caller: Caller, task_id: str) -> Task:
    try:
        return await desk.darkroom.get(task_id, account=caller.account)
    except NotFound:
        raise BadRequest("after must be the id of a task of yours", field="after") from None
