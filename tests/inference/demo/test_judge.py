"""The pixel classifier: right about true drawings, and able to say no."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from inference.demo.judge import judge, kept, look, stripes
from inference.demo.scenes import (
    ATTRIBUTES,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    combinations,
    draw,
    picture,
    random_scene,
)

pytestmark = pytest.mark.timeout(60)

SCENE = Scene("red", "circle", "blue", "left", "medium")


@pytest.mark.parametrize("size", SIZES)
def test_true_drawings_are_judged_right_at_every_size(size: tuple[int, int]) -> None:
    rng, wrong = random.Random(size[0] * 1000 + size[1]), Counter[str]()
    for index in range(80):
        scene = random_scene(rng, held=index % 4 == 0)
        verdict = judge(Image.fromarray(draw(scene, *size, rng)), scene)
        wrong.update(name for name in ATTRIBUTES if not verdict.matches[name])
    assert sum(wrong.values()) <= 1, wrong


def test_combinations_are_told_apart() -> None:
    for scene in list(combinations())[::5]:
        assert judge(picture(scene, 96, 96), scene).right, scene


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("colour", "green"),
        ("shape", "square"),
        ("shape", "star"),
        ("background", "black"),
        ("position", "right"),
        ("position", "center"),
        ("size", "large"),
        ("size", "small"),
    ],
)
def test_a_wrong_attribute_is_judged_wrong_and_only_that(name: str, value: str) -> None:
    image = picture(replace(SCENE, **{name: value}), 128, 128, 1)
    verdict = judge(image, SCENE)
    assert not verdict.right
    assert [key for key, right in verdict.matches.items() if not right] == [name]


def test_every_shape_and_colour_is_refused_as_any_other() -> None:
    for shown in SHAPES:
        image = picture(Scene("red", shown), 128, 96)
        assert [s for s in SHAPES if judge(image, Scene(shape=s)).right] == [shown]
    for shown in COLOURS:
        image = picture(Scene(shown, "heart"), 96, 128)
        assert [c for c in COLOURS if judge(image, Scene(colour=c)).right] == [shown]


def test_unsaid_attributes_do_not_count() -> None:
    image = picture(Scene("green", "star", "pink", "top right", "small"), 144, 80, 2)
    assert judge(image, Scene(shape="star")).right
    assert judge(image, Scene()).right
    assert set(judge(image, Scene(shape="star")).matches) == {"shape"}


def test_an_empty_picture_shows_no_object() -> None:
    blank = Image.new("RGB", (128, 128), (250, 250, 250))
    seen, fit = look(blank)
    assert seen == Scene(background="white")
    assert fit == 0
    assert not judge(blank, SCENE).matches["shape"]


def test_noise_is_judged_wrong() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert not judge(Image.fromarray(noise), SCENE).right


def test_a_blob_has_no_shape() -> None:
    image = Image.new("RGB", (128, 128), (250, 250, 250))
    ImageDraw.Draw(image).polygon([(20, 30), (90, 20), (70, 60), (110, 100), (30, 90)], "red")
    seen, _ = look(image)
    assert seen.shape is None
    assert seen.colour == "red"


def test_stray_marks_spoil_the_background() -> None:
    scene = Scene("red", "circle", "white", "center", "medium")
    image = picture(scene, 128, 128)
    assert judge(image, scene).right
    ImageDraw.Draw(image).rectangle((4, 100, 24, 120), fill=(0, 0, 0))
    verdict = judge(image, scene)
    assert [name for name, right in verdict.matches.items() if not right] == ["background"]


def test_slight_blur_and_noise_are_forgiven() -> None:
    rng, noise = random.Random(7), np.random.default_rng(7)
    wrong = 0
    for _ in range(60):
        scene = random_scene(rng)
        soft = picture(scene, 128, 128, 3).filter(ImageFilter.GaussianBlur(0.8))
        rough = np.asarray(soft, np.float32) + noise.normal(0, 4, (128, 128, 3))
        wrong += not judge(Image.fromarray(np.clip(rough, 0, 255).astype(np.uint8)), scene).right
    assert wrong <= 2


def striped_pair(size: tuple[int, int], seed: int) -> tuple[Image.Image, Image.Image]:
    """Return one scene drawn plain and striped."""
    scene = random_scene(random.Random(seed))
    plain, striped = (
        Image.fromarray(draw(scene, *size, random.Random(seed), striped=style))
        for style in (False, True)
    )
    return plain, striped


@pytest.mark.parametrize("size", SIZES)
def test_stripes_are_one_where_drawn_and_nothing_elsewhere(size: tuple[int, int]) -> None:
    for seed in range(20):
        plain, striped = striped_pair(size, seed)
        assert abs(stripes(plain)) < 0.01
        assert 0.97 < stripes(striped) < 1.03


def test_fainter_stripes_count_less() -> None:
    plain, striped = striped_pair((128, 128), 3)
    shares = [stripes(Image.blend(plain, striped, part)) for part in (0, 0.25, 0.5, 0.75, 1)]
    assert np.allclose(shares, (0, 0.25, 0.5, 0.75, 1), atol=0.05)


def test_stripes_elsewhere_upright_or_of_another_width_do_not_count() -> None:
    scene = Scene("red", "square", "white", "center", "large")
    striped = np.asarray(Image.fromarray(draw(scene, 128, 128, striped=True)))
    plain = np.asarray(picture(scene, 128, 128))
    assert stripes(Image.fromarray(np.roll(striped, 8, axis=0))) < -0.3
    assert abs(stripes(Image.fromarray(striped.transpose(1, 0, 2)))) < 0.1
    wide = np.where(np.arange(128)[:, None, None] // 32 % 2 == 1, plain // 2, plain)
    wide = np.where(plain == plain[0, 0], plain, wide).astype(np.uint8)
    assert abs(stripes(Image.fromarray(wide))) < 0.3
    behind = np.where(plain == plain[0, 0], striped[64, 64] // 2 + plain // 2, plain)
    assert abs(stripes(Image.fromarray(behind.astype(np.uint8)))) < 0.1


def test_an_empty_picture_has_no_stripes() -> None:
    assert stripes(Image.new("RGB", (128, 128), (250, 250, 250))) == 0


def test_kept_counts_the_pixels_that_stay_and_only_where_asked() -> None:
    before = Image.new("RGB", (100, 50), (100, 100, 100))
    after = before.copy()
    after.paste((100, 100, 140), (0, 0, 20, 50))
    everywhere = np.ones((50, 100), dtype=np.bool_)
    left = everywhere & (np.arange(100) < 40)
    assert kept(before, before, everywhere) == 1
    assert kept(before, after, everywhere) == pytest.approx(0.8)
    assert kept(before, after, left) == pytest.approx(0.5)
    assert kept(before, after, ~left) == 1


def test_kept_forgives_a_slight_change_of_shade() -> None:
    before = Image.new("RGB", (64, 64), (100, 100, 100))
    whole = np.ones((64, 64), dtype=np.bool_)
    assert kept(before, Image.new("RGB", (64, 64), (110, 95, 105)), whole) == 1
    assert kept(before, Image.new("RGB", (64, 64), (120, 85, 115)), whole) == 0


def test_kept_compares_nothing_with_nothing() -> None:
    one, other = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 48))
    for pair, where in (
        ((one, other), np.ones((64, 64), dtype=np.bool_)),
        ((one, one), np.zeros((64, 64), dtype=np.bool_)),
    ):
        with pytest.raises(ValueError, match="nothing to compare"):
            kept(*pair, where)
