"""Model Buffet's translations, without a server; the pairs are in golden/modelbuffet.json."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from api.body import Body
from api.dialects.base import ErrorContext
from api.dialects.modelbuffet import translate
from api.dialects.modelbuffet.schema import EditRequest, Error, GenerateRequest, Generation
from api.dialects.modelbuffet.webhook import WEBHOOKS, write
from api.dialects.wire import parse
from api.errors import (
    STATUS,
    ApiError,
    BadRequest,
    Forbidden,
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
from api.limits import Allowance
from api.orders import Order, Remote, Upload
from api.tasks import Task, TaskState
from api.webhooks import Event
from inference.errors import BadValue, EngineClosed, EngineError, UnknownModel, Unsupported

CONTEXT = ErrorContext(path="/v1/images/generate", request_id="r1")
GOLDEN = Path(__file__).parent / "golden" / "modelbuffet.json"
PAIRS = json.loads(GOLDEN.read_text(encoding="utf-8"))
SECRETS = ("whsec_bmV3", "whsec_b2xk")


def link(path: str, key: str) -> str:
    return f"https://d.example{path}?key={key}"


def wire(**values: Any) -> GenerateRequest:
    kind = EditRequest if "image" in values else GenerateRequest
    return parse(kind, translate.plain_json(Body(values=values)))


def parts_of(order: Order) -> dict[str, Any]:
    """An order as the golden file writes it: what is left to the model is left out."""
    return {
        "request": {
            name: value
            for name, value in asdict(order.request).items()
            if value is not None and value != ()
        },
        "uploads": [upload_parts(one) for one in order.uploads],
        "webhooks": list(order.delivery.webhooks),
    }


def upload_parts(upload: Upload) -> dict[str, Any]:
    data = upload.data
    parts = {
        "role": upload.role.value,
        "field": upload.field,
        "url": data.url if isinstance(data, Remote) else None,
        "bytes": None if isinstance(data, Remote) else list(data),
        "tag": upload.tag,
        "weight": upload.weight,
    }
    return {name: value for name, value in parts.items() if value is not None}


@pytest.fixture
def generation(task_in: Callable[[str], Task]) -> Callable[[str], Task]:
    """A task of this dialect, in the state of that name."""
    return lambda state: replace(task_in(state), id="5fK3p2L8mN", dialect="modelbuffet")


@pytest.mark.parametrize("name", PAIRS["requests"])
def test_a_wire_request_becomes_its_golden_order(name: str) -> None:
    pair = PAIRS["requests"][name]

    order = translate.to_order(wire(**pair["sent"]), "https://d.example")

    assert parts_of(order) == pair["wanted"]
    assert (order.dialect, len(order.new_id())) == ("modelbuffet", 10)
    assert (order.webhook_field, order.delivery.base_url) == ("webhook", "https://d.example")


@pytest.mark.parametrize("state", PAIRS["bodies"])
def test_a_task_becomes_its_golden_body(state: str, generation: Callable[[str], Task]) -> None:
    body = translate.to_body(generation(state), link)

    assert body == PAIRS["bodies"][state]
    Generation.model_validate(body, strict=True)


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/webp", "image/avif"])
def test_a_picture_of_another_format_has_its_ending(
    media_type: str, generation: Callable[[str], Task]
) -> None:
    task = generation("succeeded")
    task = replace(task, outputs=(replace(task.outputs[1], media_type=media_type),))

    (output,) = translate.to_body(task, link)["outputs"]

    ending = {"image/jpeg": "jpg", "image/webp": "webp", "image/avif": "avif"}[media_type]
    assert output["url"].startswith(f"https://d.example/o/gen_5fK3p2L8mN/1.{ending}?")


def test_a_failure_without_a_reason_still_has_words(generation: Callable[[str], Task]) -> None:
    task = replace(generation("failed"), error_kind=None, error_message=None)

    told = translate.to_body(task, link)["error"]

    assert told == {"code": "generation_failed", "message": "the generation failed"}


def test_a_clock_that_went_back_makes_no_negative_duration(
    generation: Callable[[str], Task],
) -> None:
    task = generation("succeeded")

    body = translate.to_body(replace(task, finished_ms=task.created_ms - 5), link)

    assert body["duration_ms"] == 0


@pytest.mark.parametrize(
    ("state", "status"),
    [("queued", 202), ("running", 202), ("succeeded", 200), ("failed", 200), ("cancelled", 200)],
)
def test_a_creation_is_200_once_it_has_ended(
    state: str, status: int, generation: Callable[[str], Task]
) -> None:
    task = generation(state)

    reply = translate.to_reply(task, link)

    assert (reply.status, reply.body, reply.headers) == (status, PAIRS["bodies"][state], {})
    followed = translate.to_reply(task, link, preference="respond-async")
    assert followed.headers == {"Preference-Applied": "respond-async"}


def test_a_task_of_another_dialect_is_no_generation(generation: Callable[[str], Task]) -> None:
    task = generation("succeeded")

    assert translate.own(task) is task
    with pytest.raises(NotFound):
        translate.own(replace(task, dialect="modelmux"))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a" * 4001}, "prompt"),
        ({"count": 0}, "count"),
        ({"count": 9}, "count"),
        ({"count": "4"}, "count"),
        ({"count": True}, "count"),
        ({"count": 1.5}, "count"),
        ({"aspect_ratio": "3:2"}, "aspect_ratio"),
        ({"aspect_ratio": "4:3"}, "aspect_ratio"),
        ({"aspect_ratio": "3:4"}, "aspect_ratio"),
        ({"references": {}}, "references"),
        ({"references": [{"url": "AAEC"}] * 7}, "references"),
        ({"references": ["https://a.example/0"]}, "references.0"),
        ({"references": [None]}, "references.0"),
        ({"references": [{"tag": "style"}]}, "references.0.url"),
        ({"references": [{"url": "AAEC", "tag": "mood"}]}, "references.0.tag"),
        ({"references": [{"url": "AAEC", "weight": 1.01}]}, "references.0.weight"),
        ({"references": [{"url": "AAEC", "weight": -0.01}]}, "references.0.weight"),
        ({"references": [{"url": "AAEC"}, {"url": "AAEC", "weight": "1"}]}, "references.1.weight"),
        ({"negative_prompt": []}, "negative_prompt"),
        ({"seed": "1"}, "seed"),
        ({"webhook": {}}, "webhook"),
        ({"webhook": ""}, "webhook"),
        ({"image": 5}, "image"),
        ({"image": "AAEC", "mask": 5}, "mask"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire(**({"model": "flux-2-max", "prompt": "a"} | values))
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"references": [{"url": "AAEC"}, {"url": "!"}]}, "references[1].url"),
        ({"references": [{"url": ""}]}, "references[0].url"),
        ({"image": "ftp://a.example/fox.png"}, "image"),
        ({"image": "AAEC", "mask": "data:,x"}, "mask"),
    ],
)
def test_a_text_that_is_no_picture_is_named(values: dict[str, Any], field: str) -> None:
    values = {"model": "flux-2-max", "prompt": "a"} | values
    with pytest.raises(BadRequest) as caught:
        translate.to_order(wire(**values), "")
    assert caught.value.field == field


def test_a_form_is_not_taken() -> None:
    with pytest.raises(UnsupportedMedia):
        translate.plain_json(Body(values={"model": "flux-2-max", "prompt": "a"}, is_form=True))


@pytest.mark.parametrize(
    ("prefer", "wanted"),
    [
        ([], False),
        ([""], False),
        (["respond-async"], True),
        (["Respond-Async"], True),
        (["wait=10, respond-async"], True),
        (["wait=10", "respond-async"], True),
        (["respond-async; x=1"], True),
        (["respond-asynchronously"], False),
        (["respond-async-not"], False),
        (['foo="a, respond-async, b"'], False),
        ([r'foo="a\", respond-async, b", respond-async'], True),
        (["return=minimal"], False),
    ],
)
def test_a_preference_is_read(prefer: list[str], wanted: bool) -> None:
    assert translate.wants_async(prefer) is wanted


def test_the_limit_is_told_in_seconds_since_the_epoch() -> None:
    told = translate.to_rate_headers(Allowance(limit=60, remaining=58, reset_seconds=1.4), 1000.5)

    assert told == {
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "58",
        "X-RateLimit-Reset": "1002",
    }


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (BadRequest("x"), 400, "invalid_request", "invalid_request"),
        (BadValue("count", "x"), 400, "invalid_request", "invalid_request"),
        (Unsupported("references", "x"), 400, "invalid_request", "unsupported_by_model"),
        (Unauthorized("x"), 401, "authentication", "unauthorized"),
        (NoCredits("x"), 402, "billing", "insufficient_credits"),
        (Forbidden("x"), 403, "permission", "forbidden"),
        (UnknownModel("model", "x"), 404, "not_found", "model_not_found"),
        (NotFound("x"), 404, "not_found", "not_found"),
        (IdempotencyMismatch("x"), 409, "conflict", "idempotency_conflict"),
        (IdempotencyRunning("x"), 409, "conflict", "idempotency_in_progress"),
        (TooLarge("x"), 413, "invalid_request", "payload_too_large"),
        (UnsupportedMedia("x"), 415, "invalid_request", "unsupported_media_type"),
        (RateLimited("x"), 429, "rate_limit", "rate_limited"),
        (QueueFull("x"), 429, "rate_limit", "too_many_unfinished"),
        (ApiError("x"), 500, "server", "internal_error"),
        (Overloaded("x"), 503, "server", "overloaded"),
        (Unavailable("x"), 503, "server", "unavailable"),
        (EngineClosed("x"), 503, "server", "unavailable"),
    ],
)
def test_an_error_has_type_code_message_and_param(
    error: ApiError | EngineError, status: int, kind: str, code: str
) -> None:
    told = translate.to_error(error, CONTEXT)

    assert told.status == status
    Error.model_validate(told.body, strict=True)
    assert told.body == {
        "error": {
            "type": kind,
            "code": code,
            "message": "x",
            "param": getattr(error, "field", None),
        },
        "request_id": "r1",
    }


def test_every_kind_of_refusal_has_a_code() -> None:
    assert set(STATUS) <= set(translate.ERRORS)


def test_a_field_of_a_reference_is_named_as_in_code() -> None:
    error = BadRequest("references.12.tag should be 'style'", field="references.12.tag")

    told = translate.to_error(error, CONTEXT).body["error"]

    assert told["param"] == "references[12].tag"
    assert told["message"] == "references[12].tag should be 'style'"


# 1.3 webhook


def event(task: Task, secrets: tuple[str, ...] = SECRETS[:1]) -> Event:
    return Event(
        message_id="m1",
        task=task,
        secrets=secrets,
        link=lambda path, _: link(path, "k"),
        now_seconds=1714521600,
    )


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_message_is_the_generation_flat_and_again_as_data(
    state: str, generation: Callable[[str], Task]
) -> None:
    task = generation(state)

    message = json.loads(write(event(task)).body)

    told = translate.to_body(task, lambda path, _: link(path, "k"))
    status = "completed" if task.state is TaskState.SUCCEEDED else "failed"
    assert message.pop("type") == f"image.generation.{status}"
    assert message.pop("created") == 1733011230
    assert message.pop("data") == told
    assert message == told
    Generation.model_validate(message, strict=True)


def test_a_message_is_signed_over_time_and_exact_bytes(
    generation: Callable[[str], Task],
) -> None:
    letter = write(event(generation("succeeded")))

    signed = b"1714521600." + letter.body
    wanted = hmac.new(b"whsec_bmV3", signed, hashlib.sha256).hexdigest()
    assert letter.headers == {
        "Content-Type": "application/json",
        "luxe-signature": f"t=1714521600,v1={wanted}",
    }


def test_while_a_secret_is_replaced_both_sign(generation: Callable[[str], Task]) -> None:
    letter = write(event(generation("failed"), SECRETS))

    time, *marks = letter.headers["luxe-signature"].split(",")

    signed = b"1714521600." + letter.body
    assert time == "t=1714521600"
    assert marks == [
        f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}" for secret in SECRETS
    ]


def test_a_message_is_sent_again_by_the_published_schedule() -> None:
    assert WEBHOOKS.retry_seconds == (1, 5, 30, 5 * 60, 30 * 60)
    assert WEBHOOKS.timeout_seconds == 10
    assert WEBHOOKS.write is write
