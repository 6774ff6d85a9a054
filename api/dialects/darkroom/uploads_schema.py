"""The wire types of uploads."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

MOST_FILES = 10


class UploadInfo(BaseModel):
    """A picture that was left here; `url` may stand wherever a request takes a picture."""

    id: str
    url: Annotated[str, Field(description="signed; whoever has it can read the picture")]
    media_type: Annotated[str, Field(examples=["image/png"])]
    width: int
    height: int
    size_bytes: int
    created_at: str
    expires_at: Annotated[str, Field(description="when it is deleted")]


class UploadList(BaseModel):
    """What one request left here, in its order."""

    uploads: list[UploadInfo]
