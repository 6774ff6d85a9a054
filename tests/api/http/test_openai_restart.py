"""A server that ends under OpenAI's callers: what they waited for, and what they pay."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from tests.api.http.openai_client import GENERATIONS
from tests.api.http.served import Served, make_key, serving, until

BODY: dict[str, Any] = {"prompt": "a red circle", "n": 2}


def ask(served: Served, headers: dict[str, str], **fields: Any) -> None:
    """Ask and wait, until the server is no more."""
    with suppress(httpx2.HTTPError):
        httpx2.post(served.url + GENERATIONS, json=BODY | fields, headers=headers, timeout=60)


def generations(served: Served, key: dict[str, str]) -> dict[str, str]:
    """The states of an account's tasks by id."""
    listed = served.client.get("/darkroom/generations", headers=key).json()["generations"]
    return {one["id"]: one["state"] for one in listed}


def leave_behind(folder: Path, key: dict[str, str], *asked: dict[str, Any]) -> None:
    """End a server under callers who wait for pictures."""
    with ThreadPoolExecutor(len(asked)) as pool, serving(folder, drain_seconds=0.1) as served:
        served.script.gate.clear()
        for fields in asked:
            pool.submit(ask, served, key | fields.pop("headers", {}), **fields)
        until(lambda: len(generations(served, key)) == len(asked))


def test_what_nobody_waits_for_any_more_is_not_made(tmp_path: Path) -> None:
    key = {"x-api-key": make_key(tmp_path, credits=10)}
    leave_behind(tmp_path, key, {}, {"stream": True})

    with serving(tmp_path) as served:
        assert set(generations(served, key).values()) == {"cancelled"}
        account = served.client.get("/darkroom/account", headers=key).json()
        assert (account["balance"], account["held"]) == (10, 0)


def test_with_a_key_the_caller_may_come_back(tmp_path: Path) -> None:
    key = {"x-api-key": make_key(tmp_path, credits=10)}
    once = {"Idempotency-Key": str(uuid.uuid4())}
    leave_behind(tmp_path, key, {"headers": once})

    with serving(tmp_path) as served:
        (made,) = generations(served, key)
        served.client.get(f"/darkroom/generations/{made}?wait=60", headers=key)
        reply = served.client.post(GENERATIONS, json=BODY, headers=key | once)
        assert (reply.status_code, len(reply.json()["data"])) == (200, 2)
        assert reply.headers["idempotent-replayed"] == "true"
        account = served.client.get("/darkroom/account", headers=key).json()
        assert (account["balance"], account["held"]) == (8, 0)
