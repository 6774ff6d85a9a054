"""Pictures as clients send them: palettes, 16 bits, transparency, sideways."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference.pixels import (
    Pictures,
    as_mask,
    decode,
    fill_area,
    fit,
    keep_outside,
    shrink,
    side_by_side,
)
from inference.sizes import shrunk


def encoded(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_sixteen_bits_keep_their_shades() -> None:
    """Pillow's own conversion makes everything above 255 of 65535 white."""
    picture = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32896, 65535)):
        picture.putpixel((x, 0), value)
    grey = decode(encoded(picture))
    assert [grey.getpixel((x, 0)) for x in range(3)] == [0, 128, 255]


def test_a_transparent_palette_colour_is_transparent() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    seen = fit(decode(encoded(picture, transparency=0)), 2, 1)
    assert [seen.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 255, 0)]


def test_a_sideways_photograph_is_turned_upright() -> None:
    picture = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(picture, exif=exif)).size == (2, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_form_becomes_rgb_of_the_size_asked(mode: str) -> None:
    seen = fit(decode(encoded(Image.new(mode, (30, 20)))), 16, 16)
    assert (seen.mode, seen.size) == ("RGB", (16, 16))


def test_the_centre_of_a_wider_picture_is_kept() -> None:
    picture = Image.new("RGB", (30, 10), "black")
    picture.paste("white", (10, 0, 20, 10))
    assert fit(picture, 10, 10).getcolors() == [(100, (255, 255, 255))]


@pytest.mark.parametrize(
    ("size", "area", "filled"),
    [
        ((64, 64), 64 * 64, (64, 64)),
        ((3000, 2000), 1024 * 1024, (1248, 832)),
        ((20, 10), 1024 * 1024, (1456, 720)),
        ((5000, 1), 64 * 64, (4528, 16)),
    ],
)
def test_an_area_is_filled_in_the_pictures_own_ratio(
    size: tuple[int, int], area: int, filled: tuple[int, int]
) -> None:
    assert fill_area(Image.new("LA", size), area, 16).size == filled


def test_pictures_side_by_side_are_all_as_tall_as_the_first() -> None:
    colours = {"red": (20, 10), "lime": (10, 20), "blue": (10, 10)}
    joined = side_by_side([Image.new("RGB", size, colour) for colour, size in colours.items()])
    assert joined.size == (20 + 5 + 10, 10)
    assert [joined.getpixel((x, 9)) for x in (19, 20, 24, 25, 34)] == [
        (255, 0, 0),
        *[(0, 255, 0)] * 2,
        *[(0, 0, 255)] * 2,
    ]


def test_a_mask_is_white_where_to_redraw() -> None:
    picture = Image.new("L", (2, 1), 0)
    picture.putpixel((1, 0), 255)
    mask = as_mask(decode(encoded(picture)), 2, 1)
    assert [mask.getpixel((x, 0)) for x in range(2)] == [0, 255]


def test_a_mask_with_holes_is_redrawn_in_the_holes() -> None:
    picture = Image.new("RGBA", (2, 1), (255, 255, 255, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    mask = as_mask(decode(encoded(picture)), 2, 1)
    assert [mask.getpixel((x, 0)) for x in range(2)] == [0, 255]


def test_an_opaque_mask_with_an_alpha_channel_goes_by_its_colours() -> None:
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (255, 255, 255, 255))
    mask = as_mask(decode(encoded(picture)), 2, 1)
    assert [mask.getpixel((x, 0)) for x in range(2)] == [0, 255]


def test_outside_a_mask_the_source_stays_to_the_byte_and_soft_edges_blend() -> None:
    source, made = Image.new("RGB", (3, 1), (200, 0, 9)), Image.new("RGB", (3, 1), (0, 100, 9))
    mask = Image.new("L", (3, 1))
    mask.putpixel((1, 0), 128)
    mask.putpixel((2, 0), 255)
    kept = keep_outside(made, Pictures(sources=(source,), mask=mask))
    assert [kept.getpixel((x, 0)) for x in range(3)] == [(200, 0, 9), (100, 50, 9), (0, 100, 9)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_large_picture_is_shrunk_in_its_own_ratio(mode: str) -> None:
    seen = shrink(Image.new(mode, (400, 200)), 0.02)
    assert seen.size == (200, 100)
    assert ("A" in seen.getbands()) is ("A" in mode)


def test_what_is_small_enough_stays_as_it_is() -> None:
    picture = Image.effect_noise((40, 20), 50)
    assert shrink(picture, 0.0008).tobytes() == picture.tobytes()


def test_shrinking_a_palette_mixes_colours_and_not_their_numbers() -> None:
    picture = Image.new("P", (200, 200))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(0, 200, 2):
        picture.paste(2, (x, 0, x + 1, 200))
    colour = shrink(picture, 0.0001).convert("RGB").getpixel((5, 5))
    assert colour[1] < 20 and colour[0] > 100 and colour[2] > 100


@given(st.integers(1, 20000), st.integers(1, 20000), st.floats(1e-6, 50))
def test_shrunk_sides_keep_to_the_bound_and_the_ratio(width: int, height: int, most: float) -> None:
    small = shrunk(width, height, most)
    assert small[0] * small[1] <= max(1, most * 1e6)
    assert small[0] <= width and small[1] <= height
    if min(small) > 50:
        assert small[0] / small[1] == pytest.approx(width / height, rel=0.03)
        # no smaller than need be
        fewest = min(width * height, most * 1e6) * 0.95
        assert small[0] * small[1] >= fewest * (1 - 2 / min(small))
