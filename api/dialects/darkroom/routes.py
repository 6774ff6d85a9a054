"""The routes of our own API; thin, as every dialect's are."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse

from api.body import read_body
from api.dialects.base import DeskOf, Dialect
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.darkroom import (
    admin,
    deliveries,
    destinations,
    hooks,
    models,
    schema,
    translate,
    uploads,
)
from api.dialects.darkroom.events import to_stream
from api.dialects.darkroom.webhook import WEBHOOKS
from api.dialects.orders import ended_or_left, place
from api.dialects.pictures import linked_picture, picture_response
from api.dialects.wire import body_docs, parse
from api.tasks import TaskState

MAX_WAIT_SECONDS = 60
HEARTBEAT_SECONDS = 15

TaskId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Index = Annotated[int, Path(ge=0, le=1000)]
Wait = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False, description="seconds to wait"),
]

PROBLEM: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "an error, by RFC 9457",
        "content": {translate.PROBLEM_TYPE: {"schema": schema.Problem.model_json_schema()}},
    }
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/png": {}}},
    304: {"description": "the caller has it already"},
}

router = APIRouter(prefix=translate.PREFIX, tags=["darkroom"], responses=PROBLEM)
router.include_router(admin.router)
router.include_router(destinations.router)
router.include_router(deliveries.router)
router.include_router(hooks.router)
router.include_router(models.router)
router.include_router(uploads.router)


@router.post(
    "/generations",
    status_code=202,
    response_model=schema.Generation,
    openapi_extra=body_docs(schema.GenerationRequest, files=("image", "mask")),
)
async def submit(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Ask for pictures; answers at once with where to follow their making."""
    body = translate.with_lists(await read_body(request, desk.limits))
    order = translate.to_order(
        parse(schema.GenerationRequest, body), body.files, desk.base_url(request)
    )
    return await place(
        request, desk, caller, body, order, lambda task: translate.to_created(task, desk.link)
    )


@router.get("/generations", response_model=schema.GenerationPage)
async def list_generations(
    desk: DeskOf,
    caller: CallerOf,
    state: schema.State | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Generations, newest first."""
    page = await desk.darkroom.list(
        account=caller.account,
        state=TaskState(state) if state else None,
        limit=limit,
        cursor=cursor,
    )
    told = [translate.to_body(task, desk.link) for task in page.tasks]
    return {"generations": told, "next_cursor": page.next_cursor}


@router.get("/generations/{task_id}", response_model=schema.Generation)
async def read(
    task_id: TaskId, request: Request, desk: DeskOf, caller: CallerOf, wait: Wait = 0
) -> dict[str, Any]:
    """A generation as it stands, or once it has ended within `wait` seconds."""
    if wait:
        task = await ended_or_left(request, desk, caller, task_id, wait)
    else:
        task = await desk.darkroom.get(task_id, account=caller.account)
    return translate.to_body(task, desk.link)


@router.post("/generations/{task_id}/cancel", response_model=schema.Generation)
async def cancel(task_id: TaskId, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """Give a generation up; one that has ended stays as it is."""
    task = await desk.darkroom.cancel(task_id, account=caller.account)
    return translate.to_body(task, desk.link)


@router.delete("/generations/{task_id}", response_model=schema.Generation)
async def delete(task_id: TaskId, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """The same as cancel."""
    return await cancel(task_id, desk, caller)


@router.get(
    "/generations/{task_id}/events",
    response_class=EventSourceResponse,
    responses={200: {"description": "server-sent events", "content": {"text/event-stream": {}}}},
)
async def events(task_id: TaskId, desk: DeskOf, caller: CallerOf) -> EventSourceResponse:
    """What happens to a generation, as it happens; ends with done, failed or cancelled.

    The others are queued, running, step, preview, image and image_failed.
    """
    account = caller.account
    await desk.darkroom.get(task_id, account=account)

    async def body() -> dict[str, Any]:
        return translate.to_body(await desk.darkroom.get(task_id, account=account), desk.link)

    stream = to_stream(desk.darkroom.watch(task_id, account=account), body)
    return EventSourceResponse(stream, ping=HEARTBEAT_SECONDS, sep="\n")


@router.get("/generations/{task_id}/images/{index}", response_class=Response, responses=PICTURE)
async def image(
    task_id: TaskId, index: Index, request: Request, desk: DeskOf, caller: CallerOf
) -> Response:
    """A finished picture's bytes."""
    stored = await desk.darkroom.image(task_id, index, account=caller.account)
    return picture_response(request, stored, translate.file_name(task_id, stored.output))


@router.head("/files/{task_id}/{index}/{name}", include_in_schema=False)
@router.get("/files/{task_id}/{index}/{name}", response_class=Response, responses=PICTURE)
async def file(
    task_id: TaskId, index: Index, name: str, request: Request, desk: DeskOf
) -> Response:
    """A finished picture's bytes by signed link, which is all it needs."""
    return await linked_picture(request, desk, task_id, index, name)


@router.get("/queue", response_model=schema.Queue)
async def queue(desk: DeskOf, _: CallerOf) -> dict[str, Any]:
    """How much waits and runs."""
    return translate.to_queue(await desk.darkroom.queue())


DIALECT = Dialect(
    name="darkroom",
    owns=(translate.PREFIX,),
    router=router,
    to_error=translate.to_error,
    webhooks=WEBHOOKS,
    linked=translate.LINKED,
)
