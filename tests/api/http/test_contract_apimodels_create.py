"""APIModels' contract, creations: a test per documented statement.

`S4` in an id is the provider's own page, `D` another page of theirs; `R` and `T` are what their
client and others send and read; `INF` is what we do where all are silent.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from api.storage import input_key
from inference.errors import PipelineFailed
from inference.pixels import as_mask, decode
from tests.api.http.apimodels import (
    BASES,
    PATH,
    create,
    ended,
    made,
    picture,
    poll,
    refusal,
    task_of,
)
from tests.api.http.openai_client import half_transparent
from tests.api.http.served import ROOT, Served, serving
from tests.api.making import data_uri, encoded, png

# The names of the provider's catalog that need no picture, and those that do.
NAMES = (
    *("doubao-seedream-4-5-251128", "doubao-seedream-5-0-260128", "doubao-seedream-5-0-pro"),
    *("doubao-seedream-5-0-flash", "gemini-2.5-flash-image", "gemini-3-pro-image"),
    *("gemini-3.1-flash-image", "gpt-image-2", "gpt-image-2-all", "gpt-image-2-lite"),
    *("gpt-image-2-beta", "grok-4.2-image", "grok-imagine-image", "grok-imagine-image-pro"),
    *("kling-image-o1", "kling-v2-1", "kling-v2-new", "kling-v3-image", "nanobanana-2-beta"),
    *("qwen3-image", "qwen3-image-pro", "flux-2-klein", "sparkpix-image"),
)
OF_PICTURES = ("kling-multi-image", "sparkpix-image-edit")


# 5.1 the envelope


@pytest.mark.parametrize("base", [pytest.param(base, id=f"S4 {base}") for base in BASES])
def test_a_creation_is_answered_at_once(served: Served, base: str) -> None:
    served.script.gate.clear()

    reply = create(served.client, base=base)

    task_id = made(reply)
    assert re.fullmatch(r"cl[0-9a-z]{23}", task_id)
    data = {"taskId": task_id, "state": "pending"}
    assert reply.json() == {"code": 200, "msg": "success", "data": data}
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            {
                "model": "doubao-seedream-5-0-260128",
                "prompt": "A cherry blossom tree by a tranquil river",
                "size": "2K",
            },
            id="S4 text to image",
        ),
        pytest.param(
            {
                "model": "doubao-seedream-5-0-260128",
                "prompt": "Change the season to winter with snow",
                "image_url": data_uri(png()),
                "size": "4K",
            },
            id="S4 image to image",
        ),
    ],
)
def test_the_providers_examples_are_taken(
    served: Served, client: httpx2.Client, body: dict[str, Any]
) -> None:
    done = ended(served, client.post(PATH, json=body))

    assert (done["state"], len(done["resultUrls"])) == ("completed", 1)
    type_ = "IMAGE_TO_IMAGE" if "image_url" in body else "TEXT_TO_IMAGE"
    assert done["modelType"] == type_


@pytest.mark.parametrize("name", [pytest.param(name, id=f"R {name}") for name in NAMES])
def test_a_name_of_the_catalog_is_taken(client: httpx2.Client, name: str) -> None:
    assert create(client, model=name).status_code == 200


@pytest.mark.parametrize("name", [pytest.param(name, id=f"R {name}") for name in OF_PICTURES])
def test_some_need_a_picture(client: httpx2.Client, name: str) -> None:
    assert create(client, model=name, image_url=data_uri(png())).status_code == 200
    status, text = refusal(create(client, model=name))
    assert (status, name in text) == (400, True)


# 5.2 fields


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        pytest.param({"negative_prompt": "snow"}, {"negative_prompt": "snow"}, id="INF negative"),
        pytest.param({"seed": 7}, {"seeds": [7]}, id="D seed"),
        pytest.param({"n": 3, "seed": 7}, {"seeds": [7, 8, 9]}, id="D n"),
        pytest.param({"quality": "high"}, {"num_inference_steps": 16}, id="D quality high"),
        pytest.param({"quality": "medium"}, {"num_inference_steps": 12}, id="D quality medium"),
        pytest.param({"quality": "low"}, {"num_inference_steps": 8}, id="D quality low"),
        pytest.param({"quality": "auto"}, {"num_inference_steps": 8}, id="D quality auto"),
        pytest.param({"turbo": True}, {"num_inference_steps": 4}, id="D turbo"),
        pytest.param(
            {"lora_weights": "stripes", "lora_scale": 2.5},
            {"loras": [{"name": "stripes", "strength": 2.5}]},
            id="D lora",
        ),
        pytest.param(
            {"lora_weights": "stripes"},
            {"loras": [{"name": "stripes", "strength": 0.5}]},
            id="D lora_scale is 0.5",
        ),
        pytest.param({"aspect_ratio": "16:9"}, {"size": [144, 80]}, id="S4 aspect_ratio"),
        pytest.param({"aspect_ratio": "9:16"}, {"size": [80, 144]}, id="S4 upright"),
        pytest.param({"aspect_ratio": "1:8"}, {"size": [80, 144]}, id="R 1:8"),
        pytest.param({"aspect_ratio": "auto"}, {"size": [128, 128]}, id="R auto"),
        pytest.param(
            {"aspect_ratio": None, "size": "1536x1024"}, {"size": [144, 96]}, id="D pixels"
        ),
        pytest.param(
            {"aspect_ratio": "custom", "width": 1024, "height": 768},
            {"size": [128, 96]},
            id="D width and height",
        ),
        pytest.param({"unheard": {"of": [1]}}, {}, id="INF unknown keys ignored"),
    ],
)
def test_a_field_reaches_the_picture(
    served: Served, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    task = task_of(served, create(served.client, **fields))

    told = task | {
        "size": [task["images"][0]["width"], task["images"][0]["height"]],
        "seeds": [one["seed"] for one in task["images"]],
        "loras": [
            {name: lora[name] for name in ("name", "strength")} for lora in task.get("loras", [])
        ],
    }
    assert {name: told[name] for name in wanted} == wanted
    assert told["state"] == "succeeded"


@pytest.mark.parametrize(
    ("format", "media_type"),
    [
        pytest.param(None, "image/png", id="INF png"),
        pytest.param("png", "image/png", id="D png"),
        pytest.param("jpeg", "image/jpeg", id="D jpeg"),
        pytest.param("webp", "image/webp", id="D webp"),
    ],
)
def test_a_format_is_made(served: Served, format: str | None, media_type: str) -> None:
    done = ended(served, create(served.client, output_format=format))

    reply = served.client.get(done["resultUrls"][0])

    assert reply.headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("resolution", "credits"),
    [
        pytest.param("1K", 5, id="R 1K"),
        pytest.param("2k", 5, id="R lower case"),
        pytest.param("4K", 10, id="R 4K"),
        pytest.param("512", 5, id="R 512"),
    ],
)
def test_a_resolution_has_its_price(served: Served, resolution: str, credits: int) -> None:
    reply = create(served.client, model="gemini-3-pro-image", resolution=resolution)

    assert ended(served, reply)["credits"] == credits


def test_a_prompt_is_written_out__D(served: Served) -> None:
    fields = {"prompt": "circle, red", "prompt_upsampling": True}

    task_id = made(create(served.client, **fields))

    assert served.end(task_id)["state"] == "succeeded"
    with closing(sqlite3.connect(served.services.folder.database)) as database:
        query = "SELECT findings FROM tasks WHERE id = ?"
        (findings,) = database.execute(query, [task_id]).fetchone()
    written = json.loads(findings)["enhanced"]["prompt"]
    assert "red circle" in written
    assert written != "circle, red"


def test_without_a_writer_of_prompts_it_is_refused__INF(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    shipped = (ROOT / "models.yaml").read_text(encoding="utf-8")
    models.write_text(re.sub(r"(?m)^enhancer:.*$", "", shipped), encoding="utf-8")
    with serving(tmp_path / "data", models=models) as served:
        status, text = refusal(create(served.client, prompt_upsampling=True))
        assert create(served.client, prompt_upsampling=False).status_code == 200
    assert status == 400
    assert "prompt_upsampling" in text
    assert "enhancer" in text


# pictures


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"image_url": data_uri(png())}, id="T a data URI"),
        pytest.param({"image_url": data_uri(png()).partition(",")[2]}, id="D base64"),
        pytest.param({"image_urls": [data_uri(png())]}, id="D image_urls"),
        pytest.param({"image": data_uri(png())}, id="T image"),
        pytest.param({"image": [data_uri(png())]}, id="T image, a list"),
        pytest.param({"images": [data_uri(png())]}, id="D images"),
        pytest.param(
            {"image": data_uri(png()), "image_urls": [data_uri(png())]},
            id="T the same picture twice",
        ),
    ],
)
def test_a_picture_is_changed(served: Served, fields: dict[str, Any]) -> None:
    reply = create(served.client, **fields)

    assert ended(served, reply)["modelType"] == "IMAGE_TO_IMAGE"
    seen = served.script.pictures[input_key(made(reply), 0)]
    assert decode(seen).size == (32, 32)


def test_pictures_over_what_the_model_takes_are_refused__D(client: httpx2.Client) -> None:
    two = [data_uri(png()), data_uri(png(colour="blue"))]

    status, text = refusal(create(client, model="tiny-flux", image_urls=two))

    assert status == 400
    assert "image_urls" in text
    assert "not 2" in text


def test_more_pictures_than_any_takes_are_refused__R(client: httpx2.Client) -> None:
    many = [data_uri(png(colour=(n, 0, 0))) for n in range(17)]

    status, text = refusal(create(client, image_urls=many))

    assert (status, "image_urls" in text, "16" in text) == (400, True, True)


def half_white() -> bytes:
    """A mask without transparency, its left half white."""
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    return encoded(mask)


@pytest.mark.parametrize("name", ["mask", "mask_url", "mask_image"])
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(half_transparent(), id="INF transparent is redrawn"),
        pytest.param(half_white(), id="INF white is redrawn, without transparency"),
    ],
)
def test_a_mask_says_where(served: Served, name: str, mask: bytes) -> None:
    fields = {"image_url": data_uri(png()), name: data_uri(mask)}

    reply = create(served.client, **fields)

    task = task_of(served, reply)
    assert (task["state"], task["mode"]) == ("succeeded", "inpaint")
    data = served.script.pictures[input_key(made(reply), 1)]
    seen = np.asarray(as_mask(decode(data), 32, 32))
    assert (seen[:, :14].min(), seen[:, 18:].max()) == (255, 0)


def test_a_mask_without_a_picture_is_refused__INF(client: httpx2.Client) -> None:
    status, text = refusal(create(client, mask=data_uri(half_transparent())))

    assert (status, "image" in text) == (400, True)


# what answers at once


def test_a_sync_model_has_its_pictures_in_the_reply__D(served: Served) -> None:
    reply = create(served.client, model="gpt-image-2-lite", n=2)

    data = reply.json()["data"]
    assert (reply.status_code, data["state"]) == (200, "completed")
    assert [picture(served, url).size for url in data["resultUrls"]] == [(128, 128)] * 2
    assert poll(served.client, data["taskId"]).json() == reply.json()


def test_a_sync_model_that_fails_says_so__D(served: Served) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")

    data = create(served.client, model="gpt-image-2-lite").json()["data"]

    assert (data["state"], data["failMsg"]) == ("failed", "the pipeline broke")


def test_a_sync_model_that_takes_too_long_is_polled_for__INF(tmp_path: Path) -> None:
    """Here another is before it, so that it has not begun when the time is up."""
    with serving(tmp_path, sync_wait_seconds=0.2, images_in_flight=1) as served:
        served.script.gate.clear()
        create(served.client)
        reply = create(served.client, model="gpt-image-2-lite")
        served.script.gate.set()

        assert reply.json()["data"]["state"] == "pending"
        assert ended(served, reply)["state"] == "completed"


@pytest.mark.parametrize("base", BASES)
def test_generations_sync_is_read_as_url__T(served: Served, base: str) -> None:
    fields = {"model": "gpt-image-2-all", "aspect_ratio": "16:9", "resolution": "1K"}

    reply = create(served.client, base=base, call="generations-sync", **fields)

    body = reply.json()
    assert (reply.status_code, body["code"], body["msg"]) == (200, 200, "success")
    assert body["data"]["url"] == body["data"]["resultUrls"][0]
    assert picture(served, body["data"]["url"]).size == (144, 80)


@pytest.mark.parametrize("base", BASES)
def test_an_edit_is_read_as_url__T(served: Served, base: str) -> None:
    fields = {"model": "sparkpix-image-edit", "images": [data_uri(png())], "aspect_ratio": None}

    reply = create(served.client, base=base, call="edit", **fields)

    assert reply.status_code == 200, reply.text
    assert picture(served, reply.json()["data"]["url"]).size == (128, 128)


def test_an_edit_needs_a_picture__D(client: httpx2.Client) -> None:
    status, text = refusal(create(client, call="edit", model="sparkpix-image-edit"))

    assert (status, text) == (400, "images is required")


@pytest.mark.parametrize("call", ["generations-sync", "edit"])
def test_what_fails_while_one_waits_is_500__INF(served: Served, call: str) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")

    reply = create(served.client, call=call, images=[data_uri(png())])

    assert refusal(reply) == (500, "the pipeline broke")


def test_whoever_leaves_while_waiting_wants_nothing__INF(served: Served) -> None:
    served.script.gate.clear()

    task_id = served.leave(f"{PATH}-sync", {"model": "gpt-image-2", "prompt": "left"})

    assert served.end(task_id)["state"] == "cancelled"


def credits_left(served: Served) -> int:
    left: int = served.client.get(f"{BASES[0]}/balance").json()["data"]["credits"]
    return left


@pytest.mark.parametrize(
    ("headers", "fields", "state"),
    [
        pytest.param({}, {}, "cancelled", id="INF it reaches nobody"),
        pytest.param({"Idempotency-Key": "left"}, {}, "succeeded", id="INF asked for again"),
        pytest.param({}, {"callback_url": "http://127.0.0.1:9"}, "succeeded", id="INF a callback"),
    ],
)
def test_whoever_leaves_before_the_id_is_told_pays_nothing(
    tmp_path: Path, headers: dict[str, str], fields: dict[str, Any], state: str
) -> None:
    body = {"model": "gpt-image-2-lite", "prompt": "left"} | fields
    with serving(tmp_path, allowed_targets="127.0.0.1") as served:
        served.script.gate.clear()

        before = credits_left(served)
        task_id = served.leave(PATH, body, headers)
        if state != "cancelled":
            # time enough to cancel it by mistake
            time.sleep(0.5)
            served.script.gate.set()

        assert served.end(task_id)["state"] == state
        assert (credits_left(served) < before) == (state == "succeeded")


# requests that are repeated


@pytest.mark.parametrize("call", ["generations", "generations-sync"])
def test_an_idempotency_key_makes_one_task__INF(served: Served, call: str) -> None:
    headers = {"Idempotency-Key": f"order-{call}"}
    first = create(served.client, call=call, headers=headers, seed=5)
    ended(served, first)

    again = create(served.client, base="/apimodels/v1", call=call, headers=headers, seed=5)
    other = create(served.client, call=call, headers=headers, seed=6)

    assert made(again) == made(first)
    assert again.headers["idempotent-replayed"] == "true"
    assert refusal(other)[0] == 422
