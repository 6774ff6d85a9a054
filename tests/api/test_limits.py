"""Rate limits: never more than allowed in any minute, and never less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import RateLimited
from api.limits import MAX_CALLERS, Limiter, TooOften


class Time:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_minutes_worth_at_once_and_then_one_by_one() -> None:
    time = Time()
    limiter = Limiter(time)
    left = [limiter.take("me", 60).remaining for _ in range(60)]
    assert left == list(range(59, -1, -1))
    with pytest.raises(TooOften) as refused:
        limiter.take("me", 60)
    assert refused.value.retry_after_seconds == 1
    assert refused.value.allowance.remaining == 0
    assert refused.value.allowance.reset_seconds == pytest.approx(60)
    time.seconds += 1
    assert limiter.take("me", 60).remaining == 0
    with pytest.raises(RateLimited):
        limiter.take("me", 60)


def test_a_refusal_costs_nothing() -> None:
    time = Time()
    limiter = Limiter(time)
    limiter.take("me", 1)
    for _ in range(10):
        with pytest.raises(TooOften) as refused:
            limiter.take("me", 1)
        assert refused.value.retry_after_seconds == 60
    time.seconds += 60
    limiter.take("me", 1)


def test_callers_do_not_share() -> None:
    limiter = Limiter(Time())
    limiter.take("me", 1)
    limiter.take("you", 1)


def test_who_is_done_is_forgotten() -> None:
    time = Time()
    limiter = Limiter(time)
    for number in range(MAX_CALLERS):
        limiter.take(str(number), 60)
    time.seconds += 61
    limiter.take("me", 60)
    assert len(limiter._full_at) == 1


@given(
    st.integers(1, 600),
    st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=200),
)
def test_no_minute_sees_more_than_twice_the_limit_and_a_rested_caller_is_served(
    per_minute: int, pauses: list[float]
) -> None:
    time, served = Time(), []
    limiter = Limiter(time)
    for pause in pauses:
        time.seconds += pause
        before = [at for at in served if at > time.seconds - 60]
        try:
            allowance = limiter.take("me", per_minute)
        except TooOften as refused:
            assert before, "a caller who rested for a minute is served"
            assert 1 <= (refused.retry_after_seconds or 0) <= 60
        else:
            served.append(time.seconds)
            assert 0 <= allowance.remaining < per_minute
            # a full bucket and what flows in during the minute
            assert len(before) + 1 <= 2 * per_minute
