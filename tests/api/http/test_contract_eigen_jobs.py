"""Eigen's contract, jobs that are polled, and requests that are sent twice or left.

`D` in an id is the provider's own page, of video jobs; `INF` is what we do where all are silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference.errors import OutOfMemory
from tests.api.http.eigen import LEAST, PATH, Send, ask, ended, fault, made, send
from tests.api.http.served import Served, bearer, make_key, serving, until
from tests.api.making import opened, png

JOB = {"task_id", "status", "start_time", "end_time", "error"}


def submit(client: httpx2.Client, **fields: Any) -> str:
    body = made(ask(client, **{"async": True}, **fields))
    return str(body["task_id"])


def result(client: httpx2.Client, task_id: str, **query: str) -> httpx2.Response:
    return client.get(f"{PATH}/result", params={"jobId": task_id} | query)


# 3.4 submit


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(lambda client: ask(client, **{"async": True}), id="D JSON"),
        pytest.param(lambda client: send(client, **{"async": "true"}), id="D form"),
        pytest.param(
            lambda client: send(client, ("image_file", png()), **{"async": "1"}), id="INF an edit"
        ),
        pytest.param(
            lambda client: ask(client, binary_response=True, **{"async": True}), id="INF binary"
        ),
    ],
)
def test_a_job_is_answered_at_once(served: Served, how: Callable[..., httpx2.Response]) -> None:
    served.script.gate.clear()

    body = made(how(served.client))

    assert set(body) == {"task_id", "task_status"}
    assert body["task_status"] == "pending"


def test_a_job_is_followed_to_its_picture__D(served: Served) -> None:
    served.script.gate.clear()
    client = served.client
    task_id = submit(client, seed=3, output_format="jpg", width=2048, height=1152)
    query = {"jobId": task_id, "model": "eigen-image"}

    until(lambda: made(client.get(f"{PATH}/status", params=query))["status"] == "processing")
    running = made(client.get(f"{PATH}/status", params=query))
    early = result(client, task_id)
    served.script.gate.set()
    done = ended(client, task_id)
    picture = result(client, task_id, model="eigen-image")

    assert set(running) == set(done) == JOB
    assert (running["task_id"], running["end_time"], running["error"]) == (task_id, None, None)
    assert (early.status_code, early.json()["code"]) == (409, "not_ready")
    assert fault(early)
    assert (done["status"], done["error"]) == ("completed", None)
    start, end = (datetime.fromisoformat(done[name]) for name in ("start_time", "end_time"))
    assert 0 <= (end - start).total_seconds() < 60
    assert abs(end.timestamp() - time.time()) < 60
    assert picture.headers["content-type"] == "image/jpeg"
    assert (opened(picture.content).format, opened(picture.content).size) == ("JPEG", (144, 80))


def test_a_job_below_the_alias_is_the_same__INF(client: httpx2.Client) -> None:
    task_id = submit(client)
    ended(client, task_id)

    assert client.get(f"/eigen{PATH}/status?jobId={task_id}").json()["status"] == "completed"
    again = client.get(f"/eigen{PATH}/result?jobId={task_id}")
    assert again.content == result(client, task_id).content
    assert client.head(f"{PATH}/result?jobId={task_id}").headers["content-type"] == "image/png"
    etag = {"If-None-Match": again.headers["etag"]}
    assert client.get(f"{PATH}/result?jobId={task_id}", headers=etag).status_code == 304


def test_a_job_that_fails_says_why__D(served: Served) -> None:
    served.script.fails = lambda job, index: OutOfMemory("too large")
    task_id = submit(served.client)

    told = ended(served.client, task_id)

    assert told["status"] == "failed"
    assert "too large" in told["error"]
    reply = result(served.client, task_id)
    assert (reply.status_code, reply.json()["code"]) == (410, "out_of_memory")
    assert "too large" in fault(reply)


def test_a_cancelled_job_has_failed__INF(served: Served) -> None:
    served.script.gate.clear()
    task_id = submit(served.client)
    served.client.post(served.newest()["links"]["cancel"])

    told = ended(served.client, task_id)

    assert (told["status"], told["error"]) == ("failed", "the job was cancelled")
    reply = result(served.client, task_id)
    assert (reply.status_code, reply.json()["code"]) == (410, "cancelled")
    assert "cancelled" in fault(reply)


@pytest.mark.parametrize("what", ["status", "result"])
@pytest.mark.parametrize(
    ("query", "status"),
    [
        pytest.param("jobId=none", 404, id="D unknown"),
        pytest.param("jobId=a%00b", 404, id="INF a strange id"),
        pytest.param("jobId=", 404, id="INF empty"),
        pytest.param("", 400, id="INF none"),
        pytest.param("jobId=" + "x" * 65, 400, id="INF a long one"),
    ],
)
def test_a_job_that_is_not_there_is_told(
    client: httpx2.Client, what: str, query: str, status: int
) -> None:
    reply = client.get(f"{PATH}/{what}?{query}")

    assert reply.status_code == status
    assert fault(reply)


def test_a_job_of_another_model_or_api_is_not_there__INF(client: httpx2.Client) -> None:
    task_id = submit(client)
    other = client.post("/api/v1/generations", json={"prompt": "a"}).json()["historyId"]

    for query in ({"jobId": task_id, "model": "flux-1-kontext"}, {"jobId": other}):
        for what in ("status", "result"):
            assert client.get(f"{PATH}/{what}", params=query).status_code == 404


def test_a_job_of_another_account_is_not_there__INF(tmp_path: Path) -> None:
    mine, theirs = (bearer(make_key(tmp_path, name)) for name in ("me", "you"))
    with serving(tmp_path) as served:
        body = LEAST | {"async": True}
        task_id = made(served.client.post(PATH, json=body, headers=mine))["task_id"]
        for what in ("status", "result"):
            address = f"{PATH}/{what}?jobId={task_id}"
            assert served.client.get(address, headers=theirs).status_code == 404
            assert served.client.get(address).status_code == 401
        assert served.client.get(f"{PATH}/status?jobId={task_id}", headers=mine).status_code == 200


def test_a_picture_whose_time_is_up_is_410__INF(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        task_id = submit(served.client)
        ended(served.client, task_id)
    with serving(tmp_path, output_retention_hours=0.000001) as served:
        until(lambda: result(served.client, task_id).status_code == 410)
        assert result(served.client, task_id).json()["code"] == "expired"


def test_a_job_outlives_the_server__INF(tmp_path: Path) -> None:
    with serving(tmp_path, drain_seconds=0.1) as served:
        served.script.gate.clear()
        task_id = submit(served.client, seed=3)
    with serving(tmp_path) as served:
        assert ended(served.client, task_id)["status"] == "completed"
        assert opened(result(served.client, task_id).content).getpixel((0, 0)) == (3, 0, 0)


# waiting callers


def test_a_caller_who_leaves_leaves_nothing_to_do__INF(served: Served) -> None:
    served.script.gate.clear()

    task_id = served.leave(PATH, LEAST)

    assert served.end(task_id)["state"] == "cancelled"


def test_what_nobody_waits_for_after_a_crash_is_not_made__INF(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, serving(tmp_path, drain_seconds=0.1) as served:
        served.script.gate.clear()
        pool.submit(served.client.post, PATH, json=LEAST)
        task_id = served.newest()["id"]
    with serving(tmp_path) as served:
        assert served.end(task_id)["state"] == "cancelled"


@pytest.mark.parametrize("how", [ask, send], ids=["json", "form"])
@pytest.mark.parametrize("binary", [False, True])
def test_a_request_with_a_key_counts_once__INF(served: Served, how: Send, binary: bool) -> None:
    text: Any = binary if how is ask else str(binary).lower()
    fields = LEAST | {"binary_response": text}
    request: dict[str, Any] = {"json": fields}
    if how is send:
        request = {"files": [(name, (None, value)) for name, value in fields.items()]}
    headers = {"Idempotency-Key": f"{how.__name__}-{binary}"}

    first = served.client.post(PATH, headers=headers, **request)
    asked = served.newest()["id"]
    again = served.client.post(f"/eigen{PATH}", headers=headers, **request)
    other = served.client.post(PATH, headers=headers, json=LEAST | {"prompt": "another"})

    assert first.status_code == again.status_code == 200, first.text
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert served.newest()["id"] == asked
    if binary:
        assert first.content == again.content
    else:
        said, told = first.json(), again.json()
        assert said.pop("request_id") != told.pop("request_id")
        assert said == told
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert fault(other)


def test_a_request_that_is_still_at_work_is_409__INF(served: Served) -> None:
    served.script.gate.clear()
    headers = {"Idempotency-Key": "patience"}
    task_id = served.leave(PATH, LEAST, headers)

    busy = served.client.post(PATH, json=LEAST, headers=headers)
    served.script.gate.set()
    assert served.end(task_id)["state"] == "succeeded"
    done = served.client.post(PATH, json=LEAST, headers=headers)

    assert (busy.status_code, busy.json()["code"]) == (409, "idempotency_running")
    assert int(busy.headers["retry-after"]) >= 1
    assert made(done)["image_base64"]


def test_a_job_with_a_key_counts_once__INF(client: httpx2.Client) -> None:
    headers = {"Idempotency-Key": "one job"}
    replies = [client.post(PATH, json=LEAST | {"async": True}, headers=headers) for _ in range(2)]

    assert replies[0].json() == replies[1].json()
    assert replies[1].headers["idempotent-replayed"] == "true"
