"""Our own API over HTTP: submit, read, wait, list, watch, cancel, fetch."""

from __future__ import annotations

import base64
import io
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from api.cli import remote_models
from api.cli.terminal import Failure
from inference.errors import ModelFailed, OutOfMemory
from tests.api.http.served import Served, serving, until
from tests.api.making import png


def test_a_submission_is_accepted_with_everything_decided(served: Served) -> None:
    reply = served.client.post(
        "/darkroom/generations", json={"prompt": "a red circle", "seed": 7, "count": 2}
    )

    assert reply.status_code == 202
    body = reply.json()
    assert reply.headers["location"] == f"/darkroom/generations/{body['id']}"
    assert (body["state"], body["requested_model"], body["model"]) == (
        "queued",
        "auto",
        "tiny-flux",
    )
    assert (body["seeds"], body["num_inference_steps"], body["images"]) == ([7, 8], 8, [])
    assert served.client.get(reply.headers["location"]).json()["id"] == body["id"]


def test_a_generation_ends_with_its_pictures(served: Served) -> None:
    ended = served.make(seed=7, count=2, aspect_ratio="16:9")

    assert (ended["state"], ended["error"]) == ("succeeded", None)
    assert [image["seed"] for image in ended["images"]] == [7, 8]
    for image in ended["images"]:
        reply = served.client.get(f"{ended['links']['self']}/images/{image['index']}")
        with Image.open(io.BytesIO(reply.content)) as picture:
            assert picture.size == (image["width"], image["height"]) == (144, 80)
            assert picture.getpixel((0, 0)) == (image["seed"], 0, 0)
        assert len(reply.content) == image["size_bytes"]
        assert served.client.get(image["url"]).content == reply.content


@pytest.mark.parametrize("how", ["base64", "data URI", "form", "form with base64"])
def test_a_picture_can_be_sent_in_each_way(served: Served, how: str) -> None:
    text = base64.b64encode(png()).decode()
    fields: dict[str, Any] = {"prompt": "a", "strength": 0.5, "seed": 3}
    send: dict[str, Any] = {
        "base64": {"json": fields | {"image": text}},
        "data URI": {"json": fields | {"image": f"data:image/png;base64,{text}"}},
        "form": {"data": fields, "files": {"image": ("a.png", png())}},
        "form with base64": {"data": fields, "files": {"image": (None, text)}},
    }[how]

    reply = served.client.post("/darkroom/generations", **send)

    assert reply.status_code == 202, reply.text
    assert (reply.json()["mode"], reply.json()["strength"]) == ("img2img", 0.5)
    assert served.end(reply.json()["id"])["state"] == "succeeded"


def test_a_mask_makes_it_an_inpaint(served: Served) -> None:
    files = {"image": ("a.png", png()), "mask": ("m.png", png())}

    reply = served.client.post("/darkroom/generations", data={"prompt": "a"}, files=files)

    assert reply.json()["mode"] == "inpaint"


def test_a_large_picture_fits_in_a_text_part(served: Served) -> None:
    noise = Image.effect_noise((1400, 1400), 100)
    file = io.BytesIO()
    noise.save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    assert len(text) > 1.5 * 1024**2

    files = {"image": (None, text)}
    reply = served.client.post("/darkroom/generations", data={"prompt": "a"}, files=files)

    assert reply.status_code == 202, reply.text


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, max_queue_tasks=1) as served:
        served.script.gate.clear()
        assert served.client.post("/darkroom/generations", json={"prompt": "a"}).is_success
        reply = served.client.post("/darkroom/generations", json={"prompt": "a"})
        assert (reply.status_code, reply.json()["type"]) == (503, "urn:darkroom:overloaded")
        assert int(reply.headers["retry-after"]) >= 1


def test_waiting_returns_at_the_end_or_when_the_time_is_up(served: Served) -> None:
    served.script.gate.clear()
    task = served.client.post("/darkroom/generations", json={"prompt": "a"}).json()

    start = time.monotonic()
    waited = served.client.get(f"/darkroom/generations/{task['id']}?wait=0.3").json()
    assert waited["finished_at"] is None
    assert 0.25 < time.monotonic() - start < 30

    threading.Timer(0.2, served.script.gate.set).start()
    start = time.monotonic()
    assert served.end(task["id"])["state"] == "succeeded"
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "x", "1e400"])
def test_a_wait_without_bound_is_refused(client: httpx2.Client, wait: str) -> None:
    reply = client.get(f"/darkroom/generations/none?wait={wait}")

    assert (reply.status_code, reply.json()["field"]) == (400, "wait")


