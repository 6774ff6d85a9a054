"""ModelMux's contract, creation: a test per documented statement.

`S1` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from tests.api.http.modelmux import KEY, PATH, create
from tests.api.http.served import Served
from tests.api.making import png

CREATED = {
    *("historyId", "status", "model", "aspectRatio", "resolution"),
    *("creditsCharged", "provider", "createdAt"),
}
# 2.1 auth


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Authorization": "Bearer key"}, id="S1 bearer"),
        pytest.param({"x-api-key": "key"}, id="S1 x-api-key"),
        pytest.param({}, id="INF no key while the server has none"),
    ],
)
def test_a_key_is_taken(client: httpx2.Client, headers: dict[str, str]) -> None:
    assert client.post(PATH, json={"prompt": "a"}, headers=headers).status_code == 200


# 2.2 creation: fields


@pytest.mark.parametrize(
    ("fields", "echoed"),
    [
        pytest.param({}, {"model": "nano-banana"}, id="INF model defaults to nano-banana"),
        pytest.param({}, {"resolution": "1k"}, id="INF resolution defaults to 1k"),
        pytest.param({}, {"aspectRatio": "1:1"}, id="INF aspectRatio defaults to 1:1"),
        *(
            pytest.param({"model": name}, {"model": name}, id=f"S1 model {name}")
            for name in ("nano-banana", "nano-banana-2", "nano-banana-pro", "gpt-image-2")
        ),
        *(
            pytest.param({"aspectRatio": ratio}, {"aspectRatio": ratio}, id=f"S1 ratio {ratio}")
            for ratio in ("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9")
        ),
        pytest.param(
            {"model": "nano-banana-pro", "resolution": "2k"},
            {"resolution": "2k"},
            id="S1 resolution in lower case",
        ),
        pytest.param(
            {"model": "nano-banana-pro", "resolution": "4K"},
            {"resolution": "4k"},
            id="INF resolution in any case, echoed in lower",
        ),
        pytest.param(
            {"quality": "high"}, {"creditsCharged": 5}, id="INF quality ignored where there is none"
        ),
        pytest.param({"model": None, "quality": None}, {"model": "nano-banana"}, id="INF null"),
        pytest.param({"seed": 1, "user": {"a": []}}, {"status": "pending"}, id="INF unknown keys"),
        pytest.param({"image": "a.png"}, {"status": "pending"}, id="INF unknown key, of JSON"),
        pytest.param({}, {"status": "pending"}, id="S1 status pending"),
        pytest.param({}, {"provider": "darkroom"}, id="INF provider"),
    ],
)
def test_a_creation_echoes(
    client: httpx2.Client, fields: dict[str, Any], echoed: dict[str, Any]
) -> None:
    reply = create(client, **fields)

    assert reply.status_code == 200, reply.text
    assert reply.json() | echoed == reply.json()


def test_a_creation_has_all_fields_and_no_other__S1(client: httpx2.Client) -> None:
    before_ms = time.time() * 1000 - 1
    body = create(client).json()

    assert set(body) == CREATED
    assert before_ms <= body["createdAt"] <= time.time() * 1000 + 1
    assert isinstance(body["createdAt"], int)
    assert isinstance(body["creditsCharged"], int)


def test_a_creation_is_answered_with_200_at_once__S1(served: Served) -> None:
    served.script.gate.clear()

    reply = create(served.client)

    assert reply.status_code == 200
    assert reply.elapsed.total_seconds() < 30


def test_a_history_id_is_21_url_safe_characters__S1(client: httpx2.Client) -> None:
    history_id = create(client).json()["historyId"]

    assert len(history_id) == 21
    assert history_id.replace("-", "").replace("_", "").isalnum()


PRICES = {
    ("nano-banana", "1k", None): 5,
    ("nano-banana-2", "1k", None): 5,
    ("nano-banana-2", "2k", None): 5,
    ("nano-banana-2", "4k", None): 5,
    ("nano-banana-pro", "1k", None): 10,
    ("nano-banana-pro", "2k", None): 10,
    ("nano-banana-pro", "4k", None): 10,
    ("gpt-image-2", "1k", "standard"): 2,
    ("gpt-image-2", "1k", "medium"): 10,
    ("gpt-image-2", "1k", "high"): 18,
    ("gpt-image-2", "2k", "standard"): 5,
    ("gpt-image-2", "2k", "medium"): 20,
    ("gpt-image-2", "2k", "high"): 40,
    ("gpt-image-2", "4k", "standard"): 10,
    ("gpt-image-2", "4k", "medium"): 32,
    ("gpt-image-2", "4k", "high"): 80,
}


@pytest.mark.parametrize(
    ("model", "resolution", "quality", "credits"),
    [
        *(pytest.param(*row, price, id=f"S1 {row}") for row, price in PRICES.items()),
        pytest.param("gpt-image-2", "1k", None, 2, id="INF quality defaults to standard"),
    ],
)
def test_a_picture_costs(
    client: httpx2.Client, model: str, resolution: str, quality: str | None, credits: int
) -> None:
    fields = {"model": model, "resolution": resolution, "quality": quality}

    assert create(client, **fields).json()["creditsCharged"] == credits


# 2.2 creation: forms

PARTS = (
    *("image", "image[]", "images", "images[]", "file", "files", "reference", "references"),
    *("referenceImage", "referenceImages", "referenceImages[]", "reference_image", "anything"),
)


@pytest.mark.parametrize("part", [pytest.param(part, id=f"INF {part}") for part in PARTS])
def test_a_form_brings_a_reference_picture(served: Served, part: str) -> None:
    reply = served.client.post(
        PATH,
        data={"prompt": "make it blue", "model": "nano-banana-pro", "resolution": "2K"},
        files={part: ("fox.png", png(), "image/png")},
        headers=KEY,
    )

    assert reply.status_code == 200, reply.text
    assert (reply.json()["resolution"], reply.json()["creditsCharged"]) == ("2k", 10)
    told = served.client.get(f"/darkroom/generations/{reply.json()['historyId']}").json()
    assert told["mode"] == "edit"


@pytest.mark.parametrize(
    "part",
    [
        pytest.param((None, png(), "image/png"), id="INF without a file name"),
        pytest.param(("日本 語.png", png(), "image/png"), id="INF name in another alphabet"),
        pytest.param(("fox", png(), "application/octet-stream"), id="INF type unknown"),
    ],
)
def test_a_reference_picture_may_be_sent(served: Served, part: tuple[str | None, ...]) -> None:
    reply = served.client.post(PATH, data={"prompt": "a"}, files={"image": part}, headers=KEY)

    told = served.client.get(f"/darkroom/generations/{reply.json()['historyId']}").json()
    assert (reply.status_code, told["mode"]) == (200, "edit")


def test_a_form_with_nothing_filled_in_but_the_prompt_is_plain__INF(served: Served) -> None:
    """Browsers send every field of a form, the empty ones too."""
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % field
        for field in (
            (b"prompt", b"", b"a fox"),
            (b"model", b"", b""),
            (b"resolution", b"", b""),
            (b"quality", b"", b""),
            (b"aspectRatio", b"", b""),
            (b"file", b"", b""),
            (b"image", b'; filename=""\r\nContent-Type: application/octet-stream', b""),
        )
    )
    headers = KEY | {"Content-Type": "multipart/form-data; boundary=edge"}

    reply = served.client.post(PATH, content=body + b"--edge--\r\n", headers=headers)

    assert reply.status_code == 200, reply.text
    created = reply.json()
    assert (created["model"], created["resolution"]) == ("nano-banana", "1k")
    told = served.client.get(f"/darkroom/generations/{created['historyId']}").json()
    assert told["mode"] == "generate"


def test_a_form_without_a_picture_is_a_plain_generation__INF(client: httpx2.Client) -> None:
    reply = client.post(PATH, files={"prompt": (None, "a fox")}, headers=KEY)

    assert (reply.status_code, reply.json()["status"]) == (200, "pending")
