"""Where picture bytes live, under keys that only the server makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from api.storage.keys import (
    INPUTS,
    OUTPUTS,
    UPLOADS,
    input_key,
    output_key,
    owner_of,
    upload_key,
)
from api.storage.local import LocalStorage
from api.storage.s3 import S3Storage

if TYPE_CHECKING:
    from api.settings import Settings

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "UPLOADS",
    "LocalStorage",
    "S3Storage",
    "Storage",
    "input_key",
    "output_key",
    "owner_of",
    "storage_of",
    "upload_key",
]


class Storage(Protocol):
    """Bytes by key; a key is written once. Raises Unavailable when the medium fails."""

    async def put(self, key: str, data: bytes) -> None:
        """Keep bytes for good; the same bytes again are no error, others are Unavailable."""

    async def get(self, key: str) -> bytes:
        """The bytes; raises NotFound."""

    async def delete(self, key: str) -> None:
        """Forget the bytes; a key that is not there is no error."""

    def list(self, prefix: str, *, before_ms: int) -> AsyncIterator[str]:
        """Keys under `INPUTS`, `OUTPUTS` or `UPLOADS` written before that time, in any order."""

    def presign(self, key: str, ttl_seconds: int) -> str | None:
        """A link to the object that needs no credentials; None where the medium has none."""

    async def check(self) -> None:
        """Raise Unavailable, with the cause, unless the medium takes writes."""

    async def reach(self) -> None:
        """The same, by what costs little: a medium that is there may still take none."""


def storage_of(settings: Settings, folder: Path) -> Storage:
    """The storage that the settings name; `folder` is for the local one.

    Raises OSError or ValueError if it cannot be used.
    """
    if settings.storage == "local":
        return LocalStorage(folder)
    secret = settings.s3_secret_access_key
    return S3Storage(
        settings.storage,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
    )
