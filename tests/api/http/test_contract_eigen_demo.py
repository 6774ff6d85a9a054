"""Eigen's contract, a real server and the real demo model: what is asked for is what comes.

`S2` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from inference.demo.judge import judge
from inference.demo.scenes import Scene
from inference.demo.scenes import picture as drawn
from tests.api.http.eigen import ask, made, send
from tests.api.http.served import Served, serving, until
from tests.api.making import encoded, opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("demo")
    with serving(folder, is_scripted=False, devices="cpu") as served:
        until(lambda: served.client.get("/readyz").status_code == 200)
        yield served


@pytest.fixture
def client(server: Served) -> httpx2.Client:
    return server.client


def test_a_picture_shows_its_prompt_and_a_seed_repeats_it__S2(client: httpx2.Client) -> None:
    prompt = "a red circle on a blue background"

    first, again, other = (made(ask(client, prompt=prompt, seed=seed)) for seed in (7, 7, 8))

    wanted = Scene(colour="red", shape="circle", background="blue")
    assert judge(opened(first["image_base64"]), wanted).right
    assert first["image_base64"] == again["image_base64"] != other["image_base64"]


def test_an_edit_follows_its_source_and_its_prompt__S2(client: httpx2.Client) -> None:
    scene = Scene(colour="red", shape="circle", background="blue")
    source = drawn(scene, 144, 80)

    body = made(
        send(
            client,
            ("image_file", ("a.png", encoded(source), "image/png")),
            prompt="make it green",
            mode="image-editing",
            seed="3",
        )
    )

    picture = opened(body["edited_image_base64"])
    assert (body["width"], body["height"], picture.size) == (144, 80, (144, 80))
    assert judge(picture, Scene(colour="green", shape="circle", background="blue")).right


def test_the_profile_and_its_lora_change_the_picture__S2(client: httpx2.Client) -> None:
    prompt = "a large green circle on a white background"
    asked: dict[str, dict[str, Any]] = {
        "vanilla": {"weight": "vanilla"},
        "lightning": {"weight": "lightning"},
        "off": {"weight": "striped", "lora_strength": 0},
        "half": {"weight": "striped", "lora_strength": 0.5},
        "full": {"weight": "striped", "lora_strength": 1, "rank": 32},
        "rank 1": {"weight": "striped", "lora_strength": 1, "rank": 1},
    }
    pictures = {}
    for name, fields in asked.items():
        body = made(ask(client, prompt=prompt, seed=4, **fields))
        pictures[name] = np.asarray(opened(body["image_base64"]), dtype=np.int16)

    def far(name: str) -> float:
        return float(np.abs(pictures[name] - pictures["vanilla"]).mean())

    assert far("off") == 0
    assert far("lightning") > 0
    assert 0 < far("half") < far("full")
    assert (pictures["rank 1"] != pictures["full"]).any()
