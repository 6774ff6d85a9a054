"""The world of the demo model: what is drawn, said and held out."""

import random

import numpy as np
import pytest

from inference.demo.captions import caption, instruction, plain_caption
from inference.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RADII,
    SHAPES,
    SIZES,
    Scene,
    combinations,
    draw,
    held_out,
    picture,
    placement,
    random_scene,
    random_wish,
    settle,
)

pytestmark = pytest.mark.timeout(30)


def test_every_size_can_be_packed_into_flux_tokens() -> None:
    assert all(width % 16 == 0 and height % 16 == 0 for width, height in SIZES)


def test_training_scenes_never_show_a_held_out_combination() -> None:
    rng = random.Random(0)
    assert not any(held_out(random_scene(rng)) for _ in range(2000))
    assert all(held_out(random_scene(rng, held=True)) for _ in range(200))


def test_held_out_part_covers_all_colours_shapes_and_most_backgrounds() -> None:
    held = [scene for scene in combinations() if held_out(scene)]
    assert 40 <= len(held) <= 60
    assert {scene.colour for scene in held} == set(COLOURS)
    assert {scene.shape for scene in held} == set(SHAPES)
    assert {scene.background for scene in held} == set(BACKGROUNDS) - {"white"}


def test_no_scene_hides_its_object_in_the_background() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        scene = settle(random_wish(rng), rng)
        assert scene.colour != scene.background


def test_what_is_unsaid_is_usually_large_centred_and_on_a_plain_background() -> None:
    rng = random.Random(2)
    scenes = [settle(Scene("red", "circle"), rng) for _ in range(1000)]
    usual = Scene("red", "circle", "white", "center", "large")
    assert 0.6 < sum(scene == usual for scene in scenes) / len(scenes) < 0.9
    white = settle(Scene("white", "star"), rng, usual=1.0)
    assert white.background != "white"


def test_settling_keeps_what_was_said() -> None:
    rng = random.Random(3)
    for _ in range(500):
        wish = random_wish(rng)
        assert wish.said().items() <= settle(wish, rng).said().items()


@pytest.mark.parametrize("size", SIZES)
def test_every_object_lies_inside_its_picture(size: tuple[int, int]) -> None:
    width, height = size
    for position in POSITIONS:
        for radius_name in RADII:
            x, y, radius = placement(Scene(position=position, size=radius_name), width, height)
            assert radius <= x <= width - radius
            assert radius <= y <= height - radius


def test_drawing_is_antialiased_and_uses_the_named_colours() -> None:
    image = np.asarray(picture(Scene("blue", "circle"), 128, 128))
    assert image.shape == (128, 128, 3)
    assert tuple(image[64, 64]) == COLOURS["blue"]
    assert tuple(image[2, 2]) == BACKGROUNDS["white"]
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_same_seed_draws_the_same_picture_and_another_seed_another() -> None:
    scene = Scene("red", "star", "blue", "left", "small")
    first, same, other = (np.asarray(picture(scene, 96, 128, seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_outlines_differ_from_each_other() -> None:
    drawn = [draw(Scene("red", s, "white", "center", "large"), 96, 96) for s in SHAPES]
    for index, first in enumerate(drawn):
        for second in drawn[index + 1 :]:
            assert np.abs(first.astype(int) - second).mean() > 3


def test_captions_fit_the_models_text_length() -> None:
    rng = random.Random(4)
    for _ in range(3000):
        text = caption(random_scene(rng), rng)
        # One token for every word, comma, full stop, a capital's own piece, and the end.
        assert len(text.replace(",", " ,").replace(".", " .").split()) + 1 <= 24, text


def test_captions_say_what_the_scene_says() -> None:
    scene = Scene("pink", "triangle", "black", "top left", "small")
    rng = random.Random(5)
    texts = {caption(scene, rng).lower() for _ in range(200)}
    assert len(texts) > 100
    assert all("pink" in text and "triangle" in text and "black" in text for text in texts)
    assert plain_caption(Scene("orange", "star")) == "an orange star"
    assert plain_caption(scene) == (
        "a small pink triangle in the top left corner on a black background"
    )


def test_instructions_name_what_they_change() -> None:
    rng = random.Random(6)
    kinds = set()
    for _ in range(500):
        edit = instruction(rng)
        assert list(edit.asks.said()) == [edit.kind]
        assert edit.replaces != edit.asks.shape or edit.replaces is None
        kinds.add(edit.kind)
    assert kinds == {"colour", "background", "shape", "position", "size"}
