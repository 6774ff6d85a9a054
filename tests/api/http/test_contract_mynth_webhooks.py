"""Mynth's contract, webhooks: delivered over a real socket, verified by hand.

`R` in an id is the provider's published client, `D` another page of its; `INF` is what we do where
both are silent.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference.errors import PipelineFailed
from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import key as key
from tests.api.http.mynth import (
    Helpers,
    assert_error,
    created,
    data,
    ended,
    opened,
    png,
    uploaded,
)
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.receivers import Received, Receiver, says

HELPERS = Helpers()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """It may connect to loopback, and asks for keys."""
    with serving(
        folder, allowed_targets=("127.0.0.1",), assistants=HELPERS.all, credit_usd="0.0025"
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _well_again() -> Iterator[None]:
    yield
    HELPERS.fails = ""


async def generated(served: Served, key: dict[str, str], **fields: Any) -> dict[str, Any]:
    """All of a generation that has ended."""

    def generate() -> dict[str, Any]:
        return ended(served, created(served.client, headers=key, **fields)["taskId"], key)

    return await asyncio.to_thread(generate)


def custom(*urls: str, **fields: Any) -> dict[str, Any]:
    return {"custom": [{"url": url} for url in urls]} | fields


def register(served: Served, key: dict[str, str], url: str, **fields: Any) -> dict[str, Any]:
    body = {"url": url, "events": "all", "enabled": True} | fields
    return data(served.client.post("/webhook", json=body, headers=key), 201)


def verified(received: Received, secret: str) -> dict[str, Any]:
    """The message, if it is signed with this secret, as a receiver would verify it."""
    match = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", received.headers["x-mynth-signature"])
    assert match is not None
    signed = match[1].encode() + b"." + received.body
    assert hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() == match[2]
    assert abs(int(match[1]) - time.time()) < 60
    message: dict[str, Any] = json.loads(received.body)
    assert received.headers["x-mynth-event"] == message["event"]
    return message


def without_signatures(value: Any) -> Any:
    """The same without what two links to one picture may differ in."""
    return json.loads(re.sub(r"\?expires=[^\"]*", "", json.dumps(value)))


# 4.5 a request's own addresses


async def test_an_address_of_the_request_is_told_unsigned__R(
    served: Served, key: dict[str, str]
) -> None:
    async with Receiver() as hook:
        url = hook.url + "?token=ours"
        task = await generated(served, key, count=2, metadata={"order": 7}, webhook=custom(url))
        (received,) = await hook.arrived()

    assert (received.method, received.path) == ("POST", "/hook?token=ours")
    assert received.headers["content-type"] == "application/json"
    assert received.headers["x-mynth-event"] == "task.image.generate.completed"
    assert "x-mynth-signature" not in received.headers
    message = json.loads(received.body)
    assert list(message) == ["event", "task", "request", "result"]
    assert message["task"] == {"id": task["id"]}
    assert message["request"] == {
        "prompt": "a red circle",
        "count": 2,
        "metadata": {"order": 7},
    }
    assert without_signatures(message["result"]) == without_signatures(task["result"])
    link = message["result"]["images"][1]["url"]
    assert link.startswith(served.url)
    assert (await asyncio.to_thread(opened, served.client, link)).format == "WEBP"


async def test_five_addresses_are_told_and_six_refused__S3(
    served: Served, key: dict[str, str]
) -> None:
    async with Receiver() as hook:
        urls = [f"{hook.url}/{number}" for number in range(5)]
        await generated(served, key, webhook=custom(*urls))
        received = await hook.arrived(5)
    assert sorted(one.path for one in received) == [f"/hook/{number}" for number in range(5)]
    reply = await asyncio.to_thread(
        lambda: served.client.post(
            "/image/generate",
            json={"prompt": "a", "webhook": custom(*urls, hook.url)},
            headers=key,
        )
    )
    assert_error(reply, 400, "VALIDATION_ERROR", "webhook.custom")


async def test_a_failure_is_told_without_a_result__R(served: Served, key: dict[str, str]) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")
    async with Receiver() as hook:
        task = await generated(served, key, webhook=custom(hook.url))
        (received,) = await hook.arrived()
    assert received.body.decode() == (
        '{"event":"task.image.generate.failed",'
        f'"task":{{"id":"{task["id"]}"}},'
        '"request":{"prompt":"a red circle"},'
        '"errors":[{"code":"GENERATION_FAILED","message":"the pipeline broke"}]}'
    )


async def test_a_message_that_was_not_taken_comes_again__INF(
    served: Served, key: dict[str, str]
) -> None:
    async with Receiver([says(500), says(204)]) as hook:
        await generated(served, key, webhook=custom(hook.url))
        first, second = await hook.arrived(2)
    # a loaded machine is late, never early
    assert 0.9 < second.at_seconds - first.at_seconds < 60
    assert without_signatures(json.loads(first.body)) == without_signatures(json.loads(second.body))


# 4.4 registered webhooks


async def test_a_registered_webhook_is_told_and_signed__R(
    served: Served, key: dict[str, str]
) -> None:
    async with Receiver() as hook:
        made = await asyncio.to_thread(register, served, key, hook.url)
        task = await generated(served, key)
        (received,) = await hook.arrived()

    assert set(made) == {
        *("id", "userId", "enabled", "url", "secret", "events", "createdAt", "updatedAt"),
    }
    assert made["secret"].startswith("whsec_")
    assert (made["events"], made["enabled"], made["url"]) == ("all", True, hook.url)
    message = verified(received, made["secret"])
    assert message["task"] == {"id": task["id"]}
    assert without_signatures(message["result"]) == without_signatures(task["result"])


def test_a_secret_is_shown_once__R(served: Served, key: dict[str, str]) -> None:
    made = register(served, key, "http://127.0.0.1:1/hook")
    secret, path = made.pop("secret"), f"/webhook/{made['id']}"
    assert data(served.client.get(path, headers=key)) == made
    assert data(served.client.get("/webhook", headers=key)) == [made]
    body = {"url": "http://127.0.0.1:1/b", "events": ["task.failed"], "enabled": False}
    replaced = data(served.client.put(path, json=body, headers=key))
    assert {name: replaced[name] for name in body} == body
    assert secret not in served.client.get("/webhook", headers=key).text


def test_all_may_stand_in_a_list__INF(client: httpx2.Client, key: dict[str, str]) -> None:
    body = {"url": "http://127.0.0.1:1/hook", "events": ["all"], "enabled": True}
    assert data(client.post("/webhook", json=body, headers=key), 201)["events"] == "all"


def test_the_path_may_end_in_a_slash__R(served: Served, key: dict[str, str]) -> None:
    body = {"url": "http://127.0.0.1:1/hook", "events": "all", "enabled": True}
    assert served.client.post("/webhook/", json=body, headers=key).status_code == 201
    assert len(data(served.client.get("/webhook/", headers=key))) == 1


async def test_a_webhook_that_is_replaced_keeps_its_secret__INF(
    served: Served, key: dict[str, str]
) -> None:
    async with Receiver() as old, Receiver() as new:
        made = await asyncio.to_thread(register, served, key, old.url)
        body = {"url": new.url, "events": ["task.completed"], "enabled": True}
        path = f"/webhook/{made['id']}"
        await asyncio.to_thread(lambda: served.client.put(path, json=body, headers=key))
        await generated(served, key)
        (received,) = await new.arrived()
    verified(received, made["secret"])
    assert old.received == []


@pytest.mark.parametrize(
    ("events", "told"),
    [
        pytest.param("all", {"completed", "failed", "rate"}, id="R all"),
        pytest.param(["task.completed"], {"completed", "rate"}, id="R any completed"),
        pytest.param(["task.failed"], {"failed"}, id="R any failed"),
        pytest.param(["task.image.generate.completed"], {"completed"}, id="R completed"),
        pytest.param(["task.image.generate.failed"], {"failed"}, id="R failed"),
        pytest.param(["task.image.rate.completed"], {"rate"}, id="R rated"),
        pytest.param(
            ["task.image.rate.completed", "task.image.generate.failed"],
            {"rate", "failed"},
            id="R two",
        ),
    ],
)
async def test_a_webhook_is_told_of_its_events_only(
    served: Served, key: dict[str, str], events: Any, told: set[str]
) -> None:
    """Whoever hears everything hears of all of them last, so that nothing is still on its way."""

    def work() -> None:
        (url,) = uploaded(served.client, png(), headers=key)
        served.script.fails = lambda job, index: (
            PipelineFailed("broke") if job.prompt == "fails" else None
        )
        for prompt in ("works", "fails"):
            ended(served, created(served.client, headers=key, prompt=prompt)["taskId"], key)
        reply = served.client.post("/image/rate", json={"url": url}, headers=key)
        ended(served, data(reply, 201)["taskId"], key)

    async with Receiver() as hook, Receiver() as everything:
        made = await asyncio.to_thread(register, served, key, hook.url, events=events)
        await asyncio.to_thread(register, served, key, everything.url)
        assert made["events"] == events
        await asyncio.to_thread(work)
        await everything.arrived(3)
        await hook.arrived(len(told))
    names = {
        "task.image.generate.completed": "completed",
        "task.image.generate.failed": "failed",
        "task.image.rate.completed": "rate",
    }
    messages = [verified(one, made["secret"]) for one in hook.received]
    assert sorted(names[one["event"]] for one in messages) == sorted(told)


async def test_a_look_is_told_with_its_result__R(served: Served, key: dict[str, str]) -> None:
    def review(url: str) -> None:
        reply = served.client.post("/image/review", json={"url": url}, headers=key)
        ended(served, data(reply, 201)["taskId"], key)

    async with Receiver() as hook:
        made = await asyncio.to_thread(register, served, key, hook.url)
        (url,) = await asyncio.to_thread(uploaded, served.client, png(), headers=key)
        await asyncio.to_thread(review, url)
        HELPERS.fails = "the helper is away"
        await asyncio.to_thread(review, url)
        first, second = [verified(one, made["secret"]) for one in await hook.arrived(2)]
    good, bad = sorted((first, second), key=lambda one: one["event"])
    assert (good["event"], good["result"]["score"]) == ("task.image.review.completed", 3)
    assert good["request"] == {"url": url}
    assert bad["event"] == "task.image.review.failed"
    assert bad["errors"] == [{"code": "REVIEW_FAILED", "message": "the helper is away"}]


async def test_a_request_can_leave_registered_webhooks_out__R(
    served: Served, key: dict[str, str]
) -> None:
    async with Receiver() as registered, Receiver() as own:
        await asyncio.to_thread(register, served, key, registered.url)
        task = await generated(served, key, webhook=custom(own.url, dashboard=False))
        await own.arrived()
        other = await generated(served, key, webhook=custom(own.url))
        (received,) = await registered.arrived()
        await own.arrived(2)
    assert json.loads(received.body)["task"] == {"id": other["id"]} != {"id": task["id"]}
    assert all("x-mynth-signature" not in one.headers for one in own.received)


async def test_a_webhook_that_is_off_or_gone_is_not_told__R(
    served: Served, key: dict[str, str]
) -> None:
    async with Receiver() as off, Receiver() as gone, Receiver() as own:
        await asyncio.to_thread(register, served, key, off.url, enabled=False)
        made = await asyncio.to_thread(register, served, key, gone.url)
        path = f"/webhook/{made['id']}"
        reply = await asyncio.to_thread(lambda: served.client.delete(path, headers=key))
        assert (reply.status_code, reply.content) == (204, b"")
        await generated(served, key, webhook=custom(own.url))
        await own.arrived()
        await asyncio.sleep(0.2)
    assert off.received == gone.received == []
    assert_error(
        await asyncio.to_thread(lambda: served.client.get(path, headers=key)), 404, "NOT_FOUND"
    )


def test_webhooks_of_others_are_not_there__INF(
    folder: Path, served: Served, key: dict[str, str]
) -> None:
    path = f"/webhook/{register(served, key, 'http://127.0.0.1:1/hook')['id']}"
    other = bearer(make_key(folder, "others"))
    body = {"url": "http://127.0.0.1:1/", "events": "all", "enabled": True}
    for reply in (
        served.client.get(path, headers=other),
        served.client.put(path, json=body, headers=other),
        served.client.delete(path, headers=other),
    ):
        assert_error(reply, 404, "NOT_FOUND")
    assert data(served.client.get("/webhook", headers=other)) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"url": None}, "url", id="R no address"),
        pytest.param({"url": "ftp://a.example/"}, "url", id="INF no http"),
        pytest.param({"url": "http://10.0.0.1/"}, "url", id="INF private"),
        pytest.param({"url": f"http://a.example/{'a' * 2048}"}, "url", id="INF too long"),
        pytest.param({"events": None}, "events", id="R no events"),
        pytest.param({"events": []}, "events", id="R empty events"),
        pytest.param({"events": ["task.video.done"]}, "events[0]", id="R unknown event"),
        pytest.param({"enabled": "yes"}, "enabled", id="R enabled"),
    ],
)
def test_a_registration_is_refused(
    client: httpx2.Client, key: dict[str, str], changes: dict[str, Any], field: str
) -> None:
    body = {"url": "http://127.0.0.1:1/", "events": "all", "enabled": True} | changes
    reply = client.post("/webhook", json=body, headers=key)
    said = assert_error(reply, 400, "VALIDATION_ERROR", field)
    assert "upload" not in said, "what is said of pictures is not said of receivers"
    assert field != "url" or "items" not in said
