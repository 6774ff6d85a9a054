"""Prompts written out for the demo model: complete, in its words, and drawn as they say."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.demo import TINY_FLUX
from inference.demo.captions import caption, instruction, plain_caption
from inference.demo.magic import scene_of, write_out
from inference.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RADII,
    SHAPES,
    Scene,
    held_out,
    random_wish,
)

_PIECES = json.loads((TINY_FLUX / "tokenizer_2" / "tokenizer.json").read_text())["model"]["vocab"]
VOCABULARY = {piece.removeprefix("▁") for piece, _ in _PIECES if piece.startswith("▁")}


def test_every_sentence_it_can_write_is_made_of_words_the_model_knows() -> None:
    for position, size in itertools.product(POSITIONS, RADII):
        for colour, shape, ground in itertools.product(COLOURS, SHAPES, BACKGROUNDS):
            written = write_out(plain_caption(Scene(colour, shape, ground, position, size)))
            assert set(written.split()) <= VOCABULARY, written


def test_what_a_full_caption_says_is_read_back() -> None:
    every = itertools.product(COLOURS, SHAPES, BACKGROUNDS, POSITIONS, RADII)
    for values in random.Random(0).sample(list(every), 500):
        scene = Scene(*values)
        assert scene_of(write_out(plain_caption(scene))) == scene


def test_nearly_every_way_the_model_was_taught_to_say_things_is_understood() -> None:
    rng = random.Random(1)
    wishes = [random_wish(rng) for _ in range(1500)]
    understood = [scene_of(caption(wish, rng)) == wish for wish in wishes]
    assert sum(understood) / len(understood) > 0.97


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("a red circle", Scene("red", "circle")),
        ("TWO GREEN DISCS, ON BLUE", Scene("green", "circle", "blue")),
        (
            "black background with a tiny golden star",
            Scene("yellow", "star", "black", None, "small"),
        ),
        ("the background is pink, a heart in violet", Scene("purple", "heart", "pink")),
        ("a box in the upper left corner", Scene(None, "square", None, "top left")),
        ("on a red box", Scene("red", "square")),
        ("a gray dot on an orange background", Scene(None, "circle")),
        ("scarlet letters in a covered boxcar", Scene("red")),
        ("a cat", Scene()),
        ("", Scene()),
    ],
)
def test_reads_what_people_write(prompt: str, scene: Scene) -> None:
    assert scene_of(prompt) == scene


def test_what_is_said_is_kept_and_what_is_open_is_filled() -> None:
    assert write_out("a red circle") == "a large red circle at the center on a white background"
    assert write_out("a tiny white box, left") == (
        "a small white square on the left on a blue background"
    )
    assert write_out("a star at the bottom on black").endswith(
        "star at the bottom on a black background"
    )


@given(prompt=st.text(max_size=80))
def test_any_prompt_gives_one_whole_sentence_and_always_the_same(prompt: str) -> None:
    written = write_out(prompt)
    assert written == write_out(prompt) == write_out(f"  {prompt.upper().lower()} ") or (
        # some letters have no way back from upper case
        prompt.upper().lower() != prompt.lower()
    )
    scene = scene_of(written)
    assert None not in (scene.colour, scene.shape, scene.background, scene.position, scene.size)


def test_what_is_open_differs_from_prompt_to_prompt_and_was_trained() -> None:
    scenes = [scene_of(write_out(f"wish {number}")) for number in range(60)]
    assert len({(scene.colour, scene.shape) for scene in scenes}) > 20
    assert not any(held_out(scene) for scene in scenes)
    on_red = [scene_of(write_out(f"{number} on red")) for number in range(60)]
    assert not any(held_out(scene) for scene in on_red)
    assert all(scene.background == "red" != scene.colour for scene in on_red)


def test_a_thing_on_its_own_colour_is_what_was_asked() -> None:
    written = write_out("a red circle on a red background")
    assert written == "a large red circle at the center on a red background"


def test_notes_fill_only_what_the_prompt_leaves_open() -> None:
    notes = ["Our sign on the left: a green heart.", "A yellow star on black"]
    assert scene_of(write_out("the sign", notes)) == Scene(
        "green", "heart", "black", "center", "large"
    )
    assert scene_of(write_out("a blue sign", notes)).colour == "blue"


def test_an_instruction_to_edit_stays_as_it_is() -> None:
    rng = random.Random(2)
    # "blue background" alone is as much a wish for a picture
    told = [one.text for one in (instruction(rng) for _ in range(300)) if len(one.text.split()) > 2]
    assert [text for text in told if write_out(text) != text] == []
    assert write_out("paint a red circle") != "paint a red circle"


def test_other_words_for_the_same_are_the_same() -> None:
    plain = Scene("purple", "heart", "gray", "top right", "small")
    assert write_out("little violet heart, grey background, upper right") == plain_caption(plain)
