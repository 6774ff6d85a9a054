"""What goes into the store and comes out of it, beside the task itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from api.accounts import NOBODY, Caller
from api.idempotency import Once, Reply
from api.tasks import AS_CONFIGURED, NO_EXTRAS, Delivery, Extras, Task
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
    """A new task, before the store has given it a time; `job.id` is the task's id.

    `once` makes it count once, however often it is sent. `answer` is what the caller is told of
    the new task, kept for those who send it again; None where that is known only later.
    """

    dialect: str
    request: ImageRequest
    job: Job
    credits: int
    delivery: Delivery = AS_CONFIGURED
    extras: Extras = NO_EXTRAS
    caller: Caller = NOBODY
    once: Once | None = None
    answer: Callable[[Task], Reply] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A task that was accepted, now or, if `is_replay`, when the request came first.

    `reply` is what was, or is to be, answered; None while nobody has said.
    """

    task: Task
    reply: Reply | None = None
    is_replay: bool = False


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
