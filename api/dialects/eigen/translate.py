"""Between Eigen's wire types and the neutral ones; pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from api.body import Body, short
from api.clock import iso_utc
from api.dialects.base import ErrorBody, ErrorContext, status_of
from api.dialects.eigen.schema import (
    GUIDANCE,
    PARTS,
    SIDE_PX,
    STEPS,
    GenerateRequest,
    Status,
)
from api.dialects.eigen.uploads import agreed
from api.dialects.orders import NotMade, made
from api.errors import ApiError, BadRequest, NotFound, field_of, kind_of
from api.idempotency import Reply
from api.orders import Order, Upload
from api.tasks import Delivery, Extras, ImageFormat, Task, TaskState
from inference.catalog import Catalog
from inference.errors import EngineError, Refused
from inference.job import ImageRequest, Mode

NAME = "eigen"
LIGHTNING = "lightning"
# What the provider documents, by neutral names. Clients that send every default are not to be
# refused for one that the model has no use for.
DEFAULTS = {
    "num_inference_steps": 30,
    "guidance_scale": 1.0,
    "lora_strength": 0.8,
    "lora_rank": 32,
}

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
    "unsupported": "unsupported",
    "unknown_model": "model_not_found",
    "not_found": "not_found",
    "not_ready": "not_ready",
    "gone": "expired",
    "unauthorized": "unauthorized",
    "forbidden": "forbidden",
    "no_credits": "insufficient_credits",
    "too_large": "payload_too_large",
    "unsupported_media": "unsupported_media_type",
    "idempotency_mismatch": "idempotency_mismatch",
    "idempotency_running": "idempotency_running",
    "method_not_allowed": "method_not_allowed",
    "rate_limited": "rate_limited",
    "queue_full": "rate_limited",
    "overloaded": "overloaded",
    "unavailable": "unavailable",
    "closed": "unavailable",
}
STATUS_BY_KIND = {"not_ready": 409}
# Neutral names that stand for themselves in a message, and are to be told in the caller's words.
WORDS = ("num_inference_steps", "guidance_scale", "lora_rank", "profile")


def plain(body: Body) -> Body:
    """The body as if nulls, and the empty fields of a form, had been left out; raises BadRequest.

    Of several texts by one name a form keeps the last, so that pictures must be files there.
    """
    empty = (None, "") if body.is_form else (None,)
    values = {name: value for name, value in body.values.items() if value not in empty}
    for name in values if body.is_form else ():
        if name.removesuffix("[]") in PARTS:
            what = f"{short(name)} must be a file, not text; send an address as image_url"
            raise BadRequest(what, field=short(name))
    return Body(values=values, files=body.files, is_form=body.is_form)


def to_order(wire: GenerateRequest, uploads: Sequence[Upload], delivery: Delivery) -> Order:
    """The neutral order; raises BadRequest."""
    if wire.mode == "image-editing" and not uploads:
        names = f"{', '.join(PARTS)}, image_path or image_url"
        what = f"mode image-editing needs a picture to edit; send it as {names}"
        raise BadRequest(what, field="image")
    if wire.real_time and uploads:
        what = "real_time is for text-to-image alone; leave it out or send no picture"
        raise BadRequest(what, field="real_time")
    return Order(
        request=to_request(wire, edits=bool(uploads)),
        dialect=NAME,
        uploads=uploads,
        delivery=delivery,
        extras=Extras(real_time=wire.real_time),
        path_field="s3_output_path",
    )


def to_request(wire: GenerateRequest, *, edits: bool) -> ImageRequest:
    """The neutral wish: of what the caller did not say, all but a size is the model's choice."""
    width, height = to_size(wire, edits=edits)
    optional = {
        "num_inference_steps": _value(wire, STEPS),
        "guidance_scale": _value(wire, GUIDANCE),
        "lora_strength": wire.lora_strength,
        "lora_rank": wire.rank,
    }
    return ImageRequest(
        model=wire.model,
        prompt=wire.prompt,
        negative_prompt=wire.negative_prompt,
        width=width,
        height=height,
        seed=wire.seed,
        profile=wire.weight,
        downsizing_mp=wire.downsizing_mp,
        by_default=tuple(name for name in DEFAULTS if optional[name] == DEFAULTS[name]),
        **optional,
    )


def to_size(wire: GenerateRequest, *, edits: bool) -> tuple[int | None, int | None]:
    """Width and height in pixels; neither for an edit that is to be as its source.

    The provider knows them for pictures made of words alone, so that an edit that repeats their
    defaults says nothing of its size.
    """
    sides = wire.width or SIDE_PX, wire.height or SIDE_PX
    if wire.size is not None and wire.width is None and wire.height is None:
        width, height = wire.size.split("x")
        return int(width), int(height)
    return (None, None) if edits and sides == (SIDE_PX, SIDE_PX) else sides


def to_object(s3_path: str) -> tuple[str, str]:
    """The bucket and the key of an s3:// path."""
    bucket, _, key = s3_path.removeprefix("s3://").partition("/")
    return bucket, key


