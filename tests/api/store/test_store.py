"""The queue on real databases: order, leases, fences, bounds, pages."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite

from api.errors import BadRequest, Overloaded, QueueFull, Unavailable
from api.store import Bounds, Claim, Holding, Store, statements
from api.store.schema import tasks
from api.tasks import Delivery, Findings, Task, TaskState
from tests.api.making import AMPLE, Clock, inserted, open_store, output_of, submission
from tests.api.places import InFile, Place

LEASE_MS = 1_000
COLUMNS = [column.name for column in tasks.c]


@pytest.fixture
def clock() -> Clock:
    """The store's only source of time."""
    return Clock()


@pytest.fixture
async def store(place: Place, clock: Clock) -> AsyncIterator[Store]:
    """An empty store."""
    opened = open_store(place, clock)
    yield opened
    await opened.close()


async def claim(store: Store, worker: str = "a") -> Claim:
    claimed = await store.claim(worker, lease_ms=LEASE_MS)
    assert claimed is not None
    return claimed


async def read(store: Store, task_id: str) -> Task:
    task = await store.get(task_id)
    assert task is not None
    return task


async def test_what_is_kept_is_what_was_given(store: Store) -> None:
    given = submission("one", count=2, prompt="‮ 👩‍👩‍👧 \x7f é", account="team", priority=3)
    task = await inserted(store, given, AMPLE)
    assert task == await store.get("one")
    assert (task.job, task.request, task.credits) == (given.job, given.request, 6)
    assert (task.account, task.state, task.attempt) == ("team", TaskState.QUEUED, 0)


async def test_claims_go_by_priority_then_age(store: Store, clock: Clock) -> None:
    for name, priority in [("old", 0), ("new", 0), ("urgent", 5), ("idle", -1)]:
        await inserted(store, submission(name, priority=priority), AMPLE)
        clock.ms += 1
    waiting = [await read(store, name) for name in ("urgent", "old", "new", "idle")]
    assert [await store.position(task) for task in waiting] == [0, 1, 2, 3]
    assert [(await claim(store)).task.id for _ in range(4)] == ["urgent", "old", "new", "idle"]
    assert await store.claim("a", lease_ms=LEASE_MS) is None
    assert await store.position(waiting[0]) is None


async def test_sixty_four_workers_never_share_a_task(store: Store) -> None:
    for number in range(40):
        await inserted(store, submission(f"t{number}"), AMPLE)
    claims = await asyncio.gather(*(store.claim(f"w{n}", lease_ms=LEASE_MS) for n in range(64)))
    taken = [claimed.task.id for claimed in claims if claimed]
    assert len(taken) == len(set(taken)) == 40


async def test_a_late_worker_is_refused_everything(store: Store, clock: Clock) -> None:
    await inserted(store, submission("one"), AMPLE)
    late = await claim(store, "late")
    clock.ms += LEASE_MS + 1
    heir = await claim(store, "heir")
    assert (heir.task.id, heir.task.attempt, heir.tries) == ("one", 2, 2)

    assert await store.heartbeat([late.holding], lease_ms=LEASE_MS) == {}
    assert not await store.add_output(late.holding, output_of("one", 0, attempt=1))
    for state in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED):
        assert await store.finish(late.holding, state) is None
    await store.release([late.holding], counted=False)

    before = await read(store, "one")
    assert before.outputs == () and before.state is TaskState.RUNNING
    assert await store.heartbeat([heir.holding], lease_ms=LEASE_MS) == {"one": False}
    assert await store.add_output(heir.holding, output_of("one", 0, attempt=2))
    ended = await store.finish(heir.holding, TaskState.SUCCEEDED)
    assert ended is not None and ended.state is TaskState.SUCCEEDED


async def test_the_same_worker_with_an_old_attempt_is_late_too(store: Store, clock: Clock) -> None:
    await inserted(store, submission("one"), AMPLE)
    first = await claim(store, "a")
    clock.ms += LEASE_MS + 1
    await claim(store, "a")
    assert not await store.add_output(first.holding, output_of("one", 0))
    late = replace(first.task.job, prompt="late")
    assert not await store.note(first.holding, late, Findings(sources=("late",)))
    assert await store.finish(first.holding, TaskState.FAILED) is None
    found = await store.get("one")
    assert found is not None
    assert (found.job.prompt, found.findings) == (first.task.job.prompt, Findings())


async def test_a_heartbeat_keeps_a_task(store: Store, clock: Clock) -> None:
    await inserted(store, submission("one"), AMPLE)
    held = await claim(store)
    for _ in range(5):
        clock.ms += LEASE_MS - 1
        assert await store.heartbeat([held.holding], lease_ms=LEASE_MS) == {"one": False}
        assert await store.claim("b", lease_ms=LEASE_MS) is None


async def test_nobody_claims_what_still_runs_here(store: Store, clock: Clock) -> None:
    await inserted(store, submission("one"), AMPLE)
    await claim(store)
    clock.ms += 10 * LEASE_MS
    assert await store.claim("a", lease_ms=LEASE_MS, running_here=["one"]) is None
    assert await store.claim("b", lease_ms=LEASE_MS) is not None


