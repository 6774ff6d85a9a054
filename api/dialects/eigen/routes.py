"""The routes of Eigen AI: whoever asks waits for the picture, or polls for it."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from api.accounts import Caller
from api.body import read_body
from api.dialects.base import Desk, DeskOf, Dialect
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.eigen import schema, translate, uploads
from api.dialects.orders import made, place, place_and_stay
from api.dialects.pictures import picture_response
from api.dialects.wire import body_docs, parse
from api.errors import BadRequest
from api.tasks import Delivery, Task
from inference.errors import Unsupported

PATH = "/api/v1/generate"

JobId = Annotated[str, Query(alias="jobId", max_length=64)]
Model = Annotated[str | None, Query(max_length=200, description="as in the request")]
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the picture, or with async the job",
        "content": {"image/png": {}, "image/jpeg": {}},
    }
}

router = APIRouter(tags=["eigen"], responses={"default": {"model": schema.Error}})


@router.post(
    PATH,
    response_model=schema.Generated | schema.Accepted,
    responses=PICTURE,
    openapi_extra=body_docs(schema.GenerateRequest, files=schema.PARTS),
)
async def generate(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Make a picture of words, or change one; answer with it, or with a job."""
    body = translate.plain(await read_body(request, desk.limits))
    wire = parse(schema.GenerateRequest, body)
    pictures = uploads.of(wire, body.files, await _inside(desk, wire))
    order = translate.to_order(wire, pictures, await _delivery(desk, caller, wire))
    with translate.in_their_words(wire, pictures):
        if wire.as_job:
            return await place(request, desk, caller, body, order, translate.to_accepted)
        task = made(await place_and_stay(request, desk, caller, body, order))
    return await _picture(request, desk, caller, wire, task)


@router.head(f"{PATH}/status", include_in_schema=False)
@router.get(f"{PATH}/status", response_model=schema.Job)
async def status(
    job_id: JobId, desk: DeskOf, caller: CallerOf, model: Model = None
) -> dict[str, Any]:
    """How a job stands."""
    task = await desk.darkroom.get(job_id, account=caller.account)
    return translate.to_status(translate.own(task, model))


@router.head(f"{PATH}/result", include_in_schema=False)
@router.get(f"{PATH}/result", response_class=Response, responses=PICTURE)
async def result(
    job_id: JobId, request: Request, desk: DeskOf, caller: CallerOf, model: Model = None
) -> Response:
    """The picture's bytes; 409 until there are any, 410 when they are gone or will never be."""
    task = await desk.darkroom.get(job_id, account=caller.account)
    if translate.own(task, model).state.ended:
        translate.check_made(task)
    stored = await desk.darkroom.image(task.id, 0, account=caller.account)
    return picture_response(request, stored, translate.file_name(task))


@router.post(f"{PATH}/upload", include_in_schema=False)
async def upload(_: CallerOf) -> Response:
    """A voice to speak with, for whoever serves audio."""
    what = "this server makes pictures and takes no voices; send pictures to /api/v1/generate"
    raise Unsupported("file", what)


@router.post("/api/v1/chat/completions", include_in_schema=False)
async def chat(_: CallerOf) -> Response:
    """A conversation, for whoever serves language models."""
    what = "this server makes pictures and holds no conversations; see /api/v1/generate"
    raise Unsupported("messages", what)


async def _inside(desk: Desk, wire: schema.GenerateRequest) -> bytes | None:
    path = uploads.inside_path(wire)
    if path is None:
        return None
    return await asyncio.to_thread(desk.picture_folder.read, path, field="image_path")


async def _delivery(desk: Desk, caller: Caller, wire: schema.GenerateRequest) -> Delivery:
    format = translate.to_format(wire)
    if wire.s3_output_path is None:
        return Delivery(format=format, in_reply=not wire.as_job)
    bucket, key = translate.to_object(wire.s3_output_path)
    found = await desk.destinations.for_bucket(caller.account, bucket, key)
    if found is None:
        what = f"this account has no destination in the bucket {bucket!r} that could hold it"
        what += "; add one by POST /darkroom/destinations, or `darkroom destinations add`"
        raise BadRequest(f"s3_output_path: {what}", field="s3_output_path")
    destination, path = found
    return Delivery(format=format, destination=destination.name, path=path)


async def _picture(
    request: Request, desk: Desk, caller: Caller, wire: schema.GenerateRequest, task: Task
) -> Response:
    stored = await desk.darkroom.image(task.id, 0, account=caller.account)
    if wire.binary_response:
        headers = {"Content-Disposition": f'inline; filename="{translate.file_name(task)}"'}
        return Response(stored.data, headers=headers, media_type=stored.output.media_type)
    body = translate.to_body(
        task,
        wire,
        image=base64.b64encode(stored.data).decode("ascii"),
        request_id=request.state.request_id,
        catalog=desk.catalog,
    )
    return JSONResponse(body)


DIALECT = Dialect(
    name=translate.NAME,
    owns=(PATH,),
    router=router,
    to_error=translate.to_error,
    alias="/eigen",
)
