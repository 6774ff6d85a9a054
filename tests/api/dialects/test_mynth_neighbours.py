"""Mynth's neighbours, webhooks and older clients, translated without a server."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.accounts import Account, Caller, Key, Period, Spent
from api.dialects.mynth import account, bodies, compat, destinations, hooks, replies
from api.dialects.mynth.schema import GenerateRequest
from api.dialects.mynth.webhook import WEBHOOKS, write
from api.dialects.wire import parse
from api.errors import BadRequest
from api.hooks import EVENTS, Hook
from api.tasks import Failure, Rating, Task
from api.webhooks import Event
from inference.catalog import load_catalog
from tests.api.dialects.mynth import CENT, ID, body_of, link, maker


@pytest.fixture
def task(task_in: Callable[[str], Task]) -> Callable[..., Task]:
    return maker(task_in)


# 4.4 neighbours


def test_models_are_listed_by_every_name_with_their_prices(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        """
models:
  small: {family: flux, source: ./a, description: a small one, price: 2}
  large:
    family: flux
    source: ./b
    limits: {max_side: 4096, max_megapixels: 17}
    price: {1k: 3, 2k: 5, 4k: 9}
  filler: {family: flux-fill, source: ./c, price: 4}
aliases:
  lab/large: {model: large, price: {1k: 30}}
