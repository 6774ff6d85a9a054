"""What a forward that was too large teaches, and how that is forgotten: a card in simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from inference.caps import PATIENCE_FORWARDS, Caps

ONE, MOST = 16, 16
KIND = "flux"


class Card:
    """Steps batches as a worker does, on memory for `rows` of them; counts what happens."""

    def __init__(self, rows: int) -> None:
        self.caps, self.rows = Caps(), rows
        self.forwards = self.fails = 0
        self.step(MOST)

    @property
    def cap(self) -> int:
        """How many rows a forward may have."""
        return self.caps.of(KIND, MOST * ONE) // ONE

    def step(self, rows: int) -> None:
        """One forward for all, or halves."""
        if rows > 1 and self.cap < rows:
            self._halves(rows)
            return
        self.forwards += 1
        if rows <= self.rows:
            self.caps.succeed(KIND, rows * ONE, ONE)
            return
        self.fails += 1
        assert rows > 1, "one row always fits here"
        self.caps.fail(KIND, rows * ONE, rows // 2 * ONE, ONE)
        self._halves(rows)

    def _halves(self, rows: int) -> None:
        self.step(rows // 2)
        self.step(rows - rows // 2)

    def run(self, forwards: int) -> Iterator[int]:
        """Under endless demand; the cap before each turn."""
        end = self.forwards + forwards
        while self.forwards < end:
            yield self.cap
            self.step(self.cap)


def test_what_failed_is_not_tried_again_for_a_while() -> None:
    caps = Caps()
    assert caps.of("a", 16) == 16
    caps.fail("a", 16, 8, 1)
    assert (caps.of("a", 16), caps.of("a", 4), caps.of("b", 16)) == (8, 4, 16)
    for _ in range(PATIENCE_FORWARDS - 1):
        caps.succeed("a", 8, 1)
    assert caps.of("a", 16) == 8
    caps.succeed("a", 8, 1)
    assert caps.of("a", 64) == 16


def test_forwards_that_could_have_had_more_rows_teach_nothing() -> None:
    caps = Caps()
    caps.fail("a", 16, 8, 2)
    for _ in range(2 * PATIENCE_FORWARDS):
        caps.succeed("a", 6, 2)
        caps.succeed("b", 8, 2)
    assert caps.of("a", 16) == 8


def test_what_fails_again_after_it_fitted_is_tried_later_than_before() -> None:
    caps = Caps()
    caps.fail("a", 16, 8, 1)
    caps.succeed("a", 8, 1)
    caps.fail("a", 8, 4, 1)
    for _ in range(2 * PATIENCE_FORWARDS):
        assert caps.of("a", 64) == 4
        caps.succeed("a", 4, 1)
    assert caps.of("a", 64) == 8


@pytest.mark.parametrize("rows", range(1, 16))
def test_a_shortage_that_passes_leaves_no_trace(rows: int) -> None:
    card = Card(rows)
    for _ in card.run(1000):
        assert card.cap <= 2 * rows
    card.rows, fails = MOST, card.fails
    caps = list(card.run(40 * PATIENCE_FORWARDS))
    assert caps == sorted(caps) and caps[-1] == MOST
    assert card.fails == fails, "nothing fails on the way back"
    card.rows = 2
    card.step(MOST)
    assert (card.cap, card.fails) == (2, fails + 3)
    assert set(card.run(PATIENCE_FORWARDS)) == {2, 4}, "a later one is learned as the first was"


def test_the_way_back_is_as_short_as_the_way_down() -> None:
    card = Card(2)
    card.rows = MOST
    seen = list(dict.fromkeys(card.run(4 * PATIENCE_FORWARDS)))
    assert seen == [2, 4, 8, 16]
    assert card.forwards < 3 * PATIENCE_FORWARDS + 20 + PATIENCE_FORWARDS


@pytest.mark.parametrize("rows", [1, 3, 8, 11, 15])
def test_a_shortage_that_stays_is_tried_ever_more_rarely(rows: int) -> None:
    card = Card(rows)
    down = math.log2(MOST)
    for forwards in (10_000, 90_000, 400_000):
        for _ in card.run(forwards):
            assert card.cap <= 2 * rows
        tries = math.log2(1 + card.forwards / PATIENCE_FORWARDS)
        assert card.fails <= down + tries + 1, card.forwards
    assert card.fails > down - math.log2(rows) + 3, "it is tried again now and then"
    assert card.caps._caps[KIND].tokens == rows * ONE, "what fits is found to the row"


def test_a_worse_shortage_during_a_try_is_learned_too() -> None:
    card = Card(8)
    while card.cap == 8:
        card.step(8)
    assert card.cap == MOST
    card.rows = 1
    card.step(MOST)
    assert card.cap == 1
