"""A mask's edge that fades: how far it reaches, and what is left alone to the byte."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from inference.feather import feathered, grown
from inference.pixels import Pictures, keep_outside

SQUARE = Image.new("L", (64, 48))
SQUARE.paste(255, (20, 16, 40, 30))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8))


@pytest.mark.parametrize("mask", [SQUARE, NOISE], ids=["square", "noise"])
@pytest.mark.parametrize("reach", [1, 2, 3, 7, 16])
def test_growing_takes_the_brightest_around(mask: Image.Image, reach: int) -> None:
    expected = mask.filter(ImageFilter.MaxFilter(2 * reach + 1))
    assert grown(mask, reach).tobytes() == expected.tobytes()


def test_a_reach_beyond_the_picture_fills_it() -> None:
    assert grown(SQUARE, 200).getextrema() == (255, 255)
    assert grown(Image.new("L", (5, 5)), 200).getextrema() == (0, 0)


@pytest.mark.parametrize("blur", [1, 2, 5, 8, 15])
def test_the_edge_fades_outwards_and_ends_where_it_is_told(blur: int) -> None:
    soft = np.asarray(feathered(SQUARE, blur), np.int16)
    inside = np.asarray(SQUARE) == 255
    assert (soft[inside] == 255).all()
    reached = np.asarray(grown(SQUARE, blur)) == 255
    assert (soft[~reached] == 0).all()
    ramp = soft[23, 39 : 40 + blur + 1]
    assert ramp[0] == 255 and ramp[-1] == 0
    assert (np.diff(ramp) <= 0).all()
    assert 0 < ramp[1] < 255
    # a straight line, within what whole pixels allow
    assert np.abs(np.diff(ramp)).max() <= 255 / blur + 260 / (blur + 1)


def test_more_blur_reaches_further() -> None:
    lit = [int((np.asarray(feathered(SQUARE, blur)) > 0).sum()) for blur in (0, 4, 8, 16)]
    assert lit == sorted(set(lit))


def test_even_one_pixel_of_mask_grows() -> None:
    dot = Image.new("L", (21, 21))
    dot.putpixel((10, 10), 255)
    soft = feathered(dot, 6)
    assert soft.getpixel((10, 10)) == 255
    assert soft.getpixel((13, 10)) > 60
    assert soft.getbbox() == (4, 4, 17, 17)


def test_no_blur_is_the_mask_itself() -> None:
    assert feathered(NOISE, 0).tobytes() == grown(NOISE, 0).tobytes() == NOISE.tobytes()


def test_beyond_the_fading_edge_the_source_stays_to_the_byte() -> None:
    source = Image.effect_noise((64, 48), 80).convert("RGB")
    made = Image.new("RGB", (64, 48), "white")
    kept = keep_outside(made, Pictures(sources=(source,), mask=SQUARE), 6)
    before, after = np.asarray(source), np.asarray(kept)
    assert (after[np.asarray(SQUARE) == 255] == 255).all()
    beyond = np.asarray(grown(SQUARE, 6)) == 0
    assert (after[beyond] == before[beyond]).all()
    assert (after[14, 20:40] != before[14, 20:40]).any()
