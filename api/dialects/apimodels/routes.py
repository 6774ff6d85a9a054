"""The routes of APIModels.app, at both of its bases; those that others share are in the fork."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from api.accounts import Caller
from api.body import Body, FilePart, read_body
from api.dialects.apimodels import schema, translate
from api.dialects.apimodels.callback import WEBHOOKS
from api.dialects.base import Desk, DeskOf, Dialect, dialect_of
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.orders import made, place, place_and_stay, place_and_wait
from api.dialects.pictures import linked_picture
from api.dialects.wire import json_docs, parse
from api.errors import BadRequest, Forbidden
from api.idempotency import Reply
from api.links import PictureLink
from api.tasks import Task
from inference.errors import Unsupported

BASE, SECOND_BASE = "/api/v1", "/v1"
# What answers with the pictures at once, in the envelope all the same.
SYNC_MODELS = frozenset({"gpt-image-2-lite"})
FILE_SECONDS = 7 * translate.DAY_SECONDS

TaskIdInPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
TaskId = Annotated[str, Query(alias="task_id", min_length=1, max_length=64)]
Index = Annotated[int, Path(ge=0, le=1000)]
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/png": {}}},
    304: {"description": "the caller has it already"},
}

router = APIRouter(tags=["apimodels"], responses={"default": {"model": schema.Error}})


async def generate(request: Request, desk: Desk, caller: Caller, body: Body) -> Response:
    """Answer a generation whose body has been read: at once, but for models that never do."""
    body, wire = _read(desk, body)
    order = translate.to_order(wire, body, desk.base_url(request))
    link = _link(request, desk)
    with translate.in_their_words(wire, order.uploads):
        if wire.model in SYNC_MODELS:
            return await place_and_wait(
                *(request, desk, caller, body, order, lambda task: _told(task, link)),
                is_for_reply=True,
            )
        return await place(request, desk, caller, body, order, translate.to_created)


async def generate_and_stay(request: Request, desk: Desk, caller: Caller, body: Body) -> Response:
    """Answer a generation whose body has been read when its pictures are made."""
    body, wire = _read(desk, body)
    order = translate.to_order(wire, body, desk.base_url(request), in_reply=True)
    with translate.in_their_words(wire, order.uploads):
        task = made(await place_and_stay(request, desk, caller, body, order))
    reply = translate.to_reply(translate.to_sync(task, _link(request, desk)))
    return JSONResponse(dict(reply.body))


async def change(request: Request, desk: Desk, caller: Caller, body: Body) -> Response:
    """The same for one that has to have a picture to change."""
    if not any(translate.plain_json(body).values.get(name) for name in translate.IMAGES):
        raise BadRequest("images is required", field="images")
    return await generate_and_stay(request, desk, caller, body)


@router.post(f"{SECOND_BASE}/images/generations-sync", include_in_schema=False)
@router.post(
    f"{BASE}/images/generations-sync",
    response_model=schema.TaskReply,
    response_model_exclude_none=True,
    openapi_extra=json_docs(schema.GenerationRequest),
)
async def generations_sync(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Make pictures, and answer when they are made."""
    return await generate_and_stay(request, desk, caller, await read_body(request, desk.limits))


