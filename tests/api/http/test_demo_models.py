"""The built-in models through a whole server: what they are asked for is in the pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.api.http.served import Served, serving
from tests.api.making import encoded


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("data"), is_scripted=False, devices="cpu") as served:
        yield served


def test_a_lora_makes_stripes_and_leaves_no_trace(demo: Served) -> None:
    """Rows of one colour against rows of another, in the middle of the shape."""

    def contrast(**fields: Any) -> float:
        prompt = "a large red circle in the center on a blue background"
        task = demo.make(model="tiny-flux", prompt=prompt, seed=3, **fields)
        assert task["state"] == "succeeded", task["error"]
        reply = demo.client.get(f"/darkroom/generations/{task['id']}/images/0")
        with Image.open(io.BytesIO(reply.content)) as picture:
            rows = np.asarray(picture.convert("L"), float)[44:84, 54:74].mean(axis=1)
        return float(np.abs(np.diff(rows)).mean())

    plain = contrast()
    assert contrast(loras=[{"name": "stripes", "strength": 1}]) > 2 * plain
    assert contrast(loras=[{"name": "stripes", "strength": 0}]) == plain
    assert contrast() == plain


def test_the_fill_model_paints_under_the_mask(demo: Served) -> None:
    plain = demo.make(model="tiny-flux", prompt="a red circle on a blue background", seed=3)
    source = demo.client.get(f"/darkroom/generations/{plain['id']}/images/0").content
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).ellipse((24, 24, 104, 104), fill=255)
    files = {"image": ("a.png", source), "mask": ("m.png", encoded(mask))}
    reply = demo.client.post(
        "/darkroom/generations",
        data={"model": "tiny-flux-fill", "prompt": "a green star", "seed": "3"},
        files=files,
    )
    task = demo.end(reply.json()["id"])
    assert (task["state"], task["mode"]) == ("succeeded", "inpaint"), task["error"]
    painted = demo.client.get(f"/darkroom/generations/{task['id']}/images/0").content
    with Image.open(io.BytesIO(painted)) as picture:
        red, green, blue = np.asarray(picture.convert("RGB"), float)[60:72, 58:70].mean(axis=(0, 1))
    assert green > red + 40 and green > blue + 20


def test_a_source_decides_the_size_and_shows_beyond_the_faded_mask(demo: Served) -> None:
    """A form with a picture of another shape, a mask at its left, and a blur of ten pixels."""
    source = Image.linear_gradient("L").resize((96, 128)).convert("RGB")
    mask = Image.new("L", source.size)
    mask.paste(255, (0, 0, 40, 128))

    def painted(**fields: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        files = {"image": ("a.png", encoded(source)), "mask": ("m.png", encoded(mask))}
        data = {"prompt": "a green star", "seed": "3", "strength": "1"} | fields
        reply = demo.client.post("/darkroom/generations", data=data, files=files)
        task = demo.end(reply.json()["id"])
        assert (task["state"], task["mode"]) == ("succeeded", "inpaint"), task["error"]
        assert (task["width"], task["height"]) == (96, 128)
        made = demo.client.get(f"/darkroom/generations/{task['id']}/images/0").content
        with Image.open(io.BytesIO(made)) as picture:
            assert picture.size == (96, 128)
            return np.asarray(picture.convert("RGB"))

    given = np.asarray(source)
    sharp, soft = painted(), painted(mask_blur="10")
    assert (sharp[:, 40:] == given[:, 40:]).all()
    assert (soft[:, 50:] == given[:, 50:]).all()
    assert (soft[:, 40:50] != given[:, 40:50]).any(axis=2).mean() > 0.5
    coarse = painted(downsizing_mp="0.0001")
    assert not (coarse[:, 50:] == given[:, 50:]).all()


def test_what_the_model_cannot_do_is_refused_by_field(demo: Served) -> None:
    for field, value in (("sampler", "euler_a"), ("offloading", True), ("mask_blur", 3)):
        wish = {"model": "tiny-flux", "prompt": "a", field: value}
        told = demo.client.post("/darkroom/generations", json=wish)
        assert (told.status_code, told.json()["field"]) == (400, field)
