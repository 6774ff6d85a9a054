"""Model Buffet's contract, webhooks: delivered over a real socket, verified by hand.

`S0` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from inference.errors import PipelineFailed
from tests.api.http.modelbuffet import FIELDS, PATH
from tests.api.http.served import Served, make_key, serving
from tests.api.receivers import Receiver, says


@dataclass(frozen=True)
class Team:
    """A server, and an account on it."""

    served: Served
    key: str
    secret: str

    async def generate(self, webhook: str) -> dict[str, Any]:
        """A generation whose end is told to an address."""
        reply = await asyncio.to_thread(self._post, FIELDS | {"count": 2, "webhook": webhook})
        assert reply.status_code == 200, reply.text
        told: dict[str, Any] = reply.json()
        return told

    def _post(self, body: dict[str, Any]) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return self.served.client.post(PATH, json=body, headers=headers)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("data")
    key = make_key(folder, "team")
    with serving(folder, allowed_targets=("127.0.0.1",)) as served:
        with closing(sqlite3.connect(served.services.folder.database)) as database:
            wanted = "SELECT webhook_secret FROM accounts WHERE name = 'team'"
            (secret,) = database.execute(wanted).fetchone()
        yield Team(served, key, secret)


@pytest.fixture
def team(running: Team) -> Iterator[Team]:
    yield running
    running.served.settle()
    running.served.script.fails = lambda job, index: None


async def test_a_delivery_is_the_generation_twice__INF(team: Team) -> None:
    async with Receiver() as hook:
        told = await team.generate(hook.url)
        (received,) = await hook.arrived()

    assert (received.method, received.path) == ("POST", "/hook")
    assert received.headers["content-type"] == "application/json"
    message = json.loads(received.body)
    created = message.pop("created")
    assert message.pop("type") == "image.generation.completed"
    assert message.pop("data") == message == told
    assert isinstance(created, int)
    assert abs(created - time.time()) < 60
    link = message["outputs"][0]["url"]
    assert link.startswith(f"{team.served.url}/o/")
    assert (await asyncio.to_thread(team.served.client.get, link)).status_code == 200


async def test_a_delivery_is_signed__S0(team: Team) -> None:
    async with Receiver() as hook:
        await team.generate(hook.url)
        (received,) = await hook.arrived()

    match = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", received.headers["luxe-signature"])
    assert match is not None
    signed = match[1].encode() + b"." + received.body
    assert hmac.new(team.secret.encode(), signed, hashlib.sha256).hexdigest() == match[2]
    assert abs(int(match[1]) - time.time()) < 60


async def test_a_failure_is_told__INF(team: Team) -> None:
    team.served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")
    async with Receiver() as hook:
        told = await team.generate(hook.url)
        (received,) = await hook.arrived()

    message = json.loads(received.body)
    assert message["type"] == "image.generation.failed"
    assert (message["status"], message["credits_used"]) == ("failed", 0)
    assert message["error"] == {"code": "pipeline_failed", "message": "the pipeline broke"}
    assert message["data"] == told


async def test_a_delivery_that_was_not_taken_comes_again__INF(team: Team) -> None:
    async with Receiver(answers=[says(500), says(204)]) as hook:
        await team.generate(hook.url)
        first, second = await hook.arrived(2)

    assert json.loads(second.body) == json.loads(first.body)
    assert first.headers["luxe-signature"] != second.headers["luxe-signature"]
