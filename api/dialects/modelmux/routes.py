"""The routes of ModelMux; any key is taken while the server has none of its own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from api.body import read_body
from api.dialects.base import Desk, DeskOf, Dialect
from api.dialects.callers import AskerOf, CallerOf, caller_of, key_in
from api.dialects.modelmux import translate
from api.dialects.modelmux.schema import Created, Ended, Error, GenerationRequest
from api.dialects.orders import place
from api.dialects.pictures import picture_response
from api.dialects.wire import body_docs, parse
from api.errors import Forbidden
from api.submit import StoredImage

HistoryId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/png": {}}},
    304: {"description": "the caller has it already"},
}

router = APIRouter(tags=["modelmux"], responses={"default": {"model": Error}})


@router.post(
    "/api/v1/generations",
    response_model=Created,
    openapi_extra=body_docs(GenerationRequest, files=("image",)),
)
async def create(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Enqueue a generation and answer at once; file parts of a form are reference pictures."""
    body = translate.plain(await read_body(request, desk.limits))
    order = translate.to_order(parse(GenerationRequest, body), body.files)
    return await place(
        request, desk, caller, body, order, lambda task: translate.to_created(task, desk.links.sign)
    )


@router.head("/api/v1/generations/{history_id}", include_in_schema=False)
@router.get(
    "/api/v1/generations/{history_id}",
    response_model=Created | Ended,
    response_model_exclude_none=True,
)
async def poll(history_id: HistoryId, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """How a generation stands."""
    task = translate.own(await desk.darkroom.get(history_id, account=caller.account))
    return translate.to_body(task, desk.links.sign)


@router.head("/api/v1/generations/{history_id}/image", include_in_schema=False)
@router.get("/api/v1/generations/{history_id}/image", response_class=Response, responses=PICTURE)
async def image(
    history_id: HistoryId, request: Request, desk: DeskOf, caller: CallerOf
) -> Response:
    """The picture's bytes; 404 while there are none."""
    stored = await desk.darkroom.image(history_id, 0, account=caller.account)
    return picture_response(request, stored, translate.file_name(history_id, stored.output))


@router.head("/api/storage/file", include_in_schema=False)
@router.get("/api/storage/file", response_class=Response, responses=PICTURE)
async def file(
    key: Annotated[str, Query(max_length=400)], request: Request, desk: DeskOf
) -> Response:
    """The same bytes, for whoever holds the signed key of `outputUrl`, or an API key."""
    signed, signature = translate.split_key(key)
    history_id = translate.task_id_of(signed)
    stored = await _picture(request, desk, history_id, signed, signature)
    return picture_response(request, stored, translate.file_name(history_id, stored.output))


async def _picture(
    request: Request, desk: Desk, history_id: str, signed: str, signature: dict[str, str]
) -> StoredImage:
    if signature:
        try:
            desk.links.verify(signed, signature)
        except Forbidden:
            # an API key opens what a link of long ago no longer does
            if key_in(request) is None:
                raise
        else:
            return await desk.darkroom.linked_image(history_id, 0)
    caller = await caller_of(request, desk)
    return await desk.darkroom.image(history_id, 0, account=caller.account)


DIALECT = Dialect(
    name="modelmux",
    owns=("/api/v1/generations", "/api/storage/file"),
    router=router,
    to_error=translate.to_error,
    alias="/modelmux",
    linked=translate.to_linked,
)
