"""A stored picture as an HTTP reply, alike in every dialect."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from api.dialects.base import Desk
from api.submit import StoredImage

# The bytes behind a key never change, but whose they are is between us and the caller.
CACHE_CONTROL = "private, max-age=31536000, immutable"


async def linked_picture(
    request: Request, desk: Desk, task_id: str, index: int, file_name: str, path: str | None = None
) -> Response:
    """A picture for whoever has a signed link of `path`, by default that of the request.

    Raises Forbidden, NotFound, NotReady, Gone or Unavailable.
    """
    desk.links.verify(path or request.url.path, request.query_params, method=request.method)
    stored = await desk.darkroom.linked_image(task_id, index)
    return picture_response(request, stored, file_name)


def picture_response(request: Request, stored: StoredImage, file_name: str) -> Response:
    """The bytes with type, length and ETag; 304 without them if the caller has them already."""
    return file_response(
        request,
        stored.data,
        etag=stored.output.sha256,
        media_type=stored.output.media_type,
        file_name=file_name,
    )


def file_response(
    request: Request, data: bytes, *, etag: str, media_type: str, file_name: str
) -> Response:
    """The same of any bytes that never change; `etag` tells them from all others."""
    etag = f'"{etag}"'
    headers = {
        "ETag": etag,
        "Cache-Control": CACHE_CONTROL,
        "Content-Disposition": f'inline; filename="{file_name}"',
    }
    if _has_it(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)


def _has_it(if_none_match: str, etag: str) -> bool:
    known = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return etag in known or "*" in known
