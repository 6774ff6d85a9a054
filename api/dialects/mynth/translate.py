"""From Mynth's wire types to the neutral ones, and its errors; pure but for new ids."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from api.body import Body
from api.dialects.base import ErrorBody, ErrorContext, status_of
from api.dialects.mynth.schema import (
    AltRequest,
    GenerateRequest,
    Input,
    LookRequest,
    RateRequest,
    RatingFields,
    ReviewRequest,
    Role,
)
from api.dialects.wire import in_brackets, without_nulls
from api.errors import ApiError, BadRequest, NoCredits, UnsupportedMedia, field_of, kind_of
from api.orders import Order, Remote, Upload
from api.tasks import Delivery, Extras, ImageFormat, Level, RatingWish, TaskKind
from inference.errors import EngineError
from inference.job import ImageRequest, ImageRole, Mode, ReferenceTag

NAME = "mynth"
PREFIX = "tsk_"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
TIME_CHARS, RANDOM_CHARS = 10, 16
ID = f"{PREFIX}[{CROCKFORD}]{{{TIME_CHARS + RANDOM_CHARS}}}"

FORMATS = {"png": ImageFormat.PNG, "jpg": ImageFormat.JPEG, "webp": ImageFormat.WEBP}
TAGS: dict[Role, ReferenceTag] = {"person": ReferenceTag.CHARACTER, "pose": ReferenceTag.POSE}
KINDS: dict[type[LookRequest], TaskKind] = {
    RateRequest: TaskKind.RATE,
    AltRequest: TaskKind.ALT,
    ReviewRequest: TaskKind.REVIEW,
}

CODES = {
    "bad_request": "VALIDATION_ERROR",
    "bad_value": "VALIDATION_ERROR",
    "unsupported": "VALIDATION_ERROR",
    "unknown_model": "VALIDATION_ERROR",
    "unauthorized": "UNAUTHORIZED",
    "no_credits": "INSUFFICIENT_BALANCE",
    "no_credits_422": "INSUFFICIENT_BALANCE",
    "forbidden": "FORBIDDEN",
    "not_found": "NOT_FOUND",
    "not_ready": "NOT_FOUND",
    "gone": "GONE",
    "conflict": "CONFLICT",
    "method_not_allowed": "METHOD_NOT_ALLOWED",
    "idempotency_mismatch": "IDEMPOTENCY_MISMATCH",
    "idempotency_running": "IDEMPOTENCY_RUNNING",
    "too_large": "PAYLOAD_TOO_LARGE",
    "unsupported_media": "UNSUPPORTED_MEDIA_TYPE",
    "rate_limited": "RATE_LIMITED",
    "queue_full": "RATE_LIMITED",
    "overloaded": "SERVICE_UNAVAILABLE",
    "unavailable": "SERVICE_UNAVAILABLE",
    "closed": "SERVICE_UNAVAILABLE",
    "destination_test_failed": "DESTINATION_TEST_FAILED",
}
# Where it has another status than most; 422 would be read as a want of credits.
STATUS_BY_KIND = {
    "unknown_model": 400,
    "conflict": 409,
    "idempotency_mismatch": 409,
    "no_credits_422": 422,
    "destination_test_failed": 502,
}
# What it calls the fields that are named otherwise inside, or does not have.
FIELDS: dict[str, str | None] = {
    "alt": None,
    "review": None,
    "image": "inputs",
    "references": "inputs",
    "width": "size",
    "height": "size",
    "aspect_ratio": "size",
    "resolution": "size",
    "region": "provider.region",
    "endpoint": "provider.endpoint",
    "access_key_id": "secret.access_key_id",
    "secret_access_key": "secret.secret_access_key",
    "path_template": "config.path_template",
    "url_template": "config.url_template",
}


class Unaffordable(NoCredits):
    """Want of credits, where the operator has it told by a 422."""

    kind = "no_credits_422"


def new_id() -> str:
    """A task's id: `tsk_` and a ULID, whose 80 random bits nobody guesses."""
    random = secrets.randbits(5 * RANDOM_CHARS)
    return f"{PREFIX}{_crockford(time.time_ns() // 10**6, TIME_CHARS)}" + _crockford(
        random, RANDOM_CHARS
    )


def plain_json(body: Body) -> Body:
    """The body as if null fields had been left out; raises UnsupportedMedia for a form.

    `metadata` is the caller's own and stays as it is.
    """
    if body.is_form:
        raise UnsupportedMedia("send Content-Type: application/json; pictures go in by address")
    values: dict[str, Any] = without_nulls(body.values)
    if (metadata := body.values.get("metadata")) is not None:
        values["metadata"] = metadata
    return Body(values=values)


