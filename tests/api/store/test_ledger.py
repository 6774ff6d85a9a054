"""Credits: held, charged and given back once each, whatever happens and however often."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from api.accounts import Account, Accounts, Caller, Entry, Key, Period
from api.errors import NoCredits
from api.store import Accepted, Claim, Store
from api.store.accounts import AccountStore
from api.store.ledger import bounds_of
from api.tasks import Extras, Failure, TaskState
from tests.api.making import AMPLE, Clock, output_of, submission
from tests.api.places import InFile, OnServer, Place
from tests.api.postgres import Cluster

LEASE_MS = 1_000
NOON = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 24 * 3600 * 1000


@dataclass
class Till:
    """A store and its accounts on one file and one clock."""

    place: Place
    clock: Clock = field(default_factory=lambda: Clock(NOON))

    def __post_init__(self) -> None:
        database = self.place.open()
        self.store = Store(database, self.clock)
        self.accounts = Accounts(AccountStore(database, self.clock))

    async def key(self, *, credits: int | None = None, **fields: Any) -> Key:
        made, _ = await self.accounts.create_key(
            Key(id="", account="team", **fields), credits=credits
        )
        return made

    async def accept(
        self, name: str, key: Key | None = None, *, credits: int = 3, count: int = 1
    ) -> Accepted:
        caller = Caller(key.account, key) if key is not None else Caller("team")
        given = submission(name, count=count, account="team")
        extras = Extras(allows_partial=True)
        given = replace(given, credits=credits, caller=caller, extras=extras)
        return await self.store.accept(given, AMPLE)

    async def claim(self) -> Claim:
        claimed = await self.store.claim("a", lease_ms=LEASE_MS)
        assert claimed is not None
        return claimed

    async def fail(self, claim: Claim, *indexes: int) -> None:
        for index in indexes:
            failure = Failure(index=index, kind="pipeline_failed", message="it broke")
            assert await self.store.add_failure(claim.holding, failure)

    async def end(self, claim: Claim, state: TaskState) -> None:
        await self.end_partly(claim, state, made=int(state is TaskState.SUCCEEDED))

    async def end_partly(
        self, claim: Claim, state: TaskState = TaskState.SUCCEEDED, *, made: int
    ) -> None:
        """End a task when the first pictures of it were made."""
        for index in range(made):
            output = output_of(claim.task.id, index, claim.holding.attempt)
            assert await self.store.add_output(claim.holding, output)
        assert await self.store.finish(claim.holding, state)

    async def account(self) -> Account:
        return await self.accounts.account("team")

    async def kinds(self, task_id: str) -> list[str]:
        entries = await self.accounts.entries("team", limit=1000)
        return [one.kind for one in reversed(entries) if one.task_id == task_id]


@pytest.fixture
async def till(place: Place) -> AsyncIterator[Till]:
    till = Till(place)
    yield till
    await till.store.close()


def stands(account: Account) -> tuple[int, int]:
    return account.balance, account.held


# --- one task's way


async def test_a_price_is_held_charged_and_stays_charged(till: Till) -> None:
    key = await till.key(credits=10)
    await till.accept("one", key)
    assert stands(await till.account()) == (7, 3)
    claim = await till.claim()
    assert stands(await till.account()) == (7, 0)
    await till.end(claim, TaskState.SUCCEEDED)
    assert stands(await till.account()) == (7, 0)
    assert await till.kinds("one") == ["hold", "charge"]
    lines = [one for one in await till.accounts.entries("team") if one.task_id]
    assert {(one.key_id, one.created_ms) for one in lines} == {(key.id, NOON)}


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.CANCELLED])
async def test_what_failed_is_refunded_once(till: Till, state: TaskState) -> None:
    await till.accept("one", await till.key(credits=10))
    claim = await till.claim()
    await till.end(claim, state)
    assert stands(await till.account()) == (10, 0)
    assert await till.store.finish(claim.holding, state) is None
    assert await till.store.request_cancel("one") is None
    assert stands(await till.account()) == (10, 0)
    assert await till.kinds("one") == ["hold", "charge", "refund"]


async def test_what_failed_of_a_task_is_refunded_once(till: Till) -> None:
    await till.accept("one", await till.key(credits=20), credits=12, count=4)
    claim = await till.claim()
    await till.fail(claim, 1, 2, 3)
    await till.fail(claim, 1)
    assert stands(await till.account()) == (8, 0), "nothing before the end"

    await till.end(claim, TaskState.SUCCEEDED)

    assert stands(await till.account()) == (17, 0)
    assert await till.store.finish(claim.holding, TaskState.SUCCEEDED) is None
    assert await till.store.finish(claim.holding, TaskState.FAILED) is None
    assert stands(await till.account()) == (17, 0)
    assert await till.kinds("one") == ["hold", "charge", "refund"]
    (line,) = [one for one in await till.accounts.entries("team") if one.kind == "refund"]
    assert (line.amount, line.held, line.note) == (9, 0, "of pictures that failed")


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.CANCELLED])
async def test_the_whole_is_refunded_where_some_had_failed(till: Till, state: TaskState) -> None:
    await till.accept("one", await till.key(credits=20), credits=12, count=4)
    claim = await till.claim()
    await till.fail(claim, 1, 2)
    await till.end(claim, state)
    assert stands(await till.account()) == (20, 0)
    assert await till.kinds("one") == ["hold", "charge", "refund"]


async def test_the_next_claim_refunds_what_the_last_one_saw_fail(till: Till) -> None:
    await till.accept("one", await till.key(credits=20), credits=12, count=3)
    first = await till.claim()
    await till.fail(first, 0, 2)
    till.clock.ms += LEASE_MS + 1
    second = await till.claim()
    assert [one.index for one in second.task.failures] == [0, 2]
    late = Failure(index=1, kind="pipeline_failed", message="it broke")
    assert not await till.store.add_failure(first.holding, late)
    assert await till.store.finish(first.holding, TaskState.SUCCEEDED) is None

    output = output_of("one", 1, second.holding.attempt)
    assert await till.store.add_output(second.holding, output)
    done = await till.store.finish(second.holding, TaskState.SUCCEEDED)

    assert done is not None
    assert (done.credits, done.cost) == (12, 4)
    assert stands(await till.account()) == (16, 0)


async def test_without_any_picture_a_task_has_not_succeeded(till: Till) -> None:
    await till.accept("one", await till.key(credits=20), credits=12, count=2)
    claim = await till.claim()
    await till.fail(claim, 0, 1)
    assert await till.store.finish(claim.holding, TaskState.SUCCEEDED) is None
    assert await till.store.finish(claim.holding, TaskState.FAILED)
    assert stands(await till.account()) == (20, 0)


async def test_what_never_ran_is_released_once(till: Till) -> None:
    await till.accept("one", await till.key(credits=10))
    assert await till.store.request_cancel("one")
    assert await till.store.request_cancel("one") is None
    assert stands(await till.account()) == (10, 0)
    assert await till.kinds("one") == ["hold", "release"]


@pytest.mark.parametrize("counted", [True, False])
async def test_claiming_again_charges_nothing_more(till: Till, counted: bool) -> None:
    await till.accept("one", await till.key(credits=10))
    for _ in range(3):
        claim = await till.claim()
        await till.store.release([claim.holding], counted=counted)
    till.clock.ms += LEASE_MS + 1
    await till.end(await till.claim(), TaskState.SUCCEEDED)
    assert stands(await till.account()) == (7, 0)
    assert await till.kinds("one") == ["hold", "charge"]


async def test_a_line_of_a_task_and_kind_cannot_be_written_twice(till: Till) -> None:
    """By the table itself, whatever the code above it thinks."""
    await till.accept("one", await till.key(credits=10))
    columns = "account, key_id, task_id, kind, amount, held, note, created_ms"
    with pytest.raises(Exception, match=r"UNIQUE|once_per_task"):
        till.place.rows(
            f"INSERT INTO ledger ({columns}) SELECT {columns} FROM ledger WHERE kind = 'hold'"
        )


async def test_what_costs_nothing_writes_nothing(till: Till) -> None:
    await till.accept("one", await till.key(credits=0), credits=0)
    claim = await till.claim()
    await till.end(claim, TaskState.FAILED)
    assert await till.kinds("one") == []


async def test_what_is_refused_leaves_no_trace(till: Till) -> None:
    key = await till.key(credits=2)
    with pytest.raises(NoCredits, match="costs 3 credits and the balance is 2"):
        await till.accept("one", key)
    assert await till.store.get("one") is None
    assert await till.kinds("one") == []
    assert stands(await till.account()) == (2, 0)


# --- many at once


async def test_thirty_two_at_once_get_what_ten_can_pay(till: Till) -> None:
    key = await till.key(credits=30)

    results = await asyncio.gather(
        *(till.accept(f"t{number}", key) for number in range(32)), return_exceptions=True
    )

    kinds = Counter(type(result) for result in results)
    assert kinds == {Accepted: 10, NoCredits: 22}
    assert stands(await till.account()) == (0, 30)
    assert (await till.store.counts()).queued_tasks == 10


async def test_two_processes_spend_no_credit_twice(till: Till) -> None:
    key = await till.key(credits=30)
    other = Till(till.place, till.clock)

    results = await asyncio.gather(
        *((till, other)[n % 2].accept(f"t{n}", key) for n in range(32)), return_exceptions=True
    )
    await other.store.close()

    assert Counter(type(result) for result in results) == {Accepted: 10, NoCredits: 22}
    assert stands(await till.account()) == (0, 30)


# --- accounts without a meter


async def test_without_a_meter_nothing_is_refused_and_all_written_down(till: Till) -> None:
    key = await till.key()
    for number in range(3):
        await till.accept(f"t{number}", key, credits=100)
    assert stands(await till.account()) == (-300, 300)
    await till.claim()
    assert stands(await till.account()) == (-300, 200)


async def test_what_was_used_before_the_meter_is_forgiven(till: Till) -> None:
    key = await till.key()
    await till.accept("one", key)
    await till.end(await till.claim(), TaskState.SUCCEEDED)

    account = await till.accounts.grant("team", 10, "welcome")

    assert (account.balance, account.held, account.metered) == (10, 0, True)
    told = [(one.kind, one.amount) for one in await till.accounts.entries("team")]
    assert told == [("grant", 10), ("forgiven", 3), ("charge", 0), ("hold", -3)]


@pytest.mark.parametrize("is_running", [False, True])
async def test_what_was_forgiven_is_not_given_back_as_well(till: Till, is_running: bool) -> None:
    key = await till.key()
    await till.accept("before", key)
    if is_running:
        claim = await till.claim()
    await till.accounts.grant("team", 10)
    await till.accept("after", key)

    if is_running:
        await till.end(claim, TaskState.FAILED)
    else:
        await till.store.request_cancel("before")
    await till.store.request_cancel("after")

    assert stands(await till.account()) == (10, 0)


async def test_a_part_of_what_was_forgiven_is_not_given_back_either(till: Till) -> None:
    key = await till.key(spend_limit=100)
    await till.accept("one", key, credits=12, count=4)
    claim = await till.claim()
    await till.accounts.grant("team", 10)
    await till.fail(claim, 1, 2, 3)
    await till.end(claim, TaskState.SUCCEEDED)
    assert stands(await till.account()) == (10, 0)
    assert (await till.accounts.spent(key)).credits == 12


async def test_credits_outlive_the_meter(till: Till) -> None:
    await till.key(credits=100)
    assert (await till.accounts.unmeter("team")).metered is False

    account = await till.accounts.grant("team", 5)

    assert (account.balance, account.metered) == (105, True)


async def test_a_first_grant_that_takes_changes_nothing(till: Till) -> None:
    await till.accept("one", await till.key())
    with pytest.raises(NoCredits):
        await till.accounts.grant("team", -1)
    account = await till.account()
    assert (account.balance, account.held, account.metered) == (-3, 3, False)


# --- spending limits


@pytest.mark.parametrize(
    ("period", "next_ms"),
    [(Period.DAY, NOON + DAY_MS // 2), (Period.MONTH, NOON + DAY_MS // 2)],
)
async def test_a_key_spends_its_limit_in_each_period(
    till: Till, period: Period, next_ms: int
) -> None:
    """The clock stands at noon of the last of January, in UTC."""
    key = await till.key(credits=1000, spend_limit=7, spend_period=period)
    other = await till.key()
    await till.accept("one", key)
    await till.accept("two", key)
    await till.accept("other", other, credits=500)

    with pytest.raises(NoCredits, match=f"of the 7 that this key may spend a {period}, 1 are left"):
        await till.accept("three", key)
    await till.accept("small", key, credits=1)
    till.clock.ms = next_ms - 1
    assert (await till.accounts.spent(key)).credits == 7
    with pytest.raises(NoCredits):
        await till.accept("four", key, credits=1)
    till.clock.ms = next_ms

    spent = await till.accounts.spent(key)
    assert (spent.credits, spent.since_ms) == (0, next_ms)
    await till.accept("five", key, credits=7)
    assert (await till.accounts.spent(key)).credits == 7


async def test_a_day_is_not_a_month(till: Till) -> None:
    till.clock.ms -= 5 * DAY_MS
    daily = await till.key(spend_limit=3, spend_period=Period.DAY)
    monthly = await till.key(spend_limit=3, spend_period=Period.MONTH)
    await till.accept("one", daily)
    await till.accept("two", monthly)
    till.clock.ms += DAY_MS
    await till.accept("three", daily)
    with pytest.raises(NoCredits):
        await till.accept("four", monthly)


async def test_what_comes_back_may_be_spent_again(till: Till) -> None:
    key = await till.key(spend_limit=3)
    await till.accept("one", key)
    await till.store.request_cancel("one")
    await till.accept("two", key)
    await till.end(await till.claim(), TaskState.FAILED)
    await till.accept("three", key)
    with pytest.raises(NoCredits):
        await till.accept("four", key)


async def test_of_a_part_that_comes_back_only_that_may_be_spent_again(till: Till) -> None:
    key = await till.key(spend_limit=12)
    await till.accept("one", key, credits=12, count=4)
    claim = await till.claim()
    await till.fail(claim, 2, 3)
    await till.end_partly(claim, made=2)
    assert (await till.accounts.spent(key)).credits == 6
    with pytest.raises(NoCredits, match="6 are left"):
        await till.accept("two", key, credits=7)
    await till.accept("three", key, credits=6)
    with pytest.raises(NoCredits, match="0 are left"):
        await till.accept("four", key, credits=1)


async def test_a_part_that_comes_back_next_month_adds_nothing_to_it(till: Till) -> None:
    key = await till.key(spend_limit=12)
    await till.accept("one", key, credits=12, count=4)
    claim = await till.claim()
    await till.fail(claim, 1, 2, 3)
    till.clock.ms += DAY_MS
    await till.end(claim, TaskState.SUCCEEDED)
    assert (await till.accounts.spent(key)).credits == 0
    await till.accept("two", key, credits=12)
    with pytest.raises(NoCredits, match="0 are left"):
        await till.accept("three", key, credits=1)


async def test_what_comes_back_next_month_adds_nothing_to_it(till: Till) -> None:
    key = await till.key(spend_limit=3)
    await till.accept("one", key)
    till.clock.ms += DAY_MS
    await till.store.request_cancel("one")
    await till.accept("two", key)
    with pytest.raises(NoCredits, match="0 are left"):
        await till.accept("three", key)


async def test_a_limit_is_exact_under_a_rush(till: Till) -> None:
    key = await till.key(spend_limit=10)
    results = await asyncio.gather(
        *(till.accept(f"t{number}", key) for number in range(32)), return_exceptions=True
    )
    assert Counter(type(result) for result in results) == {Accepted: 3, NoCredits: 29}


@pytest.mark.parametrize(
    ("period", "at", "since", "until"),
    [
        (Period.DAY, "2024-02-29T00:00", "2024-02-29", "2024-03-01"),
        (Period.DAY, "2026-12-31T23:59", "2026-12-31", "2027-01-01"),
        (Period.MONTH, "2024-02-29T23:59", "2024-02-01", "2024-03-01"),
        (Period.MONTH, "2026-12-01T00:00", "2026-12-01", "2027-01-01"),
        (Period.MONTH, "2026-01-31T12:00", "2026-01-01", "2026-02-01"),
    ],
)
def test_periods_are_those_of_the_calendar(period: Period, at: str, since: str, until: str) -> None:
    def ms(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)

    assert bounds_of(period, ms(at)) == (ms(since), ms(until))


# --- any order of anything


@dataclass
class Owed:
    """What must be true of one task's price."""

    price: int
    count: int = 1
    state: str = "held"
    claim: Claim | None = None
    is_forgiven: bool = False
    failed: set[int] = field(default_factory=set)

    @property
    def owing(self) -> int:
        """What is held or was charged of it, and not given back."""
        if self.is_forgiven or self.state == "back":
            return 0
        lost = len(self.failed) if self.state == "made" else 0
        return self.price * (self.count - lost)


