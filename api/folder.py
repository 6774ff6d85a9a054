"""The data folder: private to one user; with its database in it, to one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FolderInUse(Exception):
    """Another process serves from this folder."""


class DataFolder:
    """Where everything durable lies; `lock` it before use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        """The file of the tasks."""
        return self.path / "darkroom.db"

    @property
    def objects(self) -> Path:
        """The folder of the pictures."""
        return self.path / "objects"

    @property
    def loras(self) -> Path:
        """The folder of LoRAs that were fetched."""
        return self.path / "loras"

    @property
    def link_keys(self) -> Path:
        """The file of the secrets that sign links."""
        return self.path / "link_keys"

    @property
    def token_keys(self) -> Path:
        """The file of the secrets that sign tokens for pages."""
        return self.path / "token_keys"

    def make(self) -> None:
        """Create the folder; nobody else may enter it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.stat().st_uid == os.getuid():
            self.path.chmod(0o700)

    def lock(self, *, shared: bool = False) -> None:
        """Take the folder for this process, or for all that take it `shared`; raises FolderInUse.

        The system drops the lock when the process dies, however it dies: whoever holds it alone
        knows that no other worker lives.
        """
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise FolderInUse(f"{self.path}: another darkroom serves from this folder") from None
        self._lock = handle

    def unlock(self) -> None:
        """Leave the folder to others."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
