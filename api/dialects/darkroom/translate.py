"""Between our own wire types and the neutral ones; pure, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from api.body import Body, FilePart, parse_json, short
from api.clock import iso_utc
from api.dialects.base import ErrorBody, ErrorContext, status_of
from api.dialects.darkroom.schema import GenerationRequest, State
from api.errors import ApiError, BadRequest, field_of, kind_of
from api.idempotency import Reply
from api.links import PictureLink, pictures_at
from api.orders import Order, Remote, Upload, picture_of
from api.submit import QueueStatus
from api.tasks import Delivery, Extras, Failure, ImageFormat, Output, Task
from inference.errors import EngineError
from inference.job import ImageRequest, ImageRole, Lora, Mode, ReferenceTag

PREFIX = "/darkroom"
PROBLEM_TYPE = "application/problem+json"
WISHES = {
    *("model", "prompt", "negative_prompt", "width", "height", "aspect_ratio", "resolution"),
    *("quality", "count", "seed", "num_inference_steps", "guidance_scale", "strength"),
    *("profile", "lora_strength", "lora_rank"),
    *("downsizing_mp", "sampler", "mask_blur", "offloading"),
}
# What a form holds as JSON text.
LISTS = ("images", "loras", "references")
ROLES = {"image": ImageRole.SOURCE, "mask": ImageRole.MASK}
STATES: tuple[str, ...] = get_args(State)

TITLES = {
    "bad_request": "The request is malformed",
    "bad_value": "A value is out of bounds",
    "unsupported": "The model cannot do that",
    "unknown_model": "No such model",
    "not_found": "Nothing is here",
    "conflict": "The name is taken",
    "not_ready": "The picture is not made yet",
    "unauthorized": "A key is needed",
    "no_credits": "Not enough credits",
    "gone": "The picture was deleted",
    "idempotency_mismatch": "The idempotency key was used for another request",
    "idempotency_running": "The first request with that idempotency key is still at work",
    "rate_limited": "Too many requests",
    "overloaded": "Too much is waiting already",
    "forbidden": "Not allowed",
    "method_not_allowed": "The path has no such method",
    "too_large": "The request is too large",
    "unsupported_media": "That content type is not taken",
    "queue_full": "Too much is waiting already",
    "unavailable": "No work is taken right now",
    "closed": "No work is taken right now",
    "internal": "Something went wrong here",
}
# Names are given in our own API alone.
STATUS_BY_KIND = {"conflict": 409}


def to_order(wire: GenerationRequest, files: Sequence[FilePart], base_url: str) -> Order:
    """The neutral order, its pictures from fields and file parts; raises BadRequest."""
    return Order(
        request=to_request(wire),
        dialect="darkroom",
        uploads=[*to_uploads(wire, files), *to_references(wire)],
        delivery=Delivery(
            format=ImageFormat(wire.output_format) if wire.output_format else None,
            quality=wire.output_quality,
            destination=wire.destination,
            path=wire.destination_path,
            webhooks=(wire.webhook,) if wire.webhook else (),
            base_url=base_url,
        ),
        extras=Extras(allows_partial=True),
        priority=wire.priority,
    )


def to_request(wire: GenerationRequest) -> ImageRequest:
    """The neutral wish; its pictures travel beside it."""
    fields = wire.model_dump(include=WISHES)
    loras = tuple(Lora(**use.model_dump()) for use in wire.loras)
    return ImageRequest(mode=Mode(wire.mode) if wire.mode else None, loras=loras, **fields)


def to_references(wire: GenerationRequest) -> list[Upload]:
    """The pictures that are to guide."""
    return [
        Upload(
            role=ImageRole.REFERENCE,
            field=f"references.{number}.image",
            data=picture_of(reference.image, f"references.{number}.image"),
            tag=ReferenceTag(reference.tag),
            weight=reference.weight,
        )
        for number, reference in enumerate(wire.references)
    ]


def to_uploads(wire: GenerationRequest, files: Sequence[FilePart]) -> list[Upload]:
    """The sources and the mask, from fields and file parts; raises BadRequest."""
    found: list[tuple[str, str, bytes | Remote]] = []
    for name, text in (("image", wire.image), ("mask", wire.mask)):
        if text is not None:
            found.append((name, name, picture_of(text, name)))
    for number, text in enumerate(wire.images):
        field = f"images.{number}"
        found.append(("image", field, picture_of(text, field)))
    for part in files:
        if part.name not in ROLES:
            name = short(part.name)
            raise BadRequest(f"no file is taken as {name!r}, only as image and mask", field=name)
        found.append((part.name, part.name, part.data))
    if sum(name == "mask" for name, _, _ in found) > 1:
        raise BadRequest("send one mask, not several", field="mask")
    return [Upload(role=ROLES[name], field=field, data=data) for name, field, data in found]


def with_lists(body: Body) -> Body:
    """The body, where lists that a form holds as JSON text are lists; raises BadRequest."""
    if not body.is_form:
        return body
    values = dict(body.values)
    for name in LISTS:
        if isinstance(text := values.get(name), str):
            values[name] = parse_json(f'{{"{name}": {text}}}'.encode()).get(name)
    return replace(body, values=values)


def to_created(task: Task, link: PictureLink) -> Reply:
    """The reply to a creation."""
    told = to_body(task, link)
    return Reply(status=202, body=told, headers={"Location": told["links"]["self"]})


def to_body(task: Task, link: PictureLink) -> dict[str, Any]:
    """A `Generation`."""
    job = task.job
    here = f"{PREFIX}/generations/{task.id}"
    failed = task.error_kind is not None or task.error_message is not None
    error = {
        "kind": task.error_kind or "failed",
        "message": task.error_message or "no reason",
        "reason": task.findings.reason,
    }
    return {
        "id": task.id,
        "state": task.state.value,
        "requested_model": task.request.model,
        "model": job.model,
        "mode": job.mode.value,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "width": job.width,
        "height": job.height,
        "count": len(job.seeds),
        "seeds": list(job.seeds),
        "num_inference_steps": job.num_inference_steps,
        "guidance_scale": job.guidance_scale,
        "strength": job.strength if job.takes_strength else None,
        "loras": [
            {"name": lora.name, "strength": lora.strength, "rank": lora.rank} for lora in job.loras
        ],
        "downsizing_mp": job.downsizing_mp,
        "sampler": job.sampler,
        "mask_blur": job.mask_blur if job.mode is Mode.INPAINT else None,
        "credits": task.credits,
        "cost": task.cost if task.state.ended else None,
        "attempt": task.attempt,
        "created_at": to_time(task.created_ms),
        "started_at": to_time(task.started_ms),
        "finished_at": to_time(task.finished_ms),
        "cancel_requested": task.cancel_requested,
        "error": error if failed else None,
        "images": [to_picture(task, output, link) for output in task.pictures],
        "failures": [to_failure(task, failure) for failure in task.failures],
        "links": {"self": here, "events": f"{here}/events", "cancel": f"{here}/cancel"},
    }


def to_picture(task: Task, output: Output, link: PictureLink) -> dict[str, Any]:
    """A `Picture`."""
    return {
        "index": output.index,
        "url": link(file_path(task.id, output), output.key),
        "width": output.width,
        "height": output.height,
        "seed": output.seed,
        "num_inference_steps": task.job.num_inference_steps,
        "guidance_scale": task.job.guidance_scale,
        "media_type": output.media_type,
        "size_bytes": output.size_bytes,
        "sha256": output.sha256,
        "destination_url": output.destination_url,
    }


def to_failure(task: Task, failure: Failure) -> dict[str, Any]:
    """A `PictureFailure`."""
    return asdict(failure) | {"seed": task.job.seeds[failure.index]}


def file_path(task_id: str, output: Output) -> str:
    """Where a picture is fetched by signed link; its name is fit for saving."""
    return f"{PREFIX}/files/{task_id}/{output.index}/{file_name(task_id, output)}"


LINKED = pictures_at(rf"{PREFIX}/files/(?P<task>[A-Za-z0-9_-]+)/(?P<index>\d{{1,4}})/[^/]+")


def file_name(task_id: str, output: Output) -> str:
    """A file name that says where the picture came from."""
    return f"{task_id}-{output.index}.{output.media_type.removeprefix('image/')}"


def to_time(epoch_ms: int | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    return iso_utc(epoch_ms) if epoch_ms is not None else None


def to_queue(status: QueueStatus) -> dict[str, Any]:
    """A `Queue`."""
    return asdict(status)


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    """A `Problem`."""
    kind = kind_of(error)
    status = STATUS_BY_KIND.get(kind, status_of(error))
    body: dict[str, Any] = {
        "type": f"urn:darkroom:{kind}",
        "title": TITLES.get(kind, "The request cannot be served"),
        "status": status,
        "detail": str(error),
        "instance": context.path,
        "request_id": context.request_id,
    }
    if (field := field_of(error)) is not None:
        body["field"] = field
    return ErrorBody(status=status, body=body, media_type=PROBLEM_TYPE)
