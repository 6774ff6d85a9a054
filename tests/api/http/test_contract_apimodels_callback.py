"""APIModels' contract, callbacks: delivered over a real socket, read to the byte.

`S4` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from inference.errors import PipelineFailed
from tests.api.http.apimodels import BASE, KEY, create, ended, refusal
from tests.api.http.served import Served, serving
from tests.api.making import data_uri, png
from tests.api.receivers import Receiver, says

DAY_SECONDS = 24 * 3600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, allowed_targets=("127.0.0.1",)) as running:
        yield running


async def told(served: Served, **fields: Any) -> Any:
    """The task of a creation once it has ended."""

    def make() -> Any:
        return ended(served, create(served.client, **fields))

    return await asyncio.to_thread(make)


def js(value: Any) -> str:
    """JSON as JavaScript writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("field", ["callback_url", "callBackUrl"])
async def test_a_callback_is_this_to_the_byte__S4(served: Served, field: str) -> None:
    async with Receiver() as hook:
        prompt = 'un renard "roux" 🦊'
        task = await told(served, prompt=prompt, n=2, **{field: hook.url})
        (received,) = await hook.arrived()

    sent = {"model": "gpt-image-2", "prompt": prompt, "aspect_ratio": "1:1", "n": 2}
    data = {
        "taskId": task["taskId"],
        "model": "darkroom/gpt-image-2",
        "state": "completed",
        "param": js(sent | {field: hook.url}),
        "resultJson": js({"resultUrls": task["resultUrls"]}),
        "failCode": None,
        "failMsg": None,
        "costTime": task["completeTime"] - task["createTime"],
        "completeTime": task["completeTime"],
        "createTime": task["createTime"],
    }
    assert received.body.decode() == js({"code": 200, "msg": "success", "data": data})


async def test_a_callback_is_posted_as_json_and_not_signed__S4(served: Served) -> None:
    async with Receiver() as hook:
        await told(served, callback_url=hook.url)
        (received,) = await hook.arrived()

    assert (received.method, received.path) == ("POST", "/hook")
    assert received.headers["content-type"] == "application/json"
    assert not [name for name in received.headers if "signature" in name or "webhook" in name]


async def test_links_in_a_callback_open_for_a_week__S4(
    served: Served, client: httpx2.Client
) -> None:
    async with Receiver() as hook:
        await told(served, callback_url=hook.url)
        (received,) = await hook.arrived()

    (url,) = json.loads(json.loads(received.body)["data"]["resultJson"])["resultUrls"]
    assert (await asyncio.to_thread(client.get, url)).headers["content-type"] == "image/png"
    (expires,) = parse_qs(urlsplit(url).query)["expires"]
    assert 7 * DAY_SECONDS - 60 < int(expires) - time.time() < 8 * DAY_SECONDS


async def test_a_failure_is_told_with_its_reason__S4(served: Served) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")
    async with Receiver() as hook:
        await told(served, callback_url=hook.url)
        (received,) = await hook.arrived()

    body = json.loads(received.body)
    assert (body["code"], body["data"]["state"], body["data"]["resultJson"]) == (
        *(200, "failed"),
        None,
    )
    assert body["data"]["failCode"] == "PIPELINE_FAILED"
    assert body["data"]["failMsg"] == "the pipeline broke"


async def test_a_cancelled_task_is_told_as_failed__INF(served: Served) -> None:
    served.script.gate.clear()
    async with Receiver() as hook:
        made = await asyncio.to_thread(create, served.client, callback_url=hook.url)
        task_id = made.json()["data"]["taskId"]
        await asyncio.to_thread(
            served.client.post, f"/darkroom/generations/{task_id}/cancel", headers=KEY
        )
        (received,) = await hook.arrived()

    data = json.loads(received.body)["data"]
    assert (data["state"], data["failCode"]) == ("failed", "CANCELLED")


async def test_pictures_that_came_as_data_are_not_repeated__INF(served: Served) -> None:
    async with Receiver([says(200, png())]) as source, Receiver() as hook:
        pictures = {"image_url": source.url, "mask": data_uri(png(mode="L", colour=255))}
        await told(served, callback_url=hook.url, **pictures)
        (received,) = await hook.arrived()

    param = json.loads(json.loads(received.body)["data"]["param"])
    assert param["image_url"] == source.url
    assert "mask" not in param


async def test_what_is_not_taken_comes_again_after_1_and_2_seconds__S4(served: Served) -> None:
    async with Receiver(answers=[says(500), says(301), says(204)]) as hook:
        await told(served, callback_url=hook.url)
        first, second, third = await hook.arrived(3)
        await asyncio.sleep(0.2)
        assert len(hook.received) == 3

    assert first.body == second.body == third.body
    # a loaded machine is late, never early
    assert 1.0 <= second.at_seconds - first.at_seconds < 60
    assert 2.0 <= third.at_seconds - second.at_seconds < 60


async def test_whoever_leaves_with_a_callback_is_told_all_the_same__INF(served: Served) -> None:
    served.script.gate.clear()
    async with Receiver() as hook:
        body = {"model": "gpt-image-2", "prompt": "left", "callback_url": hook.url}
        await asyncio.to_thread(served.leave, f"{BASE}/images/generations-sync", body)
        # time enough for the server to see that nobody listens, and to do the wrong thing
        await asyncio.sleep(0.5)
        served.script.gate.set()
        (received,) = await hook.arrived()

    assert json.loads(received.body)["data"]["state"] == "completed"


@pytest.mark.parametrize("field", ["callback_url", "callBackUrl"])
@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://10.0.0.1/hook", id="INF private"),
        pytest.param("ftp://example.com/", id="INF another scheme"),
        pytest.param("nowhere", id="INF no address"),
    ],
)
def test_an_address_that_is_none_is_refused(client: httpx2.Client, field: str, url: str) -> None:
    status, text = refusal(create(client, **{field: url}))

    assert status == 400
    assert field in text


async def test_a_call_that_is_waited_for_is_told_too__INF(served: Served) -> None:
    async with Receiver() as hook:
        reply = await asyncio.to_thread(
            create, served.client, call="generations-sync", callback_url=hook.url
        )
        (received,) = await hook.arrived()

    assert json.loads(received.body)["data"]["taskId"] == reply.json()["data"]["taskId"]
