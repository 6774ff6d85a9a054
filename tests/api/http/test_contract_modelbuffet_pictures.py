"""Model Buffet's contract with the real engine and the model that ships: the page's own example."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.api.http.modelbuffet import EDIT, KEY, PATH, assert_error, data_uri, is_generation_id
from tests.api.http.served import Served, serving, until

EXAMPLE = {
    "model": "mystic-2-5-flexible",
    "prompt": "a red circle on a blue background",
    "aspect_ratio": "2:3",
    "count": 4,
    "negative_prompt": "low quality, harsh shadows",
    "seed": 142857,
}
REFERENCE = {"url": "https://modelbuffet.io/refs/abc.jpg", "tag": "style", "weight": 0.7}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("real")
    with serving(folder, is_scripted=False, devices="cpu", rate_per_minute=100_000) as served:
        until(lambda: served.client.get("/readyz").status_code == 200)
        yield served


def picture(client: httpx2.Client, output: dict[str, Any]) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(client.get(output["url"]).content)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_the_documented_example_is_answered_as_documented__S0(real: Served) -> None:
    reply = real.client.post(PATH, json=EXAMPLE, headers=KEY)

    told = reply.json()
    assert reply.status_code == 200, reply.text
    assert is_generation_id(told["id"])
    assert (told["status"], told["model"]) == ("completed", "mystic-2-5-flexible")
    assert told["credits_used"] == 32
    assert told["duration_ms"] > 0
    assert [one["seed"] for one in told["outputs"]] == [142857, 142858, 142859, 142860]
    assert {(one["width"], one["height"]) for one in told["outputs"]} == {(96, 144)}
    pictures = [picture(real.client, one) for one in told["outputs"]]
    assert {one.shape for one in pictures} == {(144, 96, 3)}
    assert len({one.tobytes() for one in pictures}) == 4
    for one in pictures:
        # the background is blue, and something in it is red
        red, _, blue = np.moveaxis(one, -1, 0)
        assert (blue > red + 50)[0].mean() > 0.5
        assert (red > blue + 50).mean() > 0.02


def test_the_example_with_its_reference_is_refused_by_name__S0(real: Served) -> None:
    reply = real.client.post(PATH, json=EXAMPLE | {"references": [REFERENCE]}, headers=KEY)

    assert_error(reply, 400, "invalid_request", "unsupported_by_model", "references")
    assert "style" in reply.json()["error"]["message"]
    assert "tiny-flux" in reply.json()["error"]["message"]


def test_a_palette_is_followed_by_its_weight__S0(real: Served) -> None:
    """It needs no model, so the one that ships follows it."""
    reds = []
    for weight in (0, 0.5, 1):
        palette = {"url": data_uri(32, "red"), "tag": "palette", "weight": weight}
        fields = EXAMPLE | {"count": 1, "references": [palette]}
        reply = real.client.post(PATH, json=fields, headers=KEY)
        assert reply.status_code == 200, reply.text
        (output,) = reply.json()["outputs"]
        red, _, blue = np.moveaxis(picture(real.client, output), -1, 0)
        reds.append(float((red - blue).mean()))
    assert reds[0] < 0 < reds[2]
    assert reds[0] + 40 < reds[1] < reds[2] - 40


def test_an_output_is_made_again_by_its_seed__INF(real: Served) -> None:
    fields = EXAMPLE | {"count": 2}
    _, second = real.client.post(PATH, json=fields, headers=KEY).json()["outputs"]

    fields = EXAMPLE | {"count": 1, "seed": second["seed"]}
    (again,) = real.client.post(PATH, json=fields, headers=KEY).json()["outputs"]

    difference = picture(real.client, again) - picture(real.client, second)
    # the sums of a batch may round otherwise than those of one row, by a step of 255 at most
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    "mask", [pytest.param(False, id="INF whole"), pytest.param(True, id="INF by mask")]
)
def test_a_picture_is_edited(real: Served, mask: bool) -> None:
    fields = EXAMPLE | {"aspect_ratio": "1:1", "count": 1, "image": data_uri(128, "green")}
    if mask:
        fields["mask"] = data_uri(128, "black")

    reply = real.client.post(EDIT, json=fields, headers=KEY)

    assert reply.status_code == 200, reply.text
    (output,) = reply.json()["outputs"]
    made = picture(real.client, output)
    assert (output["width"], output["height"]) == (128, 128)
    green = np.abs(made - np.array([0, 128, 0])).max(axis=-1) < 40
    # a black mask keeps the picture
    assert bool(green.mean() > 0.9) is mask
