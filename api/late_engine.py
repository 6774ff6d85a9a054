"""The engine, made when it is started: no request should wait for torch to be imported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from inference.catalog import Catalog
from inference.errors import EngineClosed
from inference.events import Emit
from inference.job import Job
from inference.settings import EngineSettings
from inference.status import EngineStatus, ModelAction

if TYPE_CHECKING:
    from inference.engine import Engine


class LateEngine:
    """An engine that exists from `start` on; before, it has no devices and takes no work."""

    def __init__(self, catalog: Catalog, settings: EngineSettings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._engine: Engine | None = None
        self._closed = False
        # who closes does not wait for a start, which may hang in a driver
        self._door = threading.Lock()

    def start(self) -> None:
        """Import torch, make the engine, start its workers. Takes seconds: call it in a thread.

        Starts none that was closed meanwhile. Raises DeviceMissing.
        """
        from inference.engine import Engine

        engine = Engine(self._catalog, self._settings)
        with self._door:
            if not self._closed:
                engine.start()
                self._engine = engine

    def submit(
        self,
        job: Job,
        pictures: Mapping[str, bytes],
        emit: Emit,
        indexes: Sequence[int] | None = None,
        previews: Callable[[], bool] = lambda: False,
    ) -> None:
        """As the engine does; raises EngineClosed before `start`."""
        if self._engine is None:
            raise EngineClosed("the engine has not started")
        self._engine.submit(job, pictures, emit, indexes, previews)

    def cancel(self, job_id: str) -> None:
        """As the engine does."""
        if self._engine is not None:
            self._engine.cancel(job_id)

    def manage(self, model: str, action: ModelAction, device: str | None = None) -> None:
        """As the engine does; raises EngineClosed before `start`."""
        if self._engine is None:
            raise EngineClosed("the engine has not started")
        self._engine.manage(model, action, device)

    def status(self) -> EngineStatus:
        """As the engine does; no devices before `start`."""
        return self._engine.status() if self._engine is not None else EngineStatus(devices=())

    def close(self, timeout_seconds: float = 30.0) -> None:
        """As the engine does."""
        with self._door:
            self._closed = True
        if self._engine is not None:
            self._engine.close(timeout_seconds)
