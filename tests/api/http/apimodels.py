"""What a client of APIModels does, for the tests of its contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
from PIL import Image

from tests.api.http.served import Served, until
from tests.api.making import opened

BASES = ("/api/v1", "/v1", "/apimodels/api/v1", "/apimodels/v1")
BASE = BASES[0]
PATH = f"{BASE}/images/generations"
KEY = {"Authorization": "Bearer sk_any"}
# What only APIModels' clients send, so that a generation is theirs at either base.
OURS = {"aspect_ratio": "1:1"}


def create(
    client: httpx2.Client,
    *,
    base: str = BASE,
    headers: Mapping[str, str] = KEY,
    call: str = "generations",
    **fields: Any,
) -> httpx2.Response:
    body = {"model": "gpt-image-2", "prompt": "a red circle"} | OURS | fields
    return client.post(f"{base}/images/{call}", json=body, headers=dict(headers))


def made(reply: httpx2.Response) -> str:
    """The id of the task that a creation made."""
    assert reply.status_code == 200, reply.text
    task_id: str = reply.json()["data"]["taskId"]
    return task_id


def poll(
    client: httpx2.Client, task_id: str, *, base: str = BASE, headers: Mapping[str, str] = KEY
) -> httpx2.Response:
    path = f"{base}/images/generations"
    return client.get(path, params={"task_id": task_id}, headers=dict(headers))


def ended(served: Served, reply: httpx2.Response, headers: Mapping[str, str] = KEY) -> Any:
    """The poll's data once the state is final, asking as a client would."""
    task_id = made(reply)
    told: dict[str, Any] = {}

    def is_final() -> bool:
        polled = poll(served.client, task_id, headers=headers)
        assert polled.status_code == 200, polled.text
        told.clear()
        told.update(polled.json()["data"])
        return told["state"] in ("completed", "failed")

    until(is_final)
    return told


def task_of(served: Served, reply: httpx2.Response) -> Any:
    """The task of a creation, as our own API tells it."""
    return served.end(made(reply))


def picture(served: Served, url: str) -> Image.Image:
    reply = served.client.get(url)
    assert reply.status_code == 200, reply.text
    return opened(reply.content)


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """Status and text of an error, whose envelope holds nothing else."""
    body = reply.json()
    assert set(body) == {"code", "msg", "data"}
    assert (body["code"], body["data"]) == (reply.status_code, None)
    return reply.status_code, body["msg"]
