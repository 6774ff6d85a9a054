"""The durable record of one accepted request, and the states it may pass through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

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


class TaskKind(StrEnum):
    """What a task does: make pictures, or look at one that it was given."""

    GENERATE = "generate"
    RATE = "rate"
    ALT = "alt"
    REVIEW = "review"


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
    that gets a copy, and `path` what it is called there, None for the place's own way. `webhooks`
    are URLs told of the task's end. `base_url` is the origin by which the caller reached the
    server, for absolute links in what is sent without a request. `in_reply`: the pictures leave in
    the reply alone, so that without its caller the task is for nobody.
    """

    format: ImageFormat | None = None
    quality: int | None = None
    destination: str | None = None
    path: str | None = None
    webhooks: tuple[str, ...] = ()
    base_url: str = ""
    in_reply: bool = False


AS_CONFIGURED = Delivery()


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One answer that a rating may give, and what it stands for."""

    value: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingWish:
    """How pictures are to be rated: by these levels, or as "sfw" or "nsfw" where there are none."""

    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a task is asked for besides its pictures.

    `asked` is the request in its dialect's own words, for replies that repeat it. `magic_prompt`
    and `real_time` have the prompt written out, the latter with what is found on the web. `effort`
    is for a review. Without `tells_hooks` the account's registered webhooks are not told. Where it
    `allows_partial`, a picture that fails leaves the others of its task as they are.
    """

    kind: TaskKind = TaskKind.GENERATE
    asked: Mapping[str, Any] | None = None
    rating: RatingWish | None = None
    magic_prompt: bool = False
    real_time: bool = False
    effort: Literal["low", "high"] = "high"
    tells_hooks: bool = True
    allows_partial: bool = False


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """The level that a picture was given, or why it was given none."""

    level: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhanced:
    """A prompt as it was written out."""

    prompt: str
    negative_prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What came up while a task ran.

    `enhanced` is the prompt that the pictures were made from, where it is not the caller's own,
    and `sources` the addresses that it was enriched from. `result` is what a look at a picture
    said: `level` of a rating, `alt` of a description, `score`, `summary`, `findings` and
    `strengths` of a review. `reason` is why the model of a task that failed could not be loaded; it
    may name folders and addresses of this machine, so that none but our own API tells it.
    """

    enhanced: Enhanced | None = None
    sources: tuple[str, ...] = ()
    result: Mapping[str, Any] | None = None
    reason: str | None = None


NO_FINDINGS = Findings()


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
    rating: Rating | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One picture of a task that will not be made, and why; its others are."""

    index: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request as the store holds it; times are milliseconds since the epoch.

    `request` is what the caller asked, `job` what was decided, `delivery` what becomes of the
    pictures, `extras` what else was asked and `findings` what came of that. `credits` is the price
    of all, and `key_id` names the key that asked. `attempt` counts claims and is the fence: a
    worker whose attempt is not this one has lost the task. Once `files_deleted_ms` is set, the
    pictures are gone. `outputs` is what was stored, and `pictures` what of that anybody may have.
    One that succeeded has an output or a failure for each picture.
    """

    id: str
    dialect: str
    account: str
    key_id: str | None = None
    state: TaskState
    request: ImageRequest
    job: Job
    delivery: Delivery = AS_CONFIGURED
    extras: Extras = NO_EXTRAS
    findings: Findings = NO_FINDINGS
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
    failures: tuple[Failure, ...] = ()

    @property
    def pictures(self) -> tuple[Output, ...]:
        """The outputs that are anybody's: what is told, listed and sent is these alone.

        Of a task that is made whole or not at all, none is before it has ended; of one that failed
        none ever is, since its price is given back.
        """
        if self.state is TaskState.FAILED:
            return ()
        return self.outputs if self.state.ended or self.extras.allows_partial else ()

    @property
    def cost(self) -> int:
        """What it has cost once it has ended, in credits: the price of what was made of it.

        One that is cancelled has its pictures still, which a stream or a list may have shown long
        ago.
        """
        if self.state is TaskState.CANCELLED:
            return len(self.pictures) * self.picture_credits
        if self.state is not TaskState.SUCCEEDED:
            return 0
        return self.credits - len(self.failures) * self.picture_credits

    @property
    def picture_credits(self) -> int:
        """The price of one picture."""
        return self.credits // max(len(self.job.seeds), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdate:
    """What a watcher of a task is told; only states, outputs and failures are durable.

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
    failure: Failure | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """A slice of tasks, newest first; `next_cursor` is None on the last page."""

    tasks: tuple[Task, ...]
    next_cursor: str | None
