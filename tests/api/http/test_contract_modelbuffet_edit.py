"""Model Buffet's contract, edits: a test per documented statement.

`S0` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import io

import httpx2
import pytest
from PIL import Image

from tests.api.http.modelbuffet import EDIT, FIELDS, KEY, data_uri, done, neutral
from tests.api.http.modelbuffet import server as server
from tests.api.http.served import Served

# 1.2 the edit endpoint


@pytest.mark.parametrize(
    ("pictures", "mode"),
    [
        pytest.param({"image": data_uri()}, "edit", id="INF data URI"),
        pytest.param({"image": data_uri().partition(",")[2]}, "edit", id="INF base64"),
        pytest.param(
            {"image": data_uri(), "mask": data_uri(16, "white")}, "inpaint", id="INF mask"
        ),
        pytest.param({"image": data_uri(), "mask": None}, "edit", id="INF no mask"),
    ],
)
def test_an_edit_changes_a_picture(
    client: httpx2.Client, pictures: dict[str, str], mode: str
) -> None:
    reply = client.post(EDIT, json=FIELDS | {"count": 2} | pictures, headers=KEY)

    told = reply.json()
    assert reply.status_code == 200, reply.text
    assert (told["status"], len(told["outputs"])) == ("completed", 2)
    assert neutral(client, told["id"])["mode"] == mode


def test_an_edit_fetches_its_picture__INF(served: Served) -> None:
    (first,) = done(served.client, count=1, seed=200)["outputs"]

    fields = FIELDS | {"count": 1, "image": first["url"]}
    reply = served.client.post(EDIT, json=fields, headers=KEY)

    assert reply.status_code == 200, reply.text
    told = neutral(served.client, reply.json()["id"])
    assert told["mode"] == "edit"
    given = next(data for key, data in served.script.pictures.items() if told["id"] in key)
    with Image.open(io.BytesIO(given)) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((128, 128), (200, 0, 0))


def test_a_generation_leaves_the_pictures_of_an_edit_alone__INF(client: httpx2.Client) -> None:
    told = done(client, count=1, image="not a picture")

    assert neutral(client, told["id"])["mode"] == "generate"
