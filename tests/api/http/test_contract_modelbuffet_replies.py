"""Model Buffet's contract, replies: a test per documented statement.

`S0` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import pytest

from inference.errors import PipelineFailed
from tests.api.http.modelbuffet import (
    ASYNC,
    EDIT,
    FIELDS,
    KEY,
    PATH,
    data_uri,
    done,
    generate,
    is_generation_id,
)
from tests.api.http.modelbuffet import server as server
from tests.api.http.served import Served, serving, until

GENERATION = {"id", "status", "model", "credits_used", "duration_ms", "outputs"}

# 1.1 the reply


def test_a_generation_has_all_fields_and_no_other__S0(client: httpx2.Client) -> None:
    told = done(client, model="mystic-2-5-flexible", count=2)

    assert set(told) == GENERATION
    assert is_generation_id(told["id"])
    assert (told["status"], told["model"]) == ("completed", "mystic-2-5-flexible")
    assert isinstance(told["credits_used"], int)
    assert isinstance(told["duration_ms"], int)
    assert 0 <= told["duration_ms"] < 60_000
    for index, output in enumerate(told["outputs"]):
        assert set(output) == {"url", "width", "height", "seed"}
        assert f"/o/{told['id']}/{index}.png" in output["url"]


def test_four_pictures_are_32_credits__S0(client: httpx2.Client) -> None:
    assert done(client, model="mystic-2-5-flexible")["credits_used"] == 32


def test_a_creation_waits_for_its_pictures__S0(served: Served) -> None:
    served.script.gate.clear()
    replies: list[httpx2.Response] = []
    orders_before = len(served.script.orders)
    caller = threading.Thread(target=lambda: replies.append(generate(served.client)))
    caller.start()
    until(lambda: len(served.script.orders) > orders_before)

    assert replies == []
    served.script.gate.set()
    caller.join()

    assert (replies[0].status_code, replies[0].json()["status"]) == (200, "completed")


# 1.2 asynchronous replies


@pytest.mark.parametrize("path", [PATH, EDIT], ids=["INF generate", "INF edit"])
def test_who_prefers_it_is_answered_at_once(served: Served, path: str) -> None:
    served.script.gate.clear()

    reply = served.client.post(path, json=FIELDS | {"image": data_uri()}, headers=KEY | ASYNC)

    told = reply.json()
    assert reply.status_code == 202
    assert reply.headers["preference-applied"] == "respond-async"
    assert set(told) == GENERATION
    assert (told["status"] in ("queued", "processing"), told["outputs"]) == (True, [])
    assert (told["credits_used"], told["duration_ms"]) == (0, 0)
    served.script.gate.set()
    until(lambda: read(served, told["id"])["status"] == "completed")


def test_past_the_longest_wait_it_is_answered_as_it_stands__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Here another is before it, so that it has not begun when the time is up."""
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, sync_wait_seconds=0.3, images_in_flight=1) as served:
        served.script.gate.clear()
        generate(served.client, headers=ASYNC)
        reply = generate(served.client)
        told = reply.json()

        assert (reply.status_code, told["status"]) == (202, "queued")
        assert told["outputs"] == []
        assert "preference-applied" not in reply.headers
        served.script.gate.set()
        until(lambda: read(served, told["id"])["status"] == "completed")
        assert len(read(served, told["id"])["outputs"]) == 4


def read(served: Served, generation_id: str) -> dict[str, Any]:
    told: dict[str, Any] = served.client.get(f"{PATH}/{generation_id}", headers=KEY).json()
    return told


# 1.2 a generation that failed


def test_a_failed_generation_is_a_200_that_says_why__INF(served: Served) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")

    reply = generate(served.client)

    told = reply.json()
    assert reply.status_code == 200
    assert set(told) == GENERATION | {"error"}
    assert (told["status"], told["credits_used"], told["outputs"]) == ("failed", 0, [])
    assert told["error"] == {"code": "pipeline_failed", "message": "the pipeline broke"}
    assert read(served, told["id"]) == told


def test_a_cancelled_generation_is_failed__INF(served: Served) -> None:
    served.script.gate.clear()
    generation_id = generate(served.client, headers=ASYNC).json()["id"]

    served.client.post(f"/darkroom/generations/{generation_id[4:]}/cancel")

    until(lambda: read(served, generation_id)["status"] == "failed")
    told = read(served, generation_id)
    assert (told["error"]["code"], told["credits_used"]) == ("cancelled", 0)
