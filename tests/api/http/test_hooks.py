"""Registered webhooks over HTTP: each account's own, the secret shown once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import key as key
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.receivers import Receiver

HERE = "/darkroom/hooks"
URL = "http://127.0.0.1:1/hook?token=1"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """It may connect to loopback, and asks for keys."""
    with serving(folder, allowed_targets=("127.0.0.1",)) as running:
        yield running


def add(client: httpx2.Client, key: dict[str, str], **fields: Any) -> httpx2.Response:
    return client.post(HERE, json={"url": URL} | fields, headers=key)


def test_a_hook_is_registered_and_its_secret_shown_once(
    client: httpx2.Client, key: dict[str, str]
) -> None:
    made = add(client, key)
    assert made.status_code == 201, made.text
    told = made.json()
    secret = told.pop("secret")
    assert secret.startswith("whsec_") and len(secret) > 40
    changing = ("id", "created_at", "updated_at")
    assert {name: told[name] for name in told if name not in changing} == {
        "url": URL,
        "events": "all",
        "enabled": True,
        "failures": 0,
    }
    assert made.headers["location"] == f"{HERE}/{told['id']}"
    one = client.get(made.headers["location"], headers=key)
    listed = client.get(HERE, headers=key)
    assert (one.json(), listed.json()) == (told, {"hooks": [told]})
    assert secret not in one.text + listed.text and "secret" not in one.text + listed.text


def test_a_put_replaces_every_field_but_the_secret(
    client: httpx2.Client, key: dict[str, str]
) -> None:
    made = add(client, key, events=["generate.failed"], enabled=False).json()
    assert (made["events"], made["enabled"]) == (["generate.failed"], False)
    moved = {"url": "http://127.0.0.1:2/"}
    reply = client.put(f"{HERE}/{made['id']}", json=moved, headers=key)
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert (told["url"], told["events"], told["enabled"]) == (moved["url"], "all", True)
    assert (told["id"], told["created_at"]) == (made["id"], made["created_at"])
    assert "secret" not in told
    assert client.get(f"{HERE}/{made['id']}", headers=key).json() == told


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": ...}, "url"),
        *(({"url": url}, "url") for url in ("", "x", "http://10.0.0.1/", 5, None)),
        *(({"events": events}, "events") for events in ([], ["x"], ["generate"], "some", 5, None)),
        ({"events": ["generate.failed", 5]}, "events"),
        *(({"enabled": enabled}, "enabled") for enabled in ("yes", None, 1)),
        ({"secret": "mine"}, "secret"),
    ],
)
def test_what_is_no_hook_is_refused_by_its_field(
    client: httpx2.Client, key: dict[str, str], body: dict[str, Any], field: str
) -> None:
    given = {name: value for name, value in ({"url": URL} | body).items() if value is not ...}
    made = add(client, key).json()
    for reply in (
        client.post(HERE, json=given, headers=key),
        client.put(f"{HERE}/{made['id']}", json=given, headers=key),
    ):
        assert reply.status_code == 400, reply.text
        assert reply.json()["field"].split(".")[0] == field
    assert len(client.get(HERE, headers=key).json()["hooks"]) == 1


def test_others_neither_see_nor_change_it(
    client: httpx2.Client, key: dict[str, str], folder: Path
) -> None:
    place = f"{HERE}/{add(client, key).json()['id']}"
    stranger = bearer(make_key(folder, "stranger"))
    for method in ("GET", "PUT", "DELETE"):
        reply = client.request(method, place, json={"url": URL}, headers=stranger)
        assert (reply.status_code, reply.json()["type"]) == (404, "urn:darkroom:not_found")
    assert client.get(HERE, headers=stranger).json() == {"hooks": []}
    for method, path in (("GET", HERE), ("POST", HERE), ("DELETE", place)):
        assert client.request(method, path).status_code == 401
    assert client.delete(place, headers=key).status_code == 204
    assert client.get(place, headers=key).status_code == 404


def test_registering_counts_as_a_request(client: httpx2.Client, folder: Path) -> None:
    key = bearer(make_key(folder, "often", rate_per_minute=1))
    assert [add(client, key).status_code for _ in range(2)] == [201, 429]


async def test_a_generation_tells_of_its_hooks(server: Served, key: dict[str, str]) -> None:
    async with (
        Receiver() as receiver,
        httpx2.AsyncClient(base_url=server.url, headers=key, timeout=60, trust_env=False) as client,
    ):
        hook = (await client.post(HERE, json={"url": receiver.url})).json()
        wish = {"prompt": "a", "webhook": f"{receiver.url}/asked"}
        made = (await client.post("/darkroom/generations", json=wish)).json()
        place = f"/darkroom/generations/{made['id']}"
        await client.get(f"{place}?wait=60")
        await receiver.arrived(2)
        async with asyncio.timeout(60):
            # what is under way is not sent again
            while True:
                found = (await client.get(f"{place}/webhooks")).json()["webhooks"]
                if {one["state"] for one in found} == {"delivered"}:
                    break
                await asyncio.sleep(0.01)
        assert {one["hook_id"] for one in found} == {hook["id"], None}
        (mine,) = [one for one in found if one["hook_id"]]
        again = await client.post(f"{place}/webhooks/{mine['id']}/resend")
        assert again.json()["hook_id"] == hook["id"]
        await receiver.arrived(3)
    sent = [one.headers["webhook-id"] for one in receiver.received]
    assert sent.count(mine["id"]) == 2
