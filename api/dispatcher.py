"""From the store to the engine and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from inference.events import Emit
from inference.job import Job
from inference.status import EngineStatus


class EnginePort(Protocol):
    """What the service needs of an engine; `inference.engine.Engine` is one."""

    def start(self) -> None: ...

    def submit(
        self,
        job: Job,
        pictures: Mapping[str, bytes],
        emit: Emit,
        indexes: Sequence[int] | None = None,
    ) -> None: ...

    def cancel(self, job_id: str) -> None: ...

    def status(self) -> EngineStatus: ...

    def close(self, timeout_seconds: float = 30.0) -> None: ...
