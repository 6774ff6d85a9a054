"""What was told to receivers, as its account sees it, and telling it again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.deliveries import Deliveries
from api.orders import Order
from api.services import Services
from api.tasks import Delivery
from inference.job import ImageRequest
from tests.api.conftest import Serve
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.receivers import Receiver, hangs, says

HERE = "/darkroom/generations"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def key_of(folder: Path, account: str, **fields: Any) -> dict[str, str]:
    return bearer(make_key(folder, account, **fields))


@pytest.fixture(scope="module")
def mine(folder: Path) -> dict[str, str]:
    return key_of(folder, "mine")


@pytest.fixture(scope="module")
def colleague(folder: Path) -> dict[str, str]:
    return key_of(folder, "mine")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> dict[str, str]:
    return key_of(folder, "stranger")


@pytest.fixture(scope="module")
def limited(folder: Path) -> dict[str, str]:
    return key_of(folder, "mine", rate_per_minute=1)


@pytest.fixture(scope="module")
def server(folder: Path, mine: dict[str, str]) -> Iterator[Served]:
    """It may connect to loopback, and asks for keys."""
    with serving(folder, allowed_targets=("127.0.0.1",)) as running:
        yield running


@pytest.fixture
async def asking(server: Served, mine: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=server.url, timeout=60, trust_env=False, headers=mine
    ) as client:
        yield client


async def make(client: httpx2.AsyncClient, url: str | None) -> str:
    """The id of a generation that has ended."""
    made = await client.post(HERE, json={"prompt": "a", "webhook": url})
    assert made.status_code == 202, made.text
    task_id: str = made.json()["id"]
    await client.get(f"{HERE}/{task_id}?wait=60")
    return task_id


async def told(client: httpx2.AsyncClient, task_id: str) -> list[dict[str, Any]]:
    reply = await client.get(f"{HERE}/{task_id}/webhooks")
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["webhooks"]
    return found


async def once(
    client: httpx2.AsyncClient, task_id: str, holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The generation's message when something holds of it."""
    async with asyncio.timeout(60):
        while True:
            (message,) = await told(client, task_id)
            if holds(message):
                return message
            await asyncio.sleep(0.02)


