"""What running a task takes: the engine as the service sees it, and where everything goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from api.assistants import NO_ASSISTANTS, Assistants
from api.destinations import Deliver, deliver_nowhere
from api.loras import FetchedLoras
from api.outputs import PLAIN_STYLE, FileStyle
from api.storage import Storage
from api.store import Store
from api.tally import NO_TALLY, Tally
from api.watch import Updates
from inference.events import Emit
from inference.job import Job
from inference.status import EngineStatus, ModelAction


class EnginePort(Protocol):
    """What the service needs of an engine; `inference.engine.Engine` is one."""

    def start(self) -> None: ...

    def submit(
        self,
        job: Job,
        pictures: Mapping[str, bytes],
        emit: Emit,
        indexes: Sequence[int] | None = None,
        previews: Callable[[], bool] = ...,
    ) -> None: ...

    def cancel(self, job_id: str) -> None: ...

    def manage(self, model: str, action: ModelAction, device: str | None = None) -> None: ...

    def status(self) -> EngineStatus: ...

    def close(self, timeout_seconds: float = 30.0) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What running a task takes; `pixels` is where pictures are encoded."""

    engine: EnginePort
    store: Store
    storage: Storage
    loras: FetchedLoras
    updates: Updates
    pixels: Executor
    style: FileStyle = PLAIN_STYLE
    deliver: Deliver = deliver_nowhere
    assistants: Assistants = NO_ASSISTANTS
    tally: Tally = NO_TALLY
