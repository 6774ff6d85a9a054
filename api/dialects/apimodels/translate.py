"""Between APIModels' wire types and the neutral ones; pure, no I/O."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from api.accounts import Account
from api.body import Body, short
from api.dialects.apimodels.schema import MAX_IMAGES, GenerationRequest, State
from api.dialects.apimodels.sizes import to_size
from api.dialects.base import ErrorBody, ErrorContext, status_of
from api.errors import ApiError, BadRequest, NotFound, UnsupportedMedia, field_of, kind_of
from api.idempotency import Reply
from api.links import PictureLink, pictures_at
from api.orders import Order, Upload, picture_of
from api.tasks import Delivery, Extras, ImageFormat, Output, Task, TaskKind, TaskState
from inference.errors import EngineError, Refused, Unsupported
from inference.job import ImageRequest, ImageRole, Lora, Mode

NAME = "apimodels"
FILES = "/api/v1/images/files"
DAY_SECONDS = 24 * 3600
LINK_SECONDS = 7 * DAY_SECONDS
ID_ALPHABET = string.digits + string.ascii_lowercase
ID_CHARS = 23
IMAGES = ("image_url", "image_urls", "image", "images")
MASKS = ("mask", "mask_url", "mask_image")
CALLBACKS = ("callback_url", "callBackUrl")
LIGHTNING = "lightning"
# Ours for theirs.
QUALITIES = {"auto": None, "low": "standard", "medium": "medium", "high": "high"}

STATES: dict[TaskState, State] = {
    TaskState.QUEUED: "pending",
    TaskState.RUNNING: "processing",
    TaskState.SUCCEEDED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "failed",
}
# A field that asks for what is not made here, the least that asks for it, and what to say.
REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("layer_decomposition", False, "pictures are not taken apart into layers here"),
    ("scale", None, "pictures are not enlarged here; ask for a larger size"),
    ("face_enhance", False, "faces are not enhanced here"),
    ("nsfw_checker", False, "pictures are not checked here"),
    *(
        (f"{side}_expansion_ratio", 0, "pictures are not expanded here; send a mask instead")
        for side in ("up", "down", "left", "right")
    ),
)
# Neutral names that stand for themselves in a message, and are to be told in the caller's words.
WORDS = ("width", "height", "count", "profile", "magic_prompt")
STATUS_BY_KIND = {"unknown_model": 400, "gone": 404}
# What may go better the next time.
RETRYABLE = ("gave_up", "out_of_memory", "assistant_failed", "destination_failed")


def new_id() -> str:
    """An id as cuids look: 25 characters, the first two the same; 118 random bits."""
    return "cl" + "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARS))


def plain_json(body: Body) -> Body:
    """The body as if nulls, empty texts and empty lists had been left out.

    Raises UnsupportedMedia for a form.
    """
    if body.is_form:
        raise UnsupportedMedia("send Content-Type: application/json; leave files at /files first")
    values = {name: value for name, value in body.values.items() if value not in (None, "", [])}
    return Body(values=values)


def check_model(model: Any, known: Sequence[str]) -> None:
    """Raise BadRequest for a name that no model has; what is no text is left to the schema."""
    if isinstance(model, str) and model not in known:
        names = ", ".join(known)
        raise BadRequest(f"Invalid model: {short(model)}. Supported: {names}", field="model")


def to_order(
    wire: GenerationRequest, body: Body, base_url: str, *, in_reply: bool = False
) -> Order:
    """The neutral order; raises BadRequest or Unsupported for what cannot be honoured.

    Pictures that are to leave `in_reply` are for nobody without it, unless a callback tells them.
    """
    _refuse(wire)
    callback, url = _agreed(wire, CALLBACKS) or (CALLBACKS[0], None)
    return Order(
        request=to_request(wire),
        dialect=NAME,
        uploads=to_uploads(wire),
        delivery=Delivery(
            format=ImageFormat("jpeg" if wire.output_format == "jpg" else wire.output_format),
            webhooks=(url,) if url else (),
            base_url=base_url,
            in_reply=in_reply and not url,
        ),
        extras=Extras(asked=to_asked(body.values), magic_prompt=wire.prompt_upsampling),
        webhook_field=callback,
        new_id=new_id,
    )


def to_request(wire: GenerationRequest) -> ImageRequest:
    """The neutral wish."""
    lora = Lora(name=wire.lora_weights, strength=wire.lora_scale) if wire.lora_weights else None
    return ImageRequest(
        model=wire.model,
        prompt=wire.prompt,
        negative_prompt=wire.negative_prompt,
        quality=QUALITIES[wire.quality],
        count=wire.n,
        seed=wire.seed,
        loras=(lora,) if lora else (),
        profile=LIGHTNING if wire.turbo else None,
        **to_size(wire),
    )


def to_uploads(wire: GenerationRequest) -> list[Upload]:
    """The pictures to change, each once however often it was sent, then the mask."""
    fields: dict[str, str] = {}
    for name in IMAGES:
        for text in getattr(wire, name):
            fields.setdefault(text, name)
    for name in list(fields.values())[MAX_IMAGES:]:
        raise BadRequest(f"{name}: send at most {MAX_IMAGES} pictures in all", field=name)
    uploads = [
        Upload(role=ImageRole.SOURCE, field=name, data=picture_of(text, name))
        for text, name in fields.items()
    ]
    if mask := _agreed(wire, MASKS):
        data = picture_of(mask[1], mask[0])
        uploads.append(Upload(role=ImageRole.MASK, field=mask[0], data=data))
    return uploads


def to_asked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The request as a callback repeats it: what was sent, but pictures by address alone."""
    known, pictures = GenerationRequest.model_fields, (*IMAGES, *MASKS)
    asked = {
        name: _addresses(value) if name in pictures else value
        for name, value in values.items()
        if name in known
    }
    return {name: value for name, value in asked.items() if value not in (None, [])}


