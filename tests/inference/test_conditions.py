"""What ControlNets are shown: lines where there are edges, at the picture's size."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from inference.references.conditions import MAKERS, condition
from inference.references.spec import ReferenceSpec
from tests.inference.making import picture


def disc(contrast: int = 255, side: int = 128) -> Image.Image:
    drawn = Image.new("RGB", (side, side), (0, 0, 0))
    box = (side // 4, side // 4, 3 * side // 4, 3 * side // 4)
    ImageDraw.Draw(drawn).ellipse(box, fill=(contrast,) * 3)
    return drawn


@pytest.mark.parametrize("kind", MAKERS)
def test_every_condition_has_the_size_of_the_picture_to_be(kind: str) -> None:
    made = condition(picture(90, 50), kind, 64, 96)
    assert (made.size, made.mode) == ((64, 96), "RGB")


def test_models_yaml_knows_the_same_kinds() -> None:
    named = ReferenceSpec.model_json_schema()["properties"]["condition"]["enum"]
    assert set(named) == set(MAKERS)


def test_a_disc_becomes_a_circle_one_pixel_wide() -> None:
    lines = np.asarray(condition(disc(), "edges", 128, 128))[..., 0]
    assert set(np.unique(lines)) == {0, 255}
    y, x = np.nonzero(lines)
    distances = np.hypot(y - 64, x - 64)
    assert np.abs(distances - 32).max() < 3
    # all around, and no wider than it must be
    eighths = np.floor((np.arctan2(y - 64, x - 64) + np.pi) / (np.pi / 8)).astype(int) % 16
    assert set(eighths) == set(range(16))
    assert 0.8 < len(y) / (2 * np.pi * 32) < 1.5


def test_colours_of_equal_brightness_have_an_edge() -> None:
    drawn = Image.new("RGB", (96, 96), (150, 0, 0))
    drawn.paste((0, 76, 0), (48, 0, 96, 96))
    assert np.ptp(np.asarray(drawn.convert("L"), np.int16)) <= 1
    lines = np.asarray(condition(drawn, "edges", 96, 96))[..., 0]
    assert (lines[:, 45:51] > 0).any(axis=1).all()


def test_faint_edges_count_only_where_they_touch_strong_ones() -> None:
    drawn = Image.new("L", (96, 96), 0)
    pixels = np.array(drawn)
    # a step that fades from strong to faint along the picture, and one that is faint throughout
    pixels[:48, 30:60] = np.linspace(120, 38, 48, dtype=np.uint8)[:, None]
    pixels[60:, 30:60] = 38
    lines = np.asarray(condition(Image.fromarray(pixels), "edges", 96, 96))[..., 0] > 0
    assert lines[40, 25:35].any()
    assert not lines[75, 25:65].any()


def test_nothing_becomes_of_an_even_picture_or_of_noise() -> None:
    flat = condition(Image.new("RGB", (64, 64), "gray"), "edges", 64, 64)
    assert flat.getextrema() == ((0, 0),) * 3
    noise = np.random.default_rng(0).integers(118, 138, (64, 64, 3), dtype=np.uint8)
    assert condition(Image.fromarray(noise), "edges", 64, 64).getextrema() == ((0, 0),) * 3


def test_grey_has_no_colour_and_blur_no_detail() -> None:
    grey = np.asarray(condition(picture(), "grey", 64, 64))
    assert (grey[..., 0] == grey[..., 2]).all() and np.ptp(grey) > 50
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    blurred = np.asarray(condition(board, "blur", 64, 64), np.int16)
    assert np.ptp(blurred[8:-8, 8:-8]) < 40


def test_a_map_is_taken_as_it_is() -> None:
    assert condition(picture(), "as_given", 64, 64).tobytes() == picture().tobytes()


def test_edges_of_a_megapixel_are_quick() -> None:
    """They are drawn on the thread that steps all pictures."""
    large = disc(side=1024)
    begin = time.thread_time()
    condition(large, "edges", 1024, 1024)
    assert time.thread_time() - begin < 1.0
