"""OpenAI's translations, without a server; what a task becomes is in golden/openai.json."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.body import Body, FilePart
from api.dialects.base import ErrorContext, MethodNotAllowed
from api.dialects.openai import translate, uploads
from api.dialects.openai.events import Partials, Told, to_stream
from api.dialects.openai.schema import (
    EditRequest,
    Error,
    GenerationRequest,
    ImagesResponse,
    ModelList,
    VariationRequest,
)
from api.dialects.orders import NotMade, made
from api.dialects.wire import parse
from api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    Gone,
    IdempotencyRunning,
    NoCredits,
    NotFound,
    Overloaded,
    QueueFull,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from api.limits import Allowance
from api.orders import Remote, Upload
from api.tasks import Delivery, ImageFormat, Task, TaskState, TaskUpdate
from inference.catalog import load_catalog
from inference.errors import BadValue, EngineClosed, EngineError, UnknownModel, Unsupported
from inference.job import ImageRequest, ImageRole, InputImage
from tests.api.dialects.conftest import OUTPUTS

CONTEXT = ErrorContext(path="/v1/images/generations", request_id="r1")
INVALID = "invalid_request_error"


def wire(is_form: bool = False, **values: Any) -> GenerationRequest:
    body = translate.without_nulls(Body(values={"prompt": "a fox"} | values, is_form=is_form))
    return parse(GenerationRequest, body)


def edit(**values: Any) -> EditRequest:
    return parse(EditRequest, Body(values={"prompt": "a fox"} | values))


@pytest.mark.parametrize(
    ("values", "wanted", "delivery"),
    [
        (
            {},
            ImageRequest(model="auto", prompt="a fox"),
            Delivery(format=ImageFormat.PNG, in_reply=True),
        ),
        (
            {
                "model": "gpt-image-2",
                "n": 3,
                "size": "1536x1024",
                "quality": "low",
                "output_format": "webp",
                "output_compression": 0,
                "user": "u",
                "seed": 7,
            },
            ImageRequest(
                model="gpt-image-2",
                prompt="a fox",
                width=1536,
                height=1024,
                quality="standard",
                count=3,
            ),
            Delivery(format=ImageFormat.WEBP, quality=1, in_reply=True),
        ),
        (
            {"model": None, "size": "auto", "quality": "auto", "output_format": "jpeg"},
            ImageRequest(model="auto", prompt="a fox"),
            Delivery(format=ImageFormat.JPEG, quality=100, in_reply=True),
        ),
    ],
    ids=["only a prompt", "everything", "auto"],
)
def test_a_wire_request_becomes_an_order(
    values: dict[str, Any], wanted: ImageRequest, delivery: Delivery
) -> None:
    order = translate.to_order(wire(**values), [])

    assert (order.request, order.delivery, order.dialect) == (wanted, delivery, "openai")


def test_a_form_gives_the_same_order_as_json() -> None:
    as_text = wire(is_form=True, n="2", stream="true", partial_images="3", output_compression="100")

    assert as_text == wire(n=2, stream=True, partial_images=3, output_compression=100)


def test_a_variation_has_no_words() -> None:
    variation = parse(VariationRequest, Body(values={"n": 2, "size": "256x256", "prompt": "x"}))

    order = translate.to_variation(variation, [])

    assert order.request == ImageRequest(model="auto", prompt="", width=256, height=256, count=2)
    assert order.delivery == Delivery(format=ImageFormat.PNG, in_reply=True)


# pictures


def test_pictures_come_in_order_and_the_mask_last() -> None:
    parts = ("mask", "image[]", "image", "image[0]")
    files = [FilePart(name=name, data=str(n).encode()) for n, name in enumerate(parts)]

    found = uploads.of_edit(edit(), files, {})

    assert [(one.role, one.field, one.data) for one in found] == [
        (ImageRole.SOURCE, "image", b"1"),
        (ImageRole.SOURCE, "image", b"2"),
        (ImageRole.SOURCE, "image", b"3"),
        (ImageRole.MASK, "mask", b"0"),
    ]


def test_an_address_is_left_to_be_fetched() -> None:
    body = edit(images=[{"image_url": "https://example.com/a.png"}], mask="https://example.com/b")

    found = uploads.of_edit(body, [], {})

    assert found == [
        Upload(
            role=ImageRole.SOURCE,
            field="images.0.image_url",
            data=Remote("https://example.com/a.png"),
        ),
        Upload(role=ImageRole.MASK, field="mask.image_url", data=Remote("https://example.com/b")),
    ]


def test_a_file_name_that_nobody_takes_is_shown_in_part() -> None:
    with pytest.raises(BadRequest) as caught:
        uploads.of_edit(edit(), [FilePart(name="x" * 999, data=b"1")], {})

    assert len(str(caught.value)) < 200


# replies


@pytest.mark.parametrize("case", ["b64_json", "url", "auto"])
def test_a_task_becomes_its_golden_body(
    case: str, task_in: Callable[[str], Task], golden: Callable[[str], dict[str, Any]]
) -> None:
    task = task_in("succeeded")
    quality = None if case == "auto" else "medium"
    task = replace(task, request=replace(task.request, quality=quality))
    task = replace(task, delivery=Delivery(format=ImageFormat.WEBP))
    if case == "url":
        job = replace(task.job, images=(InputImage(role=ImageRole.SOURCE, key="k"),))
        task = replace(task, job=job)
        images = [{"url": translate.file_path(task.id, output)} for output in task.outputs]
    else:
        images = [{"b64_json": "AAAA"}, {"b64_json": "BBBB"}]

    body = translate.to_body(made(task), images, wire(user="u1"))

    assert body == golden("openai.json")[case]
    ImagesResponse.model_validate(body, strict=True)


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        ("failed", "out_of_memory", "picture 0 does not fit the device"),
        ("cancelled", "cancelled", "the pictures were not made: cancelled"),
    ],
)
def test_a_task_without_its_pictures_is_an_error(
    state: str, reason: str, message: str, task_in: Callable[[str], Task]
) -> None:
    with pytest.raises(NotMade) as caught:
        made(task_in(state))

    told = translate.to_error(caught.value, CONTEXT)
    error = {"message": message, "type": "server_error", "param": None, "code": reason}
    assert (told.status, told.body) == (500, {"error": error})


def test_models_are_a_list(root: Path) -> None:
    catalog = load_catalog(root / "models.yaml")

    body = translate.to_models(catalog)

    ModelList.model_validate(body, strict=True)
    assert body["data"] == [translate.to_model(catalog, name) for name in catalog.names()]
    with pytest.raises(UnknownModel):
        translate.to_model(catalog, "flux-9")


# errors


@pytest.mark.parametrize(
    ("error", "status", "type_", "param", "code"),
    [
        (BadRequest("x"), 400, INVALID, None, None),
        (BadRequest("x", field="n"), 400, INVALID, "n", "invalid_value"),
        (BadValue("prompt", "x"), 400, INVALID, "prompt", "invalid_value"),
        (Unsupported("model", "x"), 400, INVALID, "model", "unsupported_value"),
        (UnknownModel("model", "x"), 404, INVALID, "model", "model_not_found"),
        (NotFound("x"), 404, INVALID, None, "not_found"),
        (Gone("x"), 404, INVALID, None, "expired"),
        (MethodNotAllowed("x", allow="GET"), 405, INVALID, None, "method_not_allowed"),
        (Unauthorized("x"), 401, "authentication_error", None, "invalid_api_key"),
        (Forbidden("x"), 403, "permission_error", None, "forbidden"),
        (NoCredits("x"), 429, "insufficient_quota", None, "insufficient_quota"),
        (TooLarge("x", field="image"), 413, INVALID, "image", "too_large"),
        (
            UnsupportedMedia("x", field="image"),
            *(400, INVALID, "image", "unsupported_media_type"),
        ),
        (UnsupportedMedia("x"), 415, INVALID, None, "unsupported_media_type"),
        (IdempotencyRunning("x"), 409, INVALID, None, "idempotency_running"),
        (RateLimited("x"), 429, "requests", None, "rate_limit_exceeded"),
        (QueueFull("x"), 429, "requests", None, "rate_limit_exceeded"),
        (Overloaded("x"), 503, "server_error", None, "overloaded"),
        (Unavailable("x"), 503, "server_error", None, "unavailable"),
        (EngineClosed("x"), 503, "server_error", None, "unavailable"),
        (ApiError("x"), 500, "server_error", None, "internal_error"),
    ],
)
def test_an_error_becomes_its_object(
    error: ApiError | EngineError, status: int, type_: str, param: str | None, code: str | None
) -> None:
    told = translate.to_error(error, CONTEXT)

    assert told.status == status
    assert told.body == {"error": {"message": "x", "type": type_, "param": param, "code": code}}
    Error.model_validate(told.body, strict=True)


@pytest.mark.parametrize(
    ("field", "message", "param", "told"),
    [
        ("count", "count must lie between 1 and 4", "n", "n must lie between 1 and 4"),
        ("width", "width must lie between 16 and 99", "size", "size must lie between 16 and 99"),
        ("count", "the count is off", "n", "the count is off"),
        ("mask", "inpaint needs a mask image", "mask", "inpaint needs a mask image"),
    ],
)
def test_a_field_has_the_name_that_the_caller_knows(
    field: str, message: str, param: str, told: str
) -> None:
    error = translate.to_error(BadValue(field, message), CONTEXT).body["error"]

    assert (error["param"], error["message"]) == (param, told)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.25, "250ms"), (8.64, "8.6s"), (30, "30s"), (59.99, "1m0s"), (90.5, "1m30.5s")],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    headers = translate.rate_headers(Allowance(limit=9, remaining=4, reset_seconds=seconds))

    assert headers == {
        "x-ratelimit-limit-requests": "9",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": text,
    }


# streams


def previews(steps: int, *, index: int = 0, at: list[int] | None = None) -> list[TaskUpdate]:
    return [
        TaskUpdate(
            task_id="t",
            state=TaskState.RUNNING,
            index=index,
            step=step,
            steps=steps,
            preview=b"picture",
        )
        for step in at or range(1, steps + 1)
    ]


@pytest.mark.parametrize(
    ("wanted", "steps", "at"),
    [
        (0, 8, []),
        (1, 8, [4]),
        (3, 8, [2, 4, 6]),
        (2, 28, [10, 19]),
        (3, 2, [1, 2]),
        (3, 1, [1]),
    ],
)
def test_partial_images_are_spread_evenly(wanted: int, steps: int, at: list[int]) -> None:
    partials = Partials(wanted)

    found = [(update.step, partials.number(update)) for update in previews(steps)]

    sent = [(step, number) for step, number in found if number is not None]
    assert sent == [(step, number) for number, step in enumerate(at)]


def test_a_preview_that_comes_late_counts_once() -> None:
    partials = Partials(3)

    found = [partials.number(update) for update in previews(8, at=[7, 8])]

    assert found == [0, 1]


def test_previews_of_other_pictures_and_steps_without_are_not_sent() -> None:
    partials = Partials(3)

    assert [partials.number(update) for update in previews(8, index=1)] == [None] * 8
    bare = replace(previews(8)[7], preview=None)
    assert partials.number(bare) is None


async def events_of(updates: list[TaskUpdate], task: Task, wanted: int) -> list[dict[str, Any]]:
    async def watch() -> AsyncIterator[TaskUpdate]:
        for update in updates:
            yield update

    async def read(index: int) -> bytes:
        if index > 1:
            raise Gone("the picture was deleted")
        return bytes([index])

    async def now() -> Task:
        return task

    told = Told(
        action="image_edit",
        task=task,
        wire=wire(stream=True, partial_images=wanted),
        context=CONTEXT,
        read=read,
        now=now,
    )
    found = []
    async for event in to_stream(watch(), told):
        found.append(json.loads(str(event.data)))
    return found


def output_update(task: Task, index: int) -> TaskUpdate:
    output = replace(OUTPUTS[0], index=index)
    return TaskUpdate(task_id=task.id, state=TaskState.RUNNING, output=output)


async def test_no_partial_image_comes_after_the_picture(task_in: Callable[[str], Task]) -> None:
    task = task_in("succeeded")
    ended = TaskUpdate(task_id=task.id, state=TaskState.SUCCEEDED)

    events = await events_of([output_update(task, 0), *previews(8), ended], task, wanted=3)

    assert [event["type"] for event in events] == ["image_edit.completed"]


async def test_a_picture_that_cannot_be_read_ends_the_stream(
    task_in: Callable[[str], Task],
) -> None:
    task = task_in("succeeded")
    updates = [output_update(task, index) for index in (0, 2, 1)]

    events = await events_of(updates, task, wanted=0)

    assert events[0]["type"] == "image_edit.completed"
    assert events[1]["error"]["message"] == "the picture was deleted"
    assert len(events) == 2


async def test_nothing_follows_the_end(task_in: Callable[[str], Task]) -> None:
    task = task_in("failed")
    ended = TaskUpdate(task_id=task.id, state=TaskState.FAILED)

    events = await events_of([ended, output_update(task, 0)], task, wanted=0)

    assert [event["error"]["code"] for event in events] == ["out_of_memory"]
