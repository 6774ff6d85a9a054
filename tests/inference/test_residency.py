"""Which model goes for which: decided from plain numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.residency.plan import Move, MoveKind, Patience, Plan, plan
from inference.residency.standing import Budget, Standing, device_bytes, total_bytes

PATIENCE = Patience(age_bound_seconds=60, min_stay_seconds=5)
NO_RAM = Budget(device_bytes=100, ram_bytes=0)


def standing(name: str, size: int = 60, **values: Any) -> Standing:
    values.setdefault("parts", {name: size})
    return Standing(name=name, **values)


def planned(*models: Standing, budget: Budget = NO_RAM, now: float = 1000.0) -> Plan:
    return plan(models, budget, PATIENCE, now)


def moves(made: Plan) -> list[tuple[str, str]]:
    return [(move.kind.value, move.name) for move in made.moves]


def test_what_is_asked_for_is_loaded_and_nothing_else() -> None:
    made = planned(standing("a", waiting_since=999.0), standing("b"))
    assert made.moves == [Move(MoveKind.LOAD, "a", keeps=False)]
    assert not made.draining and not made.refused


def test_who_nobody_asks_for_makes_room_at_once_least_recently_used_first() -> None:
    made = planned(
        standing("young", 40, on_device=True, used=2.0),
        standing("old", 40, on_device=True, used=1.0),
        standing("new", 50, waiting_since=999.0),
    )
    assert moves(made) == [("drop", "old"), ("load", "new")]


def test_no_more_leave_than_have_to() -> None:
    """The least recently used is small: once the large one has to go, it may stay."""
    made = planned(
        standing("small", 10, on_device=True, used=1.0),
        standing("large", 80, on_device=True, used=2.0),
        standing("new", 85, waiting_since=999.0),
    )
    assert moves(made) == [("drop", "large"), ("load", "new")]


def test_requests_for_what_is_loaded_go_before_a_swap() -> None:
    made = planned(
        standing("here", on_device=True, waiting_since=990.0),
        standing("there", waiting_since=950.0),
    )
    assert made.moves == [] and not made.draining


def test_past_the_age_bound_it_drains_and_then_goes() -> None:
    here = standing("here", on_device=True, waiting_since=999.0, running=2)
    there = standing("there", waiting_since=939.0)
    made = planned(here, there)
    assert made.moves == [] and made.draining == {"here"}
    finished = planned(replace(here, running=0), there)
    assert moves(finished) == [("drop", "here"), ("load", "there")]


@pytest.mark.parametrize("ahead", [{"load_seconds": 20.0}, {"drain_seconds": 20.0}])
def test_the_swap_begins_as_early_as_it_takes(ahead: dict[str, float]) -> None:
    """Else who waits would have waited out the bound, and the swap on top."""
    for since, drains in ((961.0, False), (959.0, True)):
        load = ahead.get("load_seconds", 0.0)
        drain = ahead.get("drain_seconds", 0.0)
        made = planned(
            standing("here", on_device=True, running=1, drain_seconds=drain),
            standing("there", waiting_since=since, load_seconds=load),
        )
        assert bool(made.draining) is drains


def test_it_begins_earlier_where_others_wait_behind_it() -> None:
    """Two swaps, and the first one's stay, before the third model has its turn."""
    here = standing("here", on_device=True, running=1)
    first = standing("first", waiting_since=980.0, load_seconds=12.0)
    second = standing("second", waiting_since=981.0, load_seconds=12.0)
    assert not planned(here, first, now=1011.0).draining
    assert not planned(here, first, second, now=1011.0).draining
    assert planned(here, first, second, now=1013.0).draining == {"here"}
    assert not planned(here, first, now=1013.0).draining


def test_running_pictures_are_finished_whatever_waits() -> None:
    made = planned(
        standing("here", on_device=True, running=1),
        standing("there", waiting_since=0.0, waiting_priority=9),
    )
    assert made.moves == [] and made.draining == {"here"}


def test_a_higher_priority_does_not_wait_for_the_bound() -> None:
    here = standing("here", on_device=True, waiting_since=999.0, waiting_priority=1)
    there = standing("there", waiting_since=999.0, waiting_priority=2)
    assert moves(planned(here, there)) == [("drop", "here"), ("load", "there")]
    assert planned(replace(here, waiting_priority=2), there).moves == []
    running = replace(here, waiting_since=None, running=1, running_priority=2)
    assert not planned(running, there).draining


def test_who_has_just_come_stays_a_while() -> None:
    here = standing("here", on_device=True, waiting_since=900.0, arrived=997.0)
    there = standing("there", waiting_since=900.0)
    assert planned(here, there).moves == []
    assert moves(planned(here, there, now=1002.5)) == [("drop", "here"), ("load", "there")]


def test_a_tie_goes_to_who_was_away_longest() -> None:
    made = planned(
        standing("a", on_device=True, waiting_since=0.0, used=3.0),
        standing("b", waiting_since=0.0, used=2.0),
        standing("c", waiting_since=0.0, used=1.0),
    )
    assert moves(made) == [("drop", "a"), ("load", "c")]


