"""Pictures that are left here: kept plain, all or none, within bounds, until their time is up."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from PIL import Image

import api.uploads
from api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from api.links import LinkKey, Links
from api.settings import Settings
from api.storage import LocalStorage
from api.store import migrate_sqlite, sqlite_database
from api.store.uploads import UploadStore
from api.tasks import ImageFormat
from api.uploads import KeptUpload, NewUpload, Uploads
from tests.api.making import Clock, encoded

HOUR_MS = 3_600_000
START_MS = 1_800_000_000_000
GREY = encoded(Image.new("L", (9, 9)))
RED = encoded(Image.new("RGB", (32, 16), "red"), "JPEG")


class Cellar:
    """Uploads on a clock, their database and their files."""

    def __init__(self, folder: Path) -> None:
        migrate_sqlite(folder / "db")
        self.clock = Clock(START_MS)
        self.folder = folder
        self.database = sqlite_database(folder / "db")
        self.storage = LocalStorage(folder / "objects")
        self.pixels = ThreadPoolExecutor(2)
        key = LinkKey("one", bytes(32))
        self.links = Links(lambda: (key,), 60, now_seconds=lambda: self.clock() / 1000)

    def uploads(self, **changes: Any) -> Uploads:
        storage = changes.pop("storage", self.storage)
        values: dict[str, Any] = {"data_dir": self.folder, "disk_floor_bytes": 0} | changes
        return Uploads(
            settings=Settings(**values),
            store=UploadStore(self.database, self.clock),
            storage=storage,
            links=self.links,
            pixels=self.pixels,
            now_ms=self.clock,
        )

    def files(self) -> list[str]:
        root = self.folder / "objects"
        return sorted(
            path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()
        )


@pytest.fixture
async def cellar(tmp_path: Path) -> AsyncIterator[Cellar]:
    """An empty one."""
    made = Cellar(tmp_path)
    yield made
    made.pixels.shutdown()
    await made.database.close()


async def refused(
    cellar: Cellar, uploads: Uploads, *data: bytes, **changes: Any
) -> tuple[type[ApiError], str | None]:
    """Why these are not kept, of which nothing is left."""
    before = cellar.files(), await uploads._store.used_bytes("ann")
    files = [NewUpload(f"file{number}", one) for number, one in enumerate(data)]
    with pytest.raises(ApiError) as raised:
        await uploads.keep_all("ann", files, **changes)
    assert (cellar.files(), await uploads._store.used_bytes("ann")) == before
    return type(raised.value), raised.value.field


async def test_an_upload_is_kept_plain(cellar: Cellar) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    turned[0x010E] = "a secret place"
    data = encoded(Image.new("RGB", (32, 16), "red"), "JPEG", exif=turned)
    uploads = cellar.uploads()
    kept = await uploads.keep("ann", data, field="image")
    stored = await uploads.read(kept)
    assert b"secret" in data and b"secret" not in stored
    with Image.open(io.BytesIO(stored)) as picture:
        assert (picture.format, picture.size, picture.getpixel((3, 3))) == (
            "PNG",
            (16, 32),
            (254, 0, 0),
        )
    assert kept == KeptUpload(
        id=kept.id,
        account="ann",
        key=f"uploads/{kept.id}/0.png",
        media_type="image/png",
        size_bytes=len(stored),
        width=16,
        height=32,
        created_ms=START_MS,
        expires_ms=START_MS + 7 * 24 * HOUR_MS,
    )
    assert cellar.files() == [kept.key]
    assert await uploads.get(kept.id) == kept


async def test_ids_are_not_guessed(cellar: Cellar) -> None:
    kept = await cellar.uploads().keep_all("ann", [NewUpload("image", RED)] * 3)
    assert len({one.id for one in kept}) == 3 and all(len(one.id) == 21 for one in kept)


@pytest.mark.parametrize(
    ("data", "changes", "expected"),
    [
        (RED[:-20], {}, (BadRequest, "file1")),
        (b"", {}, (BadRequest, "file1")),
        (b"GIF89a", {}, (UnsupportedMedia, "file1")),
        (RED + bytes(400), {"max_bytes": len(RED)}, (TooLarge, "file1")),
        (GREY, {"formats": [ImageFormat.JPEG]}, (UnsupportedMedia, "file1")),
    ],
)  # fmt: skip
async def test_one_wrong_file_and_none_is_kept(
    cellar: Cellar, data: bytes, changes: dict[str, Any], expected: Any
) -> None:
    assert await refused(cellar, cellar.uploads(), RED, data, RED, **changes) == expected


async def test_a_caller_cannot_raise_the_servers_bound(cellar: Cellar) -> None:
    uploads = cellar.uploads(max_picture_bytes=len(RED) - 1)
    assert await refused(cellar, uploads, RED, max_bytes=10**9) == (TooLarge, "file0")


async def test_refused_formats_are_told_by_those_that_are_taken(cellar: Cellar) -> None:
    files = [NewUpload("image", RED)]
    taken = [ImageFormat.PNG, ImageFormat.WEBP, ImageFormat.AVIF]
    with pytest.raises(UnsupportedMedia, match=r"; PNG, WebP and AVIF are$"):
        await cellar.uploads().keep_all("ann", files, formats=taken)
    with pytest.raises(UnsupportedMedia, match=r"; PNG are$"):
        await cellar.uploads().keep_all("ann", files, formats=[ImageFormat.PNG])


# The bound of an account


async def test_an_account_has_so_many_bytes(cellar: Cellar) -> None:
    one = (await cellar.uploads().keep("ann", RED, field="image")).size_bytes
    uploads = cellar.uploads(max_upload_bytes_per_account=3 * one)
    assert await refused(cellar, uploads, RED, RED, RED) == (TooLarge, "file0")
    await uploads.keep_all("ann", [NewUpload("image", RED)] * 2)
    assert await refused(cellar, uploads, RED) == (TooLarge, "file0")
    assert (await uploads.keep("bob", RED, field="image")).account == "bob"


async def test_a_full_account_is_told_before_anything_is_decoded(cellar: Cellar) -> None:
    one = (await cellar.uploads().keep("ann", RED, field="image")).size_bytes
    uploads = cellar.uploads(max_upload_bytes_per_account=one)
    assert await refused(cellar, uploads, b"no picture") == (TooLarge, "file0")


async def test_what_is_over_or_removed_counts_no_more(cellar: Cellar) -> None:
    kept = await cellar.uploads().keep("ann", RED, field="image")
    uploads = cellar.uploads(max_upload_bytes_per_account=kept.size_bytes)
    cellar.clock.ms = kept.expires_ms - 1
    assert await refused(cellar, uploads, RED) == (TooLarge, "file0")
    cellar.clock.ms = kept.expires_ms
    second = await uploads.keep("ann", RED, field="image")
    await uploads.remove("ann", second.id)
    assert await uploads.keep("ann", RED, field="image")


async def test_uploads_at_once_do_not_pass_the_bound_together(cellar: Cellar) -> None:
    one = (await cellar.uploads().keep("x", RED, field="image")).size_bytes
    uploads = cellar.uploads(max_upload_bytes_per_account=3 * one)
    found = await asyncio.gather(
        *(uploads.keep("ann", RED, field="image") for _ in range(8)), return_exceptions=True
    )
    kept = [one for one in found if isinstance(one, KeptUpload)]
    assert len(kept) == 3 and all(isinstance(one, KeptUpload | TooLarge) for one in found)
    assert len(cellar.files()) == 4


async def test_a_full_disk_takes_none(cellar: Cellar) -> None:
    assert await refused(cellar, cellar.uploads(disk_floor_bytes=10**18), RED) == (
        Unavailable,
        None,
    )


# Links and ends


async def test_a_link_holds_as_long_as_its_upload(cellar: Cellar) -> None:
    uploads = cellar.uploads(upload_retention_hours=2.0)
    kept = await uploads.keep("ann", RED, field="image")
    url = uploads.link(kept, "https://pictures.example")
    assert url.startswith(f"https://pictures.example/darkroom/uploads/{kept.id}?")
    parts = urlsplit(url)
    cellar.clock.ms = kept.expires_ms - 1000
    cellar.links.verify(parts.path, dict(parse_qsl(parts.query)))
    assert await uploads.get(kept.id) == kept
    cellar.clock.ms = kept.expires_ms
    with pytest.raises(NotFound, match="or no longer"):
        await uploads.get(kept.id)
    cellar.clock.ms += HOUR_MS
    with pytest.raises(Forbidden):
        cellar.links.verify(parts.path, dict(parse_qsl(parts.query)))


async def test_a_dialect_may_promise_another_time(cellar: Cellar) -> None:
    kept = await cellar.uploads().keep("ann", RED, field="image", ttl_seconds=60)
    assert kept.expires_ms == START_MS + 60_000


async def test_only_its_account_removes_an_upload(cellar: Cellar) -> None:
    uploads = cellar.uploads()
    kept, other = await uploads.keep_all("ann", [NewUpload("image", RED)] * 2)
    for account, upload_id in (("bob", kept.id), ("ann", "x")):
        with pytest.raises(NotFound):
            await uploads.remove(account, upload_id)
    await uploads.remove("ann", kept.id)
    assert cellar.files() == [other.key]
    with pytest.raises(NotFound):
        await uploads.get(kept.id)


# Faults on the way


class Fails(LocalStorage):
    """A storage that takes `puts` objects and no more."""

    def __init__(self, folder: Path, puts: int) -> None:
        super().__init__(folder)
        self._puts = puts

    async def put(self, key: str, data: bytes) -> None:
        if self._puts == 0:
            raise Unavailable("the storage cannot write now")
        self._puts -= 1
        await super().put(key, data)


async def test_a_storage_that_fails_half_way_leaves_nothing(cellar: Cellar) -> None:
    storage = Fails(cellar.folder / "objects", puts=2)
    uploads = cellar.uploads(storage=storage)
    assert await refused(cellar, uploads, RED, RED, RED) == (Unavailable, None)


async def test_a_database_that_fails_leaves_nothing(
    cellar: Cellar, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = cellar.uploads()

    async def fails(*args: object, **more: object) -> bool:
        raise Unavailable("the database cannot be used now")

    monkeypatch.setattr(uploads._store, "insert", fails)
    assert await refused(cellar, uploads, RED, RED) == (Unavailable, None)


async def test_a_caller_who_leaves_cuts_nothing_in_two(
    cellar: Cellar, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = cellar.uploads()
    entered, go = asyncio.Event(), asyncio.Event()
    insert: Callable[..., Any] = uploads._store.insert

    async def slow(*args: Any, **more: Any) -> bool:
        entered.set()
        await go.wait()
        return bool(await insert(*args, **more))

    monkeypatch.setattr(uploads._store, "insert", slow)
    keeping = asyncio.create_task(uploads.keep("ann", RED, field="image"))
    await entered.wait()
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    settling = asyncio.create_task(uploads.settle())
    await asyncio.sleep(0.01)
    assert not settling.done()
    go.set()
    await settling
    assert len(cellar.files()) == 1
    assert await uploads._store.used_bytes("ann") > 0


def test_the_path_of_links_is_that_of_the_route() -> None:
    from api.dialects.darkroom import translate, uploads

    assert translate.PREFIX + uploads.router.prefix == api.uploads.PATH
