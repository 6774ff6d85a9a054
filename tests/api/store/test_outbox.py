"""Messages in real databases: claimed once, settled once, never lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.errors import Unavailable
from api.store.database import Database
from api.store.outbox import (
    MAX_ERROR_CHARS,
    UNDER_WAY,
    Backlog,
    Message,
    MessageState,
    Outbox,
    insert_messages,
    new_message_id,
)
from tests.api.making import Clock, inserted, open_store, submission
from tests.api.places import Place

LEASE_MS = 60_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(place: Place, clock: Clock) -> AsyncIterator[Database]:
    """With two tasks in it."""
    store = open_store(place, clock)
    for task_id in ("one", "two"):
        await inserted(store, submission(task_id))
    await store.close()
    database = place.open()
    yield database
    await database.close()


@pytest.fixture
def outbox(database: Database, clock: Clock) -> Outbox:
    return Outbox(database, clock)


async def put(database: Database, clock: Clock, *urls: str, task_id: str = "one") -> None:
    statement = insert_messages(task_id, "studio", "darkroom", urls, clock.ms)
    await database.write(lambda connection: connection.execute(statement))


async def claim(outbox: Outbox, limit: int = 100, **changes: object) -> list[Message]:
    return await outbox.claim_due(limit, lease_ms=LEASE_MS, **changes)  # type: ignore[arg-type]


async def claimed(outbox: Outbox) -> Message:
    (message,) = await claim(outbox)
    return message


async def test_a_message_is_kept_as_it_was_put(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/x?y=1", "https://b.example/")
    first, second = sorted(await outbox.of_task("one"), key=lambda message: message.url)
    assert first == Message(
        id=first.id,
        task_id="one",
        account="studio",
        dialect="darkroom",
        url="https://a.example/x?y=1",
        state=MessageState.WAITING,
        attempts=0,
        next_ms=clock.ms,
        last_status=None,
        last_error=None,
        created_ms=clock.ms,
    )
    assert second.url == "https://b.example/"
    assert first.origin == "https://a.example"
    assert await outbox.of_task("two") == []


async def test_a_url_that_comes_twice_is_told_once(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/", "https://b.example/", "https://a.example/")
    assert len(await outbox.of_task("one")) == 2


async def test_what_is_rolled_back_is_not_told(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    async def work(connection: object) -> None:
        statement = insert_messages("one", "studio", "darkroom", ["https://a.example/"], clock.ms)
        await connection.execute(statement)  # type: ignore[attr-defined]
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        await database.write(work)
    assert await outbox.of_task("one") == []


def test_ids_are_not_guessed() -> None:
    ids = {new_message_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 31 and one.startswith("msg_") and one[4:].isalnum() for one in ids)


async def test_a_claim_takes_what_is_due_longest_due_first(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    times = random.Random(0).sample(range(1_000_000, 1_000_100), 20)
    for number, clock.ms in enumerate(times):
        await put(database, clock, f"https://{number}.example/")
    clock.ms = sorted(times)[9]
    assert await outbox.any_due()
    assert await outbox.next_due_ms() == sorted(times)[10]
    found = await claim(outbox, 4)
    found += await claim(outbox)
    expected = [f"https://{times.index(one)}.example/" for one in sorted(times)[:10]]
    assert [message.url for message in found] == expected
    assert {message.attempts for message in found} == {1}
    assert {message.next_ms for message in found} == {clock.ms + LEASE_MS}
    assert not await outbox.any_due()


async def test_nothing_is_claimed_twice(database: Database, outbox: Outbox, clock: Clock) -> None:
    await put(database, clock, *(f"https://{n}.example/" for n in range(60)))
    claims = await asyncio.gather(*(claim(outbox, 5) for _ in range(20)))
    ids = [message.id for found in claims for message in found]
    assert len(ids) == len(set(ids)) == 60


async def test_a_lease_that_ran_out_frees_the_message(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/")
    first = await claimed(outbox)
    clock.ms += LEASE_MS - 1
    assert await claim(outbox) == []
    clock.ms += 1
    assert await claim(outbox, excluding=[first.id]) == []
    second = await claimed(outbox)
    assert (second.id, second.attempts) == (first.id, 2)
    assert not await outbox.settle(first, delivered=True, status=200)
    assert await outbox.settle(second, delivered=False, again_ms=clock.ms + 5, status=500)


async def test_an_origin_gets_its_share_and_hides_nobody(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    crowd = [f"http://a_b.example/{n}" for n in range(50)]
    await put(database, clock, *crowd, "http://a_b.example:81/", "http://a_b.examples/")
    clock.ms += 1
    await put(database, clock, "http://axb.example/", "https://a_b.example/")
    found: list[Message] = []
    for _ in range(10):
        busy = Counter(message.origin for message in found)
        found += await claim(outbox, 12, busy=busy, per_origin=3)
    assert Counter(message.origin for message in found) == {
        "http://a_b.example": 3,
        "http://a_b.example:81": 1,
        "http://a_b.examples": 1,
        "http://axb.example": 1,
        "https://a_b.example": 1,
    }
    assert len(await claim(outbox)) == 47


async def test_how_an_attempt_ended_is_kept(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/")
    message = await claimed(outbox)
    assert message.last_error == UNDER_WAY
    again_ms = clock.ms + 5000
    assert await outbox.settle(
        message, delivered=False, again_ms=again_ms, status=503, error="e" * 999
    )
    (kept,) = await outbox.of_task("one")
    assert kept == replace(
        message, next_ms=again_ms, last_status=503, last_error="e" * MAX_ERROR_CHARS
    )
    assert not await outbox.settle(message, delivered=True)
    clock.ms = again_ms
    message = await claimed(outbox)
    assert await outbox.settle(message, delivered=True, status=204)
    (kept,) = await outbox.of_task("one")
    assert kept == replace(
        message, state=MessageState.DELIVERED, next_ms=None, last_status=204, last_error=None
    )
    clock.ms += 10**12
    assert await claim(outbox) == []


async def test_without_another_attempt_it_has_failed(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/")
    assert await outbox.settle(await claimed(outbox), delivered=False, error="no answer")
    (kept,) = await outbox.of_task("one")
    assert (kept.state, kept.next_ms, kept.last_error) == (MessageState.FAILED, None, "no answer")


async def test_a_restart_frees_what_was_out_and_nothing_else(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/")
    paused = await claimed(outbox)
    await outbox.settle(paused, delivered=False, again_ms=clock.ms + 9999, error="no answer")
    await put(database, clock, "https://b.example/")
    settled = await claimed(outbox)
    await outbox.settle(settled, delivered=True, status=200)
    await put(database, clock, "https://c.example/")
    out = await claimed(outbox)
    clock.ms += 10
    assert await outbox.release_leases() == 1
    again = await claimed(outbox)
    assert (again.id, again.attempts) == (out.id, 2)
    assert not await outbox.settle(out, delivered=True)
    kept = {message.id: message for message in await outbox.of_task("one")}
    assert kept[paused.id].next_ms == clock.ms - 10 + 9999
    assert kept[settled.id].state is MessageState.DELIVERED


async def test_what_is_given_back_was_no_attempt(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/")
    message = await claimed(outbox)
    assert await outbox.release(message)
    assert not await outbox.release(message)
    assert (await claimed(outbox)).attempts == 1


async def test_a_message_is_sent_again_by_hand(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    await put(database, clock, "https://a.example/")
    message = await claimed(outbox)
    assert await outbox.resend(message.id)
    assert await claim(outbox) == [], "it is out"
    for delivered in (True, False):
        await outbox.settle(message, delivered=delivered, status=200)
        clock.ms += 1
        assert await outbox.resend(message.id)
        message = await claimed(outbox)
        assert message.attempts == 1
    await outbox.settle(message, delivered=False, again_ms=clock.ms + 9999)
    assert await outbox.resend(message.id)
    assert (await claimed(outbox)).attempts == 1
    assert not await outbox.resend("msg_none")


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_due_messages_are_found_by_their_index(database: Database) -> None:
    async def plan(connection: AsyncConnection) -> str:
        query = "EXPLAIN QUERY PLAN SELECT id FROM outbox WHERE next_ms <= 5 ORDER BY next_ms, id"
        rows = await connection.execute(text(query))
        return " ".join(str(row) for row in rows)

    assert "outbox_due" in await database.read(plan)


async def test_the_backlog_is_what_is_not_settled(
    database: Database, outbox: Outbox, clock: Clock
) -> None:
    assert await outbox.backlog() == Backlog(waiting=0, due=0)
    await put(database, clock, *(f"https://{name}.example/" for name in "abcd"))
    delivered, postponed, out = await claim(outbox, 3)
    await outbox.settle(delivered, delivered=True)
    await outbox.settle(postponed, delivered=False, again_ms=clock.ms + 10)

    assert out.is_out
    assert await outbox.backlog() == Backlog(waiting=3, due=1)
    clock.ms += 10
    assert await outbox.backlog() == Backlog(waiting=3, due=2)
