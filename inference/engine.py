"""The engine's front: takes jobs from any thread, hands them to the worker of a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.catalog import Catalog
from inference.events import Emit
from inference.job import Job
from inference.status import EngineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How the engine uses its devices.

    `devices` are torch names ("cuda:0", "cpu"); empty means every CUDA device, else the CPU.
    `preview_side_px` bounds the longer side of step previews; 0 turns them off.
    """

    devices: tuple[str, ...] = ()
    max_batch_rows: int = 16
    max_running_images: int = 32
    prompt_cache_bytes: int = 256 * 1024**2
    preview_side_px: int = 128


class Engine:
    """Makes the pictures of jobs; all methods may be called from any thread."""

    def __init__(self, catalog: Catalog, settings: EngineSettings | None = None) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Start the worker threads; returns at once, models load behind it."""

    def submit(
        self,
        job: Job,
        pictures: Mapping[str, bytes],
        emit: Emit,
        indexes: Sequence[int] | None = None,
    ) -> None:
        """Make the job's pictures (`indexes` of them, all by default).

        `pictures` holds the encoded bytes of each input image by its key. Every index ends in
        exactly one of ImageDone, Failed, Cancelled, passed to `emit` on the engine's thread.
        Raises EngineClosed after `close`.
        """

    def cancel(self, job_id: str) -> None:
        """Give up every unfinished picture of a job, at its next step; unknown ids are ignored."""

    def status(self) -> EngineStatus:
        """Devices, models and how much is running and waiting."""
        raise NotImplementedError

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Take no more, finish what is running within the time, cancel the rest, stop threads."""