class Tills(RuleBasedStateMachine):
    """Random operations on the store, and beside it a model of who owes what."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.till = Till(self.place(), Clock())
        self.names = (f"t{number}" for number in itertools.count())
        self.owed: dict[str, Owed] = {}
        self.granted = 0
        self.metered = False
        self.key = self.do(self.till.key())

    def place(self) -> Place:
        return InFile(Path(self.folder.name) / "darkroom.db")

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.do(self.till.store.close())
        self.runner.close()
        self.folder.cleanup()

    def balance(self) -> int:
        return self.granted - sum(one.owing for one in self.owed.values())

    @rule(price=st.integers(0, 5), count=st.integers(1, 3))
    def accept(self, price: int, count: int) -> None:
        name, before, credits = next(self.names), self.balance(), price * count
        try:
            self.do(self.till.accept(name, self.key, credits=credits, count=count))
        except NoCredits:
            assert self.metered and before < credits
        else:
            assert not self.metered or before >= credits
            self.owed[name] = Owed(price, count)
        self.till.clock.ms += 1

    @rule(target=claims)
    def claim(self) -> Claim | None:
        claimed: Claim | None = self.do(self.till.store.claim("a", lease_ms=LEASE_MS))
        if claimed is not None:
            owed = self.owed[claimed.task.id]
            owed.state, owed.claim = "charged", claimed
        return claimed

    @rule(claim=claims, index=st.integers(0, 2))
    def fail(self, claim: Claim | None, index: int) -> None:
        """A picture fails, but the first never does, so that any task may succeed."""
        if claim is None or not 0 < index < len(claim.task.job.seeds):
            return
        failure = Failure(index=index, kind="pipeline_failed", message="it broke")
        if self.do(self.till.store.add_failure(claim.holding, failure)):
            self.owed[claim.task.id].failed.add(index)

    @rule(claim=claims, state=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def finish(self, claim: Claim | None, state: str) -> None:
        if claim is None:
            return
        owed = self.owed[claim.task.id]
        if state == "succeeded":
            for index in set(range(owed.count)) - owed.failed:
                output = output_of(claim.task.id, index, claim.holding.attempt)
                self.do(self.till.store.add_output(claim.holding, output))
        if self.do(self.till.store.finish(claim.holding, TaskState(state))) is not None:
            assert owed.claim == claim
            owed.state = "made" if state == "succeeded" else "back"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.owed:
            name = data.draw(st.sampled_from(sorted(self.owed)))
            task = self.do(self.till.store.request_cancel(name))
            if task is not None and task.state.ended:
                self.owed[name].state = "back"

    @rule(claim=claims, counted=st.booleans())
    def release(self, claim: Claim | None, counted: bool) -> None:
        if claim is not None:
            self.do(self.till.store.release([claim.holding], counted=counted))

    @rule()
    def boot(self) -> None:
        self.do(self.till.store.expire_leases())

    @rule(ms=st.sampled_from([1, LEASE_MS + 1]))
    def pass_time(self, ms: int) -> None:
        self.till.clock.ms += ms

    @rule(amount=st.integers(-5, 10))
    def grant(self, amount: int) -> None:
        before = self.balance()
        forgives = not self.metered and before < 0
        try:
            self.do(self.till.accounts.grant("team", amount))
        except NoCredits:
            assert max(before, 0 if forgives else before) + amount < 0
            return
        if forgives:
            self.forgive()
        self.granted += amount
        self.metered = True

    def forgive(self) -> None:
        """All that is owed is forgiven, and with it what was granted and used up."""
        self.granted = 0
        for one in self.owed.values():
            one.is_forgiven = True

    @invariant()
    def agree(self) -> None:
        account: Account = self.do(self.till.account())
        entries: list[Entry] = self.do(self.till.accounts.entries("team", limit=100_000))
        assert account.balance == sum(one.amount for one in entries) == self.balance()
        held = sum(one.price * one.count for one in self.owed.values() if one.state == "held")
        assert account.held == sum(one.held for one in entries) == held
        assert account.metered == self.metered
        assert not self.metered or account.balance >= 0
        once = Counter((one.task_id, one.kind) for one in entries if one.task_id)
        assert all(count == 1 for count in once.values())


TestTills = Tills.TestCase
TestTills.settings = settings(max_examples=40, stateful_step_count=30)


class TillsOnServer(Tills):
    """The same on PostgreSQL."""

    def place(self) -> Place:
        return OnServer(Cluster.running)


TestTillsOnServer = pytest.mark.usefixtures("cluster")(TillsOnServer.TestCase)
TestTillsOnServer.settings = settings(max_examples=8, stateful_step_count=25)
