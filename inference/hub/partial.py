"""Files of the hub that are half here: locked by who writes them, and compared. No torch."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from inference.hub.download import Progress
from inference.hub.repository import HubFile

_READ_BYTES = 1 << 22


class Meter:
    """How much of one file is here, told as it changes."""

    def __init__(self, progress: Progress | None) -> None:
        self.size_bytes = 0
        self._progress = progress

    def at(self, size_bytes: int) -> None:
        """So much of it is here by now."""
        if self._progress is not None and size_bytes != self.size_bytes:
            self._progress.advance(size_bytes - self.size_bytes)
        self.size_bytes = size_bytes


class Claims:
    """The parts that the threads of one errand write to, and nobody else.

    It can let go of them all while a thread still waits for the hub: that finds its part lost.
    """

    def __init__(self) -> None:
        self._held: list[BinaryIO] = []
        self._has_ended = False
        self._lock = threading.Lock()

    @contextmanager
    def claim(self, stream: BinaryIO) -> Iterator[bool]:
        """Whether a part is ours within; not if another errand, or process, has it."""
        with self._lock:
            if is_ours := not self._has_ended and _is_locked(stream):
                self._held.append(stream)
        try:
            yield is_ours
        finally:
            with self._lock:
                self._held = [one for one in self._held if one is not stream]

    @contextmanager
    def changing(self, stream: BinaryIO) -> Iterator[None]:
        """Within, nobody else gets it; raises PartLost where somebody may have."""
        with self._lock:
            if not any(one is stream for one in self._held):
                raise PartLost
            yield

    def let_go(self) -> None:
        """Leave all of them to others, as they are, and claim no more."""
        with self._lock:
            self._has_ended = True
            for stream in self._held:
                fcntl.flock(stream, fcntl.LOCK_UN)
            self._held = []


class PartLost(Exception):
    """The errand let go of a part."""


class Part:
    """One that is ours: what has come is on disk at once."""

    def __init__(self, stream: BinaryIO, claims: Claims, meter: Meter) -> None:
        self._stream = stream
        self._claims = claims
        self._meter = meter
        # who held it before may have written more since it was opened
        self._meter.at(stream.seek(0, os.SEEK_END))

    @property
    def size_bytes(self) -> int:
        """How much has come."""
        return self._stream.tell()

    def write(self, piece: bytes) -> None:
        """Add what has come; raises PartLost."""
        with self._claims.changing(self._stream):
            self._stream.write(piece)
            self._stream.flush()
            self._meter.at(self._stream.tell())

    def clear(self) -> None:
        """Begin anew; raises PartLost."""
        with self._claims.changing(self._stream):
            self._stream.seek(0)
            self._stream.truncate()
            self._meter.at(0)


def part_of(blob: Path) -> Path:
    """Where a file lies as long as it is not whole."""
    return blob.with_name(f"{blob.name}.part")


def is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether a file that was open when another renamed or deleted it still has its name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(stream.fileno()), there)


def is_whole(path: Path, file: HubFile, check: Callable[[], None]) -> bool:
    """Whether a file has the content that the hub lists; `check` raises where it is to end."""
    if path.stat().st_size != file.size_bytes:
        return False
    is_git = len(file.digest) == 40
    told = hashlib.sha1() if is_git else hashlib.sha256()
    if is_git:
        told.update(b"blob %d\0" % file.size_bytes)
    with path.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            check()
            told.update(piece)
    return told.hexdigest() == file.digest


def _is_locked(stream: BinaryIO) -> bool:
    """Whether it is ours from now on, until it is closed."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
