"""Pictures that requests may name by a path: those below one folder of the operator's."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from api.errors import BadRequest, TooLarge


class PictureFolder:
    """Reads the files below a folder, and no other; `folder` None has none to read."""

    def __init__(self, folder: Path | None, *, max_bytes: int) -> None:
        self._folder = folder.resolve() if folder is not None else None
        self._max_bytes = max_bytes

    def read(self, path: str, *, field: str) -> bytes:
        """The file's bytes; slow, call it in a thread.

        Raises BadRequest, which tells nothing of what lies elsewhere, or TooLarge.
        """
        if self._folder is None:
            what = "paths are not taken here, DARKROOM_IMAGE_PATH_FOLDER is not set"
            raise BadRequest(f"{field} must be an https address; {what}", field=field)
        if PurePosixPath(path).is_absolute() or "://" in path:
            what = "must be an https address, or a path relative to the server's picture folder"
            raise BadRequest(f"{field} {what}", field=field)
        try:
            return self._read(self._folder, path, field)
        # a link in a circle, a name too long, a NUL, a file that may not be read
        except (OSError, ValueError, RuntimeError):
            what = f"{field}: there is no such picture in the server's picture folder"
            raise BadRequest(what, field=field) from None

    def _read(self, folder: Path, path: str, field: str) -> bytes:
        found = (folder / path).resolve(strict=True)
        if not found.is_relative_to(folder):
            raise ValueError(path)
        # Not blocking, or a pipe would be waited for; no link, for what was one is resolved.
        with open(os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(path)
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise TooLarge(f"{field} has more than {self._max_bytes} bytes", field=field)
        return data
