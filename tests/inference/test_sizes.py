"""Sizes: what is read, and what a wish is matched to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import BadValue
from inference.sizes import FreeSizes, nearest_listed, parse_ratio, parse_size

FLUX = FreeSizes(unit=16, min_side=256, max_side=2048, max_area=2.4e6)

bounds = st.builds(
    FreeSizes,
    unit=st.sampled_from([1, 8, 16, 32, 64]),
    min_side=st.integers(16, 700),
    max_side=st.integers(64, 4096),
    max_area=st.floats(1e4, 2e7),
).filter(lambda sizes: not sizes.empty)
sides = st.integers(16, 16384)


@given(bounds, sides, sides)
def test_a_free_size_keeps_every_bound(sizes: FreeSizes, width: int, height: int) -> None:
    made_width, made_height = sizes.nearest(width / height, width * height)
    for side in (made_width, made_height):
        assert side % sizes.unit == 0
        assert sizes.min_side <= side <= sizes.max_side
    assert made_width * made_height <= sizes.max_area


@given(bounds, st.data())
def test_a_size_that_can_be_made_is_made(sizes: FreeSizes, data: st.DataObject) -> None:
    multiples = st.integers(sizes.lowest // sizes.unit, sizes.highest // sizes.unit)
    width = data.draw(multiples) * sizes.unit
    height = data.draw(multiples) * sizes.unit
    if width * height <= sizes.max_area:
        assert sizes.nearest(width / height, width * height) == (width, height)


@given(st.floats(1 / 8, 8), st.floats(1e4, 1e8))
def test_a_ratio_within_the_bounds_survives_any_area(ratio: float, area: float) -> None:
    """One unit of rounding on the shorter side is the worst that can come between."""
    width, height = FLUX.nearest(ratio, area)
    short = min(width, height)
    assert abs(math.log(width / height / ratio)) <= math.log1p(FLUX.unit / short) + 0.01


def test_too_large_a_wish_is_scaled_not_squashed() -> None:
    assert FLUX.nearest(8.0, 4096 * 512) == (2048, 256)
    assert FLUX.nearest(16 / 9, 3840 * 2160) == (2048, 1152)
    assert FLUX.nearest(1.0, 64 * 64) == (256, 256)


def test_a_square_stays_square() -> None:
    for side in range(16, 4096, 7):
        width, height = FLUX.nearest(1.0, side * side)
        assert width == height


def test_listed_sizes_are_chosen_by_ratio_before_area() -> None:
    sizes = [(1024, 1024), (768, 1344), (640, 384)]
    assert nearest_listed(sizes, 16 / 9, 1024**2) == (640, 384)
    assert nearest_listed(sizes, 9 / 16, 64**2) == (768, 1344)


listed = st.lists(st.tuples(st.integers(64, 4096), st.integers(64, 4096)), min_size=1, max_size=8)


@given(listed, sides, sides)
def test_the_nearest_listed_size_is_listed_and_no_other_fits_the_ratio_better(
    sizes: list[tuple[int, int]], width: int, height: int
) -> None:
    def off(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1] / (width / height)))

    chosen = nearest_listed(sizes, width / height, width * height)
    assert chosen in sizes
    assert off(chosen) <= min(map(off, sizes)) + 0.0101


@given(listed)
def test_a_listed_size_is_its_own_nearest(sizes: list[tuple[int, int]]) -> None:
    for width, height in sizes:
        chosen_width, chosen_height = nearest_listed(sizes, width / height, width * height)
        assert chosen_width * chosen_height == width * height


@pytest.mark.parametrize(
    ("text", "ratio"), [("16:9", 16 / 9), ("1:1", 1.0), ("1:8", 1 / 8), ("8:1", 8.0)]
)
def test_ratios(text: str, ratio: float) -> None:
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize(
    "text",
    ["", "16", "16:", ":9", "16x9", "-16:9", "1.5:1", "a:b", "16:9:4", "0:1", "1:0", "9:1", "1:9"],
)
def test_what_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(BadValue) as refused:
        parse_ratio(text)
    assert refused.value.field == "aspect_ratio"


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_ratio_of_a_great_many_digits_is_refused_shortly(digits: int) -> None:
    """int() raises beyond 4300 digits, and division overflows long before."""
    with pytest.raises(BadValue) as refused:
        parse_ratio("9" * digits + ":1")
    assert len(str(refused.value)) < 100


def test_sizes_are_read_from_text() -> None:
    assert parse_size("128x96") == (128, 96)
    assert parse_size("128X96") == (128, 96)
    assert parse_size([128, 96]) == [128, 96]
    for text in ("128", "128x", "x96", "128×96", "12.8x96", "-1x5", "9" * 5000 + "x1"):
        with pytest.raises(ValueError, match="not a size"):
            parse_size(text)
