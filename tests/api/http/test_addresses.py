"""Pictures by address and ends by webhook, through a whole server."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from standardwebhooks import Webhook

from tests.api.http.served import Served, serving
from tests.api.making import encoded
from tests.api.receivers import Answer, Receiver, drips, hangs, says

PATH = "/darkroom/generations"
PICTURE = encoded(Image.new("RGB", (40, 20), "red"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """It may connect to loopback."""
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, allowed_targets=("127.0.0.1",), max_picture_bytes=20_000) as running:
        yield running


@pytest.fixture
async def client(server: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


async def ended(client: httpx2.AsyncClient, reply: httpx2.Response) -> dict[str, Any]:
    assert reply.status_code == 202, reply.text
    told: dict[str, Any] = (await client.get(f"{PATH}/{reply.json()['id']}?wait=60")).json()
    return told


async def test_a_source_and_a_mask_are_fetched(server: Served, client: httpx2.AsyncClient) -> None:
    mask = encoded(Image.new("L", (40, 20), 255))
    async with Receiver([says(200, PICTURE)]) as source, Receiver([says(200, mask)]) as white:
        wish = {"prompt": "a", "image": source.url, "mask": white.url}
        task = await ended(client, await client.post(PATH, json=wish))
    assert (task["state"], task["mode"]) == ("succeeded", "inpaint")
    assert [one.method for one in source.received] == ["GET"]
    assert server.script.pictures[f"inputs/{task['id']}/0.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        pytest.param(says(404), 400, "404", id="not there"),
        pytest.param(says(302, location="http://127.0.0.1:1/"), 400, "302", id="elsewhere"),
        pytest.param(says(200, b"GIF89a"), 415, "PNG", id="no picture"),
        pytest.param(says(200, b""), 400, "empty", id="nothing"),
        pytest.param(says(200, PICTURE[:60]), 400, "damaged", id="half a picture"),
        pytest.param(says(200, bytes(20_001)), 413, "20000", id="too large"),
        pytest.param(
            says(200, gzip.compress(PICTURE), content_encoding="gzip"),
            400,
            "compressed",
            id="packed",
        ),
    ],
)
async def test_what_cannot_be_fetched_is_refused_by_its_field(
    client: httpx2.AsyncClient, answer: Answer, status: int, said: str
) -> None:
    before = (await client.get("/darkroom/queue")).json()
    async with Receiver([answer]) as stranger:
        reply = await client.post(PATH, json={"prompt": "a", "image": stranger.url})
    assert (reply.status_code, reply.json()["field"]) == (status, "image"), reply.text
    assert said in reply.json()["detail"]
    assert stranger.connections == 1
    assert (await client.get("/darkroom/queue")).json()["queued_tasks"] == before["queued_tasks"]


@pytest.mark.parametrize(
    "answer", [hangs, drips(b"HTTP/1.1 200 X\r\n" * 9, every_seconds=0.1)], ids=["hangs", "drips"]
)
async def test_what_takes_too_long_is_refused_by_its_field(tmp_path: Path, answer: Answer) -> None:
    with serving(tmp_path, allowed_targets=("127.0.0.1",), fetch_seconds=0.5) as served:
        async with Receiver([answer]) as stranger:
            wish = {"prompt": "a", "image": stranger.url}
            reply = await asyncio.to_thread(served.client.post, PATH, json=wish)
    assert (reply.status_code, reply.json()["field"]) == (400, "image"), reply.text
    assert "0.5 s" in reply.json()["detail"]


@pytest.mark.parametrize("field", ["image", "webhook"])
@pytest.mark.parametrize(
    "url",
    [
        *("http://10.0.0.1/a.png", "http://169.254.169.254/latest", "http://[::1]:9/", "http://0/"),
        *("http://2130706434/", "http://[fe80::1]/", "http://u:secret@93.184.216.34/"),
    ],
)
async def test_private_and_odd_addresses_are_refused_at_the_door(
    client: httpx2.AsyncClient, field: str, url: str
) -> None:
    reply = await client.post(PATH, json={"prompt": "a", field: url})
    assert (reply.status_code, reply.json()["field"]) == (400, field), reply.text
    assert "secret" not in reply.text


async def test_a_full_queue_refuses_before_anything_is_fetched(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("full")
    with serving(folder, allowed_targets=("127.0.0.1",), max_queue_tasks=1) as served:
        served.script.gate.clear()
        async with (
            Receiver([says(200, PICTURE)]) as source,
            httpx2.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as client,
        ):
            assert (await client.post(PATH, json={"prompt": "a"})).status_code == 202
            reply = await client.post(PATH, json={"prompt": "a", "image": source.url})
        assert (reply.status_code, source.connections) == (503, 0)
        served.script.gate.set()


async def told(receiver: Receiver, count: int = 1) -> list[dict[str, Any]]:
    return [json.loads(one.body) for one in await receiver.arrived(count)]


async def test_a_webhook_tells_of_the_end_once_it_is_kept(
    server: Served, client: httpx2.AsyncClient
) -> None:
    with closing(sqlite3.connect(server.services.folder.database)) as database:
        wanted = "SELECT webhook_secret FROM accounts WHERE name = ''"
        (secret,) = database.execute(wanted).fetchone()
    async with Receiver() as receiver:
        wish = {"prompt": "a canary prompt", "webhook": receiver.url}
        task = await ended(client, await client.post(PATH, json=wish))
        (message,) = await told(receiver)
    (received,) = receiver.received
    verified = Webhook(secret).verify(received.body, dict(received.headers))
    assert verified == message
    assert message["type"] == "generation.succeeded"
    assert message["data"]["id"] == task["id"]
    assert "canary" not in received.body.decode()
    (image,) = message["data"]["images"]
    assert image["url"].startswith(server.url), "absolute, by the origin that the caller used"
    assert (await client.get(image["url"])).status_code == 200


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_other_ends_are_told_too(
    server: Served, client: httpx2.AsyncClient, how: str
) -> None:
    from inference.errors import PipelineFailed

    async with Receiver() as receiver:
        server.script.gate.clear()
        if how == "failed":
            server.script.fails = lambda job, index: PipelineFailed("no")
        wish = {"prompt": "a", "webhook": receiver.url}
        made = (await client.post(PATH, json=wish)).json()
        if how == "cancelled":
            await client.post(f"{PATH}/{made['id']}/cancel")
        else:
            server.script.gate.set()
        (message,) = await told(receiver)
    server.script.gate.set()
    server.script.fails = lambda job, index: None
    assert message["type"] == f"generation.{how}"
    assert message["data"]["images"] == []


async def test_a_receiver_that_fails_at_first_is_told_again_under_the_same_id(
    server: Served, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    styles = server.services.courier._styles
    soon = replace(styles["darkroom"], retry_seconds=(0.1,))
    monkeypatch.setattr(server.services.courier, "_styles", {"darkroom": soon})
    async with Receiver([says(500), says(200)]) as receiver:
        wish = {"prompt": "a", "webhook": receiver.url}
        await ended(client, await client.post(PATH, json=wish))
        await told(receiver, 2)
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1
