"""Between ModelMux's wire types and the neutral ones; pure, no I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from api.body import Body, FilePart, short
from api.dialects.base import ErrorBody, ErrorContext, status_of
from api.dialects.modelmux.schema import WITHOUT_QUALITY, GenerationRequest, Status
from api.errors import ApiError, BadRequest, NotFound, kind_of
from api.idempotency import Reply
from api.links import LinkedPicture
from api.orders import Order, Upload
from api.tasks import ImageFormat, Output, Task, TaskKind, TaskState
from inference.errors import EngineError, Refused
from inference.job import ImageRequest, ImageRole

PROVIDER = "darkroom"
FILE = "/api/storage/file"
ENDINGS = "|".join(one.extension for one in ImageFormat)

STATUSES: dict[TaskState, Status] = {
    TaskState.QUEUED: "pending",
    TaskState.RUNNING: "processing",
    TaskState.SUCCEEDED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "failed",
}

CODES = {
    "bad_request": "invalid_request",
    "bad_value": "invalid_request",
    "unsupported": "invalid_request",
    "unknown_model": "unsupported_model",
    "not_found": "not_found",
    "not_ready": "image_not_ready",
    "unauthorized": "unauthorized",
    "no_credits": "insufficient_credits",
    "forbidden": "forbidden",
    "gone": "not_found",
    "idempotency_mismatch": "idempotency_mismatch",
    "idempotency_running": "idempotency_running",
    "rate_limited": "rate_limited",
    "overloaded": "rate_limited",
    "method_not_allowed": "method_not_allowed",
    "too_large": "payload_too_large",
    "unsupported_media": "unsupported_media_type",
    "queue_full": "rate_limited",
    "unavailable": "unavailable",
    "closed": "unavailable",
}
# Where its table of statuses has another, or none.
STATUS_BY_KIND = {"unknown_model": 400, "gone": 404, "overloaded": 429}
# Clients name the pictures of a form so, as the provider publishes no names; any file will do.
PICTURE_PARTS = frozenset(
    {
        *("image", "image[]", "images", "images[]", "file", "files", "reference", "references"),
        *("referenceImage", "referenceImages", "referenceImages[]", "reference_image"),
    }
)
CODES_BY_FIELD = {"model": "unsupported_model", "resolution": "unsupported_resolution"}


def plain(body: Body) -> Body:
    """The body as if nulls, and the empty fields of a form, had been left out; raises BadRequest.

    A picture that came as text would be no more than an unknown field, and what it was to change
    would be made, and charged, without it.
    """
    empty = (None, "") if body.is_form else (None,)
    values = {name: value for name, value in body.values.items() if value not in empty}
    for name in PICTURE_PARTS.intersection(values) if body.is_form else ():
        raise BadRequest(f"{name} must be a file, not text", field=name)
    return Body(values=values, files=body.files, is_form=body.is_form)


def to_order(wire: GenerationRequest, files: Sequence[FilePart]) -> Order:
    """The neutral order."""
    return Order(request=to_request(wire), dialect="modelmux", uploads=to_uploads(files))


def to_created(task: Task, sign: Callable[[str], str]) -> Reply:
    """The reply to a creation."""
    return Reply(status=200, body=to_body(task, sign))


def to_request(wire: GenerationRequest) -> ImageRequest:
    """The neutral wish."""
    return ImageRequest(
        model=wire.model,
        prompt=wire.prompt,
        aspect_ratio=wire.aspectRatio,
        resolution=wire.resolution,
        quality=None if wire.model in WITHOUT_QUALITY else wire.quality,
    )


def to_uploads(files: Sequence[FilePart]) -> list[Upload]:
    """Every file part is a reference picture, whatever its name."""
    return [Upload(role=ImageRole.SOURCE, field=short(part.name), data=part.data) for part in files]


def own(task: Task) -> Task:
    """The task, if it makes pictures, by whatever dialect; raises NotFound."""
    if task.extras.kind is not TaskKind.GENERATE:
        raise NotFound("there is no such generation")
    return task


def to_body(task: Task, sign: Callable[[str], str]) -> dict[str, Any]:
    """The reply to a creation or a poll; `sign` adds a signature to the key of a picture."""
    common: dict[str, Any] = {
        "historyId": task.id,
        "status": STATUSES[task.state],
        "provider": PROVIDER,
        "model": task.request.model,
        "resolution": task.request.resolution or "1k",
        "aspectRatio": task.request.aspect_ratio or _ratio(task.job.width, task.job.height),
    }
    if not task.state.ended:
        return common | {"creditsCharged": task.credits, "createdAt": task.created_ms}
    common |= {"completedAt": task.finished_ms or task.created_ms, "creditsUsed": task.cost}
    return common | _end(task, sign)


def _end(task: Task, sign: Callable[[str], str]) -> dict[str, Any]:
    """What became of the first picture, which is all that is told here of a task of several.

    It is paid for if it was made, also where the task was cancelled after that.
    """
    for output in task.pictures:
        if output.index == 0:
            return {"status": "completed", "outputUrl": to_url(task.id, output, sign)}
    reasons = [one.message for one in task.failures if one.index == 0] + [task.error_message]
    reason = "cancelled" if task.state is TaskState.CANCELLED else "the generation failed"
    return {"status": "failed", "errorMessage": reasons[0] or reason}


def to_url(task_id: str, output: Output, sign: Callable[[str], str]) -> str:
    """Where the picture of a task is, relative to the root; the signature is part of the key."""
    key = sign(f"generated/{task_id}/{output.index}.{_ending(output)}")
    return f"{FILE}?{urlencode({'key': key}, safe='/')}"


def file_name(task_id: str, output: Output) -> str:
    """What a picture is to be saved as."""
    return f"{task_id}.{_ending(output)}"


def split_key(key: str) -> tuple[str, dict[str, str]]:
    """What a key was signed as, and its signature; empty if it has none."""
    signed, _, signature = key.partition("?")
    return signed, dict(parse_qsl(signature))


def task_id_of(signed: str) -> str:
    """The task whose picture a key names; raises NotFound."""
    match = re.fullmatch(rf"generated/([A-Za-z0-9_-]{{1,64}})/0\.(?:{ENDINGS})", signed)
    if match is None:
        raise NotFound("there is no such file")
    return match[1]


def to_linked(path: str, query: Mapping[str, str]) -> LinkedPicture | None:
    """The picture that an `outputUrl` names, if it is one with a signature."""
    signed, signature = split_key(query.get("key", ""))
    if path != FILE or not signature:
        return None
    try:
        return LinkedPicture(signed, signature, task_id_of(signed), 0)
    except NotFound:
        return None


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    """The error object; whatever is wrong with a request's content is a 400 here."""
    kind, status = kind_of(error), status_of(error)
    status = STATUS_BY_KIND.get(kind, status)
    code = CODES.get(kind, "internal_error")
    if isinstance(error, Refused):
        code = CODES_BY_FIELD.get(error.field, code)
    return ErrorBody(status=status, body={"error": str(error), "code": code})


def _ending(output: Output) -> str:
    return ImageFormat(output.media_type.removeprefix("image/")).extension


def _ratio(width: int, height: int) -> str:
    unit = math.gcd(width, height)
    return f"{width // unit}:{height // unit}"
