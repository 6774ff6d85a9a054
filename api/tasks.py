"""The durable record of one accepted request, and the states it may pass through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inference.job import ImageRequest, Job


class TaskState(StrEnum):
    """queued → running → succeeded | failed | cancelled; a lost lease leads back to running."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One stored picture of a task."""

    index: int
    key: str
    media_type: str
    width: int
    height: int
    seed: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request as the store holds it; times are milliseconds since the epoch.

    `request` is what the caller asked, `job` what was decided. `attempt` counts claims and is the
    fence: a worker whose attempt is not this one has lost the task.
    """

    id: str
    dialect: str
    account: str
    state: TaskState
    request: ImageRequest
    job: Job
    credits: int
    attempt: int
    created_ms: int
    started_ms: int | None
    finished_ms: int | None
    cancel_requested: bool
    error_kind: str | None
    error_message: str | None
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdate:
    """What a watcher of a task is told; only states and outputs are durable.

    `position` counts the tasks ahead in the queue; `step` of `steps` is for picture `index`;
    `preview` is a small encoded picture.
    """

    task_id: str
    state: TaskState
    position: int | None = None
    index: int | None = None
    step: int | None = None
    steps: int | None = None
    preview: bytes | None = None
    preview_media_type: str | None = None
    output: Output | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """A slice of tasks, newest first; `next_cursor` is None on the last page."""

    tasks: tuple[Task, ...]
    next_cursor: str | None
