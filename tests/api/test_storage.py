"""Bytes on disk: written once, flushed, and nowhere but in the folder."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from api.errors import NotFound, Unavailable
from api.storage import LocalStorage, input_key, output_key

KEY = output_key("task1", 1, 0, "png")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """An empty storage."""
    return LocalStorage(tmp_path / "objects")


async def test_what_is_put_is_got_until_deleted(storage: LocalStorage, tmp_path: Path) -> None:
    await storage.put(KEY, b"picture")
    await storage.put(input_key("task1", 0), b"source")
    assert await storage.get(KEY) == b"picture"
    assert (tmp_path / "objects" / KEY).read_bytes() == b"picture"
    await storage.delete(KEY)
    await storage.delete(KEY)
    with pytest.raises(NotFound):
        await storage.get(KEY)
    assert await storage.get(input_key("task1", 0)) == b"source"


async def test_a_key_is_written_once(storage: LocalStorage) -> None:
    await storage.put(KEY, b"first")
    with pytest.raises(Unavailable):
        await storage.put(KEY, b"second")
    assert await storage.get(KEY) == b"first"


async def test_the_folder_is_private(storage: LocalStorage, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "objects").stat().st_mode) == 0o700


async def test_every_entry_on_the_way_is_flushed(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    sync = os.fsync

    def record(handle: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", record)
    await storage.put(KEY, b"picture")
    objects = tmp_path / "objects"
    assert flushed == [objects / KEY, objects / "outputs" / "task1", objects / "outputs", objects]


@pytest.mark.parametrize(
    "key",
    ["", "/etc/x", "outputs/../../x", "outputs/a/..", "outputs/a/.png", "outputs//0.png", "x/a/0",
     "outputs/a/0.png\0", "outputs/a/b/0.png", "outputs/a/0.png\n", "outputs/é/0.png"],
)  # fmt: skip
async def test_only_keys_of_ours_reach_the_disk(storage: LocalStorage, key: str) -> None:
    for use in (storage.put(key, b""), storage.get(key), storage.delete(key)):
        with pytest.raises(AssertionError, match="not a key of ours"):
            await use


async def test_planted_links_lead_nowhere(storage: LocalStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0.png").write_bytes(b"private")
    objects = tmp_path / "objects"
    (objects / "inputs").mkdir()
    (objects / "inputs" / "task1").symlink_to(outside)
    (objects / "outputs" / "task1").mkdir(parents=True)
    (objects / KEY).symlink_to(outside / "0.png")
    for key in (input_key("task1", 0), KEY):
        with pytest.raises(Unavailable):
            await storage.get(key)
        with pytest.raises(Unavailable):
            await storage.put(key, b"planted")
        with pytest.raises(Unavailable):
            await storage.delete(key)
    assert [(entry.name, entry.read_bytes()) for entry in outside.iterdir()] == [
        ("0.png", b"private")
    ]


async def test_the_same_bytes_again_are_no_error(storage: LocalStorage) -> None:
    """A reply may be lost: whoever put them tries once more."""
    await storage.put(KEY, b"picture")
    await storage.put(KEY, b"picture")
    assert await storage.get(KEY) == b"picture"


async def listed(storage: LocalStorage, before_ms: int = 2**42) -> list[str]:
    return sorted(
        [
            key
            for prefix in ("inputs", "outputs")
            async for key in storage.list(prefix, before_ms=before_ms)
        ]
    )


async def test_keys_are_listed_by_prefix_and_age(storage: LocalStorage, tmp_path: Path) -> None:
    assert await listed(storage) == []
    keys = [output_key(f"task{n:03}", 1, 0, "webp") for n in range(250)]
    for number, key in enumerate(keys):
        await storage.put(key, b"x")
        os.utime(tmp_path / "objects" / key, (number, number))
    await storage.put(input_key("task1", 0), b"x")
    assert await listed(storage) == [input_key("task1", 0), *keys]
    assert await listed(storage, before_ms=100_000) == keys[:100]


async def test_only_what_is_ours_is_listed(storage: LocalStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1-0.png").write_bytes(b"private")
    await storage.put(KEY, b"x")
    folder = tmp_path / "objects" / "outputs"
    (folder / "task2").symlink_to(outside)
    (folder / "task1" / "1-1.png").symlink_to(outside / "1-0.png")
    (folder / "task1" / ".DS_Store").write_bytes(b"x")
    (folder / "a file").write_bytes(b"x")
    assert await listed(storage) == [KEY]


async def test_what_a_crash_left_half_written_can_be_removed(
    storage: LocalStorage, tmp_path: Path
) -> None:
    await storage.put(KEY, b"x")
    (tmp_path / "objects" / f"{KEY}#1").write_bytes(b"hal")
    assert await listed(storage) == [KEY, f"{KEY}#1"]
    await storage.delete(f"{KEY}#1")
    await storage.delete(f"{KEY}#1")
    assert await listed(storage) == [KEY]


async def test_no_empty_folders_stay_behind(storage: LocalStorage, tmp_path: Path) -> None:
    other = output_key("task1", 1, 1, "png")
    await storage.put(KEY, b"x")
    await storage.put(other, b"x")
    await storage.delete(KEY)
    assert await storage.get(other) == b"x"
    await storage.delete(other)
    assert [entry.name for entry in (tmp_path / "objects").rglob("*")] == []
    await storage.put(KEY, b"again")
    assert await storage.get(KEY) == b"again"


async def test_writing_and_deleting_side_by_side_loses_nothing(storage: LocalStorage) -> None:
    """The folder of a task goes with its last file, also while another file comes."""

    async def come_and_go(index: int) -> None:
        key = output_key("task1", 1, index, "png")
        for _ in range(30):
            await storage.put(key, b"x")
            assert await storage.get(key) == b"x"
            await storage.delete(key)

    await asyncio.gather(*(come_and_go(index) for index in range(8)))
    assert await listed(storage) == []


async def test_check_says_whether_files_can_be_made(storage: LocalStorage, tmp_path: Path) -> None:
    await storage.check()
    assert [entry.name for entry in (tmp_path / "objects").rglob("*")] == []
    (tmp_path / "objects").rmdir()
    with pytest.raises(Unavailable, match="No such file"):
        await storage.check()
