"""Between the wire types of uploads and the neutral ones; pure, no I/O."""

from __future__ import annotations

from typing import Any

from api.body import Body, short
from api.dialects.darkroom.translate import to_time
from api.dialects.darkroom.uploads_schema import MOST_FILES
from api.errors import BadRequest, UnsupportedMedia
from api.uploads import KeptUpload, NewUpload

# Any name of a part will do; this one is in the document.
PART = "images"
UPLOAD_DOCS = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [PART],
                    "properties": {
                        PART: {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MOST_FILES,
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        },
    }
}


def to_files(body: Body) -> list[NewUpload]:
    """The files of a form, whatever their parts are called; raises BadRequest."""
    if not body.is_form:
        raise UnsupportedMedia("send the pictures as files of a multipart/form-data form")
    for name in body.values:
        raise BadRequest(f"{short(name)} must be a file, not text", field=short(name))
    if not 1 <= len(body.files) <= MOST_FILES:
        raise BadRequest(f"send 1 to {MOST_FILES} files, not {len(body.files)}", field=PART)
    return [NewUpload(short(part.name), part.data) for part in body.files]


def to_info(upload: KeptUpload, url: str) -> dict[str, Any]:
    """An `UploadInfo`."""
    return {
        "id": upload.id,
        "url": url,
        "media_type": upload.media_type,
        "width": upload.width,
        "height": upload.height,
        "size_bytes": upload.size_bytes,
        "created_at": to_time(upload.created_ms),
        "expires_at": to_time(upload.expires_ms),
    }