def is_(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message["state"] == state


async def resend(client: httpx2.AsyncClient, task_id: str, message: dict[str, Any]) -> Any:
    reply = await client.post(f"{HERE}/{task_id}/webhooks/{message['id']}/resend")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_what_was_delivered_is_told_without_its_path_and_query(
    asking: httpx2.AsyncClient,
) -> None:
    async with Receiver() as receiver:
        task_id = await make(asking, f"{receiver.url}?token=canary")
        message = await once(asking, task_id, is_("delivered"))
        reply = await asking.get(f"{HERE}/{task_id}/webhooks")
    (received,) = receiver.received
    assert received.path == "/hook?token=canary"
    assert message == {
        "id": received.headers["webhook-id"],
        "hook_id": None,
        "origin": f"http://127.0.0.1:{receiver.port}",
        "state": "delivered",
        "attempts": 1,
        "last_status": 200,
        "last_error": None,
        "next_attempt_at": None,
        "created_at": message["created_at"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", message["created_at"])
    assert "canary" not in reply.text and "hook?" not in reply.text


async def test_what_was_delivered_is_sent_again_under_its_id(asking: httpx2.AsyncClient) -> None:
    async with Receiver() as receiver:
        task_id = await make(asking, receiver.url)
        first = await once(asking, task_id, is_("delivered"))
        again = await resend(asking, task_id, first)
        assert (again["id"], again["origin"]) == (first["id"], first["origin"])
        await receiver.arrived(2)
        after = await once(asking, task_id, is_("delivered"))
    assert {one.headers["webhook-id"] for one in receiver.received} == {first["id"]}
    assert after == first, "its schedule began anew, so it is the first attempt again"


async def test_what_fails_tells_why_and_when_it_comes_again(
    server: Served, asking: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    styles = server.services.courier._styles
    # the longest pause without jitter
    later = replace(styles["darkroom"], retry_seconds=(9.5,))
    monkeypatch.setattr(server.services.courier, "_styles", {"darkroom": later})
    async with Receiver([says(500), says(200)]) as receiver:
        task_id = await make(asking, receiver.url)
        message = await once(asking, task_id, lambda message: message["last_status"] == 500)
        assert message["state"] == "waiting"
        assert (message["attempts"], message["last_error"]) == (1, "answered with status 500")
        next_at = datetime.fromisoformat(message["next_attempt_at"]).timestamp()
        created_at = datetime.fromisoformat(message["created_at"]).timestamp()
        assert created_at + 9.5 <= next_at <= time.time() + 9.5, "so long after the first attempt"

        await resend(asking, task_id, message)
        message = await once(asking, task_id, is_("delivered"))
    assert (message["attempts"], message["last_error"]) == (1, None)


async def test_what_failed_for_good_may_be_sent_again(asking: httpx2.AsyncClient) -> None:
    async with Receiver([says(410), says(204)]) as receiver:
        task_id = await make(asking, receiver.url)
        failed = await once(asking, task_id, is_("failed"))
        assert (failed["last_status"], failed["next_attempt_at"]) == (410, None)
        waits = await resend(asking, task_id, failed)
        assert waits["state"] in ("waiting", "delivering", "delivered")
        message = await once(asking, task_id, is_("delivered"))
    assert (message["last_status"], len(receiver.received)) == (204, 2)


async def test_what_is_under_way_is_left_alone(asking: httpx2.AsyncClient) -> None:
    async with Receiver([hangs]) as receiver:
        task_id = await make(asking, receiver.url)
        message = await once(asking, task_id, is_("delivering"))
        await receiver.arrived()
        assert (message["attempts"], message["next_attempt_at"]) == (1, None)
        assert (message["last_status"], message["last_error"]) == (None, None)
        assert await resend(asking, task_id, message) == message
        assert await told(asking, task_id) == [message]
    assert len(receiver.received) == 1


async def test_before_the_end_there_are_none(server: Served, asking: httpx2.AsyncClient) -> None:
    async with Receiver() as receiver:
        server.script.gate.clear()
        wish = {"prompt": "a", "webhook": receiver.url}
        made = (await asking.post(HERE, json=wish)).json()
        assert await told(asking, made["id"]) == []
        server.script.gate.set()
        await asking.get(f"{HERE}/{made['id']}?wait=60")
        await once(asking, made["id"], is_("delivered"))
    assert await told(asking, await make(asking, None)) == []


async def test_what_another_api_was_asked_for_is_told_too(asking: httpx2.AsyncClient) -> None:
    async with Receiver() as receiver:
        wish = {"prompt": "a", "model": "mystic-2-5-flexible", "count": 1, "webhook": receiver.url}
        made = await asking.post("/v1/images/generate", json=wish)
        assert made.status_code == 200, made.text
        newest = (await asking.get(f"{HERE}?limit=1")).json()["generations"][0]
        message = await once(asking, newest["id"], is_("delivered"))
    assert message["origin"] == f"http://127.0.0.1:{receiver.port}"
    assert len(receiver.received) == 1


async def test_only_its_account_and_only_by_its_generation(
    asking: httpx2.AsyncClient, stranger: dict[str, str], colleague: dict[str, str]
) -> None:
    async with Receiver() as receiver:
        task_id = await make(asking, receiver.url)
        other_id = await make(asking, None)
        message = await once(asking, task_id, is_("delivered"))
        here = f"{HERE}/{task_id}/webhooks"
        for reply in (
            await asking.get(here, headers=stranger),
            await asking.post(f"{here}/{message['id']}/resend", headers=stranger),
            await asking.post(f"{HERE}/{other_id}/webhooks/{message['id']}/resend"),
            await asking.post(f"{here}/msg_none/resend"),
            await asking.post(f"{here}/msg-none/resend"),
            await asking.get(f"{HERE}/none/webhooks"),
        ):
            assert (reply.status_code, reply.json()["type"]) == (404, "urn:darkroom:not_found")
            assert receiver.url not in reply.text
        assert await told(asking, task_id) == [message]
        assert len(receiver.received) == 1
        allowed = await asking.get(here, headers=colleague)
    assert allowed.json()["webhooks"] == [message]


async def test_sending_again_counts_as_a_request(
    asking: httpx2.AsyncClient, limited: dict[str, str]
) -> None:
    async with Receiver() as receiver:
        task_id = await make(asking, receiver.url)
        message = await once(asking, task_id, is_("delivered"))
        path = f"{HERE}/{task_id}/webhooks/{message['id']}/resend"
        asked = [(await asking.post(path, headers=limited)).status_code for _ in range(2)]
    assert asked == [200, 429]


async def test_the_courier_is_woken(serve: Serve) -> None:
    """It looks by itself every second, which would hide that nobody woke it."""
    async with serve(allowed_targets=("127.0.0.1",)) as services, Receiver([says(410)]) as receiver:
        task_id = await ended(services, receiver.url)
        woken: list[str] = []
        deliveries = Deliveries(services.darkroom, services.outbox, lambda: woken.append("yes"))
        async with asyncio.timeout(60):
            while (await deliveries.of_task(task_id, account=""))[0].state != "failed":
                await asyncio.sleep(0.02)
        (message,) = await deliveries.of_task(task_id, account="")
        assert woken == []
        again = await deliveries.resend(task_id, message.id, account="")
    assert (again.id, woken) == (message.id, ["yes"])


async def ended(services: Services, url: str) -> str:
    order = Order(
        request=ImageRequest(model="auto", prompt="a"),
        dialect="darkroom",
        delivery=Delivery(webhooks=(url,)),
    )
    accepted = await services.darkroom.submit(order)
    assert accepted.task is not None
    await services.darkroom.wait(accepted.task.id, timeout_seconds=60)
    return accepted.task.id