@router.post(
    f"{BASE}/images/edit",
    response_model=schema.TaskReply,
    response_model_exclude_none=True,
    openapi_extra=json_docs(schema.GenerationRequest),
)
async def edit(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Change a picture, and answer when that is done."""
    return await change(request, desk, caller, await read_body(request, desk.limits))


@router.get(f"{SECOND_BASE}/audio/generations", include_in_schema=False)
@router.get(f"{BASE}/audio/generations", include_in_schema=False)
@router.get(f"{SECOND_BASE}/video/generations", include_in_schema=False)
@router.get(f"{BASE}/video/generations", include_in_schema=False)
@router.head(f"{SECOND_BASE}/images/generations", include_in_schema=False)
@router.head(f"{BASE}/images/generations", include_in_schema=False)
@router.get(f"{SECOND_BASE}/images/generations", include_in_schema=False)
@router.get(
    f"{BASE}/images/generations",
    response_model=schema.TaskReply,
    response_model_exclude_none=True,
)
async def poll(task_id: TaskId, request: Request, desk: DeskOf, caller: CallerOf) -> Response:
    """How a task stands; it is found by its id alone."""
    if dialect_of(request, desk.dialects) is not DIALECT:
        raise Forbidden("this key is for another API; tasks are polled for as APIModels does alone")
    task = translate.own(await desk.darkroom.get(task_id, account=caller.account))
    return JSONResponse(dict(_told(task, _link(request, desk)).body))


@router.head(f"{translate.FILES}/{{task_id}}/{{index}}.{{extension}}", include_in_schema=False)
@router.get(
    f"{translate.FILES}/{{task_id}}/{{index}}.{{extension}}",
    response_class=Response,
    responses=PICTURE,
)
async def file(
    task_id: TaskIdInPath, index: Index, extension: str, request: Request, desk: DeskOf
) -> Response:
    """A finished picture's bytes by signed link, which is all it needs."""
    return await linked_picture(request, desk, task_id, index, f"{task_id}-{index}.{extension}")


async def keep(request: Request, desk: Desk, caller: Caller, body: Body) -> Response:
    """Answer an upload whose body has been read."""
    part = _file_in(body)
    upload = await desk.uploads.keep(
        caller.account, part.data, field=part.name, ttl_seconds=FILE_SECONDS
    )
    url = desk.uploads.link(upload, desk.base_url(request))
    reply = translate.to_reply({"publicUrl": url, "expireTime": upload.expires_ms})
    return JSONResponse(dict(reply.body))


@router.get(f"{SECOND_BASE}/balance", include_in_schema=False)
@router.get(f"{BASE}/balance", response_model=schema.BalanceReply)
async def balance(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """What the account can still spend."""
    account = await desk.accounts.account(caller.account)
    return dict(translate.to_reply(translate.to_balance(account, desk.credit_usd)).body)


@router.post(f"{BASE}/chat/completions", include_in_schema=False)
@router.post(f"{SECOND_BASE}/audio/generations", include_in_schema=False)
@router.post(f"{BASE}/audio/generations", include_in_schema=False)
@router.post(f"{SECOND_BASE}/video/generations", include_in_schema=False)
@router.post(f"{BASE}/video/generations", include_in_schema=False)
async def no_pictures(request: Request, _: CallerOf) -> Response:
    """What other kinds of models are asked for."""
    what = "this server makes pictures alone; send a prompt to /images/generations"
    raise Unsupported("model", f"model: {what}")


def _read(desk: Desk, body: Body) -> tuple[Body, schema.GenerationRequest]:
    body = translate.plain_json(body)
    translate.check_model(body.values.get("model"), desk.catalog.names())
    return body, parse(schema.GenerationRequest, body)


def _told(task: Task, link: PictureLink) -> Reply:
    return translate.to_reply(translate.to_task(task, link))


def _link(request: Request, desk: Desk) -> PictureLink:
    return desk.link_at(desk.base_url(request), ttl_seconds=translate.LINK_SECONDS)


def _file_in(body: Body) -> FilePart:
    """The file of a form; raises BadRequest unless there is one."""
    if not body.is_form:
        raise BadRequest("send multipart/form-data with a part named file", field="file")
    if len(body.files) != 1 or body.files[0].name != "file":
        raise BadRequest("send one file, as the part named file", field="file")
    return body.files[0]


DIALECT = Dialect(
    name=translate.NAME,
    owns=(
        *(BASE, f"{SECOND_BASE}/images/generations-sync", f"{SECOND_BASE}/balance"),
        *(f"{SECOND_BASE}/video/generations", f"{SECOND_BASE}/audio/generations"),
        f"{SECOND_BASE}/files",
    ),
    router=router,
    to_error=translate.to_error,
    alias="/apimodels",
    webhooks=WEBHOOKS,
    linked=translate.LINKED,
    link_seconds=translate.LINK_SECONDS,
    shares=(
        *("/v1/images/generations", "/v1/images/edit", "/v1/images/edits", "/v1/models"),
        *("/api/v1/images/edits", "/v1/images/files"),
    ),
)
