"""Between OpenAI's wire types and the neutral ones; pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from api.body import Body, short
from api.dialects.base import ErrorBody, ErrorContext, MethodNotAllowed, status_of
from api.dialects.openai.schema import GenerationRequest, VariationRequest
from api.dialects.orders import NotMade
from api.errors import ApiError, BadRequest, field_of, kind_of
from api.limits import Allowance
from api.links import pictures_at
from api.orders import Order, Upload
from api.tasks import Delivery, Extras, ImageFormat, Output, Task
from api.uploads import KeptUpload
from inference.catalog import Catalog
from inference.errors import EngineError, Refused, UnknownModel, Unsupported
from inference.job import ImageRequest, Mode

OWNER = "darkroom"
FILES = "/v1/images/files"
FILE_PREFIX = "file-"
# Ours for theirs, and back: what was asked beyond `high` was made as `high`.
QUALITIES = {
    "auto": None,
    "low": "standard",
    "standard": "standard",
    "medium": "medium",
    "high": "high",
    "hd": "high",
    "xhigh": "high",
    "max": "high",
}
TOLD_QUALITIES = {"standard": "low", "medium": "medium", "high": "high"}
# What they call the fields of a neutral wish.
FIELDS = {
    **{"count": "n", "width": "size", "height": "size"},
    **{"aspect_ratio": "size", "resolution": "size"},
}
# The type and the code of an error; a code of None is null on the wire.
TYPES: dict[str, tuple[str, str | None]] = {
    "bad_request": ("invalid_request_error", None),
    "bad_value": ("invalid_request_error", "invalid_value"),
    "unsupported": ("invalid_request_error", "unsupported_value"),
    "unknown_model": ("invalid_request_error", "model_not_found"),
    "not_found": ("invalid_request_error", "not_found"),
    "not_ready": ("invalid_request_error", "not_found"),
    "gone": ("invalid_request_error", "expired"),
    "unauthorized": ("authentication_error", "invalid_api_key"),
    "forbidden": ("permission_error", "forbidden"),
    "no_credits": ("insufficient_quota", "insufficient_quota"),
    "too_large": ("invalid_request_error", "too_large"),
    "unsupported_media": ("invalid_request_error", "unsupported_media_type"),
    "idempotency_mismatch": ("invalid_request_error", "idempotency_mismatch"),
    "idempotency_running": ("invalid_request_error", "idempotency_running"),
    "method_not_allowed": ("invalid_request_error", "method_not_allowed"),
    "rate_limited": ("requests", "rate_limit_exceeded"),
    "queue_full": ("requests", "rate_limit_exceeded"),
    "overloaded": ("server_error", "overloaded"),
    "unavailable": ("server_error", "unavailable"),
    "closed": ("server_error", "unavailable"),
}
# Where their statuses differ: no money is a 429, and a link that has expired leads nowhere.
STATUS_BY_KIND = {"no_credits": 429, "gone": 404}
# How text becomes tokens, roughly, and how pixels do in models that cut pictures into patches.
BYTES_PER_TOKEN = 4
PATCH_SIDE_PX = 16


def without_nulls(body: Body) -> Body:
    """The body as if nulls, and the empty fields of a form, had been left out."""
    empty = (None, "") if body.is_form else (None,)
    values = {name: value for name, value in body.values.items() if value not in empty}
    return Body(values=values, files=body.files, is_form=body.is_form)


def to_order(wire: GenerationRequest, uploads: Sequence[Upload]) -> Order:
    """The neutral order; raises BadRequest or Unsupported for what cannot be honoured."""
    _refuse(wire)
    width, height = to_size(wire.size)
    return Order(
        request=ImageRequest(
            model=wire.model,
            prompt=wire.prompt,
            width=width,
            height=height,
            quality=QUALITIES[wire.quality],
            count=wire.n,
        ),
        dialect="openai",
        uploads=uploads,
        delivery=to_delivery(wire),
        # A stream tells of each picture by itself; a list of fewer than n could not say why.
        extras=Extras(allows_partial=wire.stream),
    )


def to_variation(wire: VariationRequest, uploads: Sequence[Upload]) -> Order:
    """The neutral order of a variation: the picture again, changed, without words."""
    width, height = to_size(wire.size)
    return Order(
        request=ImageRequest(model=wire.model, prompt="", width=width, height=height, count=wire.n),
        dialect="openai",
        uploads=uploads,
        delivery=Delivery(format=ImageFormat.PNG, in_reply=True),
    )


def to_size(size: str) -> tuple[int | None, int | None]:
    """Width and height in pixels, or neither."""
    if size == "auto":
        return None, None
    width, height = size.split("x")
    return int(width), int(height)


def to_delivery(wire: GenerationRequest) -> Delivery:
    """The files: never as the server is set up, since the contract has defaults of its own."""
    format = ImageFormat(wire.output_format)
    if format is ImageFormat.PNG:
        return Delivery(format=format, in_reply=True)
    # No encoder here has a quality of 0; theirs is the least there is.
    return Delivery(format=format, quality=max(wire.output_compression, 1), in_reply=True)


def _refuse(wire: GenerationRequest) -> None:
    if wire.background == "transparent":
        raise Unsupported("background", "background transparent cannot be made here; use opaque")
    if wire.output_format in ("gif", "svg"):
        message = f"output_format {wire.output_format} cannot be made here; use png, jpeg or webp"
        raise Unsupported("output_format", message)
    if wire.output_format == "png" and wire.output_compression < 100:
        message = "output_compression is for jpeg and webp; png loses nothing"
        raise Unsupported("output_compression", message)
    if wire.partial_images and not wire.stream:
        raise BadRequest("partial_images needs stream: true", field="partial_images")
    if wire.stream and wire.response_format == "url":
        message = "a stream carries b64_json only; leave out response_format or stream"
        raise BadRequest(message, field="response_format")


def to_body(
    task: Task, images: Sequence[Mapping[str, str]], wire: GenerationRequest | VariationRequest
) -> dict[str, Any]:
    """An `ImagesResponse` of a task that succeeded; `images` are its pictures as items."""
    usage = to_usage(task, len(images))
    text_free = {"image_tokens": usage["output_tokens"], "text_tokens": 0}
    body: dict[str, Any] = {
        "created": task.created_ms // 1000,
        "data": list(images),
        **to_facts(task),
        "usage": usage | {"output_tokens_details": text_free},
    }
    if task.request.quality is None:
        del body["quality"]
    return body | to_identifier(wire)


def to_facts(task: Task) -> dict[str, str]:
    """How the pictures of a task really are."""
    return {
        "background": "opaque",
        "output_format": (task.delivery.format or ImageFormat.PNG).value,
        "quality": TOLD_QUALITIES.get(task.request.quality or "", "auto"),
        "size": f"{task.job.width}x{task.job.height}",
    }


def to_identifier(wire: GenerationRequest | VariationRequest) -> dict[str, str]:
    """The identifier that counts, echoed if there is one."""
    identifier = wire.safety_identifier or wire.user
    return {"safety_identifier": identifier} if identifier else {}


def to_usage(task: Task, pictures: int) -> dict[str, Any]:
    """What making so many of its pictures took, in tokens.

    The prompt has a token for every four bytes of UTF-8, a picture one for every 16 × 16 pixels.
    Input pictures count as large as what is made, since they are fitted to it.
    """
    job = task.job
    text = -(-len(job.prompt.encode()) // BYTES_PER_TOKEN)
    picture = -(-job.width // PATCH_SIDE_PX) * -(-job.height // PATCH_SIDE_PX)
    seen = picture * len(job.images)
    return {
        "input_tokens": text + seen,
        "input_tokens_details": {"image_tokens": seen, "text_tokens": text},
        "output_tokens": picture * pictures,
        "total_tokens": text + seen + picture * pictures,
    }


def file_path(task_id: str, output: Output) -> str:
    """Where a picture is fetched by signed link."""
    return f"{FILES}/{task_id}/{output.index}.{output.media_type.removeprefix('image/')}"


def to_file(upload: KeptUpload, file_name: str, purpose: str) -> dict[str, Any]:
    """A `File`."""
    return {
        "id": FILE_PREFIX + upload.id,
        "object": "file",
        "bytes": upload.size_bytes,
        "created_at": upload.created_ms // 1000,
        "expires_at": upload.expires_ms // 1000,
        "filename": file_name,
        "purpose": purpose,
        "status": "processed",
    }


def upload_id_of(file_id: str) -> str:
    """The upload that a file's id names."""
    return file_id.removeprefix(FILE_PREFIX)


