"""What an Eigen AI client does, for the tests of its contract."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from PIL import Image

from inference.errors import JobError
from inference.job import Job
from tests.api.http.served import Served, until

PATH = "/api/v1/generate"
LEAST = {"model": "eigen-image", "prompt": "a red circle"}


def png(width: int = 32, height: int = 32, colour: str = "red", format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, format)
    return file.getvalue()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def opened(data: str | bytes) -> Image.Image:
    """The picture in a reply: plain base64, or the bytes themselves."""
    data = base64.b64decode(data, validate=True) if isinstance(data, str) else data
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


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


@contextmanager
def jobs_of(served: Served) -> Iterator[list[Job]]:
    """The jobs that reach the engine meanwhile."""
    seen: list[Job] = []

    def note(job: Job, index: int) -> JobError | None:
        seen.append(job)
        return None

    served.script.fails = note
    yield seen


def newest(served: Served) -> dict[str, Any]:
    """The generation that was asked for last, as our own API tells it."""
    page = served.client.get("/darkroom/generations?limit=1").json()
    task: dict[str, Any] = page["generations"][0]
    return task


def ended(client: httpx2.Client, task_id: str) -> dict[str, Any]:
    """A job's status once it is final, asking as a client would."""
    told: dict[str, Any] = {}

    def is_final() -> bool:
        told.update(made(client.get(f"{PATH}/status", params={"jobId": task_id})))
        return told["status"] in ("completed", "failed")

    until(is_final)
    return told


Send = Callable[..., httpx2.Response]
