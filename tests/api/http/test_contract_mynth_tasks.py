"""Mynth's contract, tasks and the tokens that poll them: a test per documented statement.

`S3` in an id is the provider's own page, `R` its published client; `INF` is what we do where both
are silent.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.accounts import Scope
from api.tokens import Tokens
from inference.errors import PipelineFailed
from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import key as key
from tests.api.http.keyed import server as server
from tests.api.http.mynth import (
    assert_error,
    create,
    created,
    data,
    ended,
    made,
    opened,
)
from tests.api.http.served import Served, bearer, make_key, serving, until

READS = ("status", "result")


def pat(told: dict[str, Any]) -> dict[str, str]:
    return bearer(told["access"]["publicAccessToken"])


# 4.3 polling


def test_a_task_is_pending_until_it_has_ended__R(served: Served, key: dict[str, str]) -> None:
    served.script.gate.clear()
    task_id = created(served.client, headers=key)["taskId"]
    path = f"/tasks/{task_id}"
    until(lambda: served.client.get("/darkroom/queue", headers=key).json()["running_tasks"] > 0)

    assert data(served.client.get(f"{path}/status", headers=key)) == {"status": "pending"}
    result = {"id": task_id, "type": "image.generate", "status": "pending", "result": None}
    assert data(served.client.get(f"{path}/result", headers=key)) == result
    whole = data(served.client.get(path, headers=key))
    assert (whole["result"], whole["cost"]) == (None, None)

    served.script.gate.set()
    assert ended(served, task_id, key)["status"] == "completed"
    assert data(served.client.get(f"{path}/status", headers=key)) == {"status": "completed"}


def test_a_completed_task_has_every_field__R(served: Served, key: dict[str, str]) -> None:
    task = made(served, headers=key, count=2, metadata={"a": 1})

    me = data(served.client.get("/me", headers=key))
    assert set(task) == {
        *("id", "type", "status", "userId", "apiKeyId", "cost"),
        *("request", "result", "createdAt", "updatedAt"),
    }
    assert (task["userId"], task["apiKeyId"]) == (me["userId"], me["auth"]["apiKey"]["id"])
    assert task["request"] == {"prompt": "a red circle", "count": 2, "metadata": {"a": 1}}
    assert set(task["result"]) == {"model", "images"}
    for image in task["result"]["images"]:
        assert set(image) == {"status", "id", "url", "mynth_url", "size", "cost"}
        assert image["url"] == image["mynth_url"]
        picture = opened(served.client, image["url"])
        assert image["size"] == f"{picture.width}x{picture.height}"
    times = [datetime.fromisoformat(task[name]) for name in ("createdAt", "updatedAt")]
    assert times == sorted(times)
    assert all(task[name].endswith("Z") for name in ("createdAt", "updatedAt"))


def test_the_result_alone_is_the_same__R(served: Served, key: dict[str, str]) -> None:
    task = made(served, headers=key)
    told = data(served.client.get(f"/tasks/{task['id']}/result", headers=key))
    assert told == {name: task[name] for name in ("id", "type", "status", "result")}


def test_a_failed_task_says_why_and_costs_nothing__R(served: Served, key: dict[str, str]) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")
    task = ended(served, created(served.client, headers=key, count=3)["taskId"], key)

    assert (task["status"], task["result"], task["cost"]) == ("failed", None, "0")
    assert task["errors"] == [{"code": "GENERATION_FAILED", "message": "the pipeline broke"}]
    assert data(served.client.get("/balance", headers=key))["reserved"] == "0"


def test_a_picture_that_fails_is_told_among_the_others__R(
    served: Served, key: dict[str, str]
) -> None:
    """The task completes, and costs what was made."""
    served.script.fails = lambda job, index: PipelineFailed("broke") if index == 1 else None
    task = ended(served, created(served.client, headers=key, count=3)["taskId"], key)

    assert (task["status"], task["cost"]) == ("completed", "0.02")
    assert "errors" not in task
    first, failed, last = task["result"]["images"]
    error = {"code": "GENERATION_FAILED", "message": "broke"}
    assert failed == {"status": "failed", "error": error}
    assert [one["status"] for one in (first, last)] == ["success", "success"]
    assert [one["id"].rpartition("_")[2] for one in (first, last)] == ["0", "2"]
    assert [one["cost"] for one in (first, last)] == ["0.01", "0.01"]
    assert opened(served.client, last["mynth_url"]).size
    (line,) = data(served.client.get("/tasks", headers=key))
    assert (line["status"], line["cost"]) == ("completed", "0.02")
    told = data(served.client.get(f"/tasks/{task['id']}/result", headers=key))
    assert told["result"]["images"][1] == failed


def test_a_cancelled_task_has_failed__INF(served: Served, key: dict[str, str]) -> None:
    served.script.gate.clear()
    task_id = created(served.client, headers=key)["taskId"]
    served.client.post(f"/darkroom/generations/{task_id}/cancel", headers=key)
    task = ended(served, task_id, key)
    assert task["status"] == "failed"
    assert [one["code"] for one in task["errors"]] == ["CANCELLED"]


@pytest.mark.parametrize(
    "task_id",
    [
        pytest.param("tsk_01K0000000ABCDEFGHJKMNPQRS", id="INF unknown"),
        pytest.param("tsk_short", id="INF no id"),
        pytest.param("01K0000000ABCDEFGHJKMNPQRS", id="INF without its prefix"),
        pytest.param("tsk_01k0000000abcdefghjkmnpqrs", id="INF in lower case"),
    ],
)
def test_an_unknown_task_is_a_404(client: httpx2.Client, key: dict[str, str], task_id: str) -> None:
    for path in (f"/tasks/{task_id}", *(f"/tasks/{task_id}/{read}" for read in READS)):
        assert_error(client.get(path, headers=key), 404, "NOT_FOUND")


def test_polls_are_not_counted__R(folder: Path, served: Served) -> None:
    """Clients go on polling forever after a 429."""
    key = bearer(make_key(folder, "often", rate_per_minute=1))
    told = created(served.client, headers=key)
    assert_error(create(served.client, headers=key), 429, "RATE_LIMITED")
    path = f"/tasks/{told['taskId']}"
    for headers in (key, pat(told)):
        for _ in range(10):
            for read in READS:
                reply = served.client.get(f"{path}/{read}?x=1&limit=-1", headers=headers)
                assert reply.status_code == 200


def test_tasks_of_others_are_not_there__INF(
    folder: Path, served: Served, key: dict[str, str]
) -> None:
    task_id = created(served.client, headers=key)["taskId"]
    other = bearer(make_key(folder, "others"))
    for path in (f"/tasks/{task_id}", *(f"/tasks/{task_id}/{read}" for read in READS)):
        assert_error(served.client.get(path, headers=other), 404, "NOT_FOUND")
    assert data(served.client.get("/tasks", headers=other)) == []


def test_generations_of_another_api_are_no_tasks__INF(served: Served, key: dict[str, str]) -> None:
    reply = served.client.post("/darkroom/generations", json={"prompt": "a"}, headers=key)
    assert_error(served.client.get(f"/tasks/{reply.json()['id']}", headers=key), 404, "NOT_FOUND")
    assert data(served.client.get("/tasks", headers=key)) == []


# 4.3 list


def test_tasks_are_listed_newest_first_and_on__R(served: Served, key: dict[str, str]) -> None:
    made_ids = [created(served.client, headers=key)["taskId"] for _ in range(5)]
    last = ended(served, made_ids[-1], key)

    first = data(served.client.get("/tasks?limit=2", headers=key))
    rest = data(served.client.get(f"/tasks?limit=100&after={made_ids[3]}", headers=key))

    assert [one["id"] for one in first] == made_ids[:-3:-1]
    assert [one["id"] for one in rest] == made_ids[2::-1]
    names = ("id", "type", "status", "cost", "createdAt", "updatedAt")
    assert first[0] == {name: last[name] for name in names}
    assert data(served.client.get(f"/tasks?after={made_ids[0]}", headers=key)) == []


def test_a_list_has_twenty_by_default__R(served: Served, key: dict[str, str]) -> None:
    for _ in range(21):
        create(served.client, headers=key, access={"pat": {"enabled": False}})
    assert len(data(served.client.get("/tasks", headers=key))) == 20
    assert len(data(served.client.get("/tasks?limit=100", headers=key))) == 21


@pytest.mark.parametrize(
    ("query", "field"),
    [
        pytest.param("limit=0", "limit", id="R too small"),
        pytest.param("limit=101", "limit", id="R too large"),
        pytest.param("limit=x", "limit", id="INF no number"),
        pytest.param("after=tsk_01K0000000ABCDEFGHJKMNPQRS", "after", id="INF unknown"),
        pytest.param("after=x", "after", id="INF no id"),
    ],
)
def test_a_list_cannot_be_of(
    client: httpx2.Client, key: dict[str, str], query: str, field: str
) -> None:
    assert_error(client.get(f"/tasks?{query}", headers=key), 400, "VALIDATION_ERROR", field)


# 4.1 tokens


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("prefix", ["", "/mynth"])
def test_a_token_polls_its_task__S3(
    served: Served, key: dict[str, str], read: str, prefix: str
) -> None:
    told = created(served.client, headers=key)
    ended(served, told["taskId"], key)
    path = f"{prefix}/tasks/{told['taskId']}/{read}"
    reply = served.client.get(path, headers=pat(told))
    assert data(reply) == data(served.client.get(path, headers=key))


def test_a_token_opens_nothing_else__R(served: Served, key: dict[str, str]) -> None:
    told, other = (created(served.client, headers=key) for _ in range(2))
    headers = pat(told)
    for method, path in (
        ("GET", f"/tasks/{told['taskId']}"),
        ("GET", f"/tasks/{other['taskId']}/status"),
        ("GET", f"/tasks/{other['taskId']}/result"),
        *(("GET", path) for path in ("/tasks", "/me", "/balance", "/webhook", "/destinations")),
        *(("POST", f"/image/{name}") for name in ("generate", "generate/estimate", "upload")),
        *(("POST", f"/image/{name}") for name in ("rate", "alt", "review")),
        *(("POST", path) for path in ("/webhook", "/destinations")),
    ):
        reply = served.client.request(method, path, headers=headers)
        assert_error(reply, 401, "UNAUTHORIZED")
    for path in ("/darkroom/generations", f"/api/v1/generations/{told['taskId']}"):
        assert served.client.get(path, headers=headers).status_code == 401


def test_a_token_is_refused_by_an_open_server_too__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("data")) as served:
        told, other = (created(served.client) for _ in range(2))
        for path in (f"/tasks/{told['taskId']}", f"/tasks/{other['taskId']}/status", "/tasks"):
            assert_error(served.client.get(path, headers=pat(told)), 401, "UNAUTHORIZED")
        assert_error(create(served.client, headers=pat(told)), 401, "UNAUTHORIZED")
        assert served.client.get(f"/tasks/{told['taskId']}/status").status_code == 200


def test_a_token_ends_after_two_hours__R(served: Served, key: dict[str, str]) -> None:
    told = created(served.client, headers=key)
    account = data(served.client.get("/me", headers=key))["userId"]
    tokens = served.services.tokens
    path = f"/tasks/{told['taskId']}/status"
    late = Tokens(tokens.keys, ttl_seconds=-1).make(told["taskId"], account)
    assert_error(served.client.get(path, headers=bearer(late)), 401, "UNAUTHORIZED")
    assert tokens.ttl_seconds == 7200


def test_a_token_ends_with_its_key__INF(folder: Path, served: Served) -> None:
    """Another key of the account holds on, and so do the tokens it is given."""
    account = f"a{secrets.token_hex(6)}"
    key, other = (bearer(make_key(folder, account)) for _ in range(2))
    repeated = key | {"Idempotency-Key": "once"}, other | {"Idempotency-Key": "once"}
    told, again = (created(served.client, headers=one) for one in repeated)
    admin = bearer(make_key(folder, "admin", scopes=frozenset({Scope.ADMIN})))
    key_id = data(served.client.get("/me", headers=key))["auth"]["apiKey"]["id"]
    path = f"/tasks/{told['taskId']}"
    assert told["taskId"] == again["taskId"]
    assert served.client.get(f"{path}/status", headers=pat(told)).status_code == 200

    served.client.delete(f"/darkroom/admin/keys/{key_id}", headers=admin).raise_for_status()

    for read in READS:
        reply = served.client.get(f"{path}/{read}", headers=pat(told))
        assert_error(reply, 401, "UNAUTHORIZED")
        for headers in (pat(again), other):
            assert served.client.get(f"{path}/{read}", headers=headers).status_code == 200


def test_without_a_key_nothing_is_told__INF(served: Served, key: dict[str, str]) -> None:
    told = created(served.client, headers=key)
    for path in ("", "/status", "/result"):
        reply = served.client.get(f"/tasks/{told['taskId']}{path}")
        assert_error(reply, 401, "UNAUTHORIZED")
        assert reply.headers["www-authenticate"] == "Bearer"


# 4.3 pages


PAGE = {"Origin": "https://app.example"}
ASKS = PAGE | {
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "authorization",
}


@pytest.mark.parametrize("read", READS)
def test_a_page_may_poll_with_a_token__R(served: Served, key: dict[str, str], read: str) -> None:
    told = created(served.client, headers=key)
    path = f"/tasks/{told['taskId']}/{read}"

    asked = served.client.options(path, headers=ASKS)
    reply = served.client.get(path, headers=PAGE | pat(told))
    refused = served.client.get(path, headers=PAGE | bearer("pat_wrong"))

    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "*"
    assert asked.headers["access-control-allow-headers"] == "authorization"
    assert (reply.status_code, refused.status_code) == (200, 401)
    for one in (reply, refused):
        assert one.headers["access-control-allow-origin"] == "*"


def test_a_page_may_read_what_its_result_links_to__INF(served: Served, key: dict[str, str]) -> None:
    """As from where the hosted service keeps its pictures; the link is still needed."""
    told = created(served.client, headers=key)
    ended(served, told["taskId"], key)
    result = served.client.get(f"/tasks/{told['taskId']}/result", headers=PAGE | pat(told))
    url = data(result)["result"]["images"][0]["url"]

    read = served.client.get(url, headers=PAGE)
    unsigned = served.client.get(url.partition("?")[0], headers=PAGE)

    assert (read.status_code, unsigned.status_code) == (200, 403)
    for one in (read, unsigned, served.client.options(url, headers=ASKS)):
        assert one.headers["access-control-allow-origin"] == "*"


def test_a_page_may_do_nothing_else__R(served: Served, key: dict[str, str]) -> None:
    told = created(served.client, headers=key)
    for path in (f"/tasks/{told['taskId']}", "/tasks", "/image/generate", "/models", "/me"):
        asked = served.client.options(path, headers=ASKS)
        read = served.client.get(path, headers=PAGE | key)
        assert (asked.status_code, read.status_code) == (403, 403)
        for reply in (asked, read):
            assert "access-control-allow-origin" not in reply.headers
            assert reply.json()["code"] == "FORBIDDEN"


# 4.2 pictures


def test_a_link_opens_by_itself_and_cannot_be_changed__R(
    served: Served, key: dict[str, str]
) -> None:
    url = made(served, headers=key)["result"]["images"][0]["url"]
    assert url.startswith(f"{served.url}/image/files/tsk_")

    reply = served.client.get(url)

    assert reply.headers["content-type"] == "image/webp"
    again = served.client.get(url, headers={"If-None-Match": reply.headers["etag"]})
    assert again.status_code == 304
    assert served.client.head(url).status_code == 200
    assert served.client.get(url.replace("/image/files", "/mynth/image/files")).status_code == 200
    for wrong in (url[:-1], url.replace("/0.webp", "/1.webp"), url.partition("?")[0]):
        assert_error(served.client.get(wrong), 403, "FORBIDDEN")
