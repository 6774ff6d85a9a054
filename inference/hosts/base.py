"""The small port between the engine and wherever a worker runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.events import Emit
from inference.job import Job
from inference.status import DeviceStatus, ModelAction


@dataclass(frozen=True, slots=True)
class Submit:
    """Make these pictures of a job; `previews` tells whether anybody looks at the moment."""

    job: Job
    pictures: Mapping[str, bytes]
    emit: Emit
    indexes: Sequence[int]
    previews: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up every unfinished picture of the job with this id."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Manage:
    """What an operator wants of a model."""

    model: str
    action: ModelAction


@dataclass(frozen=True, slots=True)
class Close:
    """Finish until `deadline` (time.monotonic), cancel what is left, stop."""

    deadline: float


Command = Submit | Cancel | Manage | Close


class Host(Protocol):
    """Runs one worker; commands go in here, events come out through each job's `emit`."""

    def start(self) -> None:
        """Begin to run; models load behind it."""

    def send(self, command: Command) -> None:
        """Hand a command in, from any thread; it is taken up between two steps."""

    @property
    def ended(self) -> bool:
        """Whether it runs no more, for whatever reason; what it is still sent is cancelled."""

    def status(self) -> DeviceStatus:
        """What the worker is doing, from any thread."""

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end after Close; False if it has not come in time."""
