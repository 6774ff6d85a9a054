"""Mynth's translations, without a server; the pairs are in golden/mynth.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api.body import Body
from api.dialects.base import ErrorContext
from api.dialects.mynth import bodies, destinations, replies, translate
from api.dialects.mynth.schema import (
    PRESETS,
    AltRequest,
    GenerateRequest,
    LookRequest,
    RateRequest,
    ReviewRequest,
)
from api.dialects.wire import parse
from api.errors import (
    STATUS,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    IdempotencyMismatch,
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
from api.orders import Remote, Upload
from api.tasks import Delivery, Enhanced, Findings, Rating, Task, TaskKind
from inference.errors import BadValue, EngineClosed, EngineError, UnknownModel, Unsupported
from tests.api.dialects.mynth import CENT, ID, body_of, link, maker

CONTEXT = ErrorContext(path="/image/generate", request_id="r1")
GOLDEN = Path(__file__).parent / "golden" / "mynth.json"
PAIRS = json.loads(GOLDEN.read_text(encoding="utf-8"))
LOOKS: dict[str, type[LookRequest]] = {
    "rate": RateRequest,
    "rate by levels": RateRequest,
    "alt": AltRequest,
    "review": ReviewRequest,
}


def wire(**values: Any) -> GenerateRequest:
    return parse(GenerateRequest, body_of({"prompt": "a"} | values))


def told(value: Any) -> dict[str, Any]:
    """A record as the golden file writes it: what is left open is left out."""
    plain = json.loads(json.dumps(asdict(value)))
    return {name: one for name, one in plain.items() if one not in (None, [], "", False)}


def upload_parts(upload: Upload) -> dict[str, Any]:
    assert isinstance(upload.data, Remote)
    parts = {"role": upload.role, "field": upload.field, "url": upload.data.url}
    parts |= {"tag": upload.tag, "weight": upload.weight}
    return {name: value for name, value in parts.items() if value is not None}


@pytest.fixture
def task(task_in: Callable[[str], Task]) -> Callable[..., Task]:
    return maker(task_in)


@pytest.mark.parametrize("name", PAIRS["requests"])
def test_a_wire_request_becomes_its_golden_order(name: str) -> None:
    pair = PAIRS["requests"][name]
    body = body_of(pair["sent"])

    order = translate.to_order(parse(GenerateRequest, body), body, "https://d.example")

    wanted, extras = pair["wanted"], order.extras
    assert told(order.request) == wanted["request"]
    assert [upload_parts(one) for one in order.uploads] == wanted["uploads"]
    assert told(order.delivery) == wanted["delivery"]
    rating = json.loads(json.dumps(asdict(extras.rating))) if extras.rating else None
    assert rating == wanted.get("rating")
    assert extras.magic_prompt is wanted.get("magic_prompt", False)
    assert extras.tells_hooks is wanted.get("tells_hooks", True)
    assert extras.asked == pair.get("asked", pair["sent"])
    assert (order.dialect, order.webhook_field) == ("mynth", "webhook.custom")


@pytest.mark.parametrize("name", PAIRS["looks"])
def test_a_look_becomes_its_golden_order(name: str) -> None:
    pair = PAIRS["looks"][name]
    body = body_of(pair["sent"] | {"unknown": 1})

    order = translate.to_look(parse(LOOKS[name], body), body, "https://d.example")

    extras = json.loads(json.dumps(asdict(order.extras)))
    assert {name: extras[name] for name in pair["wanted"]} == pair["wanted"]
    assert extras["asked"] == pair["sent"]
    assert [upload_parts(one) for one in order.uploads] == [
        {"role": "source", "field": "url", "url": "https://a.example/0"}
    ]
    assert order.request.prompt == ""


@pytest.mark.parametrize(
    ("size", "ratio", "tier"),
    [
        ("auto", None, None),
        ({"type": "auto"}, None, None),
        *((name, ratio, None) for name, ratio in PRESETS.items()),
        *((name, name, None) for name in ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4")),
        *((name, name, None) for name in ("9:16", "16:9", "21:9", "2:1", "1:2")),
        *((f"{name}_4k", name, "4k") for name in ("1:1", "21:9", "1:2")),
        ({"type": "aspect_ratio", "aspectRatio": "3:2"}, "3:2", None),
        ({"type": "aspect_ratio", "aspectRatio": "3:2", "scale": "4k"}, "3:2", "4k"),
    ],
)
def test_a_size_is_read_in_every_spelling(size: Any, ratio: str | None, tier: str | None) -> None:
    request = translate.to_request(wire(size=size))
    assert (request.aspect_ratio, request.resolution) == (ratio, tier)
    assert (request.width, request.height) == (None, None)


def test_presets_lie_and_stand_as_they_are_called() -> None:
    sides = {name: [int(side) for side in ratio.split(":")] for name, ratio in PRESETS.items()}
    assert sides["square"] == [1, 1]
    for name in ("portrait", "portrait_tall"):
        assert sides[name][0] < sides[name][1]
    for name in ("landscape", "landscape_wide"):
        assert sides[name][0] > sides[name][1]
    tall, wide = sides["portrait_tall"], sides["landscape_wide"]
    assert tall[1] / tall[0] > sides["portrait"][1] / sides["portrait"][0]
    assert wide[0] / wide[1] > sides["landscape"][0] / sides["landscape"][1]


def levels(count: int, **changes: str) -> list[dict[str, str]]:
    return [{"value": str(number), "description": ""} | changes for number in range(count)]


ONE = {"type": "url", "url": "https://a.example/0"}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"positive": "a"}}, "prompt"),
        ({"prompt": "a" * 8193}, "prompt"),
        ({"negative_prompt": ""}, "negative_prompt"),
        ({"negative_prompt": "a" * 8193}, "negative_prompt"),
        ({"magic_prompt": "yes"}, "magic_prompt"),
        ({"model": ""}, "model"),
        ({"count": 0}, "count"),
        ({"count": 21}, "count"),
        ({"count": "1"}, "count"),
        ({"size": "5:3"}, "size"),
        ({"size": "auto_4k"}, "size"),
        ({"size": 5}, "size"),
        ({"size": {"type": "pixels"}}, "size.type"),
        ({"size": {"type": "aspect_ratio"}}, "size"),
        ({"size": {"type": "aspect_ratio", "aspectRatio": "5:3"}}, "size.aspectRatio"),
        ({"size": {"type": "aspect_ratio", "aspectRatio": "1:1", "scale": "8k"}}, "size.scale"),
        ({"output": {"format": "avif"}}, "output.format"),
        ({"output": {"quality": 0}}, "output.quality"),
        ({"output": {"quality": 101}}, "output.quality"),
        ({"inputs": "https://a.example/0"}, "inputs"),
        ({"inputs": [ONE["url"]] * 21}, "inputs"),
        ({"inputs": ["data:image/png;base64,AAEC"]}, "inputs[0].source.url"),
        ({"inputs": [ONE["url"], ""]}, "inputs[1].source.url"),
        ({"inputs": ["https://a.example/" + "a" * 2048]}, "inputs[0].source.url"),
        ({"inputs": [{"type": "video", "source": ONE}]}, "inputs[0].type"),
        ({"inputs": [{"type": "image", "as": "mask", "source": ONE}]}, "inputs[0].as"),
        ({"inputs": [{"type": "image"}]}, "inputs[0].source"),
        ({"rating": "yes"}, "rating"),
        ({"rating": {"mode": "custom"}}, "rating.levels"),
        ({"rating": {"mode": "stars"}}, "rating.mode"),
        ({"rating": {"levels": [{"value": "a", "description": ""}]}}, "rating.levels"),
        ({"rating": {"levels": [{"value": "a", "description": ""}] * 2}}, "rating.levels"),
        ({"rating": {"levels": levels(8)}}, "rating.levels"),
        ({"rating": {"levels": levels(2, value="a" * 25)}}, "rating.levels[0].value"),
        ({"rating": {"levels": levels(2, description="b" * 151)}}, "rating.levels[0].description"),
        ({"destination": ""}, "destination"),
        ({"destination": "a" * 65}, "destination"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": "é" * 1024}}, "metadata"),
        ({"webhook": {"custom": [{"url": "https://a.example"}] * 6}}, "webhook.custom"),
        ({"webhook": {"custom": ["https://a.example"]}}, "webhook.custom[0]"),
        ({"webhook": {"custom": [{"url": "a.example"}]}}, "webhook.custom[0].url"),
        ({"webhook": {"dashboard": "no"}}, "webhook.dashboard"),
        ({"access": {"pat": {"enabled": 1}}}, "access.pat.enabled"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire(**values)
    error = translate.to_error(caught.value, CONTEXT)
    assert (error.status, error.body["code"]) == (400, "VALIDATION_ERROR")
    assert error.body["field"] == field
    assert field in error.body["message"]


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "a" * 8192, "count": 20},
        {"inputs": [ONE["url"]] * 20},
        {"metadata": {"a": "b" * 2040}},
        {"rating": {"mode": "nsfw_sfw"}},
        {"rating": False},
        {"rating": {"levels": levels(7)}},
        {"webhook": {"custom": [{"url": "https://a.example"}] * 5}},
        {"output": {"format": "png", "quality": 100}},
    ],
)
def test_a_value_at_its_bound_is_taken(values: dict[str, Any]) -> None:
    wire(**values)


def test_metadata_may_have_two_kilobytes() -> None:
    frame = len('{"a":""}')
    wire(metadata={"a": "b" * (2048 - frame)})
    with pytest.raises(BadRequest):
        wire(metadata={"a": "b" * (2049 - frame)})


def test_a_garment_is_refused_by_its_place() -> None:
    inputs = [ONE["url"], {"type": "image", "as": "garment", "source": ONE}]
    body = body_of({"prompt": "a", "inputs": inputs})
    with pytest.raises(BadRequest, match="reference") as caught:
        translate.to_order(parse(GenerateRequest, body), body, "")
    assert caught.value.field == "inputs[1].as"


def test_a_form_is_not_taken() -> None:
    with pytest.raises(UnsupportedMedia):
        translate.plain_json(Body(values={"prompt": "a"}, is_form=True))


def test_ids_are_ulids_in_the_order_of_their_making() -> None:
    made = [translate.new_id() for _ in range(50)]
    assert len(set(made)) == 50
    assert all(re.fullmatch(translate.ID, one) for one in made)
    assert [one[4:14] for one in made] == sorted(one[4:14] for one in made)
    assert max(map(len, made)) <= 32


@pytest.mark.parametrize(
    ("credits", "credit", "text"),
    [
        (0, "0.01", "0"),
        (3, "0.01", "0.03"),
        (100, "0.01", "1"),
        (-2, "0.01", "-0.02"),
        (1, "0.0000001", "0.0000001"),
        (10**12, "1", "1000000000000"),
        (7, "0.0015", "0.0105"),
    ],
)
def test_money_is_plain_decimal_text(credits: int, credit: str, text: str) -> None:
    assert bodies.money(credits, Decimal(credit)) == text


@pytest.mark.parametrize("state", PAIRS["tasks"])
def test_a_task_becomes_its_golden_body(state: str, task: Callable[..., Task]) -> None:
    wanted = PAIRS["tasks"][state]
    made = task(state)

    body = bodies.to_task(made, link, CENT)

    assert body == {"data": wanted}
    replies.Task.model_validate(body, strict=True)
    short = ("id", "type", "status", "result")
    result = {name: wanted[name] for name in short}
    assert bodies.to_task_result(made, link, CENT) == {"data": result}
    assert bodies.to_status(made) == {"data": {"status": wanted["status"]}}
    line = ("id", "type", "status", "cost", "createdAt", "updatedAt")
    assert bodies.to_line(made, CENT) == {name: wanted[name] for name in line}


def test_auto_tells_the_model_that_was_taken(task: Callable[..., Task]) -> None:
    made = task("succeeded")
    made = replace(made, request=replace(made.request, model="auto"))
    assert bodies.to_result(made, link, CENT)["model"] == "tiny-flux"  # type: ignore[index]


def test_a_prompt_that_was_written_out_is_told(task: Callable[..., Task]) -> None:
    made = replace(
        task("succeeded"), findings=Findings(enhanced=Enhanced(prompt="a red fox, snow"))
    )
    result = bodies.to_result(made, link, CENT)
    assert result is not None
    assert result["magic_prompt"] == {"positive": "a red fox, snow"}
    both = Enhanced(prompt="a fox", negative_prompt="blur")
    result = bodies.to_result(replace(made, findings=Findings(enhanced=both)), link, CENT)
    assert result is not None
    assert result["magic_prompt"] == {"positive": "a fox", "negative": "blur"}


@pytest.mark.parametrize(
    ("copy", "url"),
    [("https://cdn.example/0.png", "https://cdn.example/0.png"), ("s3://bucket/0.png", None)],
)
def test_a_copy_is_where_its_destination_says(
    copy: str, url: str | None, task: Callable[..., Task]
) -> None:
    made = task("succeeded")
    outputs = tuple(replace(one, destination_url=copy) for one in made.outputs)
    made = replace(made, delivery=Delivery(destination="site"), outputs=outputs)

    result = bodies.to_result(made, link, CENT)

    assert result is not None
    for image in result["images"]:
        assert (image["url"], image["destination"]) == (url, {"status": "success", "name": "site"})
        assert image["mynth_url"].startswith("https://d.example/image/files/")


def test_ratings_are_told_and_so_is_their_failure(task: Callable[..., Task]) -> None:
    made = task("succeeded")
    ratings = (Rating(level="sfw"), Rating(error="the rater is away"))
    outputs = tuple(replace(a, rating=b) for a, b in zip(made.outputs, ratings, strict=True))

    result = bodies.to_result(replace(made, outputs=outputs), link, CENT)

    assert result is not None
    assert [image["rating"] for image in result["images"]] == [
        {"status": "success", "level": "sfw"},
        {"status": "failed", "error": {"code": "RATING_FAILED", "message": "the rater is away"}},
    ]


@pytest.mark.parametrize(
    ("kind", "found", "wanted"),
    [
        (TaskKind.RATE, {"level": "nsfw"}, {"level": "nsfw"}),
        (TaskKind.ALT, {"alt": "a fox"}, {"alt": "a fox"}),
        (
            TaskKind.REVIEW,
            {"score": 3, "summary": "good", "findings": ("six toes",), "strengths": ("light",)},
            {
                "score": 3,
                "summary": "good",
                "findings": [
                    {
                        "finding": "six toes",
                        "category": "unspecified",
                        "severity": "unspecified",
                        "where": "unspecified",
                        "confidence": "unspecified",
                    }
                ],
                "strengths": [{"strength": "light", "confidence": "unspecified"}],
            },
        ),
    ],
)
def test_a_look_tells_its_picture_and_what_it_said(
    kind: TaskKind, found: dict[str, Any], wanted: dict[str, Any], task: Callable[..., Task]
) -> None:
    made = task("succeeded", kind=kind, asked={"url": "https://a.example/0"})
    made = replace(made, outputs=(), findings=Findings(result=found), credits=0)

    body = bodies.to_task(made, link, CENT)["data"]

    assert body["result"] == {"url": "https://a.example/0"} | wanted
    assert (body["type"], body["cost"]) == (f"image.{kind}", "0")
    failed = bodies.to_task(task("failed", kind=kind), link, CENT)["data"]
    assert failed["errors"][0]["code"] == f"{kind.upper()}_FAILED"


def test_a_creation_tells_the_price_and_the_token(task: Callable[..., Task]) -> None:
    made = task("queued")
    reply = bodies.to_created(made, CENT, "pat_x")
    data = {"taskId": ID, "estimatedCost": "0.1", "access": {"publicAccessToken": "pat_x"}}
    assert (reply.status, reply.body) == (201, {"data": data})
    assert "access" not in bodies.to_created(made, CENT, None).body["data"]


def test_an_estimate_says_whether_it_is_exact() -> None:
    exact, bound = bodies.to_estimate((3, 3), CENT), bodies.to_estimate((3, 9), CENT)
    assert exact["data"] == {"estimatedCost": "0.03", "currency": "usd", "estimateKind": "exact"}
    assert (bound["data"]["estimatedCost"], bound["data"]["estimateKind"]) == (
        "0.09",
        "upper_bound",
    )


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadRequest("x"), 400, "VALIDATION_ERROR"),
        (BadValue("count", "x"), 400, "VALIDATION_ERROR"),
        (Unsupported("model", "x"), 400, "VALIDATION_ERROR"),
        (UnknownModel("model", "x"), 400, "VALIDATION_ERROR"),
        (Unauthorized("x"), 401, "UNAUTHORIZED"),
        (NoCredits("x"), 402, "INSUFFICIENT_BALANCE"),
        (Forbidden("x"), 403, "FORBIDDEN"),
        (NotFound("x"), 404, "NOT_FOUND"),
        (Conflict("x"), 409, "CONFLICT"),
        (IdempotencyMismatch("x"), 409, "IDEMPOTENCY_MISMATCH"),
        (IdempotencyRunning("x"), 409, "IDEMPOTENCY_RUNNING"),
        (Gone("x"), 410, "GONE"),
        (TooLarge("x"), 413, "PAYLOAD_TOO_LARGE"),
        (UnsupportedMedia("x"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (RateLimited("x"), 429, "RATE_LIMITED"),
        (QueueFull("x"), 429, "RATE_LIMITED"),
        (ApiError("x"), 500, "INTERNAL_ERROR"),
        (destinations.DestinationTestFailed("x"), 502, "DESTINATION_TEST_FAILED"),
        (Overloaded("x"), 503, "SERVICE_UNAVAILABLE"),
        (Unavailable("x"), 503, "SERVICE_UNAVAILABLE"),
        (EngineClosed("x"), 503, "SERVICE_UNAVAILABLE"),
    ],
)
def test_an_error_is_code_and_message(
    error: ApiError | EngineError, status: int, code: str
) -> None:
    made = translate.to_error(error, CONTEXT)

    field = getattr(error, "field", None)
    assert made.status == status
    assert made.body == {"code": code, "message": "x"} | ({"field": field} if field else {})
    replies.Error.model_validate(made.body, strict=True)


def test_every_kind_of_refusal_has_a_code() -> None:
    assert set(STATUS) <= set(translate.CODES)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("image", "inputs"),
        ("resolution", "size"),
        ("aspect_ratio", "size"),
        ("path_template", "config.path_template"),
        ("access_key_id", "secret.access_key_id"),
        ("inputs.3.source.url", "inputs[3].source.url"),
        ("alt", None),
    ],
)
def test_a_field_is_named_as_the_caller_calls_it(inner: str, outer: str | None) -> None:
    assert translate.to_error(BadRequest("x", field=inner), CONTEXT).body.get("field") == outer
