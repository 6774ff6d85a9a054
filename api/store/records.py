"""What goes into the store and comes out of it, beside the task itself."""

from __future__ import annotations

from dataclasses import dataclass

from api.tasks import AS_CONFIGURED, Delivery, Task
from inference.job import ImageRequest, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many tasks and pictures may be unfinished; None is unbounded."""

    tasks: int
    images: int
    account_tasks: int | None = None
    account_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A new task, before the store has given it a time; `job.id` is the task's id."""

    dialect: str
    request: ImageRequest
    job: Job
    credits: int
    delivery: Delivery = AS_CONFIGURED


@dataclass(frozen=True, slots=True)
class Holding:
    """The right to run a task: valid while the row still names this worker and attempt."""

    task_id: str
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A task to run; `tries` counts the claims that were not given back, this one included."""

    task: Task
    holding: Holding
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What has not ended."""

    queued_tasks: int
    running_tasks: int
    images: int