def test_what_several_share_counts_once() -> None:
    one = standing("one", parts={"t5": 50, "one": 20}, on_device=True, used=1.0)
    two = standing("two", parts={"t5": 50, "two": 20}, waiting_since=999.0)
    assert total_bytes([one, two]) == 90
    assert moves(planned(one, two)) == [("load", "two")]
    strange = standing("two", parts={"other": 50, "two": 20}, waiting_since=999.0)
    assert moves(planned(one, strange)) == [("drop", "one"), ("load", "two")]


def test_the_largest_working_memory_needs_room_too() -> None:
    here = standing("here", 40, on_device=True, working_bytes=15)
    there = standing("there", 45, working_bytes=10, waiting_since=999.0)
    assert device_bytes([here, there]) == 100
    assert moves(planned(here, there)) == [("load", "there")]
    larger = replace(there, working_bytes=16)
    assert moves(planned(here, larger)) == [("drop", "here"), ("load", "there")]


def test_who_turned_out_larger_makes_others_go() -> None:
    made = planned(
        standing("idle", on_device=True, used=1.0), standing("busy", on_device=True, running=1)
    )
    assert moves(made) == [("drop", "idle")]


def test_pinned_models_stay_and_the_reason_names_them() -> None:
    made = planned(
        standing("kept", on_device=True, pinned=True), standing("there", waiting_since=0.0)
    )
    assert made.moves == []
    assert "kept for kept" in made.refused["there"] and not made.draining


def test_what_never_fits_is_refused_with_figures() -> None:
    budget = Budget(device_bytes=10 * 1024**3, ram_bytes=0)
    made = planned(standing("huge", 11 * 1024**3, waiting_since=0.0), budget=budget)
    assert "11.0 GiB" in made.refused["huge"] and "10.0 GiB" in made.refused["huge"]


def test_a_busy_model_is_waited_for_and_refuses_nobody() -> None:
    made = planned(standing("tested", on_device=True, busy=True), standing("b", waiting_since=0.0))
    assert made.moves == [] and not made.refused


def test_of_several_asked_for_at_once_the_others_wait_for_the_first() -> None:
    made = planned(
        standing("a", waiting_since=3.0),
        standing("b", waiting_since=2.0),
        standing("c", 30, waiting_since=4.0),
    )
    assert moves(made) == [("load", "b"), ("load", "c")] and not made.refused


def test_the_reason_names_who_is_there_before_a_gentle_one() -> None:
    budget = Budget(device_bytes=10 * 1024**3, ram_bytes=0)
    here = standing("here", 6 * 1024**3, on_device=True)
    more = standing("more", 7 * 1024**3, wanted=True, gentle=True)
    reason = planned(here, more, budget=budget).refused["more"]
    assert "of which 6.0 GiB are kept for here" in reason
    assert not planned(here, replace(more, waiting_since=1.0), budget=budget).refused


def test_an_operators_wish_takes_room_from_the_idle_and_a_gentle_one_from_nobody() -> None:
    idle = standing("idle", on_device=True)
    wish = standing("wish", wanted=True)
    assert moves(planned(idle, wish)) == [("drop", "idle"), ("load", "wish")]
    assert planned(replace(idle, running=1), wish, now=1e6).draining == set()
    gentle = replace(wish, gentle=True)
    assert planned(idle, gentle).moves == [] and "wish" in planned(idle, gentle).refused
    assert moves(planned(gentle)) == [("load", "wish")]


def test_who_is_to_leave_leaves_after_its_pictures() -> None:
    here = standing("here", on_device=True, leaving=True, running=1)
    assert planned(here).draining == {"here"}
    assert moves(planned(replace(here, running=0))) == [("drop", "here")]


RAM = Budget(device_bytes=100, ram_bytes=130)


def test_a_copy_in_ram_stays_when_it_leaves_the_device() -> None:
    here = standing("here", on_device=True, in_ram=True)
    made = planned(here, standing("there", waiting_since=0.0), budget=RAM)
    assert made.moves == [Move(MoveKind.PARK, "here", True), Move(MoveKind.LOAD, "there", True)]


def test_ram_is_made_free_of_what_nobody_asks_for() -> None:
    models = [
        standing("here", on_device=True, in_ram=True, used=1.0),
        standing("parked", in_ram=True, used=0.0),
        standing("there", 70, waiting_since=0.0),
    ]
    made = planned(*models, budget=RAM)
    assert moves(made) == [("park", "here"), ("drop", "parked"), ("load", "there")]
    tight = planned(*models, budget=replace(RAM, ram_bytes=65))
    assert Move(MoveKind.LOAD, "there", keeps=False) in tight.moves


def test_who_has_to_wait_is_read_ahead_where_ram_has_room() -> None:
    here = standing("here", on_device=True, running=1)
    there = standing("there", waiting_since=999.0)
    assert moves(planned(here, there, budget=RAM)) == [("read", "there")]
    assert planned(here, there).moves == []
    unknown = replace(there, parts={})
    assert moves(planned(here, unknown, budget=RAM)) == [("load", "there")]


