"""Finished pictures as files, with the recipe inside."""

from __future__ import annotations

import hashlib
import io

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from api.outputs import encode_output, encode_preview, parameters
from inference.job import Mode
from tests.api.making import job_of

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def picture() -> Image.Image:
    made = Image.radial_gradient("L").resize((64, 48)).convert("RGB")
    made.info = {"comment": "left over"}
    return made


def test_a_file_holds_the_same_pixels_and_says_what_it_is() -> None:
    encoded = encode_output(picture(), job_of("t"), 0)
    assert (encoded.media_type, encoded.extension) == ("image/png", "png")
    assert (encoded.width, encoded.height) == (64, 48)
    assert encoded.sha256 == hashlib.sha256(encoded.data).hexdigest()
    with Image.open(io.BytesIO(encoded.data)) as reread:
        assert reread.format == "PNG"
        assert reread.convert("RGB").tobytes() == picture().tobytes()
        assert set(reread.info) == {"parameters"}


def test_the_same_picture_makes_the_same_file() -> None:
    job = job_of("t", count=2)
    assert encode_output(picture(), job, 1) == encode_output(picture(), job, 1)


def test_the_recipe_is_the_one_that_tools_read() -> None:
    job = job_of("t", count=2, negative_prompt="blurry", guidance_scale=3.5, seeds=(7, 8))
    assert parameters(job, 1) == (
        "a red circle\n"
        "Negative prompt: blurry\n"
        "Steps: 2, CFG scale: 3.5, Seed: 8, Size: 64x64, Model: paint"
    )
    changed = job_of("t", mode=Mode.IMG2IMG, strength=0.25)
    assert parameters(changed, 0).endswith(", Model: paint, Denoising strength: 0.25")
    assert "Negative" not in parameters(changed, 0)


@given(prompt=TEXT)
def test_any_prompt_survives_the_file(prompt: str) -> None:
    job = job_of("t", prompt=prompt)
    encoded = encode_output(Image.new("RGB", (8, 8)), job, 0)
    with Image.open(io.BytesIO(encoded.data)) as reread:
        reread.load()
        assert reread.info["parameters"] == parameters(job, 0)
        assert reread.info["parameters"].startswith(prompt)


def test_previews_are_small() -> None:
    data = encode_preview(picture())
    assert len(data) < 2_000
    with Image.open(io.BytesIO(data)) as reread:
        assert (reread.format, reread.size) == ("WEBP", (64, 48))