async def test_nothing_succeeds_without_its_pictures(store: Store) -> None:
    await inserted(store, submission("one", count=2), AMPLE)
    held = (await claim(store)).holding
    assert await store.add_output(held, output_of("one", 1))
    assert await store.finish(held, TaskState.SUCCEEDED) is None
    assert await store.add_output(held, output_of("one", 0))
    assert await store.add_output(held, output_of("one", 0)), "said twice, kept once"
    ended = await store.finish(held, TaskState.SUCCEEDED)
    assert ended is not None and [output.index for output in ended.outputs] == [0, 1]
    assert not await store.add_output(held, output_of("one", 0))


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_an_end_is_the_end(store: Store, clock: Clock, end: str) -> None:
    await inserted(store, submission("one"), AMPLE)
    held = (await claim(store)).holding
    await store.add_output(held, output_of("one", 0))
    ended = await store.finish(held, TaskState(end), error_kind="k", error_message="m")
    assert ended is not None
    clock.ms += 10 * LEASE_MS
    await store.expire_leases()
    assert await store.request_cancel("one") is None
    assert await store.claim("b", lease_ms=LEASE_MS) is None
    for state in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED):
        assert await store.finish(held, state) is None
    assert await read(store, "one") == ended


async def test_cancel_ends_at_once_what_nobody_runs(store: Store, clock: Clock) -> None:
    for name in ("queued", "running", "lost"):
        await inserted(store, submission(name), AMPLE)
        clock.ms += 1
    cancelled = await store.request_cancel("queued")
    assert cancelled is not None and cancelled.state is TaskState.CANCELLED
    assert cancelled.finished_ms == clock.ms
    await claim(store)
    asked = await store.request_cancel("running")
    assert asked is not None and asked.state is TaskState.RUNNING and asked.finished_ms is None
    await claim(store)
    clock.ms += LEASE_MS + 1
    cancelled = await store.request_cancel("lost")
    assert cancelled is not None and cancelled.state is TaskState.CANCELLED
    assert await store.request_cancel("no such task") is None


async def test_a_heartbeat_hears_of_the_cancel(store: Store) -> None:
    await inserted(store, submission("one"), AMPLE)
    held = (await claim(store)).holding
    await store.request_cancel("one")
    assert await store.heartbeat([held], lease_ms=LEASE_MS) == {"one": True}


async def test_what_is_given_back_costs_no_try(store: Store, clock: Clock) -> None:
    await inserted(store, submission("one"), AMPLE)
    for attempt in range(1, 4):
        held = await claim(store)
        assert (held.task.attempt, held.tries) == (attempt, 1)
        await store.release([held.holding], counted=False)
        assert (await read(store, "one")).state is TaskState.RUNNING, "never back to queued"
        assert not await store.add_output(held.holding, output_of("one", 0, attempt))
        assert await store.finish(held.holding, TaskState.FAILED) is None
        assert await store.heartbeat([held.holding], lease_ms=LEASE_MS) == {}
    held = await claim(store)
    await store.release([held.holding], counted=True)
    assert (await claim(store)).tries == 2


async def test_a_boot_ends_every_lease(store: Store) -> None:
    await inserted(store, submission("one"), AMPLE)
    held = await claim(store)
    assert await store.expire_leases() == 1
    assert (await claim(store, "b")).tries == 2
    assert await store.finish(held.holding, TaskState.FAILED) is None


async def test_a_boot_gives_up_what_nobody_can_get(store: Store) -> None:
    alone = Delivery(in_reply=True)
    told = Delivery(webhooks=('https://hooks.example/?"in_reply":true',))
    for name, delivery in {"lost": alone, "queued": alone, "told": told, "plain": None}.items():
        given = submission(name)
        await inserted(store, replace(given, delivery=delivery or given.delivery), AMPLE)
    assert (await claim(store)).task.id == "lost"
    await store.expire_leases()

    given_up = await store.give_up_unread()
    assert {task.id for task in given_up} == {"lost", "queued"}
    assert {task.state for task in given_up} == {TaskState.CANCELLED}

    states = {name: (await read(store, name)).state for name in ("lost", "queued", "told", "plain")}
    assert states["lost"] == states["queued"] == TaskState.CANCELLED
    assert states["told"] == states["plain"] == TaskState.QUEUED
    assert await store.give_up_unread() == ()


@pytest.mark.parametrize(
    ("bounds", "accepted"),
    [
        (Bounds(tasks=10, images=1000), 10),
        (Bounds(tasks=1000, images=21), 7),
        (Bounds(tasks=1000, images=1000, account_tasks=4), 8),
        (Bounds(tasks=1000, images=1000, account_images=10), 6),
    ],
)
async def test_bounds_are_exact_under_a_rush(store: Store, bounds: Bounds, accepted: int) -> None:
    results = await asyncio.gather(
        *(
            inserted(store, submission(f"t{n}", count=3, account="xy"[n % 2]), bounds)
            for n in range(64)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Task) for result in results) == accepted
    assert all(isinstance(result, Task | QueueFull | Overloaded) for result in results)
    counts = await store.counts()
    assert (counts.queued_tasks, counts.images) == (accepted, 3 * accepted)


