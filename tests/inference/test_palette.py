"""Colours are taken over as far as asked, and nothing else is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.references.palette import transfer
from tests.inference.making import difference, picture


def bluish(seed: int = 3) -> Image.Image:
    """A picture of narrow range: blue with some green, never red."""
    colours = np.random.default_rng(seed).integers((20, 60, 140), (60, 120, 220), (5, 5, 3))
    small = Image.fromarray(colours.astype(np.uint8))
    return small.resize((80, 60), Image.Resampling.BICUBIC)


def mean(image: Image.Image) -> Any:
    return np.asarray(image, np.float64).reshape(-1, 3).mean(axis=0)


def spread(image: Image.Image) -> Any:
    return np.asarray(image, np.float64).reshape(-1, 3).std(axis=0)


def test_a_weight_of_0_leaves_every_byte() -> None:
    own = picture()
    assert transfer(own, bluish(), 0.0) is own


def test_a_weight_of_1_has_the_references_colours() -> None:
    made, wanted = transfer(picture(), bluish(), 1.0), bluish()
    assert np.abs(mean(made) - mean(wanted)).max() < 3
    assert np.abs(spread(made) - spread(wanted)).max() < 4
    assert made.size == picture().size


def test_in_between_it_is_on_its_way() -> None:
    own = picture()
    distances = [
        np.abs(mean(transfer(own, bluish(), weight)) - mean(bluish())).max()
        for weight in (0.25, 0.5, 0.75, 1.0)
    ]
    start = np.abs(mean(own) - mean(bluish())).max()
    assert all(one > other + 5 for one, other in zip([start, *distances], distances, strict=False))


def test_its_own_colours_change_nothing() -> None:
    own = picture(96, 96)
    assert difference(transfer(own, own, 1.0), own) <= 1


def test_light_stays_above_dark() -> None:
    """Shapes stay: a map of colours alone turns no bright area into the darker one."""
    ramp = Image.linear_gradient("L").convert("RGB")
    made = np.asarray(transfer(ramp, bluish(), 1.0).convert("L"), np.int16)
    assert (np.diff(made[:, 0]) >= -1).all()
    assert made[-1, 0] - made[0, 0] > 20


@pytest.mark.parametrize("flat", [(200, 30, 30), (0, 0, 0), (255, 255, 255)])
def test_pictures_of_one_colour_are_no_trouble(flat: tuple[int, int, int]) -> None:
    one = Image.new("RGB", (64, 64), flat)
    from_flat = transfer(one, bluish(), 1.0)
    assert np.abs(mean(from_flat) - mean(bluish())).max() < 6
    to_flat = transfer(picture(), one, 1.0)
    assert np.abs(mean(to_flat) - flat).max() < 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA"])
def test_references_of_any_mode_will_do(mode: str) -> None:
    made = transfer(picture(), bluish().convert(mode), 1.0)
    expected = bluish().convert(mode).convert("RGB")
    assert made.mode == "RGB"
    assert np.abs(mean(made) - mean(expected)).max() < 6


def test_a_megapixel_is_quick() -> None:
    """It runs on the thread that steps all pictures."""
    large = picture(1024, 1024)
    begin = time.thread_time()
    transfer(large, bluish(), 0.5)
    assert time.thread_time() - begin < 0.5