"""
    )
    data = account.to_models(load_catalog(path), CENT)
    replies.ModelList.model_validate(data, strict=True)
    assert data["data"] == [
        {"id": "small", "displayName": "a small one", "pricing": {"perImage": {"base": "0.02"}}},
        {
            "id": "large",
            "displayName": None,
            "pricing": {"perImage": {"base": "0.03", "4k": "0.09"}},
        },
        {"id": "filler", "displayName": None, "pricing": {"perImage": {"base": "0.04"}}},
        {"id": "lab/large", "displayName": None, "pricing": {"perImage": {"base": "0.3"}}},
    ]


def test_who_calls_is_told_without_the_key() -> None:
    key = Key(id="a1B2c3D4e5", account="team", label="ci")
    told = account.to_me(Caller("team", key))["data"]
    assert told["userId"] == "team"
    assert told["auth"] == {
        "method": "api-key",
        "apiKey": {"id": "a1B2c3D4e5", "name": "ci", "keyPreview": "a1B2…"},
    }
    assert account.to_me(Caller())["data"] == {"userId": "local", "auth": {"method": "none"}}


def test_a_balance_is_what_there_is_with_what_is_reserved() -> None:
    owner = Account(
        name="team",
        metered=True,
        balance=70,
        held=30,
        webhook_secret="s",
        old_webhook_secret=None,
        secret_changed_ms=None,
        created_ms=0,
    )
    plain = {"balance": "1", "reserved": "0.3", "available": "0.7", "currency": "usd"}
    assert account.to_balance(owner, None, None, CENT)["data"] == plain
    freely = replace(owner, metered=False, balance=-70)
    told = account.to_balance(freely, None, None, CENT)["data"]
    assert told == plain | {"balance": "99999999.6", "available": "99999999.3"}
    key = Key(id="k", account="team", spend_limit=50, spend_period=Period.DAY)
    spent = Spent(credits=60, since_ms=0, until_ms=1)
    assert account.to_balance(owner, key, spent, CENT)["data"] == plain | {
        "apiKey": {
            "spendingLimit": "0.5",
            "spendingLimitPeriod": "day",
            "usedInPeriod": "0.6",
            "remainingInPeriod": "0",
        }
    }


S3 = {"id": "s3", "bucket": "pictures", "region": "eu-1", "endpoint": "https://s3.example"}
R2 = {"id": "r2", "bucket": "pictures", "account_id": "abc123"}
KEY = {"access_key_id": "id", "secret_access_key": "secret"}


def place(provider: dict[str, Any], **config: Any) -> destinations.DestinationRequest:
    sent = {"name": "site", "provider": provider, "secret": KEY, "config": config}
    return parse(destinations.DestinationRequest, body_of(sent))


@pytest.mark.parametrize(
    ("provider", "endpoint", "region"),
    [
        (S3, "https://s3.example", "eu-1"),
        ({"id": "s3", "bucket": "pictures", "region": "eu-1"}, None, "eu-1"),
        (R2, "https://abc123.r2.cloudflarestorage.com", "auto"),
        (R2 | {"jurisdiction": "eu"}, "https://abc123.eu.r2.cloudflarestorage.com", "auto"),
    ],
)
def test_a_destination_is_a_place_and_is_told_as_it_came(
    provider: dict[str, Any], endpoint: str | None, region: str
) -> None:
    config = {
        "path_template": "a/{YYYY}/{MM}-{DD}/{id}",
        "url_template": "https://c.example/{path}",
    }
    wanted = place(provider, **config)

    made = destinations.to_destination(wanted, "team", "site", wanted.secret)

    assert (made.url, made.endpoint, made.region) == ("s3://pictures", endpoint, region)
    assert (made.access_key_id, made.secret, made.provider) == ("id", "secret", provider["id"])
    assert made.path_template == "a/{year}/{month}-{day}/{task_id}-{number}.{ext}"
    told = destinations.to_data(replace(made, id="dst_1"))
    defaults = {"jurisdiction": "default"} if provider["id"] == "r2" else {}
    assert told["provider"] == defaults | provider
    assert told["config"] == config
    assert "secret" not in json.dumps(told)


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        ({"id": "bunny", "storage_zone": "z"}, "provider"),
        ({"id": "gcs"}, "provider.id"),
        ({"id": "s3", "bucket": "pictures"}, "provider"),
        ({"id": "s3", "region": "eu"}, "provider"),
        ({"id": "r2", "bucket": "pictures"}, "provider"),
        (S3 | {"bucket": "../x"}, "provider.bucket"),
        (S3 | {"force_path_style": False}, "provider"),
        (R2 | {"account_id": "a.evil"}, "provider.account_id"),
    ],
)
def test_a_provider_is_refused_by_its_field(provider: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        place(provider)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"path_template": "{uuid}"}, "path_template"),
        ({"path_template": "{task_id}"}, "path_template"),
        ({"url_template": "https://c.example/"}, "url_template"),
    ],
)
def test_a_template_is_refused_by_its_field(config: dict[str, Any], field: str) -> None:
    wanted = place(S3, **config)
    with pytest.raises(BadRequest) as caught:
        destinations.to_destination(wanted, "team", "site", wanted.secret)
    assert caught.value.field == field


def test_events_go_there_and_back() -> None:
    names = [*hooks.Event.__args__]  # type: ignore[attr-defined]
    sent = {"url": "https://a.example", "events": names}

    events = hooks.to_events(parse(hooks.HookRequest, body_of(sent)))

    assert events is not None
    assert set(events) == EVENTS
    hook = Hook(id="h", account="", dialect="mynth", url="u", secret="whsec_x", events=events)
    assert hooks.to_data(hook)["events"] == names
    everything = parse(hooks.HookRequest, body_of(sent | {"events": "all"}))
    assert hooks.to_events(everything) is None
    assert hooks.to_data(replace(hook, events=None))["events"] == "all"
    assert "secret" not in hooks.to_data(hook)


@pytest.mark.parametrize("events", [[], ["task.video.generate.completed"], "some", None, 5])
def test_events_that_are_none_are_refused(events: Any) -> None:
    with pytest.raises(BadRequest):
        parse(hooks.HookRequest, body_of({"url": "https://a.example", "events": events}))


# 4.5 webhooks


def event(task: Task, hook: Hook | None = None) -> Event:
    return Event(
        message_id="m1",
        task=task,
        secrets=("whsec_account",),
        link=link,
        now_seconds=1714521600,
        hook=hook,
        credit_usd=CENT,
    )


def test_a_completed_task_is_told_with_its_result(task: Callable[..., Task]) -> None:
    made = task("succeeded")
    letter = write(event(made))

    message = json.loads(letter.body)
    assert list(message) == ["event", "task", "request", "result"]
    assert message["event"] == "task.image.generate.completed"
    assert message["task"] == {"id": ID}
    assert message["request"] == made.extras.asked
    assert message["result"] == bodies.to_result(made, link, CENT)
    assert letter.headers == {
        "Content-Type": "application/json",
        "X-Mynth-Event": "task.image.generate.completed",
    }


@pytest.mark.parametrize(
    ("state", "code"), [("failed", "GENERATION_FAILED"), ("cancelled", "CANCELLED")]
)
def test_a_failed_task_is_told_with_its_errors(
    state: str, code: str, task: Callable[..., Task]
) -> None:
    message = json.loads(write(event(task(state))).body)
    assert list(message) == ["event", "task", "request", "errors"]
    assert message["event"] == "task.image.generate.failed"
    assert message["errors"][0]["code"] == code


def test_a_cancelled_task_is_told_with_its_errors_alone_whatever_was_made(
    task: Callable[..., Task],
) -> None:
    cut_short = replace(task("cancelled"), outputs=task("running").outputs)
    message = json.loads(write(event(cut_short)).body)
    assert list(message) == ["event", "task", "request", "errors"]
    assert message["errors"][0]["code"] == "CANCELLED"
    (image,) = (bodies.to_result(cut_short, link, CENT) or {})["images"]
    assert image["cost"] == bodies.to_line(cut_short, CENT)["cost"] == "0.05"


def test_nobody_is_told_who_else_is(task: Callable[..., Task]) -> None:
    asked = {"prompt": "a", "webhook": {"custom": [{"url": "https://a.example/?token=t"}]}}
    made = task("succeeded", asked=asked)
    assert b"token" not in write(event(made)).body
    assert bodies.to_task(made, link, CENT)["data"]["request"] == asked


def test_a_registered_webhook_is_signed_with_its_own_secret(task: Callable[..., Task]) -> None:
    hook = Hook(id="h", account="team", dialect="mynth", url="u", secret="whsec_é own")
    letter = write(event(task("succeeded"), hook))

    signed = b"1714521600." + letter.body
    wanted = hmac.new("whsec_é own".encode(), signed, hashlib.sha256).hexdigest()
    assert letter.headers["X-Mynth-Signature"] == f"t=1714521600,v1={wanted}"


def test_a_message_is_sent_again_by_the_schedule() -> None:
    assert WEBHOOKS.retry_seconds == (1, 5, 30, 5 * 60, 30 * 60, 2 * 3600)
    assert WEBHOOKS.timeout_seconds == 10


# 4.8 clients of before June 2026


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"prompt": "a"}, {"prompt": "a"}),
        ({"prompt": {"positive": "a", "enhance": False}}, {"prompt": "a"}),
        (
            {"prompt": {"positive": "a", "negative": "b", "enhance": "prefer_magic"}},
            {"prompt": "a", "negative_prompt": "b", "magic_prompt": True},
        ),
        (
            {"prompt": {"positive": "a", "enhance": "prefer_native"}},
            {"prompt": "a", "magic_prompt": True},
        ),
        (
            {"prompt": {"positive": "a", "enhance": True}},
            {"prompt": "a", "magic_prompt": True},
        ),
        ({"content_rating": True}, {"rating": True}),
        ({"content_rating": None}, {}),
        ({"content_rating": {"enabled": True}}, {"rating": True}),
        ({"content_rating": {"enabled": False, "levels": []}}, {"rating": False}),
        (
            {"content_rating": {"levels": [{"value": "a", "description": "b"}]}},
            {"rating": {"mode": "custom", "levels": [{"value": "a", "description": "b"}]}},
        ),
        ({"inputs": ["u"]}, {"inputs": ["u"]}),
        *(
            ({"inputs": [{"role": old, "x": 1}]}, {"inputs": [{"as": new, "role": old, "x": 1}]})
            for old, new in (("init", "source"), ("context", "auto"), ("reference", "reference"))
        ),
        ({"webhook": {"enabled": False}}, {"webhook": {"enabled": False, "dashboard": False}}),
        ({"output": {"quality": 0}}, {"output": {"quality": 1}}),
    ],
)
def test_old_words_are_read_as_new_ones(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert compat.modern(old) == new


def test_old_rubbish_is_still_refused() -> None:
    for values in (
        *({"prompt": {}}, {"prompt": {"positive": 5}}, {"prompt": {"positive": "", "enhance": []}}),
        *({"inputs": [{"role": "x"}]}, {"inputs": [{"role": []}]}, {"webhook": {"enabled": []}}),
        *({"content_rating": {"levels": 5}}, {"content_rating": {"enabled": "x"}}),
        *({"content_rating": "x"}, {"prompt": {"positive": "a", "enhance": "much"}}),
    ):
        with pytest.raises(BadRequest):
            parse(GenerateRequest, body_of(compat.modern({"prompt": "a"} | values)))


def test_old_places_are_beside_the_new(task: Callable[..., Task]) -> None:
    body = compat.beside({"data": {"taskId": "t", "access": {"a": 1}}})
    assert body == {"taskId": "t", "access": {"a": 1}, "data": {"taskId": "t", "access": {"a": 1}}}
    made = task("succeeded")
    outputs = (made.outputs[0], replace(made.outputs[1], rating=Rating(level="mild")))
    result = bodies.to_result(replace(made, outputs=outputs), link, CENT)
    images = compat.to_old_images(result)["images"]
    assert [one["status"] for one in images] == ["succeeded"] * 2
    assert images[1]["content_rating"] == {"mode": "custom", "level": "mild"}
    assert set(images[0]) == {"status", "id", "url", "size", "cost"}
    assert compat.to_old_images(None) == {"images": []}


def test_a_failed_picture_is_told_in_its_place_in_every_form(task: Callable[..., Task]) -> None:
    made = task("succeeded")
    failure = Failure(index=0, kind="pipeline_failed", message="it broke")
    partly = replace(made, outputs=made.outputs[1:], failures=(failure,))
    error = {"code": "GENERATION_FAILED", "message": "it broke"}

    result = bodies.to_result(partly, link, CENT)

    assert result is not None
    replies.GenerateResult.model_validate(result)
    first, second = result["images"]
    assert first == {"status": "failed", "error": error}
    assert (second["status"], second["cost"]) == ("success", "0.05")
    assert bodies.to_line(partly, CENT)["cost"] == "0.05"
    assert bodies.to_errors(partly) == []
    old = compat.to_old_images(result)["images"]
    assert old[0] == first
    assert old[1]["status"] == "succeeded"
    message = json.loads(write(event(partly)).body)
    assert message["event"] == "task.image.generate.completed"
    assert message["result"] == result