def test_generations_are_listed_newest_first_page_by_page(served: Served) -> None:
    made = [served.make(prompt=f"number {number}")["id"] for number in range(3)]

    seen: list[str] = []
    cursor = None
    while len(seen) < 3:
        query = {"limit": "2", "state": "succeeded"} | ({"cursor": cursor} if cursor else {})
        page = served.client.get("/darkroom/generations", params=query).json()
        assert len(page["generations"]) <= 2
        seen += [one["id"] for one in page["generations"]]
        cursor = page["next_cursor"]

    assert seen[:3] == made[::-1]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "state=done", "cursor=zzz", "limit=" + "9" * 5000]
)
def test_a_list_asked_wrongly_names_what_is_wrong(client: httpx2.Client, query: str) -> None:
    reply = client.get(f"/darkroom/generations?{query}")

    assert reply.status_code == 400
    assert reply.json()["field"] == query.partition("=")[0]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_running_generation_can_be_cancelled(served: Served, method: str) -> None:
    served.script.gate.clear()
    task = served.client.post("/darkroom/generations", json={"prompt": "a"}).json()
    path = task["links"]["cancel"] if method == "POST" else task["links"]["self"]

    reply = served.client.request(method, path)

    assert reply.status_code == 200
    assert served.end(task["id"])["state"] == "cancelled"
    served.script.gate.set()
    again = served.client.request(method, path)
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    missing = served.client.get(f"{task['links']['self']}/images/0")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:darkroom:not_found")


def test_a_failure_is_told_with_its_kind(served: Served) -> None:
    served.script.fails = lambda job, index: OutOfMemory("the picture does not fit")

    ended = served.make()

    assert (ended["state"], ended["images"]) == ("failed", [])
    told = {"kind": "out_of_memory", "message": "the picture does not fit", "reason": None}
    assert ended["error"] == told


def test_why_a_model_failed_is_told_beside_what_every_api_says(served: Served) -> None:
    served.script.fails = lambda job, index: ModelFailed("no file /srv/weights")
    assert served.make()["error"] == {
        "kind": "model_failed",
        "message": "the model 'tiny-flux' could not be loaded",
        "reason": "no file /srv/weights",
    }


def test_devices_are_503_until_they_are_known(served: Served) -> None:
    served.script.starting = True
    try:
        reply = served.client.get("/darkroom/devices")
        with pytest.raises(Failure, match="the engine is starting"):
            remote_models.devices(served.url, None)
    finally:
        served.script.starting = False
    assert (reply.status_code, reply.json()["type"]) == (503, "urn:darkroom:unavailable")
    assert reply.headers["retry-after"] == "1"
    assert [one["device"] for one in remote_models.devices(served.url, None)] == ["cpu"]


def test_queue_devices_and_models_are_told(served: Served) -> None:
    served.script.gate.clear()
    served.client.post("/darkroom/generations", json={"prompt": "a", "count": 3})

    until(lambda: served.client.get("/darkroom/queue").json()["running_tasks"] == 1)
    assert served.client.get("/darkroom/queue").json()["unfinished_images"] == 3
    (device,) = served.client.get("/darkroom/devices").json()["devices"]
    assert (device["device"], device["alive"]) == ("cpu", True)
    model, fill, edits = served.client.get("/darkroom/models").json()["models"]
    assert (model["name"], model["state"]) == ("tiny-flux", "unloaded")
    assert set(model["modes"]) == {"generate", "img2img", "inpaint"}
    assert model["loras"] == {"stripes": {"strength": 1, "rank": None, "trigger": ""}}
    assert (fill["name"], set(fill["modes"]), fill["loras"]) == ("tiny-flux-fill", {"inpaint"}, {})
    assert (edits["name"], set(edits["modes"])) == ("tiny-flux-kontext", {"edit"})
