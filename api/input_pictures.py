"""The pictures that an order brings: taken as they came or fetched, rewritten, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from api.errors import Unavailable
from api.inputs import PictureLimits, rewrite, size_of
from api.orders import Remote, Upload
from inference.job import ImageRole, InputImage

if TYPE_CHECKING:
    from api.settings import Settings
    from api.storage import Storage


class PictureSource(Protocol):
    """Where pictures come from that a request names; `api.own_links.OwnLinks` is one."""

    def check(self, url: str, *, field: str) -> None: ...

    async def fetch(
        self, url: str, *, field: str, max_bytes: int, timeout_seconds: float
    ) -> bytes: ...


class InputPictures:
    """Keeps pictures from outside under the keys of a task, and forgets them again."""

    def __init__(
        self, *, settings: Settings, storage: Storage, source: PictureSource, pixels: Executor
    ) -> None:
        self._storage = storage
        self._source = source
        self._pixels = pixels
        self._fetch_seconds = settings.fetch_seconds
        self._limits = PictureLimits(
            max_bytes=settings.max_picture_bytes, max_megapixels=settings.max_picture_megapixels
        )

    def check(self, uploads: Sequence[Upload]) -> None:
        """Raise BadRequest for an address that may not be asked; nothing is looked up."""
        for upload in uploads:
            if isinstance(upload.data, Remote):
                self._source.check(upload.data.url, field=upload.field)

    async def keep(
        self, uploads: Sequence[Upload], images: Sequence[InputImage]
    ) -> list[tuple[int, int]]:
        """Keep all of them, or none; width and height in pixels of each source.

        Raises TooLarge, UnsupportedMedia, BadRequest or Unavailable.
        """
        kept: list[InputImage] = []
        sources: list[tuple[int, int]] = []
        try:
            for upload, image in zip(uploads, images, strict=True):
                data = await self._rewrite(upload.field, await self._bytes_of(upload))
                if image.role is ImageRole.SOURCE:
                    sources.append(size_of(data))
                kept.append(image)
                await self._storage.put(image.key, data)
        except BaseException:
            await self.forget(kept)
            raise
        return sources

    async def forget(self, images: Sequence[InputImage]) -> None:
        """Delete them; what cannot be deleted now is left to the housekeeper."""
        for image in images:
            with suppress(Unavailable):
                await self._storage.delete(image.key)

    async def _bytes_of(self, upload: Upload) -> bytes:
        if not isinstance(upload.data, Remote):
            return upload.data
        return await self._source.fetch(
            upload.data.url,
            field=upload.field,
            max_bytes=self._limits.max_bytes,
            timeout_seconds=self._fetch_seconds,
        )

    async def _rewrite(self, field: str, data: bytes) -> bytes:
        work = partial(rewrite, data, field=field, limits=self._limits)
        return await asyncio.get_running_loop().run_in_executor(self._pixels, work)
