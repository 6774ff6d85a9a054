"""Registered webhooks in the database: kept by account, told in the transaction of an end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from api.store import hooks
from api.store.database import Database
from api.store.hooks import MOST_FAILURES, Hook, HookStore, event_of
from api.store.outbox import Message, MessageState, Outbox
from api.tasks import Extras, Task, TaskKind, TaskState
from tests.api.making import AMPLE, Clock, open_store, output_of, submission
from tests.api.places import Place

DAY_MS = 86_400_000


class Office:
    """Hooks, tasks and messages of one database."""

    def __init__(self, place: Place) -> None:
        self.clock = Clock()
        self.store = open_store(place, self.clock)
        self.database: Database = place.open()
        self.hooks = HookStore(self.database, self.clock)
        self.outbox = Outbox(self.database, self.clock)

    async def add(self, hook_id: str = "one", **changes: Any) -> Hook:
        values: dict[str, Any] = {
            "account": "me", "dialect": "darkroom", "url": f"https://{hook_id}.example/",
            "secret": f"whsec_{hook_id}",
        }  # fmt: skip
        kept = await self.hooks.insert(Hook(id=hook_id, **(values | changes)), most=100)
        assert kept is not None
        return kept

    async def end(
        self,
        task_id: str,
        state: TaskState = TaskState.FAILED,
        account: str = "me",
        webhooks: tuple[str, ...] = (),
        dialect: str = "darkroom",
        **extras: Any,
    ) -> list[Message]:
        """The messages of a task that ended so."""
        made = submission(task_id, account=account)
        delivery = replace(made.delivery, webhooks=webhooks)
        wanted = replace(
            made, credits=0, dialect=dialect, delivery=delivery, extras=Extras(**extras)
        )
        await self.store.accept(wanted, AMPLE)
        claim = await self.store.claim("worker", lease_ms=DAY_MS)
        assert claim is not None and claim.task.id == task_id
        if state is TaskState.SUCCEEDED:
            await self.store.add_output(claim.holding, output_of(task_id, 0))
        assert await self.store.finish(claim.holding, state)
        return await self.outbox.of_task(task_id)

    async def settle(self, task_id: str, *, delivered: bool, again_ms: int | None = None) -> None:
        """Note how the first try of a task's only message ended."""
        await self.outbox.claim_due(100, lease_ms=1000)
        (message,) = await self.outbox.of_task(task_id)
        assert await self.outbox.settle(message, delivered=delivered, again_ms=again_ms)

    async def hook(self, hook_id: str = "one") -> Hook:
        found = await self.hooks.get("me", "darkroom", hook_id)
        assert found is not None
        return found


@pytest.fixture
async def office(place: Place) -> AsyncIterator[Office]:
    """With accounts and nothing else."""
    made = Office(place)
    yield made
    await made.store.close()
    await made.database.close()


async def test_a_hook_is_kept_as_it_was_registered(office: Office) -> None:
    first = await office.add("a", events=("generate.failed",), enabled=False)
    office.clock.ms += 5
    second = await office.add("b")
    assert (first.created_ms, first.updated_ms, first.failures) == (1_000_000, 1_000_000, 0)
    assert (first.events, first.enabled, first.secret) == (("generate.failed",), False, "whsec_a")
    assert (second.events, second.enabled) == (None, True)
    assert await office.hooks.list("me", "darkroom") == (first, second)
    assert await office.hooks.get("me", "darkroom", "a") == first
    assert "whsec" not in repr(first)


async def test_hooks_belong_to_an_account_and_a_dialect(office: Office) -> None:
    mine = await office.add()
    for account, dialect in (("you", "darkroom"), ("me", "mynth")):
        assert await office.hooks.get(account, dialect, "one") is None
        assert await office.hooks.list(account, dialect) == ()
        assert not await office.hooks.delete(account, dialect, "one")
        changed = replace(mine, account=account, dialect=dialect, url="https://evil.example/")
        assert await office.hooks.replace(changed) is None
    assert await office.hook() == mine
    assert await office.hooks.delete("me", "darkroom", "one")
    assert await office.hooks.list("me", "darkroom") == ()


async def test_an_account_has_so_many(office: Office) -> None:
    await office.add("one")
    await office.add("theirs", account="you")
    await office.add("other", dialect="mynth")
    hook = replace(await office.hook(), id="two")
    assert await office.hooks.insert(hook, most=1) is None
    assert await office.hooks.insert(hook, most=2) is not None


# Who is told


async def test_every_hook_of_the_account_and_dialect_is_told(office: Office) -> None:
    one, two = await office.add("one"), await office.add("two")
    await office.add("theirs", account="you")
    await office.add("other", dialect="mynth")
    await office.add("off", enabled=False)
    found = await office.end("task", webhooks=(one.url, "https://asked.example/"))
    assert sorted((message.url, message.hook_id or "") for message in found) == sorted(
        [(one.url, "one"), (two.url, "two"), (one.url, ""), ("https://asked.example/", "")]
    )
    assert {message.state for message in found} == {MessageState.WAITING}
    assert {message.dialect for message in found} == {"darkroom"}
    assert {message.hook_id for message in await office.end("second", dialect="mynth")} == {"other"}