def test_who_is_read_to_the_device_alone_is_not_read_ahead_and_leaves_no_copy() -> None:
    here = standing("here", on_device=True, running=1)
    there = standing("there", waiting_since=999.0, reads_to_device=True)
    assert planned(here, there, budget=RAM).moves == []
    assert planned(there, budget=RAM).moves == [Move(MoveKind.LOAD, "there", keeps=False)]


def test_what_is_in_ram_beyond_its_budget_is_dropped_once_nobody_asks_for_it() -> None:
    left = standing("left", in_ram=True)
    assert moves(planned(left)) == [("drop", "left")]
    assert planned(left, budget=RAM).moves == []
    here = standing("here", on_device=True, running=1)
    assert planned(here, replace(left, waiting_since=999.0)).moves == []


MODELS = st.lists(
    st.builds(
        Standing,
        name=st.sampled_from("abcdef"),
        parts=st.dictionaries(st.sampled_from("pqrstuv"), st.integers(1, 50), max_size=3),
        working_bytes=st.integers(0, 30),
        on_device=st.booleans(),
        in_ram=st.booleans(),
        busy=st.booleans(),
        pinned=st.booleans(),
        wanted=st.booleans(),
        leaving=st.booleans(),
        waiting_since=st.none() | st.floats(900, 1000),
        running=st.integers(0, 2),
        used=st.floats(0, 1000),
        arrived=st.floats(0, 1000),
    ),
    max_size=6,
    unique_by=lambda one: one.name,
)
SIZES = {letter: 7 * number for number, letter in enumerate("pqrstuv", 1)}


@given(MODELS, st.integers(1, 150), st.integers(0, 150))
def test_no_plan_moves_what_runs_or_overfills(found: list[Standing], device: int, ram: int) -> None:
    models = {
        one.name: replace(
            one,
            parts={key: SIZES[key] for key in one.parts},
            running=one.running if one.on_device else 0,
        )
        for one in found
    }
    made = plan(models.values(), Budget(device_bytes=device, ram_bytes=ram), PATIENCE, 1000.0)
    here = {name for name, one in models.items() if one.on_device}
    for move in made.moves:
        one = models[move.name]
        assert not one.busy
        if move.kind in (MoveKind.PARK, MoveKind.DROP):
            assert not one.running, "pictures in the making"
            assert not one.pinned or one.leaving or move.name not in here
            here.discard(move.name)
        if move.kind is MoveKind.LOAD:
            here.add(move.name)
            assert device_bytes([models[name] for name in here]) <= device
    assert not any(models[name].pinned and not models[name].leaving for name in made.draining)


PICTURE_SECONDS, LOAD_SECONDS = 0.1, 0.5


def waits_of(
    arrivals: list[tuple[float, str]], patience: Patience
) -> tuple[list[tuple[str, float]], int]:
    """What each request waits for a device of one model, in simulated seconds; and the swaps."""
    models = {name: standing(name, load_seconds=LOAD_SECONDS) for name in "abc"}
    waits: list[tuple[str, float]] = []
    left, swaps, now = sorted(arrivals), 0, 0.0
    while left:
        oldest: dict[str, float] = {}
        for since, name in left:
            if since <= now:
                oldest.setdefault(name, since)
        asked = [replace(one, waiting_since=oldest.get(one.name)) for one in models.values()]
        made = plan(asked, NO_RAM, patience, now)
        for move in made.moves:
            is_there = move.kind is MoveKind.LOAD
            now += LOAD_SECONDS * is_there
            swaps += not is_there
            models[move.name] = replace(models[move.name], on_device=is_there, arrived=now)
        here = next((one for one in models.values() if one.on_device), None)
        if here is not None and here.name in oldest and here.name not in made.draining:
            request = (oldest[here.name], here.name)
            left.remove(request)
            waits.append((here.name, now - request[0]))
            now += PICTURE_SECONDS
            models[here.name] = replace(here, used=now)
        elif not made.moves:
            now += 0.01
    return waits, swaps


@given(st.randoms(use_true_random=False))
def test_nobody_waits_past_the_age_bound(chance: Any) -> None:
    """Room for one model, kept busy by requests that go before a swap, and few for two others.

    Their own crowd may make the many wait longer than that, if they come all at once.
    """
    patience = Patience(age_bound_seconds=4.0, min_stay_seconds=0.5)
    arrivals = [(chance.uniform(0, 7.0), "a") for _ in range(54)]
    arrivals += [(chance.uniform(0, 7.0), name) for name in "bbbccc"]
    waits, _ = waits_of(arrivals, patience)
    assert len(waits) == 60
    longest = max(wait for name, wait in waits if name != "a")
    assert longest <= patience.age_bound_seconds + LOAD_SECONDS + PICTURE_SECONDS


@given(st.permutations("abc" * 20))
def test_sixty_at_once_take_a_swap_a_model(names: list[str]) -> None:
    """Whatever their order; first come, first served swaps some forty times."""
    patience = Patience(age_bound_seconds=30.0, min_stay_seconds=1.0)
    _, swaps = waits_of([(index * 1e-6, name) for index, name in enumerate(names)], patience)
    assert swaps <= len("abc")
