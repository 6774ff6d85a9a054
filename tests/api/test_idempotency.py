"""Requests that count once: replayed byte for byte, raced, expired and after a restart."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.accounts import Caller
from api.errors import IdempotencyMismatch, NoCredits
from api.idempotency import KEEP_MS, MAX_KEY_CHARS, Once, Reply, dump_reply, load_reply
from api.orders import Order, Upload
from api.services import Services
from api.store import Accepted, Store
from api.tasks import Task, TaskState
from inference.job import ImageRequest, ImageRole
from tests.api.http.served import Served, bearer, make_key, serving, until
from tests.api.making import AMPLE, Clock, encoded, open_store, submission
from tests.api.scripted import picture_of

ONCE = Once(route="darkroom submit", key="k1", fingerprint="f1")
RACERS = 64


def told_of(task: Task) -> Reply:
    return Reply(status=202, body={"id": task.id, "text": "é 𝄞 \u2028", "n": 3.0})


# --- the store


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    store = open_store(tmp_path / "darkroom.db", clock)
    yield store
    await store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def accept(
    store: Store, name: str, once: Once | None = ONCE, account: str = "me", **changes: Any
) -> Accepted:
    given = submission(name, account=account)
    caller = Caller(account)
    return await store.accept(
        replace(given, once=once, answer=told_of, caller=caller, **changes), AMPLE
    )


async def test_the_first_task_is_found_again_with_its_reply(store: Store) -> None:
    first = await accept(store, "one")
    again = await accept(store, "two")

    assert (first.is_replay, again.is_replay) == (False, True)
    assert again.task == first.task
    assert again.reply == first.reply == told_of(first.task)
    assert await store.get("two") is None


async def test_a_reply_survives_being_kept_to_the_byte() -> None:
    body = {"b": 1.0, "a": [1e300, -0.0, 2**60, None, True, 'é\u2028"\\/'], "z": {"y": {}}}
    reply = Reply(status=202, body=body, headers={"Location": "/x"})
    kept = load_reply(dump_reply(reply))
    assert kept == reply
    assert repr(kept.body) == repr(reply.body)


@pytest.mark.parametrize(
    "other", [{"key": "k2"}, {"route": "modelmux create"}, {}], ids=["key", "route", "account"]
)
async def test_each_key_route_and_account_counts_by_itself(
    store: Store, other: dict[str, str]
) -> None:
    await accept(store, "one")
    account = "me" if other else "you"
    assert not (await accept(store, "two", replace(ONCE, **other), account)).is_replay


async def test_another_request_with_the_same_key_is_refused(store: Store) -> None:
    await accept(store, "one")
    with pytest.raises(IdempotencyMismatch) as refused:
        await accept(store, "two", replace(ONCE, fingerprint="f2"))
    assert refused.value.field == "Idempotency-Key"
    with pytest.raises(IdempotencyMismatch):
        await store.earlier("me", replace(ONCE, fingerprint="f2"))


async def test_without_a_key_everything_counts(store: Store) -> None:
    assert not (await accept(store, "one", None)).is_replay
    assert not (await accept(store, "two", None)).is_replay


async def test_a_day_later_the_key_is_free(store: Store, clock: Clock) -> None:
    await accept(store, "one")
    clock.ms += KEEP_MS - 1
    assert (await accept(store, "two")).task.id == "one"
    clock.ms += 1
    assert await store.earlier("me", ONCE) is None
    later = await accept(store, "three", replace(ONCE, fingerprint="f2"))
    assert (later.is_replay, later.task.id) == (False, "three")
    assert (await accept(store, "four", replace(ONCE, fingerprint="f2"))).task.id == "three"


async def test_what_was_refused_may_be_sent_again(store: Store, tmp_path: Path) -> None:
    """The first time there is no credit for it, which is no answer to keep."""
    path = tmp_path / "darkroom.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE accounts SET metered = 1 WHERE name = 'me'")
    with pytest.raises(NoCredits):
        await accept(store, "one")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE accounts SET balance = 3 WHERE name = 'me'")
    connection.close()
    assert not (await accept(store, "two")).is_replay


async def test_the_first_final_answer_stays(store: Store) -> None:
    given = replace(submission("one", account="me"), once=ONCE, caller=Caller("me"))
    assert (await store.accept(given, AMPLE)).reply is None
    found = await store.earlier("me", ONCE)
    assert found is not None and found.reply is None
    for text in ("first", "second"):
        await store.answer("me", ONCE, Reply(status=200, body={"text": text}))
    found = await store.earlier("me", ONCE)
    assert found is not None and found.reply == Reply(status=200, body={"text": "first"})


async def test_sixty_four_at_once_make_one_task(store: Store) -> None:
    results = await asyncio.gather(*(accept(store, f"t{number}") for number in range(RACERS)))

    assert len({result.task.id for result in results}) == 1
    assert Counter(result.is_replay for result in results) == {True: RACERS - 1, False: 1}
    assert (await store.counts()).queued_tasks == 1


# --- the use cases


async def test_the_pictures_of_those_who_came_too_late_are_deleted(
    services: Services, tmp_path: Path
) -> None:
    upload = Upload(
        role=ImageRole.SOURCE,
        field="image",
        data=encoded(picture_of((await first_job(services)), 0)),
    )
    order = Order(
        request=ImageRequest(model="paint", prompt="a"), dialect="darkroom", uploads=[upload]
    )
    kept = tmp_path / "data" / "objects" / "inputs"

    results = await asyncio.gather(
        *(services.darkroom.submit(order, once=ONCE, answer=told_of) for _ in range(16))
    )

    (task_id,) = {result.task.id for result in results}
    assert sum(not result.is_replay for result in results) == 1
    files = [path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()]
    assert [name.split("/")[0] for name in files] == [task_id]


async def first_job(services: Services) -> Any:
    made = await services.darkroom.submit(
        Order(request=ImageRequest(model="paint", prompt="a"), dialect="darkroom")
    )
    await services.darkroom.wait(made.task.id, timeout_seconds=30)
    return made.task.job


# --- HTTP

ASYNC = {
    "darkroom": ("/darkroom/generations", "id"),
    "modelmux": ("/api/v1/generations", "historyId"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def keys(folder: Path) -> list[dict[str, str]]:
    """Headers of two keys of one account, and of one of another."""
    accounts = ("team", "team", "other")
    return [bearer(make_key(folder, name)) for name in accounts]


@pytest.fixture(scope="module")
def server(folder: Path, keys: list[dict[str, str]]) -> Iterator[Served]:
    with serving(folder, max_queue_tasks=1000) as running:
        yield running


@pytest.fixture
def served(server: Served) -> Iterator[Served]:
    yield server
    server.script.gate.set()
    server.settle()


def send(
    served: Served,
    key: dict[str, str],
    once: str | None,
    *,
    path: str = "/darkroom/generations",
    **fields: Any,
) -> httpx2.Response:
    headers = key | ({"Idempotency-Key": once} if once is not None else {})
    return served.client.post(path, json={"prompt": "a fox, é"} | fields, headers=headers)


@pytest.mark.parametrize("dialect", ASYNC)
def test_the_first_reply_is_sent_again_byte_for_byte(
    served: Served, keys: list[dict[str, str]], dialect: str
) -> None:
    path, name = ASYNC[dialect]
    first = send(served, keys[0], f"bytes {dialect}", path=path)
    task_id = first.json()[name]
    served.client.get(f"/darkroom/generations/{task_id}?wait=60", headers=keys[0])

    again = send(served, keys[0], f"bytes {dialect}", path=path)
    by_another_key = send(served, keys[1], f"bytes {dialect}", path=path)

    for reply in (again, by_another_key):
        assert (reply.status_code, reply.content) == (first.status_code, first.content)
        assert reply.headers["idempotent-replayed"] == "true"
        assert reply.headers.get("location") == first.headers.get("location")
    assert "idempotent-replayed" not in first.headers


def test_the_same_fields_in_another_spelling_are_the_same(
    served: Served, keys: list[dict[str, str]]
) -> None:
    headers = keys[0] | {"Idempotency-Key": "spelling", "Content-Type": "application/json"}
    texts = (b'{"prompt":"a","count":2}', b' {"count": 2.0, "prompt": "\\u0061"}\n')
    first, again = (
        served.client.post("/darkroom/generations", content=text, headers=headers) for text in texts
    )
    assert first.content == again.content


def test_another_body_is_422(served: Served, keys: list[dict[str, str]]) -> None:
    send(served, keys[0], "other body")
    reply = send(served, keys[0], "other body", prompt="a wolf")
    assert (reply.status_code, reply.json()["type"]) == (422, "urn:darkroom:idempotency_mismatch")
    assert reply.json()["field"] == "Idempotency-Key"


def test_accounts_and_routes_do_not_meet(served: Served, keys: list[dict[str, str]]) -> None:
    first = send(served, keys[0], "shared").json()["id"]
    others = [
        send(served, keys[2], "shared").json()["id"],
        send(served, keys[0], "shared", path="/api/v1/generations").json()["historyId"],
    ]
    alias = send(served, keys[0], "shared", path="/modelmux/api/v1/generations").json()
    assert len({first, *others}) == 3
    assert alias["historyId"] == others[1]


@pytest.mark.parametrize("key", ["", "a" * (MAX_KEY_CHARS + 1), "a\tb", "é"])
def test_a_key_that_is_none_is_refused(
    served: Served, keys: list[dict[str, str]], key: str
) -> None:
    headers = {**keys[0], "Idempotency-Key": key.encode()}  # type: ignore[dict-item]
    reply = served.client.post("/darkroom/generations", json={"prompt": "a"}, headers=headers)
    assert (reply.status_code, reply.json()["field"]) == (400, "Idempotency-Key")


def test_a_refused_request_is_tried_anew(served: Served, keys: list[dict[str, str]]) -> None:
    assert send(served, keys[0], "refused", count=0).status_code == 400
    assert send(served, keys[0], "refused", count=1).status_code == 202


@pytest.mark.parametrize("dialect", ASYNC)
def test_sixty_four_sockets_at_once_make_one_task(
    served: Served, keys: list[dict[str, str]], dialect: str
) -> None:
    path, name = ASYNC[dialect]
    start = threading.Barrier(RACERS)

    def race(_: int) -> httpx2.Response:
        headers = keys[0] | {"Idempotency-Key": f"race {dialect}"}
        with httpx2.Client(base_url=served.url, timeout=90, trust_env=False) as client:
            client.get("/livez")
            start.wait()
            return client.post(path, json={"prompt": f"race {dialect}"}, headers=headers)

    with ThreadPoolExecutor(RACERS) as pool:
        replies = list(pool.map(race, range(RACERS)))

    assert len({(reply.status_code, reply.content) for reply in replies}) == 1
    assert replies[0].status_code in (200, 202)
    replayed = Counter(reply.headers.get("idempotent-replayed") for reply in replies)
    assert replayed == {"true": RACERS - 1, None: 1}
    listed = served.client.get("/darkroom/generations?limit=100", headers=keys[0]).json()
    mine = [one["id"] for one in listed["generations"] if one["prompt"] == f"race {dialect}"]
    assert mine == [replies[0].json()[name]]


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    key = {"x-api-key": make_key(tmp_path)}
    with serving(tmp_path) as served:
        first = send(served, key, "restart")
    with serving(tmp_path) as served:
        again = send(served, key, "restart")
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"
        assert send(served, key, "restart", prompt="other").status_code == 422


# --- replies that wait for the pictures

WAITING = "/v1/images/generate"
BLOCKING = {"prompt": "a fox", "model": "mystic-2-5-flexible", "count": 1}


def test_while_the_first_is_at_work_the_second_must_wait(
    served: Served, keys: list[dict[str, str]]
) -> None:
    served.script.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, served, keys[0], "at work", path=WAITING, **BLOCKING)
        until(lambda: running(served, keys[0]) != [] or first.done())
        refused = send(served, keys[0], "at work", path=WAITING, **BLOCKING)
        assert refused.status_code == 409
        assert int(refused.headers["retry-after"]) >= 1
        served.script.gate.set()
        told = first.result()

    again = send(served, keys[0], "at work", path=WAITING, **BLOCKING)

    assert told.status_code == 200, told.text
    assert (again.status_code, again.content) == (200, told.content)
    assert again.headers["idempotent-replayed"] == "true"


def running(served: Served, key: dict[str, str]) -> list[dict[str, Any]]:
    told = served.client.get("/darkroom/generations?state=running", headers=key).json()
    found: list[dict[str, Any]] = told["generations"]
    return found


def test_who_left_gets_the_final_answer_by_sending_again(
    served: Served, keys: list[dict[str, str]]
) -> None:
    served.script.gate.clear()
    leaving = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
    headers = {"Idempotency-Key": "left", "Content-Type": "application/json"}
    leaving.request("POST", WAITING, json.dumps(BLOCKING), headers | keys[0])
    until(lambda: running(served, keys[0]) != [])
    leaving.close()
    early = send(served, keys[0], "left", path=WAITING, **BLOCKING)
    served.script.gate.set()
    # its answer is written down a moment after its task has ended
    until(lambda: send(served, keys[0], "left", path=WAITING, **BLOCKING).status_code != 409)

    late, again = (send(served, keys[0], "left", path=WAITING, **BLOCKING) for _ in range(2))

    assert early.status_code == 409
    assert late.status_code == 200, late.text
    assert late.headers["idempotent-replayed"] == "true"
    assert again.content == late.content
    task = served.client.get("/darkroom/generations?limit=1", headers=keys[0]).json()
    assert task["generations"][0]["state"] == TaskState.SUCCEEDED
