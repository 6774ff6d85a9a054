"""The routes of Model Buffet: a creation is answered when its pictures are made."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import Response

from api.accounts import Caller
from api.body import Body, read_body
from api.dialects.base import Desk, DeskOf, Dialect
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.modelbuffet import translate
from api.dialects.modelbuffet.schema import (
    EditRequest,
    Error,
    GenerateRequest,
    Generation,
)
from api.dialects.modelbuffet.webhook import WEBHOOKS
from api.dialects.orders import place, place_and_wait
from api.dialects.pictures import linked_picture
from api.dialects.wire import json_docs, parse
from api.idempotency import Reply
from api.limits import Allowance
from api.tasks import Task

RESPOND_ASYNC = "respond-async"
REQUESTS_PER_MINUTE = 60

GenerationId = Annotated[str, Path(pattern=r"^gen_[A-Za-z0-9]{10}$")]
Index = Annotated[int, Path(ge=0, le=1000)]
Extension = Annotated[str, Path(pattern="^(png|jpg|webp|avif)$")]
Prefer = Annotated[
    list[str] | None, Header(description="respond-async: answer at once, with a 202")
]

CREATED: dict[int | str, dict[str, Any]] = {
    202: {"model": Generation, "description": "accepted, and not ended yet"}
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/png": {}}},
    304: {"description": "the caller has it already"},
}


router = APIRouter(tags=["modelbuffet"], responses={"default": {"model": Error}})


@router.post(
    "/v1/images/generate",
    response_model=Generation,
    responses=CREATED,
    openapi_extra=json_docs(GenerateRequest),
)
async def generate(
    request: Request, desk: DeskOf, caller: AskerOf, prefer: Prefer = None
) -> Response:
    """Make pictures, and answer when they are made."""
    body = translate.plain_json(await read_body(request, desk.limits))
    wire = parse(GenerateRequest, body)
    return await _create(request, desk, caller, body, wire, prefer)


async def edit(
    request: Request, desk: Desk, caller: Caller, body: Body, prefer: list[str] | None
) -> Response:
    """Answer an edit whose body has been read."""
    body = translate.plain_json(body)
    wire = parse(EditRequest, body)
    return await _create(request, desk, caller, body, wire, prefer)


async def _create(
    request: Request,
    desk: Desk,
    caller: Caller,
    body: Body,
    wire: GenerateRequest,
    prefer: list[str] | None,
) -> Response:
    base_url = desk.base_url(request)
    at_once = translate.wants_async(prefer or ())

    def answer(task: Task) -> Reply:
        applied = RESPOND_ASYNC if at_once else None
        return translate.to_reply(task, desk.link_at(base_url), preference=applied)

    order = translate.to_order(wire, base_url)
    send = place if at_once else place_and_wait
    return await send(request, desk, caller, body, order, answer)


@router.head("/v1/images/generate/{generation_id}", include_in_schema=False)
@router.get(
    "/v1/images/generate/{generation_id}",
    response_model=Generation,
    response_model_exclude_none=True,
)
async def read(
    generation_id: GenerationId, request: Request, desk: DeskOf, caller: CallerOf
) -> dict[str, Any]:
    """A generation as it stands."""
    task_id = translate.task_id_of(generation_id)
    task = translate.own(await desk.darkroom.get(task_id, account=caller.account))
    return translate.to_body(task, desk.link_at(desk.base_url(request)))


@router.head("/v1/generations/{generation_id}", include_in_schema=False)
@router.get(
    "/v1/generations/{generation_id}",
    response_model=Generation,
    response_model_exclude_none=True,
)
async def read_again(
    generation_id: GenerationId, request: Request, desk: DeskOf, caller: CallerOf
) -> dict[str, Any]:
    """The same."""
    return await read(generation_id, request, desk, caller)


@router.head("/o/{generation_id}/{index}.{extension}", include_in_schema=False)
@router.get("/o/{generation_id}/{index}.{extension}", response_class=Response, responses=PICTURE)
async def picture(
    generation_id: GenerationId, index: Index, extension: Extension, request: Request, desk: DeskOf
) -> Response:
    """A picture's bytes by signed link, which is all it needs; the same below the alias."""
    task_id = translate.task_id_of(generation_id)
    path = translate.picture_path(task_id, index, extension)
    name = f"{generation_id}-{index}.{extension}"
    return await linked_picture(request, desk, task_id, index, name, path)


def _rate_headers(allowance: Allowance) -> dict[str, str]:
    return translate.to_rate_headers(allowance, time.time())


DIALECT = Dialect(
    name=translate.NAME,
    owns=("/v1/images/generate", "/v1/images/edit", "/v1/generations", "/o"),
    router=router,
    to_error=translate.to_error,
    alias="/modelbuffet",
    rate_headers=_rate_headers,
    rate_per_minute=REQUESTS_PER_MINUTE,
    webhooks=WEBHOOKS,
    linked=translate.LINKED,
)