def to_order(wire: GenerateRequest, body: Body, base_url: str) -> Order:
    """The neutral order of a generation; raises BadRequest."""
    mode, uploads = to_uploads(wire.inputs)
    return Order(
        request=replace(to_request(wire), mode=mode),
        dialect=NAME,
        uploads=uploads,
        delivery=to_delivery(wire, base_url),
        extras=Extras(
            asked=asked(GenerateRequest, body),
            rating=to_rating(wire.rating),
            magic_prompt=wire.magic_prompt,
            tells_hooks=wire.webhook.dashboard,
            allows_partial=True,
        ),
        webhook_field="webhook.custom",
        new_id=new_id,
    )


def to_request(wire: GenerateRequest) -> ImageRequest:
    """The neutral wish, at 4k where that is wanted."""
    size = wire.size
    return ImageRequest(
        model=wire.model,
        prompt=wire.prompt,
        negative_prompt=wire.negative_prompt,
        count=wire.count,
        aspect_ratio=size.aspectRatio,
        resolution="4k" if size.scale == "4k" else None,
    )


def at_base_size(order: Order) -> Order:
    """The same at the model's base size."""
    return replace(order, request=replace(order.request, resolution=None))


def to_uploads(inputs: Sequence[Input]) -> tuple[Mode | None, list[Upload]]:
    """The mode and the pictures: those to be changed first, then those to go by.

    Models that edit take all of them as they come and learn from the prompt what each is for, so a
    plain reference is one more picture; references alone need such a model.
    """
    roles = [one.role for one in inputs]
    uploads = [_upload(one, number) for number, one in enumerate(inputs)]
    # stable, so that the prompt may count them
    order = sorted(range(len(uploads)), key=lambda number: roles[number] not in ("source", "auto"))
    alone = "reference" in roles and not {"source", "auto"}.intersection(roles)
    return Mode.EDIT if alone else None, [uploads[number] for number in order]


def _upload(one: Input, number: int) -> Upload:
    field, data = f"inputs[{number}]", Remote(one.source.url)
    if one.role == "garment":
        what = (
            "a garment alone cannot be taken over; send it as reference and name it in the prompt"
        )
        raise BadRequest(f"{field}.as: {what}", field=f"{field}.as")
    if one.role in TAGS:
        tag = TAGS[one.role]
        return Upload(role=ImageRole.REFERENCE, field=field, data=data, tag=tag, weight=1.0)
    return Upload(role=ImageRole.SOURCE, field=field, data=data)


def to_delivery(wire: GenerateRequest, base_url: str) -> Delivery:
    """What becomes of the pictures, and who is told."""
    return Delivery(
        format=FORMATS[wire.output.format],
        quality=wire.output.quality,
        destination=wire.destination,
        webhooks=tuple(one.url for one in wire.webhook.custom),
        base_url=base_url,
    )


def to_rating(wire: RatingFields | None) -> RatingWish | None:
    """By what pictures are to be rated."""
    if wire is None:
        return None
    levels = [Level(value=one.value, description=one.description) for one in wire.levels or ()]
    return RatingWish(levels=tuple(levels))


def to_look(wire: LookRequest, body: Body, base_url: str) -> Order:
    """The order of a task that looks at a picture."""
    return Order(
        request=ImageRequest(model="", prompt=""),
        dialect=NAME,
        uploads=[Upload(role=ImageRole.SOURCE, field="url", data=Remote(wire.url))],
        delivery=Delivery(base_url=base_url),
        extras=Extras(
            kind=KINDS[type(wire)],
            asked=asked(type(wire), body),
            rating=to_rating(wire) if isinstance(wire, RateRequest) else None,
            effort=wire.effort if isinstance(wire, ReviewRequest) else "high",
        ),
        new_id=new_id,
    )


def asked(wire: type[GenerateRequest] | type[LookRequest], body: Body) -> dict[str, Any]:
    """The request as it came, without what is not known here or concerns the reply only."""
    known = set(wire.model_fields) - {"access"}
    return {name: value for name, value in body.values.items() if name in known}


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    """The error object; fields are named as one would write them in code."""
    kind, message, field = kind_of(error), str(error), field_of(error)
    told = {"code": CODES.get(kind, "INTERNAL_ERROR"), "message": message}
    if field is not None and (name := _wire_name(field)) is not None:
        told |= {"message": message.replace(field, name) if "." in field else message}
        told["field"] = name
    return ErrorBody(status=STATUS_BY_KIND.get(kind, status_of(error)), body=told)


def _wire_name(field: str) -> str | None:
    """The field in the caller's words: `inputs[0].source.url`, and no name of ours in between."""
    name = in_brackets(field)
    return FIELDS.get(name, name)


def _crockford(number: int, chars: int) -> str:
    digits = [CROCKFORD[number >> (5 * place) & 31] for place in reversed(range(chars))]
    return "".join(digits)
