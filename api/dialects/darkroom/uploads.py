"""The routes of uploads: pictures that are left here for a while, to be named in requests."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from api.body import read_body
from api.dialects.base import DeskOf
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.darkroom import uploads_schema as schema
from api.dialects.darkroom import uploads_translate as translate
from api.dialects.pictures import file_response

UploadId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/png": {}}},
    304: {"description": "the caller has it already"},
}

router = APIRouter(prefix="/uploads")


@router.post(
    "", status_code=201, response_model=schema.UploadList, openapi_extra=translate.UPLOAD_DOCS
)
async def upload(request: Request, desk: DeskOf, caller: AskerOf) -> dict[str, Any]:
    """Leave pictures here, all of them or none; they are kept as plain PNG files."""
    files = translate.to_files(await read_body(request, desk.limits))
    kept = await desk.uploads.keep_all(caller.account, files)
    base_url = desk.base_url(request)
    told = [translate.to_info(one, desk.uploads.link(one, base_url)) for one in kept]
    return {"uploads": told}


@router.head("/{upload_id}", include_in_schema=False)
@router.get("/{upload_id}", response_class=Response, responses=PICTURE)
async def read_upload(upload_id: UploadId, request: Request, desk: DeskOf) -> Response:
    """An upload's bytes by signed link, which is all it needs."""
    desk.links.verify(request.url.path, request.query_params, method=request.method)
    found = await desk.uploads.get(upload_id)
    return file_response(
        request,
        await desk.uploads.read(found),
        etag=found.id,
        media_type=found.media_type,
        file_name=f"{found.id}.png",
    )


@router.delete("/{upload_id}", status_code=204)
async def remove_upload(upload_id: UploadId, desk: DeskOf, caller: CallerOf) -> None:
    """Delete an upload now; generations that were asked for with it have their own copy."""
    await desk.uploads.remove(caller.account, upload_id)