async def test_ended_tasks_make_room(store: Store) -> None:
    bounds = Bounds(tasks=1, images=10)
    await inserted(store, submission("one"), bounds)
    held = await claim(store)
    with pytest.raises(Overloaded, match="1 of 1"):
        await inserted(store, submission("two"), bounds)
    await store.finish(held.holding, TaskState.FAILED)
    await inserted(store, submission("two"), bounds)


async def test_pages_cover_the_list_once(store: Store, clock: Clock) -> None:
    for number in range(25):
        await inserted(store, submission(f"t{number:02}", account="me"), AMPLE)
        clock.ms += number % 3 == 0  # several in one millisecond
    await inserted(store, submission("other", account="you"), AMPLE)
    seen: list[str] = []
    cursor = None
    for round in itertools.count():
        page = await store.list(account="me", state=None, limit=7, cursor=cursor)
        seen += [task.id for task in page.tasks]
        # what comes later does not shift the pages
        await inserted(store, submission(f"late{round}", account="me"), AMPLE)
        clock.ms += 1
        if (cursor := page.next_cursor) is None:
            break
    assert len(seen) == len(set(seen)) == 25
    times = [(await read(store, name)).created_ms for name in seen]
    assert times == sorted(times, reverse=True)
    queued = await store.list(account="me", state=TaskState.RUNNING, limit=7, cursor=None)
    assert queued.tasks == () and queued.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "!", "é", "MTIz", "LmE", "YS5i", "9" * 5000, "\ud800", "="])
async def test_a_foreign_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(BadRequest) as refused:
        await store.list(account="", state=None, limit=5, cursor=cursor)
    assert refused.value.field == "cursor"


async def test_a_cancelled_caller_does_not_cut_a_transaction(store: Store) -> None:
    for number in range(30):
        caller = asyncio.create_task(inserted(store, submission(f"t{number}"), AMPLE))
        await asyncio.sleep(number / 10_000)
        caller.cancel()
    await inserted(store, submission("last"), AMPLE)
    page = await store.list(account="", state=None, limit=100, cursor=None)
    assert "last" in {task.id for task in page.tasks}
    await store.check_writable()


async def test_a_locked_database_is_waited_for_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.store.sqlite.BUSY_SECONDS", 1)
    store = open_store(tmp_path / "locked.db")
    await inserted(store, submission("before"), AMPLE)
    other = sqlite3.connect(tmp_path / "locked.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as refused:
        await inserted(store, submission("during"), AMPLE)
    assert refused.value.retry_after_seconds
    assert await store.get("before"), "reading goes on"
    waiting = asyncio.create_task(inserted(store, submission("waits"), AMPLE))
    await asyncio.sleep(0.2)
    other.execute("ROLLBACK")
    await waiting
    assert await store.get("during") is None and await store.get("waits")
    other.close()
    await store.close()


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_no_statement_sorts_or_scans_the_queue(store: Store, place: InFile) -> None:
    await inserted(store, submission("one"), AMPLE)
    task = await read(store, "one")
    plan = sqlite3.connect(place.path)
    held = [Holding("one", "a", 1)]
    for statement in (
        statements.claim("a", now_ms=1, lease_ms=1, running_here=["x"]),
        statements.heartbeat(held, now_ms=1, lease_ms=1),
        statements.unfinished(),
        statements.unfinished("me"),
        statements.ahead_of(task),
    ):
        sql = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        steps = [row[3] for row in plan.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert any(" tasks USING " in step for step in steps), steps
        assert not any(step == "SCAN tasks" for step in steps), (str(sql), steps)
        # the claim sorts lost leases, which are few, and the two rows that its lookups found
        sorts = [step for step in steps if "TEMP B-TREE" in step]
        assert len(sorts) <= (2 if "'queued' ORDER BY" in str(sql) else 0), (str(sql), steps)
    plan.close()


async def test_a_long_queue_is_quick(store: Store, clock: Clock, place: Place) -> None:
    await inserted(store, submission("first"), AMPLE)
    copied = ", ".join("CAST(n.id AS text)" if name == "id" else f"t.{name}" for name in COLUMNS)
    place.rows(
        "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 10000) "
        f"INSERT INTO tasks ({', '.join(COLUMNS)}) SELECT {copied} FROM tasks t, n"
    )
    started = time.perf_counter()
    for number in range(20):
        clock.ms += 1
        task = await inserted(store, submission(f"t{number}"), AMPLE)
        assert await store.position(task) == 10_001
        held = await claim(store)
        await store.finish(held.holding, TaskState.FAILED)
    # 7 ms a round on two quiet cores
    assert (time.perf_counter() - started) / 20 < 0.2
