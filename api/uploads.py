"""Pictures that accounts leave here for a while, to name them in requests by a link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from api.checks import free_bytes
from api.clock import wall_clock_ms
from api.errors import NotFound, TooLarge, Unavailable
from api.inputs import PictureLimits, rewrite, size_of
from api.links import Links
from api.orders import random_id
from api.storage import upload_key
from api.store.uploads import KeptUpload, UploadStore
from api.tasks import ImageFormat
from api.uncut import Uncut

if TYPE_CHECKING:
    from api.settings import Settings
    from api.storage import Storage

__all__ = ["PATH", "KeptUpload", "NewUpload", "Uploads"]

log = structlog.get_logger()

PATH = "/darkroom/uploads"
HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A file as it arrived, not checked yet; `field` names its part."""

    field: str
    data: bytes


class Uploads:
    """Keeps uploads and gives them out; what is kept is a plain PNG, as inputs are."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: UploadStore,
        storage: Storage,
        links: Links,
        pixels: Executor,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._settings = settings
        self._store = store
        self._storage = storage
        self._links = links
        self._pixels = pixels
        self._now_ms = now_ms
        self._uncut = Uncut()

    async def keep(
        self,
        account: str,
        data: bytes,
        *,
        field: str,
        ttl_seconds: int | None = None,
    ) -> KeptUpload:
        """Keep one picture; raises as `keep_all` does."""
        kept = await self.keep_all(account, [NewUpload(field, data)], ttl_seconds=ttl_seconds)
        return kept[0]

    async def keep_all(
        self,
        account: str,
        files: Sequence[NewUpload],
        *,
        formats: Collection[ImageFormat] = tuple(ImageFormat),
        max_bytes: int | None = None,
        ttl_seconds: int | None = None,
    ) -> tuple[KeptUpload, ...]:
        """Keep all of these pictures, at least one, or none of them.

        `max_bytes` bounds each file, below what the settings allow; `ttl_seconds` is as they say
        unless given. Raises TooLarge, also when the account has too much here, UnsupportedMedia,
        BadRequest and Unavailable.
        """
        assert files, "there is nothing to keep"
        if free_bytes(self._settings) < self._settings.disk_floor_bytes:
            raise Unavailable("the disk is full; come back later", retry_after_seconds=60)
        if await self._store.used_bytes(account) >= self._settings.max_upload_bytes_per_account:
            raise self._too_much(files[0].field)
        limits = PictureLimits(
            max_bytes=min(max_bytes or self._most_bytes, self._most_bytes),
            max_megapixels=self._settings.max_picture_megapixels,
            formats=frozenset(formats),
        )
        plain = [await self._rewrite(file, limits) for file in files]
        holds = ttl_seconds or int(self._settings.upload_retention_hours * HOUR_SECONDS)
        return await self._uncut.run(self._write(account, files[0].field, plain, holds))

    def link(self, upload: KeptUpload, base_url: str) -> str:
        """A signed address that holds as long as the upload does, or a little longer."""
        left_seconds = (upload.expires_ms - self._now_ms()) // 1000
        return base_url + self._links.sign(f"{PATH}/{upload.id}", ttl_seconds=max(left_seconds, 1))

    async def get(self, upload_id: str) -> KeptUpload:
        """The upload; raises NotFound, also once its time is up."""
        found = await self._store.get(upload_id)
        if found is None:
            raise _missing()
        return found

    async def read(self, upload: KeptUpload) -> bytes:
        """Its bytes; raises NotFound if they were deleted meanwhile."""
        return await self._storage.get(upload.key)

    async def remove(self, account: str, upload_id: str) -> None:
        """Delete one now; raises NotFound, also for one of another account."""
        key = await self._store.delete(account, upload_id)
        if key is None:
            raise _missing()
        # Should this fail, the housekeeper finds bytes that no row names.
        with suppress(Unavailable):
            await self._storage.delete(key)
        log.info("upload_removed", account=account, upload=upload_id)

    async def settle(self) -> None:
        """Wait for what was being kept when no more is."""
        await self._uncut.settle()

    @property
    def _most_bytes(self) -> int:
        return self._settings.max_picture_bytes

    async def _rewrite(self, file: NewUpload, limits: PictureLimits) -> bytes:
        work = partial(rewrite, file.data, field=file.field, limits=limits)
        return await asyncio.get_running_loop().run_in_executor(self._pixels, work)

    async def _write(
        self, account: str, field: str, plain: Sequence[bytes], holds_seconds: int
    ) -> tuple[KeptUpload, ...]:
        """Keep the bytes, then the rows; the bytes go again if that makes none."""
        now_ms = self._now_ms()
        kept = tuple(_record(account, data, now_ms, holds_seconds) for data in plain)
        try:
            for one, data in zip(kept, plain, strict=True):
                await self._storage.put(one.key, data)
            most = self._settings.max_upload_bytes_per_account
            if not await self._store.insert(account, kept, max_bytes=most):
                raise self._too_much(field)
        except BaseException:
            for one in kept:
                with suppress(Unavailable):
                    await self._storage.delete(one.key)
            raise
        log.info("uploads_kept", account=account, uploads=[one.id for one in kept])
        return kept

    def _too_much(self, field: str) -> TooLarge:
        most = self._settings.max_upload_bytes_per_account
        return TooLarge(
            f"{field}: the uploads of an account may have {most} bytes together; "
            "each is deleted when its time is up",
            field=field,
        )


def _missing() -> NotFound:
    return NotFound("there is no such upload, or no longer")


def _record(account: str, data: bytes, now_ms: int, holds_seconds: int) -> KeptUpload:
    upload_id = random_id()
    width, height = size_of(data)
    return KeptUpload(
        id=upload_id,
        account=account,
        key=upload_key(upload_id),
        media_type=ImageFormat.PNG.media_type,
        size_bytes=len(data),
        width=width,
        height=height,
        created_ms=now_ms,
        expires_ms=now_ms + 1000 * holds_seconds,
    )