def to_format(wire: GenerateRequest) -> ImageFormat:
    """The file that is asked for."""
    return ImageFormat.PNG if wire.output_format == "png" else ImageFormat.JPEG


class NeverMade(NotMade):
    """The job ended without a picture, so that asking for it again is in vain."""


def check_made(task: Task) -> None:
    """Raise NeverMade if the job ended without its picture."""
    try:
        made(task)
    except NotMade as error:
        raise NeverMade(str(error), reason=error.reason) from None


@contextmanager
def in_their_words(wire: GenerateRequest, uploads: Sequence[Upload]) -> Iterator[None]:
    """Whatever is refused meanwhile names the field that the caller used."""
    try:
        yield
    except Refused as refused:
        names = {
            "num_inference_steps": _name(wire, STEPS),
            "strength": _name(wire, STEPS),
            "guidance_scale": _name(wire, GUIDANCE),
            **{"lora_rank": "rank", "profile": "weight"},
            "image": uploads[0].field if uploads else "image",
        }
        field = names.get(refused.field, refused.field)
        message = str(refused)
        if refused.field in WORDS:
            message = re.sub(rf"\b{refused.field}\b", field, message, count=1)
        raise type(refused)(field, message) from None


def to_accepted(task: Task) -> Reply:
    """The reply to a job."""
    return Reply(status=200, body={"task_id": task.id, "task_status": STATUSES[task.state]})


def to_status(task: Task) -> dict[str, Any]:
    """How a job stands."""
    error = None
    if STATUSES[task.state] == "failed":
        cancelled = task.state is TaskState.CANCELLED
        error = "the job was cancelled" if cancelled else task.error_message or "the job failed"
    return {
        "task_id": task.id,
        "status": STATUSES[task.state],
        "start_time": _time(task.started_ms),
        "end_time": _time(task.finished_ms),
        "error": error,
    }


def own(task: Task, model: str | None) -> Task:
    """The task, if it was asked for here, and of that model if one is named; raises NotFound."""
    if task.dialect != NAME or model not in (None, "", task.request.model):
        raise NotFound("there is no such job")
    return task


def to_body(
    task: Task, wire: GenerateRequest, *, image: str, request_id: str, catalog: Catalog
) -> dict[str, Any]:
    """The reply to a task that succeeded; `image` is its picture in base64."""
    output = task.pictures[0]
    edited = task.job.mode is not Mode.GENERATE
    started_ms, finished_ms = task.started_ms or task.created_ms, task.finished_ms or 0
    body: dict[str, Any] = {
        "image_base64": image,
        "edited_image_base64" if edited else "turbo_image_base64": image,
        "seed": output.seed,
        "width": output.width,
        "height": output.height,
        "model": task.request.model,
        "request_id": request_id,
        "processing_time_seconds": max(finished_ms - started_ms, 0) / 1000,
        "use_lightning": _profile(task, catalog) == LIGHTNING,
    }
    if wire.s3_output_path is not None:
        body["s3_output_path"] = wire.s3_output_path
    if task.findings.sources:
        body["sources"] = list(task.findings.sources)
    return body


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    """The error object: the text under each of the names that clients look for it by."""
    kind, field, text = kind_of(error), field_of(error), str(error)
    if field is not None and not re.search(rf"\b{re.escape(field)}\b", text):
        text = f"{field}: {text}"
    code = error.reason if isinstance(error, NotMade) else CODES.get(kind, "internal_error")
    status = STATUS_BY_KIND.get(kind, status_of(error))
    if code == "cancelled" or isinstance(error, NeverMade):
        # clients repeat what ends in a 5xx, and nothing is to be had by asking again
        status = 410
    if status == 405:
        code = "method_not_allowed"
    texts = {"error": text, "message": text, "detail": text}
    return ErrorBody(status=status, body=texts | {"code": code, "request_id": context.request_id})


def file_name(task: Task) -> str:
    """What a picture is to be saved as."""
    format = ImageFormat(task.pictures[0].media_type.removeprefix("image/"))
    return f"{task.id}.{format.extension}"


def _given(wire: GenerateRequest, names: Sequence[str]) -> dict[str, Any]:
    """What is said by several names of one thing; a default only if nothing else is."""
    values = {name: getattr(wire, name) for name in names}
    said = {name: value for name, value in values.items() if value is not None}
    return {name: value for name, value in said.items() if value != DEFAULTS.get(name)} or said


def _value(wire: GenerateRequest, names: Sequence[str]) -> Any:
    found = agreed(_given(wire, names))
    return found and found[1]


def _name(wire: GenerateRequest, names: Sequence[str]) -> str:
    return next(iter(_given(wire, names)), names[0])


def _profile(task: Task, catalog: Catalog) -> str | None:
    spec = catalog.models.get(task.job.model)
    return task.request.profile or (spec.defaults.profile if spec is not None else None)


def _time(ms: int | None) -> str | None:
    return iso_utc(ms) if ms is not None else None
