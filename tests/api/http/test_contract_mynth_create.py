"""Mynth's contract, creation: a test per documented statement.

`S3` in an id is the provider's own page, `R` its published client, `D` another page of its; `INF`
is what we do where all are silent.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest

from tests.api.http.mynth import (
    PATH,
    Helpers,
    assert_error,
    create,
    created,
    data,
    ended,
    made,
    opened,
    png,
    uploaded,
)
from tests.api.http.served import Served, bearer, make_key, serving

# One model of free sizes, and one that makes 4k.
MODELS = """
models:
  free:
    family: flux
    source: builtin:tiny-flux
    limits: {count: 20, max_side: 2048}
    defaults: {size: 1024x1024}
    price: {1k: 3, 2k: 5, 4k: 9}
  large:
    family: flux
    source: builtin:tiny-flux
    limits: {count: 20, max_side: 8192, max_megapixels: 40}
    defaults: {size: 1024x1024}
    price: {1k: 3, 2k: 5, 4k: 9}
  unpriced:
    family: flux
    source: builtin:tiny-flux
    limits: {max_side: 8192, max_megapixels: 40}
    defaults: {size: 1024x1024}
    price: {1k: 3}
aliases:
  auto: free
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "models.yaml").write_text(MODELS)
    helpers = Helpers()
    with serving(folder, models=folder / "models.yaml", assistants=helpers.all) as running:
        yield running


# 4.2 reply


def test_a_creation_is_201_with_task_price_and_token__S3(client: httpx2.Client) -> None:
    told = created(client, count=2)

    assert set(told) == {"taskId", "estimatedCost", "access"}
    assert re.fullmatch("tsk_[0-9A-HJKMNP-TV-Z]{26}", told["taskId"])
    assert told["estimatedCost"] == "0.06"
    assert set(told["access"]) == {"publicAccessToken"}
    assert re.fullmatch(r"pat_[\w-]+\.[\w-]+\.[\w-]+", told["access"]["publicAccessToken"])


@pytest.mark.parametrize(
    ("access", "has_token"),
    [
        pytest.param({"pat": {"enabled": False}}, False, id="S3 off"),
        pytest.param({"pat": {"enabled": True}}, True, id="S3 on"),
        pytest.param({"pat": {}}, True, id="INF left open"),
        pytest.param({}, True, id="INF empty"),
    ],
)
def test_the_token_can_be_left_out(
    client: httpx2.Client, access: dict[str, Any], has_token: bool
) -> None:
    assert ("access" in created(client, access=access)) is has_token


def test_the_alias_speaks_the_same__INF(client: httpx2.Client) -> None:
    reply = client.post("/mynth/image/generate", json={"prompt": "a"})
    task_id = data(reply, 201)["taskId"]
    assert data(client.get(f"/mynth/tasks/{task_id}/status"))["status"] in ("pending", "completed")


def test_a_repeat_leads_to_the_same_task_and_a_fresh_token__INF(client: httpx2.Client) -> None:
    once = {"Idempotency-Key": "one creation"}
    first, second = (create(client, headers=once, count=1) for _ in range(2))
    other = create(client, headers=once, count=2)

    assert first.json()["data"]["taskId"] == second.json()["data"]["taskId"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    token = second.json()["data"]["access"]["publicAccessToken"]
    status = f"/tasks/{second.json()['data']['taskId']}/status"
    assert client.get(status, headers=bearer(token)).status_code == 200
    assert_error(other, 409, "IDEMPOTENCY_MISMATCH", "Idempotency-Key")


# 4.2 fields


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        pytest.param(None, "1024x1024", id="S3 no size"),
        pytest.param("auto", "1024x1024", id="R auto"),
        pytest.param({"type": "auto"}, "1024x1024", id="R auto object"),
        pytest.param("square", "1024x1024", id="R square"),
        pytest.param("1:1", "1024x1024", id="R 1:1"),
        pytest.param("16:9", "1360x768", id="R 16:9"),
        pytest.param("landscape_wide", "1360x768", id="R landscape_wide"),
        pytest.param("9:16", "768x1360", id="R 9:16"),
        pytest.param("portrait_tall", "768x1360", id="R portrait_tall"),
        pytest.param({"type": "aspect_ratio", "aspectRatio": "9:16"}, "768x1360", id="R object"),
        pytest.param("16:9_4k", "1360x768", id="D 4k falls back to base"),
        pytest.param(
            {"type": "aspect_ratio", "aspectRatio": "16:9", "scale": "4k"},
            "1360x768",
            id="D 4k falls back to base as an object",
        ),
        pytest.param(
            {"type": "aspect_ratio", "aspectRatio": "16:9", "scale": "base"},
            "1360x768",
            id="S3 base",
        ),
    ],
)
def test_a_size_is_made(served: Served, size: Any, pixels: str) -> None:
    task = made(served, size=size)
    (image,) = task["result"]["images"]
    width, height = map(int, image["size"].split("x"))
    wanted_width, wanted_height = map(int, pixels.split("x"))
    assert abs(width / height - wanted_width / wanted_height) < 0.06
    assert abs(width * height / 1024**2 - 1) < 0.06
    assert opened(served.client, image["url"]).size == (width, height)
    assert image["cost"] == task["cost"] == "0.03"