async def test_a_task_may_be_told_to_none(office: Office) -> None:
    await office.add()
    assert await office.end("task", tells_hooks=False) == []
    found = await office.end("second", tells_hooks=False, webhooks=("https://asked.example/",))
    assert [message.hook_id for message in found] == [None]


EVENTS = [
    ("generate.completed", TaskKind.GENERATE, TaskState.SUCCEEDED),
    ("generate.failed", TaskKind.GENERATE, TaskState.FAILED),
    ("generate.failed", TaskKind.GENERATE, TaskState.CANCELLED),
    ("rate.failed", TaskKind.RATE, TaskState.FAILED),
    ("review.failed", TaskKind.REVIEW, TaskState.CANCELLED),
]


@pytest.mark.parametrize(("event", "kind", "state"), EVENTS)
async def test_a_hook_is_told_of_what_it_registered_for(
    office: Office, event: str, kind: TaskKind, state: TaskState
) -> None:
    end = event.partition(".")[2]
    other = {"completed": "failed", "failed": "completed"}[end]
    await office.add("exact", events=(event, "alt.completed"))
    await office.add("any", events=(f"*.{end}",))
    await office.add("all")
    await office.add("another", events=(f"*.{other}", f"{kind}.{other}", f"alt.{end}"))
    await office.add("none", events=())
    found = await office.end("task", state, kind=kind)
    assert {message.hook_id for message in found} == {"exact", "any", "all"}
    task = await office.store.get("task")
    assert isinstance(task, Task) and event_of(task) == event


async def test_cancelling_what_waits_tells_too(office: Office) -> None:
    await office.add()
    await office.store.accept(replace(submission("task", account="me"), credits=0), AMPLE)
    await office.store.request_cancel("task")
    (message,) = await office.outbox.of_task("task")
    assert message.hook_id == "one"


async def test_what_does_not_end_the_task_tells_nobody(office: Office) -> None:
    await office.add()
    await office.store.accept(replace(submission("task", account="me"), credits=0), AMPLE)
    claim = await office.store.claim("worker", lease_ms=DAY_MS)
    assert claim is not None
    await office.store.request_cancel("task")
    stale = replace(claim.holding, attempt=7)
    assert await office.store.finish(stale, TaskState.FAILED) is None
    assert await office.outbox.of_task("task") == []


# Failures


def test_thirty_failures_are_enough() -> None:
    assert MOST_FAILURES == 30


async def test_so_many_failures_turn_it_off_and_a_success_forgets_them(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "MOST_FAILURES", 4)
    await office.add()
    for number in range(3):
        await office.end(f"task{number}")
        await office.settle(f"task{number}", delivered=False)
    assert (await office.hook()).failures == 3
    await office.end("good")
    await office.settle("good", delivered=True)
    assert ((await office.hook()).failures, (await office.hook()).enabled) == (0, True)
    for number in range(4):
        assert (await office.hook()).enabled
        await office.end(f"later{number}")
        await office.settle(f"later{number}", delivered=False)
    hook = await office.hook()
    assert (hook.failures, hook.enabled) == (4, False)
    assert await office.hooks.enabled("one") is None
    assert await office.end("after") == []


async def test_a_try_that_is_not_the_last_counts_nothing(office: Office) -> None:
    await office.add()
    await office.end("task")
    await office.settle("task", delivered=False, again_ms=office.clock.ms)
    assert (await office.hook()).failures == 0
    await office.settle("task", delivered=False)
    assert (await office.hook()).failures == 1


async def test_a_settlement_that_comes_too_late_counts_nothing(office: Office) -> None:
    await office.add()
    await office.end("task")
    (message,) = await office.outbox.claim_due(1, lease_ms=1000)
    assert not await office.outbox.settle(replace(message, attempts=9), delivered=False)
    assert (await office.hook()).failures == 0


async def test_messages_of_a_request_count_for_no_hook(office: Office) -> None:
    hook = await office.add(enabled=False)
    await office.end("task", webhooks=(hook.url,))
    await office.settle("task", delivered=False)
    assert (await office.hook()).failures == 0


async def test_another_address_is_for_what_waits_and_begins_anew(office: Office) -> None:
    hook = await office.add()
    await office.add("two")
    await office.end("old", webhooks=(hook.url,))
    for message in await office.outbox.claim_due(10, lease_ms=1000):
        if message.hook_id == "one":
            await office.outbox.settle(message, delivered=False)
    await office.end("new", webhooks=(hook.url,))
    office.clock.ms += 7
    wanted = replace(hook, url="https://moved.example/", events=("rate.failed",), secret="other")
    changed = await office.hooks.replace(wanted)
    assert changed is not None
    assert (changed.url, changed.events, changed.failures) == (wanted.url, wanted.events, 0)
    assert (changed.secret, changed.created_ms) == (hook.secret, hook.created_ms)
    assert changed.updated_ms == hook.updated_ms + 7
    waiting = await office.outbox.of_task("new")
    assert {(one.hook_id, one.url) for one in waiting} == {
        ("one", wanted.url), ("two", "https://two.example/"), (None, hook.url)
    }  # fmt: skip
    settled = [one for one in await office.outbox.of_task("old") if one.hook_id == "one"]
    assert [one.url for one in settled] == [hook.url], "what is over stays as it was"
