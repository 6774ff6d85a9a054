"""OpenAI's contract, edits and variations: a test per documented statement, by OpenAI's client.

`V` in an id is what the client (3.51) sends and reads; `D` is the provider's own reference of JSON
bodies; `K` is common knowledge of the hosted service; `INF` is what we do where all are silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from tests.api.http.openai_client import (
    EDITS,
    VARIATIONS,
    async_client_of,
    client_of,
    fault,
    half_transparent,
    headless_png,
    mask_seen,
    pictures_of,
    turned_jpeg,
)
from tests.api.http.served import Served, serving
from tests.api.making import data_uri, png

PROMPT = "a blue circle"


@pytest.fixture
def ai(served: Served) -> Iterator[openai.OpenAI]:
    with client_of(served) as client:
        yield client


# pictures


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(("a.png", png(), "image/png"), id="V one file"),
        pytest.param(png(), id="V bytes"),
        pytest.param([("a.png", png(), "image/png")], id="V a list of one, as image[]"),
        pytest.param(("a.jpg", png(form="JPEG"), "image/jpeg"), id="V jpeg"),
        pytest.param(("a.webp", png(form="WEBP"), "image/webp"), id="V webp"),
    ],
)
def test_a_picture_is_edited(served: Served, ai: openai.OpenAI, image: Any) -> None:
    reply = ai.images.edit(image=image, prompt=PROMPT, model="gpt-image-1.5")

    assert [picture.size for picture in pictures_of(reply)] == [(128, 128)]
    assert served.newest()["mode"] == "edit"


async def test_the_asynchronous_client_edits__V(served: Served) -> None:
    async with async_client_of(served) as client:
        reply = await client.images.edit(image=png(), mask=half_transparent(), prompt=PROMPT)

    assert len(pictures_of(reply)) == 1
    assert served.newest()["mode"] == "inpaint"


def test_an_empty_text_of_a_form_is_left_out__INF(client: httpx2.Client) -> None:
    """Form builders send every field that they show, filled in or not."""
    empty = dict.fromkeys(("n", "size", "quality", "mask", "output_format", "stream", "user"), "")
    files = {"image": ("a.png", png(), "image/png")}

    reply = client.post(EDITS, data={"prompt": PROMPT} | empty, files=files)

    assert reply.status_code == 200, reply.text
    assert len(reply.json()["data"]) == 1


def test_numbers_arrive_as_text__V(served: Served, ai: openai.OpenAI) -> None:
    reply = ai.images.edit(
        image=png(),
        prompt=PROMPT,
        n=3,
        size="1536x1024",
        quality="medium",
        output_format="webp",
        output_compression=50,
        background="opaque",
        input_fidelity="high",
        complexity="low",
        user="u1",
    )

    assert [picture.size for picture in pictures_of(reply)] == [(144, 96)] * 3
    assert {picture.format for picture in pictures_of(reply)} == {"WEBP"}
    assert (reply.size, reply.quality, reply.output_format) == ("144x96", "medium", "webp")
    assert reply.safety_identifier == "u1"
    assert served.newest()["num_inference_steps"] == 12


def test_more_pictures_than_the_model_takes_are_refused__INF(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 4 source image") as caught:
        ai.images.edit(image=[png()] * 5, prompt=PROMPT)

    assert (caught.value.param, caught.value.code) == ("image", "unsupported_value")


def test_more_than_16_pictures_are_too_many__V(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 16") as caught:
        ai.images.edit(image=[png(1, 1)] * 17, prompt=PROMPT)

    assert caught.value.param == "image"


def test_usage_counts_what_is_seen__INF(ai: openai.OpenAI) -> None:
    usage = ai.images.edit(image=png(), mask=half_transparent(), prompt=PROMPT).usage

    assert usage is not None
    assert usage.input_tokens_details.to_dict() == {"image_tokens": 2 * 64, "text_tokens": 4}
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (132, 64, 196)


# masks


def test_a_mask_is_redrawn_where_it_is_transparent__V(served: Served, ai: openai.OpenAI) -> None:
    ai.images.edit(image=png(64, 64), mask=half_transparent(64, 64), prompt=PROMPT)

    seen = np.asarray(mask_seen(served, 64, 64))
    assert seen[:, :30].min() == 255
    assert seen[:, 34:].max() == 0


def test_a_mask_without_alpha_is_redrawn_where_it_is_white__INF(
    served: Served, ai: openai.OpenAI
) -> None:
    mask = png(64, 64, mode="L", colour=255)
    ai.images.edit(image=png(64, 64), mask=mask, prompt=PROMPT)
    assert np.asarray(mask_seen(served, 64, 64)).min() == 255

    mask = png(64, 64, mode="L", colour=0)
    ai.images.edit(image=png(64, 64), mask=mask, prompt=PROMPT)
    assert np.asarray(mask_seen(served, 64, 64)).max() == 0


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        pytest.param(png(32, 32), half_transparent(16, 16), id="V smaller"),
        pytest.param(png(32, 16), half_transparent(16, 32), id="V turned"),
        pytest.param(turned_jpeg(32, 16), half_transparent(32, 16), id="V as it is looked at"),
        pytest.param(headless_png(32, 32), half_transparent(16, 16), id="INF by the header"),
    ],
)
def test_a_mask_of_another_size_is_refused(ai: openai.OpenAI, image: bytes, mask: bytes) -> None:
    with pytest.raises(openai.BadRequestError, match="must be the same") as caught:
        ai.images.edit(image=image, mask=mask, prompt=PROMPT)

    assert (caught.value.param, caught.value.code) == ("mask", "invalid_value")


def test_a_picture_is_as_large_as_it_is_looked_at__V(ai: openai.OpenAI) -> None:
    reply = ai.images.edit(image=turned_jpeg(32, 16), mask=half_transparent(16, 32), prompt=PROMPT)

    assert len(pictures_of(reply)) == 1


# what is refused


@pytest.mark.parametrize(
    ("parts", "files", "status", "param", "named"),
    [
        pytest.param({"prompt": "a"}, [], 400, "image", "required", id="V no image"),
        pytest.param({}, [("image", png())], 400, "prompt", "required", id="V no prompt"),
        pytest.param(
            {"prompt": ""}, [("image", png())], 400, "prompt", "prompt", id="V empty prompt"
        ),
        pytest.param(
            {"prompt": "a"}, [("image", b"text")], 400, "image", "PNG", id="V not a picture"
        ),
        pytest.param(
            {"prompt": "a"}, [("image", b"")], 400, "image", "empty", id="INF an empty file"
        ),
        pytest.param(
            {"prompt": "a"},
            [("image", headless_png(32, 32))],
            *(400, "image", "damaged"),
            id="V a damaged picture",
        ),
        pytest.param(
            {"prompt": "a"},
            [("image", png()), ("mask", b"text")],
            *(400, "mask", "PNG"),
            id="V a mask that is no picture",
        ),
        pytest.param(
            {"prompt": "a"},
            [("image", png()), ("mask", png()), ("mask", png())],
            *(400, "mask", "one mask"),
            id="V two masks",
        ),
        pytest.param(
            {"prompt": "a"},
            [("image", png()), ("markup", png(mode="RGBA"))],
            *(400, "markup", "not honoured"),
            id="INF markup is not honoured",
        ),
        pytest.param(
            {"prompt": "a"},
            [("image", png()), ("picture", png())],
            *(400, "picture", "image and mask"),
            id="INF a file of another name",
        ),
        pytest.param(
            {"prompt": "a", "n": "many"}, [("image", png())], 400, "n", "integer", id="V n"
        ),
        pytest.param(
            {"prompt": "a", "n": "11"}, [("image", png())], 400, "n", "10", id="V n above 10"
        ),
        pytest.param(
            {"prompt": "a", "input_fidelity": "medium"},
            [("image", png())],
            *(400, "input_fidelity", "high"),
            id="V input_fidelity",
        ),
        pytest.param(
            {"prompt": "a", "background": "transparent"},
            [("image", png())],
            *(400, "background", "opaque"),
            id="INF transparency",
        ),
        pytest.param(
            {"prompt": "a", "image": "not a picture!"},
            [],
            *(400, "image", "data URI"),
            id="INF image as text that is none",
        ),
    ],
)
def test_a_bad_edit_is_told(
    client: httpx2.Client,
    parts: dict[str, str],
    files: list[Any],
    status: int,
    param: str,
    named: str,
) -> None:
    texts = [(name, (None, text)) for name, text in parts.items()] or [("user", (None, "u"))]

    reply = client.post(EDITS, files=[*texts, *files])

    assert reply.status_code == status, reply.text
    assert fault(reply)["param"] == param
    assert named in fault(reply)["message"]


def test_a_picture_over_the_limit_is_413__INF(tmp_path: Path) -> None:
    with serving(tmp_path, max_picture_bytes=100) as served, client_of(served) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.images.edit(image=png(99, 99, colour="blue"), prompt=PROMPT)
        assert (caught.value.status_code, caught.value.param) == (413, "image")


# JSON


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"images": [{"image_url": data_uri(png())}]}, id="D images"),
        pytest.param(
            {"images": [{"image_url": data_uri(png()), "file_id": None}]}, id="D null file_id"
        ),
        pytest.param({"images": [data_uri(png())]}, id="INF images as text"),
        pytest.param({"image": data_uri(png())}, id="INF image as text"),
        pytest.param({"image": [data_uri(png())]}, id="INF image as a list"),
    ],
)
def test_a_json_body_brings_pictures(served: Served, fields: dict[str, Any]) -> None:
    reply = served.client.post(EDITS, json={"prompt": PROMPT, "n": 2} | fields)

    assert reply.status_code == 200, reply.text
    assert len(reply.json()["data"]) == 2
    assert served.newest()["mode"] == "edit"


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param({"image_url": data_uri(half_transparent())}, id="D an object"),
        pytest.param(data_uri(half_transparent()), id="INF a text"),
    ],
)
def test_a_json_body_brings_a_mask(served: Served, mask: Any) -> None:
    body = {"prompt": PROMPT, "images": [{"image_url": data_uri(png())}], "mask": mask}

    reply = served.client.post(EDITS, json=body)

    assert reply.status_code == 200, reply.text
    seen = np.asarray(mask_seen(served, 32, 32))
    assert (seen[:, :14].min(), seen[:, 18:].max()) == (255, 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"images": []}, "image", id="D no images"),
        pytest.param({"images": [{}]}, "images.0.image_url", id="D nothing in it"),
        pytest.param({"images": [{"file_id": "file-1"}]}, "images.0.file_id", id="INF file_id"),
        pytest.param({"images": [5]}, "images.0", id="D a number"),
        pytest.param({"images": {}}, "images", id="D no list"),
        pytest.param({"images": [{"image_url": "???"}]}, "images.0.image_url", id="D no picture"),
        pytest.param(
            {"image": data_uri(png()), "mask": {"file_id": "file-1"}},
            "mask.file_id",
            id="INF a mask's file_id",
        ),
        pytest.param(
            {"image": data_uri(png()), "mask": data_uri(png(8, 8))}, "mask", id="V another size"
        ),
        pytest.param(
            {"images": ["http://127.0.0.1:1/a.png"]}, "images.0.image_url", id="INF our own host"
        ),
    ],
)
def test_a_bad_json_body_is_told(client: httpx2.Client, fields: dict[str, Any], param: str) -> None:
    reply = client.post(EDITS, json={"prompt": PROMPT} | fields)

    assert reply.status_code == 400, reply.text
    assert fault(reply)["param"] == param


# variations


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_variation_needs_no_words__V(served: Served, ai: openai.OpenAI) -> None:
    reply = ai.images.create_variation(image=png(), n=2, size="1024x1024", user="u1")

    assert [picture.size for picture in pictures_of(reply)] == [(128, 128)] * 2
    assert reply.usage is not None
    assert reply.usage.input_tokens_details.to_dict() == {"image_tokens": 64, "text_tokens": 0}
    assert (reply.output_format, reply.safety_identifier) == ("png", "u1")
    assert (served.newest()["mode"], served.newest()["prompt"]) == ("img2img", "")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_variation_comes_as_a_url_too__V(ai: openai.OpenAI) -> None:
    reply = ai.images.create_variation(image=png(), response_format="url")

    assert reply.data is not None
    (item,) = reply.data
    assert item.b64_json is None
    assert httpx2.get(str(item.url), timeout=60).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("parts", "files", "param"),
    [
        pytest.param({"n": "1"}, [], "image", id="V no image"),
        pytest.param({}, [("image", png()), ("image", png())], "image", id="V two images"),
        pytest.param({}, [("image", png()), ("mask", png())], "mask", id="V a mask"),
        pytest.param({"n": "0"}, [("image", png())], "n", id="V n"),
        pytest.param({"size": "x"}, [("image", png())], "size", id="V size"),
    ],
)
def test_a_bad_variation_is_told(
    client: httpx2.Client, parts: dict[str, str], files: list[Any], param: str
) -> None:
    texts = [(name, (None, text)) for name, text in parts.items()]

    reply = client.post(VARIATIONS, files=[*texts, *files])

    assert reply.status_code == 400, reply.text
    assert fault(reply)["param"] == param
