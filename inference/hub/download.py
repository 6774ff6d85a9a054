"""How far a model's files are on their way here, and whether they are still wanted. No torch."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """Is told, on any thread, how far a download is."""

    def expect(self, size_bytes: int) -> None:
        """So much will be there in the end, together with what is there already."""

    def advance(self, size_bytes: int) -> None:
        """So much more is there; less than nothing where it had to begin anew."""


class Download:
    """What is fetched for one load: told by the threads that fetch, and asked by any."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._expected_bytes = 0
        self._fetched_bytes = 0

    def expect(self, size_bytes: int) -> None:
        """So much more will be there in the end; files of several repositories add up."""
        with self._lock:
            self._expected_bytes += size_bytes

    def advance(self, size_bytes: int) -> None:
        """So much more is there."""
        with self._lock:
            self._fetched_bytes += size_bytes

    @property
    def bytes(self) -> tuple[int, int]:
        """How much is there, and how much will be; 0 of 0 where nothing has to be fetched."""
        with self._lock:
            return self._fetched_bytes, self._expected_bytes

    def stop(self) -> None:
        """Let it end; what came stays for the next time."""
        self.stopped.set()
