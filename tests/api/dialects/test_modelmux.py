"""ModelMux's translations, without a server; what a task becomes is in golden/modelmux.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from api.body import Body, FilePart
from api.dialects.base import ErrorContext, MethodNotAllowed
from api.dialects.modelmux import translate
from api.dialects.modelmux.schema import Created, Ended, GenerationRequest
from api.dialects.wire import parse
from api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    Gone,
    IdempotencyMismatch,
    IdempotencyRunning,
    NoCredits,
    NotFound,
    NotReady,
    Overloaded,
    QueueFull,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from api.tasks import Task
from inference.errors import BadValue, EngineClosed, EngineError, UnknownModel, Unsupported
from inference.job import ImageRequest, ImageRole
from tests.api.dialects.conftest import OUTPUTS

CONTEXT = ErrorContext(path="/api/v1/generations", request_id="r1")


def sign(key: str) -> str:
    return f"{key}?signature=abc"


def wire(**values: Any) -> GenerationRequest:
    return parse(GenerationRequest, translate.plain(Body(values=values)))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (
            {"prompt": "a fox"},
            ImageRequest(model="nano-banana", prompt="a fox", aspect_ratio="1:1", resolution="1k"),
        ),
        (
            {
                "prompt": "a fox",
                "model": "gpt-image-2",
                "resolution": "4K",
                "quality": "high",
                "aspectRatio": "9:16",
                "seed": 5,
            },
            ImageRequest(
                model="gpt-image-2",
                prompt="a fox",
                aspect_ratio="9:16",
                resolution="4k",
                quality="high",
            ),
        ),
        (
            {"prompt": "a fox", "model": "nano-banana-pro", "quality": "high", "resolution": None},
            ImageRequest(
                model="nano-banana-pro", prompt="a fox", aspect_ratio="1:1", resolution="1k"
            ),
        ),
        (
            {"prompt": "a fox", "model": "tiny-flux", "quality": "medium"},
            ImageRequest(
                model="tiny-flux",
                prompt="a fox",
                aspect_ratio="1:1",
                resolution="1k",
                quality="medium",
            ),
        ),
    ],
    ids=["only a prompt", "everything", "quality of a model without", "a local model"],
)
def test_a_wire_request_becomes_a_wish(values: dict[str, Any], wanted: ImageRequest) -> None:
    assert translate.to_request(wire(**values)) == wanted


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "model": ["nano-banana"]}, "model"),
        ({"prompt": "a", "quality": "ultra"}, "quality"),
        ({"prompt": "a", "aspectRatio": "5:4"}, "aspectRatio"),
        ({"prompt": "a", "resolution": 2}, "resolution"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire(**values)
    assert caught.value.field == field
    assert field in str(caught.value)


def test_file_parts_keep_their_order() -> None:
    files = [FilePart(name=name, data=name.encode()) for name in ("z", "image[]", "a", "image[]")]

    order = translate.to_order(wire(prompt="a"), files)

    assert [upload.data for upload in order.uploads] == [b"z", b"image[]", b"a", b"image[]"]


def test_every_file_part_is_a_source() -> None:
    files = [FilePart(name="referenceImages[]", data=b"1"), FilePart(name="x" * 999, data=b"2")]

    first, second = translate.to_uploads(files)

    assert (first.role, first.field, first.data) == (ImageRole.SOURCE, "referenceImages[]", b"1")
    assert len(second.field) < 99


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_a_task_becomes_its_golden_body(
    state: str, task_in: Callable[[str], Task], golden: Callable[[str], dict[str, Any]]
) -> None:
    body = translate.to_body(task_in(state), sign)

    assert body == golden("modelmux.json")[state]
    (Created if state in ("queued", "running") else Ended).model_validate(body, strict=True)


def test_a_task_of_another_dialect_gets_values_for_the_fields_it_never_named(
    task_in: Callable[[str], Task],
) -> None:
    task = task_in("queued")
    task = replace(task, request=replace(task.request, aspect_ratio=None, resolution=None))

    body = translate.to_body(task, sign)

    assert (body["aspectRatio"], body["resolution"]) == ("9:5", "1k")


def test_the_key_in_an_output_url_holds_its_signature() -> None:
    url = translate.to_url("V1StGXR8Z5jdHi6BmyT", OUTPUTS[0], sign)

    (key,) = parse_qs(urlsplit(url).query)["key"]
    signed, signature = translate.split_key(key)

    assert (signed, signature) == ("generated/V1StGXR8Z5jdHi6BmyT/0.png", {"signature": "abc"})
    assert translate.task_id_of(signed) == "V1StGXR8Z5jdHi6BmyT"


@pytest.mark.parametrize(
    ("media_type", "ending"),
    [("image/png", "png"), ("image/jpeg", "jpg"), ("image/webp", "webp"), ("image/avif", "avif")],
)
def test_names_end_as_the_stored_picture(
    media_type: str, ending: str, task_in: Callable[[str], Task]
) -> None:
    output = replace(OUTPUTS[0], media_type=media_type)
    task = replace(task_in("succeeded"), outputs=(output,))

    url = translate.to_body(task, sign)["outputUrl"]

    (key,) = parse_qs(urlsplit(url).query)["key"]
    assert key == f"generated/{task.id}/0.{ending}?signature=abc"
    assert translate.task_id_of(translate.split_key(key)[0]) == task.id
    assert translate.file_name(task.id, output) == f"{task.id}.{ending}"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "generated/a/0.gif",
        "generated/a/0.jpeg",
        "generated/a/0xpng",
        "generated/../../etc/passwd",
        "generated/a/1.png",
        "generated/a/0.png/x",
        "a/0.png",
    ],
)
def test_other_keys_name_nothing(key: str) -> None:
    with pytest.raises(NotFound):
        translate.task_id_of(key)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadRequest("x", field="prompt"), 400, "invalid_request"),
        (BadValue("count", "x"), 400, "invalid_request"),
        (UnknownModel("model", "x"), 400, "unsupported_model"),
        (Unsupported("model", "x"), 400, "unsupported_model"),
        (Unsupported("resolution", "x"), 400, "unsupported_resolution"),
        (BadValue("resolution", "x"), 400, "unsupported_resolution"),
        (Unauthorized("x"), 401, "unauthorized"),
        (NoCredits("x"), 402, "insufficient_credits"),
        (Forbidden("x"), 403, "forbidden"),
        (IdempotencyRunning("x"), 409, "idempotency_running"),
        (IdempotencyMismatch("x"), 422, "idempotency_mismatch"),
        (RateLimited("x"), 429, "rate_limited"),
        (Overloaded("x"), 429, "rate_limited"),
        (Gone("x"), 404, "not_found"),
        (UnsupportedMedia("x"), 415, "unsupported_media_type"),
        (MethodNotAllowed("x", allow="GET"), 405, "method_not_allowed"),
        (NotFound("x"), 404, "not_found"),
        (NotReady("x"), 404, "image_not_ready"),
        (TooLarge("x", field="resolution"), 413, "payload_too_large"),
        (QueueFull("x", retry_after_seconds=3), 429, "rate_limited"),
        (Unavailable("x"), 503, "unavailable"),
        (EngineClosed("x"), 503, "unavailable"),
        (ApiError("x"), 500, "internal_error"),
    ],
)
def test_an_error_becomes_error_and_code(
    error: ApiError | EngineError, status: int, code: str
) -> None:
    told = translate.to_error(error, CONTEXT)

    assert (told.status, told.body) == (status, {"error": "x", "code": code})
