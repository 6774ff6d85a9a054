"""APIModels' translations, without a server; the pairs are in golden/apimodels.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api.accounts import Account
from api.body import Body
from api.dialects.apimodels import translate
from api.dialects.apimodels.callback import WEBHOOKS, to_model, write
from api.dialects.apimodels.schema import GenerationRequest, TaskInfo
from api.dialects.apimodels.sizes import to_size
from api.dialects.base import ErrorContext, MethodNotAllowed
from api.dialects.orders import NotMade
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
from api.orders import Order, Remote, Upload
from api.tasks import Extras, Task, TaskKind
from api.webhooks import Event
from inference.errors import (
    BadValue,
    EngineClosed,
    EngineError,
    Refused,
    UnknownModel,
    Unsupported,
)
from inference.job import Mode

CONTEXT = ErrorContext(path="/api/v1/images/generations", request_id="r1")
PAIRS = json.loads(
    (Path(__file__).parent / "golden" / "apimodels.json").read_text(encoding="utf-8")
)
BASE = "https://d.example"


def link(path: str, key: str) -> str:
    return f"{BASE}{path}?key={key}"


def wire(**values: Any) -> GenerationRequest:
    body = translate.plain_json(Body(values={"model": "gpt-image-2", "prompt": "a"} | values))
    return parse(GenerationRequest, body)


def order_of(values: dict[str, Any]) -> Order:
    body = translate.plain_json(Body(values=values))
    return translate.to_order(parse(GenerationRequest, body), body, BASE)


def parts_of(order: Order) -> dict[str, Any]:
    """An order as the golden file writes it: what is left to the model is left out."""
    request = {
        name: [said(one) for one in value] if isinstance(value, tuple) else value
        for name, value in said(asdict(order.request)).items()
        if value != ()
    }
    told: dict[str, Any] = {
        "request": request,
        "uploads": [upload_parts(one) for one in order.uploads],
        "webhooks": list(order.delivery.webhooks),
        "format": order.delivery.format,
    }
    if order.extras.magic_prompt:
        told["magic_prompt"] = True
    return told


def said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def upload_parts(upload: Upload) -> dict[str, Any]:
    parts = {"role": upload.role.value, "field": upload.field}
    if isinstance(upload.data, Remote):
        return parts | {"url": upload.data.url}
    return parts | {"bytes": list(upload.data)}


@pytest.mark.parametrize("name", PAIRS["requests"])
def test_a_wire_request_becomes_its_golden_order(name: str) -> None:
    pair = PAIRS["requests"][name]
    field = pair["wanted"].pop("webhook_field", "callback_url")

    order = order_of(pair["sent"])

    assert parts_of(order) == pair["wanted"]
    assert (order.dialect, order.webhook_field) == ("apimodels", field)
    assert order.delivery.base_url == BASE


def test_an_id_looks_like_a_cuid() -> None:
    ids = {translate.new_id() for _ in range(50)}

    assert len(ids) == 50
    assert all(re.fullmatch(r"cl[0-9a-z]{23}", one) for one in ids)
    assert order_of({"model": "m", "prompt": "a"}).new_id is translate.new_id


def test_what_was_asked_is_kept_without_the_pictures() -> None:
    sent = {
        "model": "m",
        "prompt": "a",
        "image_url": "https://example.com/1.png",
        "image_urls": ["AAEC", "https://example.com/2.png"],
        "images": ["AAEC"],
        "mask": "data:image/png;base64,AAEC",
        "seed": 5,
        "unheard": 1,
    }

    assert order_of(sent).extras.asked == {
        "model": "m",
        "prompt": "a",
        "image_url": "https://example.com/1.png",
        "image_urls": ["https://example.com/2.png"],
        "seed": 5,
    }


SIZES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"size": "auto", "aspect_ratio": "auto"}, {}),
    ({"size": "2k"}, {"resolution": "2k"}),
    ({"size": "16:9"}, {"aspect_ratio": "16:9"}),
    ({"size": "1536x1024"}, {"width": 1536, "height": 1024}),
    ({"size": "1920x1088", "aspect_ratio": "16:9"}, {"width": 1920, "height": 1088}),
    ({"size": "1024x1024", "resolution": "1K"}, {"width": 1024, "height": 1024}),
    ({"size": "2048x1024", "resolution": "2K"}, {"width": 2048, "height": 1024}),
    ({"size": "4K", "resolution": "4k"}, {"resolution": "4k"}),
    ({"aspect_ratio": "21:9", "resolution": "4K"}, {"aspect_ratio": "21:9", "resolution": "4k"}),
    ({"aspect_ratio": "match_input_image"}, {}),
    ({"resolution": "512"}, {"width": 512, "height": 512}),
    ({"resolution": 512, "aspect_ratio": "4:1"}, {"width": 1024, "height": 256}),
    ({"resolution": "512", "size": "512x512"}, {"width": 512, "height": 512}),
    ({"width": 640, "height": 480}, {"width": 640, "height": 480}),
]


@pytest.mark.parametrize(("sent", "wanted"), SIZES, ids=str)
def test_a_size_is_said_in_many_ways(sent: dict[str, Any], wanted: dict[str, Any]) -> None:
    told = to_size(wire(**sent))

    assert {name: value for name, value in told.items() if value is not None} == wanted


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"size": "1024x1024", "aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"size": "1024x1024", "resolution": "2K"}, "resolution"),
        ({"size": "1024x1024", "resolution": "512"}, "resolution"),
        ({"size": "2K", "resolution": "4K"}, "resolution"),
        ({"size": "16:9", "aspect_ratio": "9:16"}, "aspect_ratio"),
        ({"size": "1024x1024", "width": 512}, "size"),
        ({"size": "0x1024"}, "size"),
        ({"width": 512}, "height"),
        ({"height": 512}, "width"),
        ({"aspect_ratio": "9:1", "resolution": "512"}, "aspect_ratio"),
        ({"mask": "AAEC", "mask_url": "AAED"}, "mask_url"),
        ({"callback_url": "https://a.example", "callBackUrl": "https://b.example"}, "callBackUrl"),
        ({"image_urls": [f"https://a.example/{n}" for n in range(16)], "image": "AAEC"}, "image"),
        ({"image_url": "???"}, "image_url"),
        ({"layer_decomposition": True}, "layer_decomposition"),
        ({"background": "transparent"}, "background"),
        ({"scale": 2}, "scale"),
        ({"scale": 2.0}, "scale"),
        ({"face_enhance": True}, "face_enhance"),
        ({"nsfw_checker": True}, "nsfw_checker"),
        ({"left_expansion_ratio": 0.5}, "left_expansion_ratio"),
    ],
    ids=str,
)
def test_what_contradicts_or_cannot_be_made_is_named(sent: dict[str, Any], field: str) -> None:
    with pytest.raises((BadRequest, Refused)) as caught:
        order_of({"model": "m", "prompt": "a"} | sent)

    assert isinstance(caught.value, BadRequest | Refused)
    assert caught.value.field == field
    assert field in str(translate.to_error(caught.value, CONTEXT).body["msg"])


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"model": None}, "model"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "2"}, "n"),
        ({"quality": "ultra"}, "quality"),
        ({"output_format": "gif"}, "output_format"),
        ({"resolution": "8K"}, "resolution"),
        ({"size": "huge"}, "size"),
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"lora_scale": 4}, "lora_scale"),
        ({"image_urls": ["AAEC"] * 17}, "image_urls"),
        ({"image_url": 5}, "image_url"),
        ({"layer_decomposition": "yes"}, "layer_decomposition"),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_named(sent: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire(**sent)

    assert caught.value.field == field


def test_a_mask_by_two_names_that_agree_is_one_mask() -> None:
    order = order_of({"model": "m", "prompt": "a", "mask": "AAEC", "mask_image": "AAEC"})

    assert [one.field for one in order.uploads] == ["mask"]


def test_an_unknown_model_is_told_with_those_served() -> None:
    with pytest.raises(BadRequest) as caught:
        translate.check_model("flux-9", ["a", "b/c"])

    assert str(caught.value) == "Invalid model: flux-9. Supported: a, b/c"
    translate.check_model("b/c", ["a", "b/c"])


@pytest.mark.parametrize(
    ("neutral", "sent", "field", "message"),
    [
        (BadValue("count", "count must be less"), {}, "n", "n must be less"),
        (BadValue("width", "width is too much"), {"size": "1x1"}, "size", "size is too much"),
        (BadValue("width", "width is off"), {"width": 9, "height": 9}, "width", "width is off"),
        (Unsupported("image", "takes no image"), {"images": ["AAEC"]}, "images", "takes no image"),
        (BadValue("image", "needs an image"), {"mask": "AAEC"}, "mask", "needs an image"),
        (BadValue("image", "needs an image"), {}, "image_url", "needs an image"),
        (Unsupported("loras", "no LoRA 'x'"), {}, "lora_weights", "no LoRA 'x'"),
        (Unsupported("profile", "has no profile 'x'"), {}, "turbo", "has no turbo 'x'"),
        (Unsupported("magic_prompt", "y"), {}, "prompt_upsampling", "y"),
        (UnknownModel("model", "no model"), {}, "model", "no model"),
    ],
    ids=str,
)
def test_a_refusal_is_in_the_callers_words(
    neutral: Refused, sent: dict[str, Any], field: str, message: str
) -> None:
    asked = wire(**sent)

    with (
        pytest.raises(type(neutral)) as caught,
        translate.in_their_words(asked, translate.to_uploads(asked)),
    ):
        raise neutral

    assert (caught.value.field, str(caught.value)) == (field, message)


@pytest.mark.parametrize("state", PAIRS["tasks"])
def test_a_task_becomes_its_golden_body(state: str, task_in: Callable[[str], Task]) -> None:
    told = translate.to_task(task_in(state), link)

    assert told == PAIRS["tasks"][state]
    TaskInfo.model_validate(told, strict=True)


def test_a_task_that_changed_a_picture_says_so(task_in: Callable[[str], Task]) -> None:
    task = task_in("queued")
    task = replace(task, job=replace(task.job, mode=Mode.EDIT))

    assert translate.to_task(task, link)["modelType"] == "IMAGE_TO_IMAGE"


def test_a_task_that_looks_at_a_picture_is_not_told(task_in: Callable[[str], Task]) -> None:
    task = task_in("succeeded")

    assert translate.own(task) is task
    with pytest.raises(NotFound):
        translate.own(replace(task, extras=Extras(kind=TaskKind.RATE)))


@pytest.mark.parametrize("state", PAIRS["callbacks"])
def test_a_callback_is_its_golden_bytes(state: str, task_in: Callable[[str], Task]) -> None:
    asked = {"model": "nano-banana-pro", "prompt": "un renard “roux”"}
    task = replace(task_in(state), extras=Extras(asked=asked))
    event = Event(message_id="m", task=task, secrets=("whsec_x",), link=link, now_seconds=1)

    letter = write(event)

    assert letter.body == PAIRS["callbacks"][state].encode()
    assert letter.headers == {"Content-Type": "application/json"}


def test_what_a_cancelled_one_made_is_told_beside_its_failure(
    task_in: Callable[[str], Task],
) -> None:
    task = replace(task_in("cancelled"), outputs=task_in("running").outputs)

    event = Event(message_id="m", task=task, secrets=("whsec_x",), link=link, now_seconds=1)
    callback, polled = json.loads(write(event).body)["data"], translate.to_task(task, link)

    assert (callback["state"], callback["failCode"]) == ("failed", "CANCELLED")
    assert len(polled["resultUrls"]) == 1
    assert json.loads(callback["resultJson"]) == {"resultUrls": polled["resultUrls"]}
    assert (polled["state"], polled["credits"]) == ("failed", 5)


def test_a_callback_is_tried_thrice_soon_and_then_for_half_an_hour() -> None:
    pauses = WEBHOOKS.retry_seconds

    assert pauses[:3] == (1.0, 2.0, 4.0)
    assert set(pauses[3:]) == {60.0}
    assert 1700 < sum(pauses) <= 1800
    assert WEBHOOKS.timeout_seconds == 10.0


def test_a_model_is_told_with_its_provider() -> None:
    assert to_model("gpt-image-2") == "darkroom/gpt-image-2"
    assert to_model("black-forest-labs/flux.2-pro") == "black-forest-labs/flux.2-pro"


def test_a_balance_is_in_dollars() -> None:
    account = Account(
        name="team",
        metered=True,
        balance=1234,
        held=5,
        webhook_secret="",
        old_webhook_secret=None,
        secret_changed_ms=None,
        created_ms=0,
    )

    told = translate.to_balance(account, Decimal("0.01"))

    assert told == {"balance": 12.34, "credits": 1234, "metered": True}
    freely = replace(account, metered=False, balance=-34)
    told = translate.to_balance(freely, Decimal("0.01"))
    assert told == {"balance": 99_999_999.66, "credits": 9_999_999_966, "metered": False}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("x"), 400),
        (BadValue("x", "x"), 400),
        (UnknownModel("x", "x"), 400),
        (Unsupported("x", "x"), 400),
        (Unauthorized("x"), 401),
        (NoCredits("x"), 402),
        (Forbidden("x"), 403),
        (NotFound("x"), 404),
        (NotReady("x"), 404),
        (Gone("x"), 404),
        (MethodNotAllowed("x", allow="GET"), 405),
        (IdempotencyRunning("x"), 409),
        (TooLarge("x"), 413),
        (UnsupportedMedia("x"), 415),
        (IdempotencyMismatch("x"), 422),
        (RateLimited("x"), 429),
        (QueueFull("x"), 429),
        (Overloaded("x"), 503),
        (Unavailable("x"), 503),
        (EngineClosed("x"), 503),
        (NotMade("x", reason="out_of_memory"), 500),
        (ApiError("x"), 500),
    ],
)
def test_an_errors_code_is_that_of_http(error: ApiError | EngineError, status: int) -> None:
    told = translate.to_error(error, CONTEXT)

    assert (told.status, told.body) == (status, {"code": status, "msg": "x", "data": None})


def test_an_error_names_its_field() -> None:
    told = translate.to_error(BadRequest("is wrong", field="mask_url"), CONTEXT)

    assert told.body["msg"] == "mask_url: is wrong"


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("takes 1 source image(s), not 2", "image", "image: takes 1 source image(s), not 2"),
        ("one too many", "n", "n: one too many"),
        ("image is empty", "image", "image is empty"),
        ("image.0 should be a valid string", "image", "image.0 should be a valid string"),
        ("Invalid model: a. Supported: b", "model", "Invalid model: a. Supported: b"),
    ],
)
def test_a_field_is_told_as_a_word_and_once(text: str, field: str, said: str) -> None:
    assert translate.to_error(BadRequest(text, field=field), CONTEXT).body["msg"] == said
