"""Where picture bytes live, under keys that only the server makes."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Protocol

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore

from api.errors import NotFound, Unavailable

_KEY = re.compile(r"(inputs|outputs)/[A-Za-z0-9_-]{1,64}/[a-z0-9-]{1,32}(\.[a-z]{3,4})?")


class Storage(Protocol):
    """Bytes by key; a key is written once. Raises Unavailable when the medium fails."""

    async def put(self, key: str, data: bytes) -> None:
        """Keep bytes; when this returns they survive a power cut."""

    async def get(self, key: str) -> bytes:
        """The bytes; raises NotFound."""

    async def delete(self, key: str) -> None:
        """Forget the bytes; a key that is not there is no error."""


def input_key(task_id: str, number: int) -> str:
    """Where an input picture of a task lies."""
    return f"inputs/{task_id}/{number}.png"


def output_key(task_id: str, attempt: int, index: int, extension: str) -> str:
    """Where a finished picture lies; the attempt keeps two workers' pictures apart."""
    return f"outputs/{task_id}/{attempt}-{index}.{extension}"


class LocalStorage:
    """Files under one folder that nobody else may enter."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self._objects = LocalStore(folder)

    async def put(self, key: str, data: bytes) -> None:
        """Keep bytes; when this returns they survive a power cut."""
        path = self._path(key)
        try:
            await obstore.put_async(self._objects, key, data, mode="create", use_multipart=False)
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
        self._path(key)
        try:
            await obstore.delete_async(self._objects, key)
        except (FileNotFoundError, NotFoundError):
            pass
        except (OSError, BaseError) as error:
            raise _unavailable("delete", error) from error

    def _path(self, key: str) -> Path:
        assert _KEY.fullmatch(key), f"not a key of ours: {key!r}"
        path = self._folder / key
        # obstore follows symbolic links, wherever they lead
        if path.parent.resolve() != path.parent or path.is_symlink():
            raise Unavailable("the storage holds a symbolic link, which is not its own")
        return path


def _unavailable(verb: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the storage cannot {verb} now: {type(error).__name__}", retry_after_seconds=5
    )


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
