"""Between Model Buffet's wire types and the neutral ones; pure, no I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from api.body import Body
from api.dialects.base import ErrorBody, ErrorContext, status_of
from api.dialects.modelbuffet.schema import EditRequest, GenerateRequest, Status
from api.dialects.wire import in_brackets, without_nulls
from api.errors import ApiError, NotFound, UnsupportedMedia, field_of, kind_of
from api.idempotency import Reply
from api.limits import Allowance
from api.links import PictureLink, pictures_at
from api.orders import Order, Upload, picture_of, random_id
from api.tasks import Delivery, ImageFormat, Output, Task, TaskState
from inference.errors import EngineError
from inference.job import ImageRequest, ImageRole, ReferenceTag

NAME = "modelbuffet"
PREFIX = "gen_"
ID_CHARS = 10

# 2:3 is documented; the others hold 1.0 to 1.4 million pixels, in whole steps of 32.
SIZES_PX = {
    "1:1": (1024, 1024),
    "4:5": (1024, 1280),
    "2:3": (1024, 1536),
    "16:9": (1536, 864),
    "21:9": (1792, 768),
    "9:16": (864, 1536),
}

STATUSES: dict[TaskState, Status] = {
    TaskState.QUEUED: "queued",
    TaskState.RUNNING: "processing",
    TaskState.SUCCEEDED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "failed",
}

# The type and the code of an error.
ERRORS = {
    "bad_request": ("invalid_request", "invalid_request"),
    "bad_value": ("invalid_request", "invalid_request"),
    "unsupported": ("invalid_request", "unsupported_by_model"),
    "unauthorized": ("authentication", "unauthorized"),
    "no_credits": ("billing", "insufficient_credits"),
    "forbidden": ("permission", "forbidden"),
    "unknown_model": ("not_found", "model_not_found"),
    "not_found": ("not_found", "not_found"),
    "not_ready": ("not_found", "not_ready"),
    "gone": ("not_found", "expired"),
    "method_not_allowed": ("invalid_request", "method_not_allowed"),
    "idempotency_mismatch": ("conflict", "idempotency_conflict"),
    "idempotency_running": ("conflict", "idempotency_in_progress"),
    "too_large": ("invalid_request", "payload_too_large"),
    "unsupported_media": ("invalid_request", "unsupported_media_type"),
    "rate_limited": ("rate_limit", "rate_limited"),
    "queue_full": ("rate_limit", "too_many_unfinished"),
    "overloaded": ("server", "overloaded"),
    "unavailable": ("server", "unavailable"),
    "closed": ("server", "unavailable"),
}
INTERNAL = ("server", "internal_error")
# Where it has another status than most.
STATUS_BY_KIND = {"idempotency_mismatch": 409}


def plain_json(body: Body) -> Body:
    """The body as if null fields had been left out; raises UnsupportedMedia for a form."""
    if body.is_form:
        raise UnsupportedMedia("send Content-Type: application/json; pictures go in as text")
    values: dict[str, Any] = without_nulls(body.values)
    return Body(values=values)


def to_order(wire: GenerateRequest, base_url: str) -> Order:
    """The neutral order, the pictures of an edit included; raises BadRequest."""
    return Order(
        request=to_request(wire),
        dialect=NAME,
        uploads=[*to_sources(wire), *to_references(wire)],
        delivery=Delivery(webhooks=(wire.webhook,) if wire.webhook else (), base_url=base_url),
        new_id=partial(random_id, ID_CHARS),
    )


def to_request(wire: GenerateRequest) -> ImageRequest:
    """The neutral wish; the model makes the size of its own that comes nearest."""
    width, height = SIZES_PX[wire.aspect_ratio]
    return ImageRequest(
        model=wire.model,
        prompt=wire.prompt,
        negative_prompt=wire.negative_prompt,
        width=width,
        height=height,
        count=wire.count,
        seed=wire.seed,
    )


def to_sources(wire: GenerateRequest) -> list[Upload]:
    """The picture of an edit and its mask."""
    if not isinstance(wire, EditRequest):
        return []
    source = Upload(role=ImageRole.SOURCE, field="image", data=picture_of(wire.image, "image"))
    if wire.mask is None:
        return [source]
    mask = Upload(role=ImageRole.MASK, field="mask", data=picture_of(wire.mask, "mask"))
    return [source, mask]


def to_references(wire: GenerateRequest) -> list[Upload]:
    """The pictures that are to guide, with what each is for."""
    fields = [f"references[{number}].url" for number in range(len(wire.references))]
    return [
        Upload(
            role=ImageRole.REFERENCE,
            field=field,
            data=picture_of(reference.url, field),
            tag=ReferenceTag(reference.tag),
            weight=reference.weight,
        )
        for field, reference in zip(fields, wire.references, strict=True)
    ]


def task_id_of(generation_id: str) -> str:
    """The id under which we keep a generation."""
    return generation_id.removeprefix(PREFIX)


def own(task: Task) -> Task:
    """The task, if a generation of this dialect made it; raises NotFound."""
    if task.dialect != NAME:
        raise NotFound("there is no such generation")
    return task


def to_reply(task: Task, link: PictureLink, *, preference: str | None = None) -> Reply:
    """The reply to a creation: 200 once it has ended, 202 before.

    A generation that failed is a 200 as well. The call did its work, and the object tells its end
    just as reading it later does; of a 5xx clients would think that nothing was kept, and send it
    again. It costs nothing. `preference` is the one of the caller's that was followed.
    """
    headers = {"Preference-Applied": preference} if preference is not None else {}
    return Reply(status=200 if task.state.ended else 202, body=to_body(task, link), headers=headers)


def to_body(task: Task, link: PictureLink) -> dict[str, Any]:
    """A `Generation`."""
    ended_ms = task.created_ms if task.finished_ms is None else task.finished_ms
    told: dict[str, Any] = {
        "id": PREFIX + task.id,
        "status": STATUSES[task.state],
        "model": task.request.model,
        "credits_used": task.cost,
        "duration_ms": max(ended_ms - task.created_ms, 0),
        "outputs": [_output(task, one, link) for one in task.pictures],
    }
    if told["status"] == "failed":
        told["error"] = _failure(task)
    return told


def picture_path(task_id: str, index: int, extension: str) -> str:
    """Where a picture is fetched by signed link."""
    return f"/o/{PREFIX}{task_id}/{index}.{extension}"


LINKED = pictures_at(rf"/o/{PREFIX}(?P<task>[A-Za-z0-9_-]+)/(?P<index>\d{{1,4}})\.[a-z]+")


def wants_async(prefer: Iterable[str]) -> bool:
    """Whether the `Prefer` headers of a request ask for an answer at once."""
    # what stands in quotes is a value, whatever it says
    plain = re.sub(r'"(\\.|[^"\\])*"', "", ",".join(prefer))
    return any(one.split(";")[0].strip().lower() == "respond-async" for one in plain.split(","))


def to_rate_headers(allowance: Allowance, now_seconds: float) -> dict[str, str]:
    """What a caller has left; the reset is the second since the epoch when all is back."""
    return {
        "X-RateLimit-Limit": str(allowance.limit),
        "X-RateLimit-Remaining": str(allowance.remaining),
        "X-RateLimit-Reset": str(math.ceil(now_seconds + allowance.reset_seconds)),
    }


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    """The error object; fields of a reference are named as one would write them in code."""
    kind, field, message = kind_of(error), field_of(error), str(error)
    kind_of_error, code = ERRORS.get(kind, INTERNAL)
    param = in_brackets(field) if field is not None else None
    if field is not None and param is not None:
        message = message.replace(field, param)
    detail = {"type": kind_of_error, "code": code, "message": message, "param": param}
    return ErrorBody(
        status=STATUS_BY_KIND.get(kind, status_of(error)),
        body={"error": detail, "request_id": context.request_id},
    )


def _output(task: Task, output: Output, link: PictureLink) -> dict[str, Any]:
    extension = ImageFormat(output.media_type.removeprefix("image/")).extension
    return {
        "url": link(picture_path(task.id, output.index, extension), output.key),
        "width": output.width,
        "height": output.height,
        "seed": output.seed,
    }


def _failure(task: Task) -> dict[str, str]:
    if task.state is TaskState.CANCELLED:
        return {"code": "cancelled", "message": "the generation was cancelled"}
    return {
        "code": task.error_kind or "generation_failed",
        "message": task.error_message or "the generation failed",
    }
