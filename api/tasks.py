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


class ImageFormat(StrEnum):
    """File formats of finished pictures."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"

    @property
    def media_type(self) -> str:
        """The MIME type."""
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """The file name's ending, without a dot."""
        return "jpg" if self is ImageFormat.JPEG else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How finished pictures leave: as which files, where to, and who is told.

    `quality` is 1 to 100, None for the format's own. `destination` names a place of the account
    that gets a copy. `webhooks` are URLs told of the task's end. `base_url` is the origin by which
    the caller reached the server, for absolute links in what is sent without a request. `in_reply`:
    the pictures leave in the reply alone, so that without its caller the task is for nobody.
    """

    format: ImageFormat | None = None
    quality: int | None = None
    destination: str | None = None
    webhooks: tuple[str, ...] = ()
    base_url: str = ""
    in_reply: bool = False


AS_CONFIGURED = Delivery()


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One stored picture of a task; `destination_url` is where its copy lies, if one was asked."""

    index: int
    key: str
    media_type: str
    width: int
    height: int
    seed: int
    size_bytes: int
    sha256: str
    destination_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request as the store holds it; times are milliseconds since the epoch.

    `request` is what the caller asked, `job` what was decided, `delivery` what becomes of the
    pictures. `credits` is the price of all. `attempt` counts claims and is the fence: a worker
    whose attempt is not this one has lost the task. Once `files_deleted_ms` is set, the pictures
    are gone.
    """

    id: str
    dialect: str
    account: str
    state: TaskState
    request: ImageRequest
    job: Job
    delivery: Delivery = AS_CONFIGURED
    credits: int
    attempt: int
    created_ms: int
    started_ms: int | None
    finished_ms: int | None
    cancel_requested: bool
    error_kind: str | None
    error_message: str | None
    files_deleted_ms: int | None = None
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