LINKED = pictures_at(rf"{FILES}/(?P<task>[A-Za-z0-9_-]+)/(?P<index>\d{{1,4}})\.[a-z]+")


def to_models(catalog: Catalog) -> dict[str, Any]:
    """A `ModelList`, models before aliases."""
    return {"object": "list", "data": [_model(catalog, name) for name in catalog.names()]}


def to_model(catalog: Catalog, name: str) -> dict[str, Any]:
    """A `Model`; raises UnknownModel."""
    names = catalog.names()
    if name not in names:
        served = ", ".join(names)
        raise UnknownModel("model", f"no model '{short(name)}' here; served are: {served}")
    return _model(catalog, name)


def _model(catalog: Catalog, name: str) -> dict[str, Any]:
    try:
        catalog.find(name, Mode.GENERATE)
        endpoint = "images/generations"
    except Refused:
        endpoint = "images/edits"
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "modality": "image",
        "endpoint": endpoint,
    }


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    """An `Error`."""
    kind, field, message = kind_of(error), field_of(error), str(error)
    type_, code = TYPES.get(kind, ("server_error", "internal_error"))
    if isinstance(error, MethodNotAllowed):
        type_, code = TYPES["method_not_allowed"]
    if isinstance(error, NotMade):
        code = error.reason
    if kind == "bad_request" and field is not None:
        code = "invalid_value"
    param = FIELDS.get(field or "", field)
    if param != field:
        message = re.sub(rf"^{field}\b", str(param), message)
    body = {"message": message, "type": type_, "param": param, "code": code}
    return ErrorBody(status=_status(error), body={"error": body})


def _status(error: ApiError | EngineError) -> int:
    kind = kind_of(error)
    # A picture that cannot be read is a bad value to them; a body of another type is not.
    if kind == "unsupported_media" and field_of(error) is not None:
        return 400
    return STATUS_BY_KIND.get(kind, status_of(error))


def rate_headers(allowance: Allowance) -> dict[str, str]:
    """A rate limit as OpenAI writes it."""
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": to_duration(allowance.reset_seconds),
    }


def to_duration(seconds: float) -> str:
    """Such as 250ms, 8.6s or 1m30s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
