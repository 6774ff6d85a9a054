"""Server-sent events over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.dialects.darkroom import routes
from api.submit import Darkroom
from api.tasks import TaskUpdate
from tests.api.http.served import Served, serving, until


def events_of(reply: httpx2.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in reply.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


@pytest.mark.usefixtures("begins_when_watched")
def test_events_tell_the_whole_story(served: Served) -> None:
    task = served.client.post("/darkroom/generations", json={"prompt": "a", "seed": 9}).json()

    with served.client.stream("GET", task["links"]["events"]) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(reply))

    names = [name for name, _ in events]
    assert names[-2:] == ["image", "done"]
    assert {"step", "preview"} <= set(names)
    told = dict(events)
    assert told["step"]["steps"] == 2
    assert told["preview"]["image"].startswith("data:image/webp;base64,")
    assert told["image"]["seed"] == 9
    assert told["done"]["state"] == "succeeded"
    assert served.client.get(told["image"]["url"]).status_code == 200


def test_events_of_the_queue_tell_the_place(tmp_path: Path) -> None:
    with serving(tmp_path, images_in_flight=1) as served:
        served.script.gate.clear()
        for _ in range(3):
            task = served.client.post("/darkroom/generations", json={"prompt": "a"}).json()
        with served.client.stream("GET", task["links"]["events"]) as reply:
            events = events_of(reply)
            name, first = next(events)
            assert name == "queued"
            assert first["position"] in (1, 2)
            served.script.gate.set()
            assert [name for name, _ in events][-1] == "done"


def test_events_on_the_wire_are_numbered_and_kept_alive(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "HEARTBEAT_SECONDS", 0.05)
    served.script.gate.clear()
    task = served.client.post("/darkroom/generations", json={"prompt": "a"}).json()

    with served.client.stream("GET", task["links"]["events"]) as reply:
        coming, lines = reply.iter_lines(), [""]
        while not lines[-1].startswith(":"):
            lines.append(next(coming))
        served.script.gate.set()
        lines += coming

    ids = [line for line in lines if line.startswith("id:")]
    assert ids == [f"id: {number}" for number in range(1, len(ids) + 1)]
    assert lines.count("retry: 2000") == len(ids)
    assert reply.headers["cache-control"] == "no-store"


def test_events_of_an_ended_generation_end_at_once(served: Served) -> None:
    task = served.make()

    with served.client.stream("GET", task["links"]["events"]) as reply:
        assert [name for name, _ in events_of(reply)] == ["image", "done"]


def test_events_of_nothing_are_a_problem(client: httpx2.Client) -> None:
    reply = client.get("/darkroom/generations/none/events")

    assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")


def test_a_watcher_who_leaves_leaves_nothing_behind(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching: list[str] = []
    watch = Darkroom.watch

    async def counted(
        self: Darkroom, task_id: str, *, account: str = ""
    ) -> AsyncIterator[TaskUpdate]:
        watching.append(task_id)
        try:
            async for update in watch(self, task_id, account=account):
                yield update
        finally:
            watching.remove(task_id)

    monkeypatch.setattr(Darkroom, "watch", counted)
    served.script.gate.clear()
    task = served.client.post("/darkroom/generations", json={"prompt": "a"}).json()

    with served.client.stream("GET", task["links"]["events"]) as reply:
        events = events_of(reply)
        next(events)
        assert watching == [task["id"]]

    until(lambda: watching == [])
    served.script.gate.set()
    assert served.end(task["id"])["state"] == "succeeded"
