"""What an agent of APIModels does, from a picture on its disk to one that is made of it.

A real server on real sockets with the demo model. The client here asks as the provider's own (`R`)
does: it leaves local files at `/files`, creates, polls, and downloads; only its pauses are shorter.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from inference.demo.judge import judge
from inference.demo.scenes import Scene
from inference.demo.scenes import picture as drawn
from tests.api.http.openai_client import half_transparent
from tests.api.http.served import Served, make_key, serving, until
from tests.api.making import encoded, opened
from tests.api.receivers import Receiver, says

POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Agent:
    """A client that knows no more than a base URL and a key."""

    base_url: str
    key: str

    def ask(self, method: str, path: str, **sent: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx2.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            reply = client.request(method, self.base_url + path, headers=headers, **sent)
        told = reply.json()
        if reply.status_code != 200 or told["code"] != 200:
            raise RuntimeError(f"HTTP {reply.status_code}: {told['msg']}")
        return told["data"]

    def upload(self, name: str, data: bytes) -> str:
        url: str = self.ask("POST", "/files", files={"file": (name, data, "image/png")})[
            "publicUrl"
        ]
        return url

    def make(self, **fields: Any) -> list[str]:
        task_id = self.ask("POST", "/images/generations", json=fields)["taskId"]
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            data = self.ask("GET", "/images/generations", params={"task_id": task_id})
            if data["state"] == "failed":
                raise RuntimeError(data["failMsg"])
            if data["state"] == "completed":
                urls: list[str] = data["resultUrls"]
                return urls
        raise TimeoutError(task_id)


def downloaded(url: str) -> Image.Image:
    """What lies at an address, for whoever has nothing but that."""
    return opened(httpx2.get(url, trust_env=False, timeout=60).raise_for_status().content)


def pixels(picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.asarray(picture.convert("RGB"), dtype=np.int16)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    folder = tmp_path_factory.mktemp("flow")
    return folder, make_key(folder, "agent", credits=100)


@pytest.fixture(scope="module")
def real(key: tuple[Any, str]) -> Iterator[Served]:
    # a receiver of callbacks may be on this machine; pictures are still fetched from elsewhere only
    with serving(
        key[0], is_scripted=False, devices="cpu", allowed_targets=("127.0.0.1",)
    ) as served:
        until(lambda: served.client.get("/readyz").status_code == 200)
        yield served


@pytest.fixture(params=["/api/v1", "/apimodels/v1"])
def agent(request: pytest.FixtureRequest, real: Served, key: tuple[Any, str]) -> Agent:
    return Agent(real.url + request.param, key[1])


@pytest.mark.timeout(300)
async def test_an_agent_makes_a_picture_and_changes_a_part_of_it__R(agent: Agent) -> None:
    before = await asyncio.to_thread(agent.ask, "GET", "/balance")
    async with Receiver(answers=[says(204)]) as hook:
        (url,) = await asyncio.to_thread(
            agent.make,
            model="qwen3-image",
            prompt="a red circle on a blue background",
            aspect_ratio="1:1",
            seed=7,
            callback_url=hook.url,
        )
        (received,) = await hook.arrived()
    first = await asyncio.to_thread(downloaded, url)
    assert judge(first, Scene(colour="red", shape="circle", background="blue")).right
    data = json.loads(received.body)["data"]
    assert json.loads(data["resultJson"]) == {"resultUrls": [url]}
    assert json.loads(data["param"])["seed"] == 7

    source = drawn(
        Scene(colour="green", shape="circle", background="white", size="large"), 128, 128
    )
    left = [
        await asyncio.to_thread(agent.upload, name, data)
        for name, data in (("a.png", encoded(source)), ("m.png", half_transparent(128, 128)))
    ]
    (url,) = await asyncio.to_thread(
        agent.make,
        model="qwen3-image",
        prompt="a large green circle on a black background",
        image_url=left[0],
        mask_url=left[1],
        seed=7,
    )
    change = np.abs(pixels(await asyncio.to_thread(downloaded, url)) - pixels(source)).max(axis=2)
    redrawn, kept = change[:, :48].mean(), change[:, 80:].mean()
    assert redrawn > 20
    assert kept == 0

    after = await asyncio.to_thread(agent.ask, "GET", "/balance")
    assert before["credits"] - after["credits"] == 4
    assert round(before["balance"] - after["balance"], 2) == 0.04


def test_an_agent_is_told_what_it_did_wrong__R(agent: Agent) -> None:
    with pytest.raises(RuntimeError, match="Invalid model: seedance-2-fast"):
        agent.make(model="seedance-2-fast", prompt="a")
    with pytest.raises(RuntimeError, match="HTTP 401"):
        Agent(agent.base_url, "sk_wrong").ask("GET", "/balance")
    with pytest.raises(RuntimeError, match="HTTP 404: there is no such task"):
        agent.ask("GET", "/images/generations", params={"task_id": "clnone"})
    with pytest.raises(RuntimeError, match="HTTP 415: file is not a picture"):
        agent.upload("a.txt", b"text")
