"""Model Buffet's contract, what a repeated or a too frequent request gets.

`S0` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

import api.app
from api.limits import Limiter
from tests.api.http.modelbuffet import ASYNC, EDIT, FIELDS, PATH, assert_error, data_uri, generate
from tests.api.http.modelbuffet import server as server
from tests.api.http.served import Served, make_key, serving, until

# 1.2 idempotency


def once(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_the_same_request_gets_the_same_reply__S0(served: Served) -> None:
    orders_before = len(served.script.orders)

    first = generate(served.client, headers=once("same"), seed=None)
    again = generate(served.client, headers=once("same"), seed=None)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(served.script.orders) == orders_before + 1


def test_the_alias_is_the_same_path__INF(client: httpx2.Client) -> None:
    first = client.post(PATH, json=FIELDS, headers=once("alias"))
    again = client.post(f"/modelbuffet{PATH}", json=FIELDS, headers=once("alias"))

    assert again.json() == first.json()


def test_another_path_is_another_request__INF(client: httpx2.Client) -> None:
    body = FIELDS | {"image": data_uri()}
    first = client.post(PATH, json=body, headers=once("path"))
    other = client.post(EDIT, json=body, headers=once("path"))

    assert (first.status_code, other.status_code) == (200, 200)
    assert other.json()["id"] != first.json()["id"]


def test_another_request_with_the_same_key_is_409__INF(client: httpx2.Client) -> None:
    generate(client, headers=once("other"))

    reply = generate(client, headers=once("other"), count=1)

    assert_error(reply, 409, "conflict", "idempotency_conflict", "Idempotency-Key")


def test_a_request_that_still_runs_is_409__INF(served: Served) -> None:
    served.script.gate.clear()
    orders_before = len(served.script.orders)
    replies: list[httpx2.Response] = []
    caller = threading.Thread(
        target=lambda: replies.append(generate(served.client, headers=once("running")))
    )
    caller.start()
    until(lambda: len(served.script.orders) > orders_before)

    reply = generate(served.client, headers=once("running"))

    assert_error(reply, 409, "conflict", "idempotency_in_progress", "Idempotency-Key")
    assert int(reply.headers["retry-after"]) >= 1
    served.script.gate.set()
    caller.join()
    again = generate(served.client, headers=once("running"))
    assert again.json() == replies[0].json()
    assert again.headers["idempotent-replayed"] == "true"


def test_a_reply_at_once_is_replayed_as_it_was__INF(client: httpx2.Client) -> None:
    first = generate(client, headers=once("async") | ASYNC)
    again = generate(client, headers=once("async") | ASYNC)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["preference-applied"] == "respond-async"
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    ("key", "status"),
    [
        pytest.param("k" * 255, 200, id="INF 255 characters"),
        pytest.param("k" * 256, 400, id="INF 256 characters"),
        pytest.param("", 400, id="INF empty"),
    ],
)
def test_an_idempotency_key_has_so_many_characters(
    client: httpx2.Client, key: str, status: int
) -> None:
    reply = generate(client, headers=once(key), count=1)

    assert reply.status_code == status
    if status == 400:
        assert_error(reply, 400, "invalid_request", "invalid_request", "Idempotency-Key")


# 1.2 rate limit


@dataclass
class Clock:
    """Stands still unless it is set."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limited(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Iterator[Served]:
    """A server with the limit that the provider publishes, by that clock."""
    monkeypatch.setattr(api.app, "Limiter", lambda: Limiter(clock))
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


def test_sixty_a_minute_are_allowed__S0(limited: Served, clock: Clock) -> None:
    paths = (PATH, f"/modelbuffet{PATH}", EDIT, f"/modelbuffet{EDIT}")
    # refused ones count as well, and cost no pictures
    replies = [limited.client.post(paths[number % 4], json={}) for number in range(60)]
    refused = generate(limited.client)
    reading = limited.client.get(f"{PATH}/gen_0000000000")

    assert {reply.status_code for reply in replies} == {400}
    assert [int(reply.headers["x-ratelimit-remaining"]) for reply in replies] == [
        *range(59, -1, -1)
    ]
    assert_error(refused, 429, "rate_limit", "rate_limited", None)
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-limit"] == "60"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert reading.status_code == 404
    assert "x-ratelimit-limit" not in reading.headers
    clock.seconds += 1
    assert generate(limited.client, count=1).status_code == 200
    assert generate(limited.client, count=1).status_code == 429
    clock.seconds += 60
    assert generate(limited.client, count=1).headers["x-ratelimit-remaining"] == "59"


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        pytest.param({"count": 1}, {}, 200, id="INF done"),
        pytest.param({"count": 1}, ASYNC, 202, id="INF accepted"),
        pytest.param({"count": 9}, {}, 400, id="INF refused"),
        pytest.param({"model": "none"}, {}, 404, id="INF no such model"),
    ],
)
def test_a_creation_tells_what_is_left(
    limited: Served, fields: dict[str, object], headers: dict[str, str], status: int
) -> None:
    before_seconds = time.time()

    reply = generate(limited.client, headers=headers, **fields)

    assert reply.status_code == status
    assert reply.headers["x-ratelimit-limit"] == "60"
    assert reply.headers["x-ratelimit-remaining"] == "59"
    # one request is forgotten a second after it came
    assert before_seconds + 1 <= int(reply.headers["x-ratelimit-reset"]) <= time.time() + 2
    assert "ratelimit" not in reply.headers


def test_every_key_has_its_own_sixty__S0(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(api.app, "Limiter", lambda: Limiter(clock))
    folder = tmp_path_factory.mktemp("data")
    first, second = ({"x-api-key": make_key(folder)} for _ in range(2))
    with serving(folder) as served:
        statuses = {served.client.post(PATH, json={}, headers=first).status_code for _ in range(60)}
        spent = served.client.post(PATH, json={}, headers=first)
        other = served.client.post(PATH, json={}, headers=second)
        # what another dialect is asked does not count here
        foreign = served.client.post("/darkroom/generations", json={}, headers=first)

    assert (statuses, spent.status_code, other.status_code) == ({400}, 429, 400)
    assert other.headers["x-ratelimit-remaining"] == "59"
    assert foreign.status_code == 400
