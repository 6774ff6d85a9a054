"""One picture of several fails: what each API tells of it, over real sockets.

Those whose reply has a place for the reason keep the others; elsewhere the task fails as a whole.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference.errors import JobError, PipelineFailed
from inference.job import Job
from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import server as server
from tests.api.http.served import Served, bearer, make_key, until
from tests.api.http.test_events import events_of

GRANTED = 100


@pytest.fixture
def team(served: Served, folder: Path) -> Iterator[httpx2.Client]:
    """A client of an account that nobody else has, with a meter."""
    key = make_key(folder, f"a{secrets.token_hex(6)}", credits=GRANTED)
    headers = bearer(key)
    with httpx2.Client(base_url=served.url, timeout=60, trust_env=False, headers=headers) as client:
        yield client


@pytest.fixture
def fail(served: Served) -> Callable[..., None]:
    """Have the pictures of these indexes fail."""

    def script(*indexes: int) -> None:
        def fails(job: Job, index: int) -> JobError | None:
            return PipelineFailed("it broke") if index in indexes else None

        served.script.fails = fails

    return script


def paid(team: httpx2.Client) -> int:
    told = team.get("/darkroom/account").json()
    assert told["held"] == 0
    return GRANTED - int(told["balance"])


def generated(team: httpx2.Client, count: int) -> dict[str, Any]:
    """A generation of our own API that has ended."""
    reply = team.post("/darkroom/generations", json={"prompt": "a", "count": count, "seed": 7})
    assert reply.status_code == 202, reply.text
    told: dict[str, Any] = team.get(f"{reply.json()['links']['self']}?wait=60").json()
    assert told["finished_at"] is not None
    return told


def test_a_generation_lists_what_failed(team: httpx2.Client, fail: Callable[..., None]) -> None:
    fail(0, 2)

    told = generated(team, 3)

    assert (told["state"], told["error"]) == ("succeeded", None)
    assert [(one["index"], one["seed"]) for one in told["images"]] == [(1, 8)]
    reason = {"kind": "pipeline_failed", "message": "it broke"}
    assert told["failures"] == [
        {"index": 0, "seed": 7} | reason,
        {"index": 2, "seed": 9} | reason,
    ]
    assert (told["credits"], told["cost"], paid(team)) == (3, 1, 1)
    assert team.get(f"{told['links']['self']}/images/1").status_code == 200
    missing = team.get(f"{told['links']['self']}/images/2")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:darkroom:not_found")
    assert "could not be made: it broke" in missing.json()["detail"]
    (listed,) = team.get("/darkroom/generations").json()["generations"]
    assert listed["failures"] == told["failures"]


def test_a_generation_of_which_all_fail_has_failed(
    team: httpx2.Client, fail: Callable[..., None]
) -> None:
    fail(0, 1)
    told = generated(team, 2)
    assert (told["state"], told["cost"], paid(team)) == ("failed", 0, 0)
    assert told["error"] == {"kind": "pipeline_failed", "message": "it broke", "reason": None}
    assert [one["index"] for one in told["failures"]] == [0, 1]


def test_events_tell_of_the_failed_one(
    served: Served, team: httpx2.Client, fail: Callable[..., None]
) -> None:
    fail(1)
    served.script.gate.clear()
    task = team.post("/darkroom/generations", json={"prompt": "a", "count": 3, "seed": 7}).json()
    with team.stream("GET", task["links"]["events"]) as reply:
        served.script.gate.set()
        events = list(events_of(reply))

    (failed,) = [one for name, one in events if name == "image_failed"]
    assert failed == {"index": 1, "seed": 8, "kind": "pipeline_failed", "message": "it broke"}
    assert sorted(one["index"] for name, one in events if name == "image") == [0, 2]
    assert events[-1][0] == "done"
    assert events[-1][1]["failures"] == [failed]


def test_what_was_made_here_is_read_elsewhere(
    team: httpx2.Client, fail: Callable[..., None]
) -> None:
    """APIModels tells the addresses that there are, ModelMux of its one picture alone."""
    fail(1)
    told = generated(team, 3)
    apimodels = team.get(f"/api/v1/images/generations?task_id={told['id']}").json()["data"]
    assert (apimodels["state"], apimodels["credits"]) == ("completed", 2)
    assert [team.get(url).status_code for url in apimodels["resultUrls"]] == [200, 200]
    modelmux = team.get(f"/api/v1/generations/{told['id']}").json()
    assert (modelmux["status"], modelmux["creditsUsed"]) == ("completed", 2)
    assert team.get(modelmux["outputUrl"]).status_code == 200

    fail(0)
    told = generated(team, 3)
    modelmux = team.get(f"/api/v1/generations/{told['id']}").json()
    assert (modelmux["status"], modelmux["errorMessage"]) == ("failed", "it broke")
    assert "outputUrl" not in modelmux


WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/openai/v1/images/generations", {"n": 3}),
    "modelbuffet": ("/modelbuffet/v1/images/generate", {"count": 3, "model": "flux-2-max"}),
    "apimodels": ("/apimodels/api/v1/images/generations", {"n": 3, "model": "qwen3-image"}),
}


@pytest.mark.parametrize("dialect", WHOLE)
def test_without_a_place_for_the_reason_all_or_nothing(
    served: Served, team: httpx2.Client, fail: Callable[..., None], dialect: str
) -> None:
    fail(1)
    path, fields = WHOLE[dialect]

    reply = team.post(path, json={"prompt": "a"} | fields)

    until(lambda: served.newest(team.headers)["finished_at"] is not None)
    told = served.newest(team.headers)
    assert (told["state"], told["failures"], told["cost"]) == ("failed", [], 0)
    assert paid(team) == 0
    body = reply.json()
    match dialect:
        case "openai":
            assert reply.status_code == 500
            assert body["error"]["code"] == "pipeline_failed"
        case "modelbuffet":
            assert (body["status"], body["outputs"], body["credits_used"]) == ("failed", [], 0)
        case "apimodels":
            task = body["data"]["taskId"]
            data = team.get(f"{path}?task_id={task}").json()["data"]
            assert (data["state"], data["credits"], data["failMsg"]) == ("failed", 0, "it broke")


def stored(folder: Path, task_id: str) -> int:
    """How many pictures of a task are recorded, whoever may have them."""
    with closing(sqlite3.connect(folder / "darkroom.db")) as database:
        query = "SELECT count(*) FROM outputs WHERE task_id = ?"
        return int(database.execute(query, [task_id]).fetchone()[0])


@pytest.mark.parametrize("ends_well", [True, False])
def test_of_all_or_nothing_nothing_is_read_before_it_ended_well(
    served: Served, team: httpx2.Client, folder: Path, ends_well: bool
) -> None:
    """Also not by our own API, which any task of the account may be read by."""

    def stall(job: Job, index: int) -> JobError | None:
        if index == 1:
            served.script.gate.clear()
        return PipelineFailed("it broke") if index == 2 and not ends_well else None

    served.script.fails = stall
    asked = {"prompt": "a", "n": 3, "model": "qwen3-image"}
    made = team.post("/apimodels/api/v1/images/generations", json=asked).json()["data"]["taskId"]
    here, apart = f"/darkroom/generations/{made}", "/apimodels/api/v1/images/generations"
    until(lambda: stored(folder, made) == 2)
    link = served.services.links.sign(f"/darkroom/files/{made}/0/x.png")

    told = team.get(here).json()
    assert (told["state"], told["images"]) == ("running", [])
    early = team.get(f"{here}/images/0")
    assert (early.status_code, early.json()["type"]) == (404, "urn:darkroom:not_ready")
    assert team.get(link).status_code == 404
    assert not team.get(f"{apart}?task_id={made}").json()["data"].get("resultUrls")
    with team.stream("GET", f"{here}/events") as reply:
        served.script.gate.set()
        events = list(events_of(reply))

    told = events[-1][1]
    kept = [0, 1, 2] if ends_well else []
    assert [name for name, _ in events if name == "image"] == ["image"] * len(kept)
    assert [one["index"] for one in told["images"]] == kept
    assert [one["index"] for one in team.get(here).json()["images"]] == kept
    late = team.get(f"{here}/images/0")
    assert late.status_code == team.get(link).status_code == (200 if ends_well else 404)
    assert ends_well or late.json()["type"] == "urn:darkroom:not_found"
    urls = team.get(f"{apart}?task_id={made}").json()["data"].get("resultUrls") or []
    assert len(urls) == len(kept)
    assert (told["credits"], told["cost"], paid(team)) == (6, 2 * len(kept), 2 * len(kept))


CANCELLED: dict[str, tuple[str, dict[str, Any], int]] = {
    "modelbuffet": ("/modelbuffet/v1/images/generate", {"count": 3, "model": "flux-2-max"}, 16),
    "apimodels": ("/apimodels/api/v1/images/generations", {"n": 3, "model": "qwen3-image"}, 4),
    "mynth": ("/mynth/image/generate", {"count": 3}, 2),
    "darkroom": ("/darkroom/generations", {"count": 3}, 2),
}


@pytest.mark.parametrize("dialect", CANCELLED)
def test_a_cancelled_one_shows_what_it_is_paid_for(
    served: Served, team: httpx2.Client, folder: Path, dialect: str
) -> None:
    """Each API in its own words, and ModelMux, which any task may be read by, in its."""

    def stall(job: Job, index: int) -> JobError | None:
        if index == 1:
            served.script.gate.clear()
        return None

    served.script.fails = stall
    path, fields, cost = CANCELLED[dialect]
    asked = team.post(path, json={"prompt": "a"} | fields, headers={"Prefer": "respond-async"})
    assert asked.status_code in (200, 201, 202), asked.text
    task_id = served.newest({"Authorization": team.headers["authorization"]})["id"]
    until(lambda: stored(folder, task_id) == 2)

    team.post(f"/darkroom/generations/{task_id}/cancel")
    told = team.get(f"/darkroom/generations/{task_id}?wait=60").json()

    assert (told["state"], told["cost"], paid(team)) == ("cancelled", cost, cost)
    urls = [one["url"] for one in told["images"]]
    match dialect:
        case "modelbuffet":
            body = team.get(f"{path}/gen_{task_id}").json()
            assert (body["status"], body["error"]["code"]) == ("failed", "cancelled")
            assert body["credits_used"] == cost
            urls = [one["url"] for one in body["outputs"]]
        case "apimodels":
            body = team.get(f"{path}?task_id={task_id}").json()["data"]
            assert (body["state"], body["failCode"], body["credits"]) == ("failed", "CANCELLED", 4)
            urls = body["resultUrls"]
        case "mynth":
            body = team.get(f"/mynth/tasks/{task_id}").json()["data"]
            assert (body["status"], body["errors"][0]["code"]) == ("failed", "CANCELLED")
            assert body["cost"] == "0.02"
            urls = [one["url"] for one in body["result"]["images"]]
    assert [team.get(url).status_code for url in urls] == [200, 200]
    modelmux = team.get(f"/modelmux/api/v1/generations/{task_id}").json()
    assert (modelmux["status"], modelmux["creditsUsed"]) == ("completed", cost)
    assert team.get(modelmux["outputUrl"]).status_code == 200


def test_a_stream_of_openai_is_charged_for_what_it_brought(
    team: httpx2.Client, fail: Callable[..., None]
) -> None:
    fail(0, 3)
    body = {"prompt": "a", "stream": True, "n": 4}
    with team.stream("POST", "/openai/v1/images/generations", json=body) as reply:
        names = [name for name, _ in events_of(reply)]
    assert names == ["image_generation.completed"] * 2 + ["error"]
    assert paid(team) == 2
