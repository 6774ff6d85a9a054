"""Objects as files under one folder."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore

from api.errors import NotFound, Unavailable
from api.storage.keys import PATTERN, check_key, is_key

# What a crash leaves of a file that was being written, as obstore names it.
_REMAINS = re.compile(PATTERN + r"#\d+")
_FOLDERS_AT_ONCE = 100


class LocalStorage:
    """Files under one folder that nobody else may enter."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder.resolve()
        # Without the clean-up every task would leave an empty folder behind for ever.
        self._objects = LocalStore(folder, automatic_cleanup=True)

    async def put(self, key: str, data: bytes) -> None:
        """Keep bytes; when this returns they survive a power cut."""
        path = self._path(key)
        try:
            try:
                await obstore.put_async(
                    self._objects, key, data, mode="create", use_multipart=False
                )
            except AlreadyExistsError:
                if await asyncio.to_thread(path.read_bytes) != data:
                    raise
            # obstore moves a finished file into place but leaves flushing to the system; after a
            # power cut a task that succeeded could then point to an empty file.
            await asyncio.to_thread(_flush, path, self._folder)
        except (OSError, BaseError) as error:
            raise _unavailable("write", error) from error

    async def get(self, key: str) -> bytes:
        """The bytes; raises NotFound."""
        self._path(key)
        try:
            found = await obstore.get_async(self._objects, key)
            return bytes(await found.bytes_async())
        except (FileNotFoundError, NotFoundError):
            raise NotFound("the picture's file is gone") from None
        except (OSError, BaseError) as error:
            raise _unavailable("read", error) from error

    async def delete(self, key: str) -> None:
        """Forget the bytes; a key that is not there is no error."""
        try:
            if _REMAINS.fullmatch(key):
                # obstore gives no access to these
                path = self._path(key.partition("#")[0]).parent / key.rpartition("/")[2]
                await asyncio.to_thread(path.unlink, missing_ok=True)
                return
            self._path(key)
            await obstore.delete_async(self._objects, key)
        except (FileNotFoundError, NotFoundError):
            pass
        except (OSError, BaseError) as error:
            raise _unavailable("delete", error) from error

    async def list(self, prefix: str, *, before_ms: int) -> AsyncIterator[str]:
        """Keys under a prefix that were written before that time, remains of cut writes too."""
        try:
            folders = await asyncio.to_thread(_entries, self._folder / prefix)
            for start in range(0, len(folders), _FOLDERS_AT_ONCE):
                some = folders[start : start + _FOLDERS_AT_ONCE]
                for path in await asyncio.to_thread(_older, some, before_ms):
                    key = path.relative_to(self._folder).as_posix()
                    if is_key(key) or _REMAINS.fullmatch(key):
                        yield key
        except OSError as error:
            raise _unavailable("list", error) from error

    def presign(self, key: str, ttl_seconds: int) -> str | None:
        """None: a folder is no server."""
        check_key(key)
        return None

    async def check(self) -> None:
        """Raise Unavailable unless files can be made."""
        probe = self._folder / f".probe-{os.getpid()}"
        try:
            await asyncio.to_thread(probe.write_bytes, b"probe")
            await asyncio.to_thread(probe.unlink)
        except OSError as error:
            raise _unavailable("write", error) from error

    async def reach(self) -> None:
        """The same: to make a file costs little."""
        await self.check()

    def _path(self, key: str) -> Path:
        check_key(key)
        path = self._folder / key
        # obstore follows symbolic links, wherever they lead
        if path.parent.resolve() != path.parent or path.is_symlink():
            raise Unavailable("the storage holds a symbolic link, which is not its own")
        return path


def _unavailable(verb: str, error: Exception) -> Unavailable:
    # without the path, which is for no caller
    cause = getattr(error, "strerror", None) or type(error).__name__
    return Unavailable(f"the storage cannot {verb} now: {cause}", retry_after_seconds=5)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, links left out; nothing if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if not entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _older(folders: list[Path], before_ms: int) -> list[Path]:
    found = []
    for path in (path for folder in folders for path in _entries(folder)):
        try:
            if path.stat().st_mtime_ns < before_ms * 1_000_000:
                found.append(path)
        except FileNotFoundError:
            continue
    return found


def _flush(path: Path, folder: Path) -> None:
    """Write a file and every directory entry that leads to it through to the medium."""
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if path == folder:
            return
        path = path.parent
