"""Bytes on disk: written once, flushed, and nowhere but in the folder."""

from __future__ import annotations

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
