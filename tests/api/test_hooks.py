"""Registered webhooks in a running service: judged at the door, told, signed with their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from api.errors import BadRequest, NotFound
from api.hooks import EVENTS, MOST_HOOKS, Hook
from api.services import Services
from api.store.outbox import Message, MessageState
from api.tasks import Delivery, Task
from api.webhooks import Event, standard_headers
from inference.errors import JobError
from inference.job import ImageRequest
from tests.api.conftest import Serve
from tests.api.making import submitted
from tests.api.receivers import Received, Receiver, says
from tests.api.scripted import ScriptedEngine

SECONDS = 30
WISH = ImageRequest(model="auto", prompt="a", seed=1)


@pytest.fixture
async def services(serve: Serve) -> AsyncIterator[Services]:
    """A running service that may connect to loopback."""
    async with serve(allowed_targets=("127.0.0.1",)) as running:
        yield running


async def add(services: Services, url: str, **changes: Any) -> Hook:
    return await services.hooks.add("", "darkroom", url=url, **changes)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


async def ended(services: Services, *webhooks: str) -> Task:
    task = await submitted(services, WISH, delivery=Delivery(webhooks=webhooks))
    return await services.darkroom.wait(task.id, timeout_seconds=SECONDS)


async def settled(services: Services, task: Task) -> list[Message]:
    """The messages of a task once none waits."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = await services.outbox.of_task(task.id)
            if all(message.state is not MessageState.WAITING for message in found):
                return found
            await asyncio.sleep(0.01)


def is_signed_by(secret: str, received: Received) -> bool:
    headers = received.headers
    expected = standard_headers(
        headers["webhook-id"], [secret], int(headers["webhook-timestamp"]), received.body
    )
    return headers["webhook-signature"] == expected["webhook-signature"]