@contextmanager
def in_their_words(wire: GenerationRequest, uploads: Sequence[Upload]) -> Iterator[None]:
    """Whatever is refused meanwhile names the field that the caller used."""
    try:
        yield
    except Refused as refused:
        size = "size" if wire.width is None else refused.field
        names = {
            **{"width": size, "height": size, "count": "n", "loras": "lora_weights"},
            **{"profile": "turbo", "magic_prompt": "prompt_upsampling"},
            "image": uploads[0].field if uploads else "image_url",
        }
        field, message = names.get(refused.field, refused.field), str(refused)
        if refused.field in WORDS:
            message = re.sub(rf"\b{refused.field}\b", field, message, count=1)
        raise type(refused)(field, message) from None


def own(task: Task) -> Task:
    """The task, if it makes pictures, by whatever dialect; raises NotFound."""
    if task.extras.kind is not TaskKind.GENERATE:
        raise NotFound("there is no such task")
    return task


def to_reply(data: Mapping[str, Any], status: int = 200) -> Reply:
    """A reply in its envelope."""
    return Reply(status=status, body={"code": status, "msg": "success", "data": dict(data)})


def to_created(task: Task) -> Reply:
    """The reply to a creation that is polled for."""
    return to_reply({"taskId": task.id, "state": STATES[task.state]})


def to_task(task: Task, link: PictureLink) -> dict[str, Any]:
    """How a task stands."""
    state = STATES[task.state]
    told: dict[str, Any] = {
        "taskId": task.id,
        "state": state,
        "modelType": "TEXT_TO_IMAGE" if task.job.mode is Mode.GENERATE else "IMAGE_TO_IMAGE",
        "credits": task.cost if task.state.ended else task.credits,
        "createTime": task.created_ms,
    }
    if task.state.ended:
        told["completeTime"] = task.finished_ms or task.created_ms
    if task.state.ended and task.pictures:
        told["resultUrls"] = to_urls(task, link)
    if state == "failed":
        told |= to_failure(task) | {"retryable": task.error_kind in RETRYABLE}
    return told


def to_sync(task: Task, link: PictureLink) -> dict[str, Any]:
    """A task that has ended well, for those who read the address of one picture."""
    told = to_task(task, link)
    return told | {"url": told["resultUrls"][0]}


def to_urls(task: Task, link: PictureLink) -> list[str]:
    """The addresses of a finished task's pictures."""
    return [link(file_path(task.id, output), output.key) for output in task.pictures]


def to_failure(task: Task) -> dict[str, str]:
    """Why there are no pictures."""
    if task.state is TaskState.CANCELLED:
        return {"failCode": "CANCELLED", "failMsg": "the task was cancelled"}
    code = (task.error_kind or "failed").upper()
    return {"failCode": code, "failMsg": task.error_message or "the task failed"}


def file_path(task_id: str, output: Output) -> str:
    """Where a picture is fetched by signed link."""
    extension = ImageFormat(output.media_type.removeprefix("image/")).extension
    return f"{FILES}/{task_id}/{output.index}.{extension}"


LINKED = pictures_at(rf"{FILES}/(?P<task>[A-Za-z0-9_-]+)/(?P<index>\d{{1,4}})\.[a-z]+")


def to_balance(account: Account, credit_usd: Decimal) -> dict[str, Any]:
    """What an account can still spend."""
    return {
        "balance": float(account.spendable * credit_usd),
        "credits": account.spendable,
        "metered": account.metered,
    }


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    """The error in its envelope, whose code is that of HTTP; the message names the field."""
    field, text = field_of(error), str(error)
    if field is not None and not _names(text, field):
        text = f"{field}: {text}"
    status = STATUS_BY_KIND.get(kind_of(error), status_of(error))
    return ErrorBody(status=status, body={"code": status, "msg": text, "data": None})


def _names(text: str, field: str) -> bool:
    """Whether a message tells the field: "takes 1 source image(s)" does not tell `image`."""
    return re.search(rf"(?<![\w-]){re.escape(field)}(?![\w(])", text) is not None


def _refuse(wire: GenerationRequest) -> None:
    for name, harmless, what in REFUSED:
        if getattr(wire, name) != harmless:
            raise Unsupported(name, f"{name}: {what}")
    if wire.background == "transparent":
        raise Unsupported("background", "background transparent cannot be made here; use opaque")


def _agreed(wire: GenerationRequest, names: Sequence[str]) -> tuple[str, str] | None:
    """The first of several names of one thing that was sent, and its text; raises BadRequest."""
    given = [(name, text) for name in names if (text := getattr(wire, name)) is not None]
    for name, text in given[1:]:
        if text != given[0][1]:
            raise BadRequest(f"{given[0][0]} and {name} differ; send one of them", field=name)
    return given[0] if given else None


def _addresses(value: str | list[str]) -> str | list[str] | None:
    """What of a picture, or of several, can be said in few words."""
    if isinstance(value, list):
        return [text for text in value if _addresses(text) is not None]
    return value if value[:8].lower().startswith(("http://", "https://")) else None
