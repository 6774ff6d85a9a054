"""OpenAI's client, a real server and the real demo model: what is asked for is what comes."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from PIL import Image

from inference.demo.judge import judge
from inference.demo.scenes import Scene
from inference.demo.scenes import picture as drawn
from tests.api.http.openai_client import client_of, half_transparent, pictures_of
from tests.api.http.served import Served, serving, until
from tests.api.making import opened


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("demo")
    with serving(folder, is_scripted=False, devices="cpu") as served:
        until(lambda: served.client.get("/readyz").status_code == 200)
        yield served


@pytest.fixture
def ai(real: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    # the contract has no seed, and these tests are to judge the same pictures every time
    monkeypatch.setattr("inference.resolve.secrets.randbelow", lambda limit: 7)
    with client_of(real) as client:
        yield client


def pixels(picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.asarray(picture.convert("RGB"), dtype=np.int16)


def as_file(picture: Image.Image) -> tuple[str, bytes, str]:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "picture.png", file.getvalue(), "image/png"


def test_the_pictures_show_their_prompt__V(ai: openai.OpenAI) -> None:
    reply = ai.images.generate(prompt="a red circle on a blue background", model="gpt-image-2", n=3)

    wanted = Scene(colour="red", shape="circle", background="blue")
    right = [judge(picture, wanted).right for picture in pictures_of(reply)]
    assert sum(right) >= 2, right


def test_an_edit_redraws_what_is_transparent_in_the_mask__V(ai: openai.OpenAI) -> None:
    white = Scene(colour="green", shape="circle", background="white", size="large")
    source = drawn(white, 128, 128)

    reply = ai.images.edit(
        image=as_file(source),
        mask=("mask.png", half_transparent(128, 128), "image/png"),
        prompt="a large green circle on a black background",
    )

    (picture,) = pictures_of(reply)
    change = np.abs(pixels(picture) - pixels(source)).max(axis=2)
    redrawn, kept = change[:, :48].mean(), change[:, 80:].mean()
    assert redrawn > 4 * kept, (redrawn, kept)


@pytest.mark.usefixtures("begins_when_watched", "long_steps")
def test_a_stream_shows_the_picture_becoming__V(ai: openai.OpenAI) -> None:
    events = list(
        ai.images.generate(
            prompt="a red circle on a blue background",
            quality="high",
            stream=True,
            partial_images=3,
        )
    )

    *partials, completed = events
    numbers = [
        event.partial_image_index
        for event in partials
        if event.type == "image_generation.partial_image"
    ]
    assert completed.type == "image_generation.completed"
    assert 1 <= len(partials) <= 3
    assert numbers == list(range(len(partials)))
    assert {opened(event.b64_json).size for event in events} == {(128, 128)}


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_variation_keeps_something_of_its_picture__V(ai: openai.OpenAI) -> None:
    white = Scene(colour="green", shape="circle", background="white", size="large")
    source = drawn(white, 128, 128)

    (varied,) = pictures_of(ai.images.create_variation(image=as_file(source)))

    # of four seeds the means were 43 to 78, and 176 for "a purple star on a black background"
    assert 1 < np.abs(pixels(varied) - pixels(source)).mean() < 120