# At the door


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "ftp://x.example", "http://10.0.0.1/", "http://[::1]/", "https://a:b@x.example"),
        *("http://169.254.169.254/", "http://localhost.:1/", "/darkroom/uploads/x?y", "http://nowhere.invalid/"),
    ],
)  # fmt: skip
async def test_an_address_must_pass_the_guard(services: Services, url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        await add(services, url)
    assert refused.value.field == "url"
    hook = await add(services, "http://127.0.0.1:1/x")
    with pytest.raises(BadRequest) as refused:
        await services.hooks.replace("", "darkroom", hook.id, url=url, events=None, enabled=True)
    assert refused.value.field == "url"
    assert await services.hooks.list("", "darkroom") == (hook,)


async def test_a_name_that_leads_inside_is_refused(serve: Serve) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14"] if host == "good.example" else ["93.184.215.14", "10.0.0.7"]

    async with serve() as services:
        services.outbound._resolve = resolve
        with pytest.raises(BadRequest, match="private address"):
            await add(services, "https://bad.example/")
        kept = await add(services, "HTTPS://Good.example:443/x#here")
        assert kept.url == "https://good.example/x"


@pytest.mark.parametrize(
    "events", [(), ("generate",), ("generate.succeeded",), ("*",), ("generate.failed", "x.failed")]
)
async def test_unknown_events_are_refused(services: Services, events: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match=r"generate\.completed") as refused:
        await add(services, "http://127.0.0.1:1/", events=events)
    assert refused.value.field == "events"


async def test_what_may_be_registered_for(services: Services) -> None:
    assert len(EVENTS) == 10 and {"*.failed", "alt.completed", "review.failed"} < EVENTS
    twice = ("generate.failed", "*.completed", "generate.failed")
    hook = await add(services, "http://127.0.0.1:1/", events=twice)
    assert hook.events == ("generate.failed", "*.completed")


async def test_each_hook_has_a_secret_of_its_own_and_keeps_it(services: Services) -> None:
    first, second = [await add(services, "http://127.0.0.1:1/") for _ in range(2)]
    assert first.secret.startswith("whsec_") and first.secret != second.secret
    assert first.id != second.id and first.id.startswith("whk_") and len(first.id) <= 32
    changed = await services.hooks.replace(
        "", "darkroom", first.id, url="http://127.0.0.1:2/", events=("rate.failed",), enabled=False
    )
    assert (changed.id, changed.secret) == (first.id, first.secret)
    assert (changed.url, changed.events) == ("http://127.0.0.1:2/", ("rate.failed",))
    assert await services.hooks.get("", "darkroom", first.id) == changed
    await services.hooks.remove("", "darkroom", first.id)
    for missing in (
        services.hooks.get("", "darkroom", first.id),
        services.hooks.remove("", "darkroom", first.id),
        services.hooks.get("", "mynth", second.id),
        services.hooks.replace("", "darkroom", first.id, url="", events=None, enabled=True),
    ):
        with pytest.raises(NotFound):
            await missing


async def test_an_account_has_so_many(services: Services) -> None:
    for _ in range(MOST_HOOKS):
        await add(services, "http://127.0.0.1:1/", enabled=False)
    with pytest.raises(BadRequest, match=f"{MOST_HOOKS} registered"):
        await add(services, "http://127.0.0.1:1/")
    await services.accounts.open("ann")
    assert await services.hooks.add("ann", "darkroom", url="http://127.0.0.1:1/")


# Told


async def test_each_is_signed_with_its_own_secret(services: Services) -> None:
    async with Receiver() as one, Receiver() as two, Receiver() as asked:
        first, second = await add(services, one.url), await add(services, two.url)
        task = await ended(services, asked.url)
        await settled(services, task)
    ((mine,), (other,), (bare,)) = one.received, two.received, asked.received
    assert is_signed_by(first.secret, mine) and not is_signed_by(second.secret, mine)
    assert is_signed_by(second.secret, other)
    (account_secret,) = await services.accounts.webhook_secrets("")
    assert is_signed_by(account_secret, bare) and not is_signed_by(account_secret, mine)
    told = json.loads(mine.body)
    assert (told["type"], told["data"]["id"]) == ("generation.succeeded", task.id)
    assert told["data"] == json.loads(other.body)["data"]


async def test_a_writer_is_given_the_hook_it_writes_to(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Event] = []
    style = services.courier._styles["darkroom"]

    def write(event: Event) -> Any:
        seen.append(event)
        return style.write(event)

    changed = {"darkroom": type(style)(write=write)}
    monkeypatch.setattr(services.courier, "_styles", changed)
    async with Receiver() as receiver:
        hook = await add(services, receiver.url)
        await settled(services, await ended(services, receiver.url))
    assert sorted((event.hook is not None, event.hook == hook) for event in seen) == [
        (False, False),
        (True, True),
    ]
    assert {event.secrets for event in seen if event.hook} == {(hook.secret,)}


async def test_only_what_was_registered_for_is_told(
    services: Services, engine: ScriptedEngine
) -> None:
    async with Receiver() as receiver:
        await add(services, receiver.url, events=("generate.failed",))
        assert await settled(services, await ended(services)) == []
        engine.fails = lambda job, index: JobError("no")
        (message,) = await settled(services, await ended(services))
    (received,) = receiver.received
    assert json.loads(received.body)["type"] == "generation.failed"
    assert message.state is MessageState.DELIVERED


async def test_what_waits_for_a_hook_that_is_gone_is_given_up(services: Services) -> None:
    async with Receiver([says(500)]) as receiver:
        gone = await add(services, receiver.url)
        off = await add(services, receiver.url)
        kept = await add(services, receiver.url)
        task = await ended(services)
        await until(lambda: len(receiver.received) >= 3)
        await services.hooks.remove("", "darkroom", gone.id)
        await services.hooks.replace(
            "", "darkroom", off.id, url=receiver.url, events=None, enabled=False
        )
        for message in await services.outbox.of_task(task.id):
            await services.outbox.resend(message.id)
        services.courier.wake()
        async with asyncio.timeout(SECONDS):
            while True:
                found = {one.hook_id: one for one in await services.outbox.of_task(task.id)}
                if all(found[one.id].state is MessageState.FAILED for one in (gone, off)):
                    break
                await asyncio.sleep(0.01)
    why = "the webhook was removed or turned off"
    assert (found[gone.id].last_error, found[off.id].last_error) == (why, why)
    assert found[kept.id].state is MessageState.WAITING


async def test_a_hook_that_fails_for_good_is_counted(services: Services) -> None:
    async with Receiver([says(410), says(200)]) as receiver:
        hook = await add(services, receiver.url)
        (message,) = await settled(services, await ended(services))
        assert message.state is MessageState.FAILED
        assert (await services.hooks.get("", "darkroom", hook.id)).failures == 1
        await settled(services, await ended(services))
        assert (await services.hooks.get("", "darkroom", hook.id)).failures == 0


async def test_a_message_goes_to_the_address_that_holds_now(services: Services) -> None:
    async with Receiver([says(500)]) as old, Receiver() as new:
        hook = await add(services, old.url)
        task = await ended(services)
        await until(lambda: len(old.received) == 1)
        async with asyncio.timeout(SECONDS):
            while (await services.outbox.of_task(task.id))[0].last_status != 500:
                await asyncio.sleep(0.01)
        await services.hooks.replace(
            "", "darkroom", hook.id, url=new.url, events=None, enabled=True
        )
        (message,) = await services.outbox.of_task(task.id)
        await services.outbox.resend(message.id)
        services.courier.wake()
        await settled(services, task)
    assert [is_signed_by(hook.secret, one) for one in new.received] == [True]
    assert new.received[0].headers["webhook-id"] == message.id
