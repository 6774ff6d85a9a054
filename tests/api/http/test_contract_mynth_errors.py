"""Mynth's contract, errors: a test per documented statement.

`R` in an id is the provider's published client, `D` another page of its; `INF` is what we do where
both are silent.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.http.mynth import PATH, assert_error, create, created, data
from tests.api.http.served import Served, bearer, make_key, serving

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("send", "status", "code", "field"),
    [
        pytest.param({"json": {}}, 400, "VALIDATION_ERROR", "prompt", id="R no prompt"),
        pytest.param({"json": {"prompt": "  "}}, 400, "VALIDATION_ERROR", "prompt", id="R blank"),
        pytest.param(
            {"json": {"prompt": "a", "model": "gone/model"}},
            *(400, "VALIDATION_ERROR", "model"),
            id="INF unknown model",
        ),
        pytest.param(
            {"json": {"prompt": "a", "destination": "nowhere"}},
            *(400, "VALIDATION_ERROR", "destination"),
            id="R unknown destination",
        ),
        pytest.param(
            {"json": {"prompt": "a", "webhook": {"custom": [{"url": "http://10.0.0.1/"}]}}},
            *(400, "VALIDATION_ERROR", "webhook.custom"),
            id="INF private webhook",
        ),
        pytest.param(
            {"json": {"prompt": "a", "inputs": ["http://127.0.0.1/a.png"]}},
            *(400, "VALIDATION_ERROR", "inputs[0]"),
            id="INF private input",
        ),
        pytest.param(
            {"json": {"prompt": "a", "rating": True}},
            *(400, "VALIDATION_ERROR", "rating"),
            id="INF no rater",
        ),
        pytest.param({"content": b"{", "headers": JSON}, 400, "VALIDATION_ERROR", None, id="D"),
        pytest.param({"content": b"[]", "headers": JSON}, 400, "VALIDATION_ERROR", None, id="D"),
        pytest.param(
            {"data": {"prompt": "a"}, "files": {"x": b"y"}},
            *(415, "UNSUPPORTED_MEDIA_TYPE", None),
            id="INF a form",
        ),
        pytest.param(
            {"content": gzip.compress(b"{}"), "headers": JSON | {"Content-Encoding": "gzip"}},
            *(415, "UNSUPPORTED_MEDIA_TYPE", None),
            id="INF packed",
        ),
    ],
)
def test_a_creation_is_refused(
    client: httpx2.Client, send: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    assert_error(client.post(PATH, **send), status, code, field)


def test_a_body_too_large_is_a_413__INF(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("data"), max_body_bytes=1000) as served:
        reply = served.client.post(PATH, json={"prompt": "a" * 1000})
        assert_error(reply, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        pytest.param("GET", "/image/none", 404, "NOT_FOUND", id="INF image"),
        pytest.param("GET", "/tasks/a/b", 404, "NOT_FOUND", id="INF tasks"),
        pytest.param("GET", "/webhook/a/b", 404, "NOT_FOUND", id="INF webhook"),
        pytest.param("GET", "/mynth/none", 404, "NOT_FOUND", id="INF alias"),
        pytest.param("GET", "/image/generate", 405, "METHOD_NOT_ALLOWED", id="INF read a creation"),
        pytest.param("DELETE", "/tasks", 405, "METHOD_NOT_ALLOWED", id="INF delete tasks"),
        pytest.param("POST", "/balance", 405, "METHOD_NOT_ALLOWED", id="INF post a balance"),
    ],
)
def test_a_wrong_path_or_method_is_told_in_this_shape(
    client: httpx2.Client, method: str, path: str, status: int, code: str
) -> None:
    assert_error(client.request(method, path), status, code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def keyed(folder: Path) -> Any:
    make_key(folder, "first")
    with serving(folder) as running:
        yield running


def test_a_key_is_needed__R(keyed: Served) -> None:
    for headers in ({}, bearer("mak_unknown"), {"x-api-key": "mak_unknown"}):
        reply = create(keyed.client, headers=headers)
        assert_error(reply, 401, "UNAUTHORIZED")
        assert "error" not in reply.json()


def test_a_key_of_this_api_holds_here_and_nowhere_else__INF(folder: Path, keyed: Served) -> None:
    mine, other = (
        bearer(make_key(folder, "pinned", dialect=name)) for name in ("mynth", "modelmux")
    )
    created(keyed.client, headers=mine)
    assert data(keyed.client.get("/mynth/me", headers=mine))["userId"] == "pinned"
    assert_error(create(keyed.client, headers=other), 403, "FORBIDDEN")
    assert keyed.client.get("/darkroom/queue", headers=mine).status_code == 403


def test_want_of_money_is_a_402__R(folder: Path, keyed: Served) -> None:
    key = bearer(make_key(folder, "poor", credits=2))
    said = assert_error(create(keyed.client, headers=key, count=3), 402, "INSUFFICIENT_BALANCE")
    assert "balance" in said
    assert data(keyed.client.get("/tasks", headers=key)) == []
    limited = bearer(make_key(folder, "rich", spend_limit=2))
    assert_error(create(keyed.client, headers=limited, count=3), 402, "INSUFFICIENT_BALANCE")


def test_want_of_money_is_a_422_where_that_is_wanted__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    key = bearer(make_key(folder, "poor", credits=2))
    with serving(folder, mynth_balance_status=422) as served:
        assert_error(create(served.client, headers=key, count=3), 422, "INSUFFICIENT_BALANCE")
        reply = served.client.post(
            "/darkroom/generations", json={"prompt": "a", "count": 3}, headers=key
        )
        assert reply.status_code == 402


def test_too_often_is_a_429__R(folder: Path, keyed: Served) -> None:
    key = bearer(make_key(folder, "hasty", rate_per_minute=1))
    created(keyed.client, headers=key)
    reply = create(keyed.client, headers=key)
    assert_error(reply, 429, "RATE_LIMITED")
    assert int(reply.headers["retry-after"]) > 0


def test_a_full_queue_is_a_503__R(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("data"), max_queue_tasks=1) as served:
        served.script.gate.clear()
        created(served.client)
        reply = create(served.client)
        served.script.gate.set()
        assert_error(reply, 503, "SERVICE_UNAVAILABLE")
        assert int(reply.headers["retry-after"]) > 0
