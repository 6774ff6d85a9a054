"""What an Eigen AI client does, for the tests of its contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

from tests.api.http.served import until

PATH = "/api/v1/generate"
LEAST = {"model": "eigen-image", "prompt": "a red circle"}


def ask(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    """A JSON request; `...` leaves a field out."""
    body = {name: value for name, value in (LEAST | fields).items() if value is not ...}
    return client.post(PATH, json=body)


def send(client: httpx2.Client, *files: tuple[str, Any], **texts: str) -> httpx2.Response:
    """A form, even where there are no files."""
    fields = [(name, (None, text)) for name, text in (LEAST | texts).items()]
    return client.post(PATH, files=[*fields, *files])


def made(reply: httpx2.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def fault(reply: httpx2.Response) -> str:
    """The text of an error, which has the shape that every error has."""
    body = reply.json()
    assert set(body) == {"error", "message", "detail", "code", "request_id"}, body
    assert all(isinstance(value, str) for value in body.values())
    assert body["error"] == body["message"] == body["detail"]
    assert body["request_id"] == reply.headers["x-request-id"]
    return str(body["error"])


def ended(client: httpx2.Client, task_id: str) -> dict[str, Any]:
    """A job's status once it is final, asking as a client would."""
    told: dict[str, Any] = {}

    def is_final() -> bool:
        told.update(made(client.get(f"{PATH}/status", params={"jobId": task_id})))
        return told["status"] in ("completed", "failed")

    until(is_final)
    return told


Send = Callable[..., httpx2.Response]
