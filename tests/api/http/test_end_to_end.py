"""Everything at once: real sockets, real database, the real engine on a tiny random model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference import skeletons
from tests.api.http.modelmux import KEY, PATH, ended
from tests.api.http.served import Served, serving, until
from tests.api.http.test_events import events_of
from tests.api.making import png

MODELS = """
models:
  tiny:
    family: flux
    source: {folder}
    dtype: float32
    preload: true
    max_sequence_length: 16
    defaults: {{num_inference_steps: 4, guidance_scale: 3, size: 64x64}}
    limits: {{count: 16, num_inference_steps: 1000, max_side: 128, min_side: 32}}
    price: {{1k: 5, 2k: 7}}
aliases:
  auto: tiny
  nano-banana: tiny
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("end_to_end")
    skeletons.tiny_flux().save_pretrained(folder / "tiny")
    models = folder / "models.yaml"
    models.write_text(MODELS.format(folder=folder / "tiny"))
    with serving(folder / "data", is_scripted=False, models=models, devices="cpu") as served:
        until(lambda: served.client.get("/readyz").status_code == 200, seconds=60)
        yield served


def picture(served: Served, task: dict[str, Any], index: int = 0) -> np.ndarray[Any, Any]:
    data = served.client.get(task["images"][index]["url"]).content
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_a_seed_gives_its_picture_whoever_is_there(real: Served) -> None:
    alone = real.make(seed=5, num_inference_steps=6)
    with ThreadPoolExecutor(3) as clients:
        others = [clients.submit(real.make, seed=seed, count=2) for seed in (5, 40)]
        crowded = real.make(seed=5, num_inference_steps=6)
        made = [one.result() for one in others]

    assert alone["state"] == crowded["state"] == "succeeded"
    assert picture(real, alone).shape == (64, 64, 3)
    # the sums of a batch may round otherwise than those of one row, by a step of 255 at most
    assert np.abs(picture(real, alone) - picture(real, crowded)).max() <= 1
    assert np.abs(picture(real, alone) - picture(real, made[1])).max() > 1


@pytest.mark.usefixtures("begins_when_watched", "long_steps")
def test_previews_come_while_it_is_made(real: Served) -> None:
    body = {"prompt": "a circle", "num_inference_steps": 1000}
    task = real.client.post("/darkroom/generations", json=body).json()

    events = []
    with real.client.stream("GET", task["links"]["events"]) as reply:
        for name, told in events_of(reply):
            events.append((name, told))
            if name == "preview":
                real.client.post(task["links"]["cancel"])

    steps = [told["step"] for name, told in events if name == "step"]
    assert steps == sorted(steps)
    assert 0 <= steps[-1] < 1000
    previews = [told["image"] for name, told in events if name == "preview"]
    assert previews and all(one.startswith("data:image/") for one in previews)
    assert events[-1][0] == "cancelled"


def test_a_cancelled_generation_stops(real: Served) -> None:
    body = {"prompt": "a circle", "num_inference_steps": 1000, "count": 16}
    task = real.client.post("/darkroom/generations", json=body).json()
    path = f"/darkroom/generations/{task['id']}"
    until(lambda: real.client.get(path).json()["state"] == "running")

    real.client.post(task["links"]["cancel"])

    assert real.end(task["id"])["state"] == "cancelled"
    until(lambda: real.client.get("/darkroom/devices").json()["devices"][0]["running_images"] == 0)


@pytest.mark.parametrize("with_picture", [False, True])
def test_modelmux_makes_and_edits(real: Served, with_picture: bool) -> None:
    fields = {"prompt": "a circle", "aspectRatio": "16:9"}
    if with_picture:
        files = {"image": ("a.png", png())}
        created = real.client.post(PATH, data=fields, files=files, headers=KEY)
    else:
        created = real.client.post(PATH, json=fields, headers=KEY)

    done = ended(real, created.json()["historyId"])

    assert (done["status"], done["creditsUsed"]) == ("completed", 5)
    with Image.open(io.BytesIO(real.client.get(done["outputUrl"]).content)) as image:
        assert image.width / image.height == pytest.approx(16 / 9, rel=0.15)


def test_models_tell_their_lanes(real: Served) -> None:
    real.make()
    (model,) = real.client.get("/darkroom/models").json()["models"]

    assert (model["name"], model["state"], model["dtype"]) == ("tiny", "ready", "float32")
    assert model["modes"]["generate"]["lane"] == "merge"
    assert model["aliases"] == ["auto", "nano-banana"]
