"""What the policy promises, for any arrivals whatever."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from inference.schedule import Schedule, Ticket, Waiting

BUDGET = 100


@dataclass
class Image:
    ticket: Ticket
    key: int
    tokens: int
    steps_left: int
    finished: float | None = None


arrivals = st.lists(
    st.tuples(
        st.floats(0, 30),  # seconds after the one before
        st.sampled_from(["ann", "bob", "cy"]),
        st.integers(0, 2),  # key
        st.sampled_from([10, 40, 150]),  # tokens
        st.integers(1, 30),  # steps
    ),
    min_size=1,
    max_size=25,
)


def waiting(images: list[Image]) -> list[Waiting]:
    return [
        Waiting(ticket=one.ticket, key=one.key, tokens=one.tokens, budget_tokens=BUDGET)
        for one in images
    ]


def simulate(schedule: Schedule, plan: list[tuple[float, str, int, int, int]]) -> list[Image]:
    """One device, one second per forward; checks every pick, returns the images, all finished."""
    due, at = [], 0.0
    for gap, account, key, tokens, steps in plan:
        at += gap
        due.append((at, account, key, tokens, steps))
    now, images, live = 0.0, [], []
    while due or live:
        while due and (due[0][0] <= now or not live):
            at, account, key, tokens, steps = due.pop(0)
            now = max(now, at)
            ticket = schedule.admit(account=account, priority=0, work_seconds=float(steps), now=now)
            images.append(Image(ticket, key, tokens, steps))
            live.append(images[-1])
        by_ticket = {one.ticket: one for one in live}
        batch = schedule.pick(waiting(live), now)
        check_pick(batch)
        now += 1.0
        for call in batch:
            image = by_ticket[call.ticket]
            image.steps_left -= 1
            schedule.charge(image.ticket, 1.0 / len(batch))
            if not image.steps_left:
                image.finished = now
                schedule.leave(image.ticket)
                live.remove(image)
    return images


def check_pick(batch: list[Waiting]) -> None:
    assert batch, "work waits, so something must run"
    assert len({call.key for call in batch}) == 1
    assert len({call.ticket for call in batch}) == len(batch)
    assert len(batch) == 1 or sum(call.tokens for call in batch) <= BUDGET


@given(arrivals)
def test_everything_ends_and_every_batch_keeps_the_cap(
    plan: list[tuple[float, str, int, int, int]],
) -> None:
    images = simulate(Schedule(), plan)
    assert len(images) == len(plan)
    assert all(image.finished is not None for image in images)


@given(st.integers(3, 40))
def test_the_oldest_of_equals_goes_first(count: int) -> None:
    schedule = Schedule()
    tickets = [
        schedule.admit(account="", priority=0, work_seconds=5, now=float(number))
        for number in range(count)
    ]
    left = [Waiting(ticket=one, key=0, tokens=30, budget_tokens=BUDGET) for one in tickets]
    picked = schedule.pick(left[::-1], 1000.0 - schedule.age_bound_seconds)
    assert [call.ticket.number for call in picked] == [1, 2, 3]


@given(
    steps=st.integers(2, 50),
    flood=st.floats(0.5, 4),
    age_bound=st.floats(20, 200),
)
def test_a_long_request_is_not_starved_by_short_ones(
    steps: int, flood: float, age_bound: float
) -> None:
    """Short requests of another key keep coming, faster than they can be served."""
    schedule = Schedule(age_bound_seconds=age_bound)
    long_one = Image(
        schedule.admit(account="", priority=0, work_seconds=steps, now=0.0), 0, 10, steps
    )
    live, now, next_short = [long_one], 0.0, 0.0
    limit = schedule.stretch * steps + age_bound + 4 * steps + 50
    while long_one.steps_left:
        while next_short <= now:
            ticket = schedule.admit(account="", priority=0, work_seconds=2, now=next_short)
            live.append(Image(ticket, 1, BUDGET, 2))
            next_short += 1 / flood
        by_ticket = {one.ticket: one for one in live}
        now += 1.0
        for call in schedule.pick(waiting(live), now):
            image = by_ticket[call.ticket]
            image.steps_left -= 1
            schedule.charge(image.ticket, 1.0)
            if not image.steps_left:
                schedule.leave(image.ticket)
                live.remove(image)
        assert now < limit, "starved"


def test_a_short_request_overtakes_a_long_one_that_came_shortly_before() -> None:
    schedule = Schedule()
    long_one = schedule.admit(account="", priority=0, work_seconds=30, now=0.0)
    short = schedule.admit(account="", priority=0, work_seconds=4, now=1.0)
    assert schedule.rank(short, 1.0) < schedule.rank(long_one, 1.0)


def test_priority_goes_first_and_age_goes_before_priority() -> None:
    schedule = Schedule(age_bound_seconds=60)
    old = schedule.admit(account="", priority=0, work_seconds=1, now=0.0)
    urgent = schedule.admit(account="", priority=5, work_seconds=50, now=10.0)
    assert schedule.rank(urgent, 10.0) < schedule.rank(old, 10.0)
    assert schedule.rank(old, 61.0) < schedule.rank(urgent, 61.0)


@given(st.integers(2, 40))
def test_accounts_share_alike_however_much_one_submits(flood: int) -> None:
    """`greedy` submits everything first; while both have work neither is served twice the other."""
    schedule = Schedule(quantum_seconds=1.0)
    live = [
        Image(schedule.admit(account="greedy", priority=0, work_seconds=5, now=0.0), 0, BUDGET, 5)
        for _ in range(flood)
    ]
    live += [
        Image(schedule.admit(account="modest", priority=0, work_seconds=5, now=1.0), 0, BUDGET, 5)
        for _ in range(2)
    ]
    served = {"greedy": 0, "modest": 0}
    while any(one.ticket.account == "modest" for one in live):
        by_ticket = {one.ticket: one for one in live}
        (call,) = schedule.pick(waiting(live), 2.0)
        image = by_ticket[call.ticket]
        served[image.ticket.account] += 1
        image.steps_left -= 1
        schedule.charge(image.ticket, 1.0)
        if not image.steps_left:
            schedule.leave(image.ticket)
            live.remove(image)
    assert served["modest"] == 10
    assert served["greedy"] <= 11


def test_an_account_that_was_away_has_saved_nothing_up() -> None:
    schedule = Schedule(quantum_seconds=1.0)
    busy = schedule.admit(account="busy", priority=0, work_seconds=5, now=0.0)
    schedule.charge(busy, 100.0)
    late = schedule.admit(account="late", priority=0, work_seconds=5, now=50.0)
    schedule.charge(late, 2.0)
    assert schedule.rank(busy, 51.0) < schedule.rank(late, 51.0)


def test_a_call_over_the_budget_still_runs_alone() -> None:
    schedule = Schedule()
    tickets = [schedule.admit(account="", priority=0, work_seconds=1, now=0.0) for _ in range(2)]
    calls = [Waiting(ticket=one, key=0, tokens=500, budget_tokens=BUDGET) for one in tickets]
    assert schedule.pick(calls, 0.0) == calls[:1]
    assert schedule.pick([], 0.0) == []


def test_brief_forwards_go_first_and_only_with_their_like() -> None:
    schedule = Schedule()
    old, young = (
        schedule.admit(account="", priority=0, work_seconds=1, now=now) for now in (0.0, 50.0)
    )
    denoising = Waiting(ticket=old, key="denoiser", tokens=10, budget_tokens=BUDGET)
    encoding = Waiting(ticket=young, key="encoder", tokens=10, budget_tokens=BUDGET, is_brief=True)
    assert schedule.pick([denoising, encoding], 51.0) == [encoding]
