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