def test_a_model_that_can_makes_4k__R(served: Served) -> None:
    plain = created(served.client, model="large", size="16:9")
    fine = created(served.client, model="large", size="16:9_4k")
    assert (plain["estimatedCost"], fine["estimatedCost"]) == ("0.03", "0.09")
    (image,) = ended(served, fine["taskId"])["result"]["images"]
    width, height = map(int, image["size"].split("x"))
    assert width * height > 15e6


def test_4k_without_a_price_falls_back_too__INF(client: httpx2.Client) -> None:
    assert created(client, model="unpriced", size="16:9_4k")["estimatedCost"] == "0.03"


@pytest.mark.parametrize("ratio", ["2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "21:9", "2:1", "1:2"])
def test_every_ratio_is_taken__R(client: httpx2.Client, ratio: str) -> None:
    created(client, size=ratio)
    created(client, size=f"{ratio}_4k")


@pytest.mark.parametrize(
    ("output", "form"),
    [
        pytest.param(None, "WEBP", id="S3 webp is the default"),
        pytest.param({"format": "webp", "quality": 80}, "WEBP", id="S3 webp"),
        pytest.param({"format": "png"}, "PNG", id="S3 png"),
        pytest.param({"format": "jpg", "quality": 40}, "JPEG", id="S3 jpg"),
    ],
)
def test_pictures_are_of_the_format(served: Served, output: Any, form: str) -> None:
    (image,) = made(served, output=output)["result"]["images"]
    assert opened(served.client, image["url"]).format == form


def test_the_default_quality_is_80__S3(served: Served) -> None:
    for output, quality in ((None, 80), ({"format": "jpg"}, 80), ({"quality": 5}, 5)):
        task_id = created(served.client, output=output)["taskId"]
        with closing(sqlite3.connect(served.services.folder.database)) as database:
            wanted = "SELECT delivery FROM tasks WHERE id = ?"
            (delivery,) = database.execute(wanted, (task_id,)).fetchone()
        assert json.loads(delivery)["quality"] == quality


def test_up_to_twenty_are_made__S3(served: Served) -> None:
    task = made(served, count=20)
    images = task["result"]["images"]
    assert len({image["id"] for image in images}) == len({image["url"] for image in images}) == 20
    assert (task["cost"], images[0]["cost"]) == ("0.6", "0.03")
    assert all(image["id"].startswith("img_") for image in images)


def test_a_negative_prompt_and_a_prompt_of_8192_are_taken__S3(client: httpx2.Client) -> None:
    refused = create(client, prompt="a" * 8192, negative_prompt="b" * 8192)
    # this model takes shorter ones, and no negative ones at all
    assert_error(refused, 400, "VALIDATION_ERROR", "negative_prompt")


def test_metadata_comes_back__S3(served: Served) -> None:
    metadata = {"order": 7, "nested": {"null": None, "list": [1.5, "ü"]}}
    assert made(served, metadata=metadata)["request"]["metadata"] == metadata


def test_unknown_fields_are_ignored__INF(served: Served) -> None:
    assert "seed" not in made(served, seed=7, style="oil")["request"]


def test_a_prompt_is_written_out_and_told__R(served: Served) -> None:
    task = made(served, magic_prompt=True)
    assert task["result"]["magic_prompt"] == {
        "positive": "a red circle, in snow",
        "negative": "blur",
    }
    assert task["request"]["magic_prompt"] is True
    assert "magic_prompt" not in made(served)["result"]


@pytest.mark.parametrize(
    ("rating", "levels"),
    [
        pytest.param(True, {"sfw", "nsfw"}, id="S3 true"),
        pytest.param({"mode": "nsfw_sfw"}, {"sfw", "nsfw"}, id="S3 nsfw_sfw"),
        pytest.param(
            {
                "mode": "custom",
                "levels": [
                    {"value": "<13", "description": "Safe for Children"},
                    {"value": "18+", "description": "Adults Only"},
                ],
            },
            {"<13", "18+"},
            id="S3 custom",
        ),
    ],
)
def test_every_picture_is_rated(served: Served, rating: Any, levels: set[str]) -> None:
    images = made(served, rating=rating, count=3)["result"]["images"]
    assert len(images) == 3
    for image in images:
        assert image["rating"]["status"] == "success"
        assert image["rating"]["level"] in levels


def test_a_rating_that_fails_leaves_its_picture__R(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    helpers = Helpers(fails="the rater is away")
    with serving(tmp_path_factory.mktemp("data"), assistants=helpers.all) as served:
        (image,) = made(served, rating=True, magic_prompt=True)["result"]["images"]
        assert image["rating"] == {
            "status": "failed",
            "error": {"code": "RATING_FAILED", "message": "the rater is away"},
        }
        assert opened(served.client, image["url"]).format == "WEBP"


def test_no_rating_is_told_where_none_was_asked__R(served: Served) -> None:
    assert "rating" not in made(served)["result"]["images"][0]


def test_an_input_is_changed__R(served: Served) -> None:
    """By every spelling of an input; the model here starts from the picture."""
    (url,) = uploaded(served.client, png())
    for one in (
        url,
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "image", "as": "source", "source": {"type": "url", "url": url}},
    ):
        task = made(served, inputs=[one])
        kept = served.client.get(f"/darkroom/generations/{task['id']}").json()
        assert kept["mode"] == "img2img"
        assert served.script.pictures[f"inputs/{task['id']}/0.png"].startswith(b"\x89PNG")
        assert task["request"]["inputs"] == [one]


@pytest.mark.parametrize(
    ("roles", "field"),
    [
        pytest.param(["reference"], "model", id="INF no model here goes by references alone"),
        pytest.param(["source", "reference"], "inputs", id="INF none takes two"),
        pytest.param(["person"], "inputs", id="INF none takes a person"),
        pytest.param(["source", "pose"], "inputs", id="INF none takes a pose"),
        pytest.param(["source", "garment"], "inputs[1].as", id="INF a garment"),
    ],
)
def test_a_role_that_the_model_cannot_is_refused(
    served: Served, roles: list[str], field: str
) -> None:
    (url,) = uploaded(served.client, png())
    source = {"type": "url", "url": url}
    inputs = [{"type": "image", "as": role, "source": source} for role in roles]
    assert_error(create(served.client, inputs=inputs), 400, "VALIDATION_ERROR", field)


def test_an_own_picture_is_an_input__INF(served: Served) -> None:
    (image,) = made(served)["result"]["images"]
    again = made(served, inputs=[image["url"]])
    assert served.script.pictures[f"inputs/{again['id']}/0.png"].startswith(b"\x89PNG")


# 4.4 estimate


def test_an_estimate_costs_and_keeps_nothing__R(served: Served) -> None:
    before = data(served.client.get("/tasks?limit=1"))
    reply = served.client.post(f"{PATH}/estimate", json={"prompt": "a", "count": 4})
    assert data(reply) == {"estimatedCost": "0.12", "currency": "usd", "estimateKind": "exact"}
    assert data(served.client.get("/tasks?limit=1")) == before


def test_an_estimate_is_a_bound_where_the_source_tells_the_size__R(served: Served) -> None:
    wish = {"prompt": "a", "model": "large", "inputs": ["http://93.184.215.14/a.png"]}
    told = data(served.client.post(f"{PATH}/estimate", json=wish))
    assert (told["estimatedCost"], told["estimateKind"]) == ("0.09", "upper_bound")
    told = data(served.client.post(f"{PATH}/estimate", json=wish | {"size": "1:1"}))
    assert (told["estimatedCost"], told["estimateKind"]) == ("0.03", "exact")


def test_an_estimate_is_refused_as_the_creation_would_be__INF(client: httpx2.Client) -> None:
    reply = client.post(f"{PATH}/estimate", json={"prompt": "a", "count": 0})
    assert_error(reply, 400, "VALIDATION_ERROR", "count")


def test_a_price_in_dollars_is_the_operators_to_set__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    key = bearer(make_key(folder, "team", credits=10))
    with serving(folder, credit_usd="0.0025") as served:
        told = created(served.client, headers=key, count=3)
        assert told["estimatedCost"] == "0.0075"
        assert made(served, headers=key, count=3)["cost"] == "0.0075"
        told = data(served.client.get("/balance", headers=key))
        assert told["available"] == "0.01"
