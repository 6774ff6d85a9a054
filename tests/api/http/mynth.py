"""What a Mynth client does, for the tests of its contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
from PIL import Image

from api.assistants import AssistantFailed, Assistants, Note, Review
from api.tasks import Enhanced, RatingWish
from tests.api import making
from tests.api.http.served import NO_KEY, Served, until

PATH = "/image/generate"


def create(
    client: httpx2.Client, *, headers: Mapping[str, str] = NO_KEY, **fields: Any
) -> httpx2.Response:
    return client.post(PATH, json={"prompt": "a red circle"} | fields, headers=dict(headers))


def created(
    client: httpx2.Client, *, headers: Mapping[str, str] = NO_KEY, **fields: Any
) -> dict[str, Any]:
    """The `data` of a creation that was taken."""
    return data(create(client, headers=headers, **fields), 201)


def data(reply: httpx2.Response, status: int = 200) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    body: dict[str, Any] = reply.json()
    assert set(body) == {"data"}
    told: dict[str, Any] = body["data"]
    return told


def ended(served: Served, task_id: str, headers: Mapping[str, str] = NO_KEY) -> dict[str, Any]:
    """All of a task once its status is final, asking as a client would."""

    def is_final() -> bool:
        reply = served.client.get(f"/tasks/{task_id}/status", headers=dict(headers))
        return data(reply)["status"] != "pending"

    until(is_final)
    return data(served.client.get(f"/tasks/{task_id}", headers=dict(headers)))


def made(served: Served, *, headers: Mapping[str, str] = NO_KEY, **fields: Any) -> dict[str, Any]:
    """All of a generation that has ended well."""
    task = ended(served, created(served.client, headers=headers, **fields)["taskId"], headers)
    assert task["status"] == "completed", task
    return task


def opened(client: httpx2.Client, url: str) -> Image.Image:
    """The picture at an address, which is all it takes."""
    reply = client.get(url)
    assert reply.status_code == 200, reply.text
    return making.opened(reply.content)


def png(side: int = 64, colour: str = "red") -> bytes:
    """A picture of more than the least size of an upload."""
    return making.png(side, colour=colour, compress_level=0)


def uploaded(
    client: httpx2.Client, *files: bytes, headers: Mapping[str, str] = NO_KEY
) -> list[str]:
    parts = [("images", (f"{number}.png", one, "image/png")) for number, one in enumerate(files)]
    urls: list[str] = data(client.post("/image/upload", files=parts, headers=dict(headers)))["urls"]
    return urls


def assert_error(reply: httpx2.Response, status: int, code: str, field: str | None = None) -> str:
    """The reply is an error of the documented shape; its message."""
    assert reply.status_code == status, reply.text
    told = reply.json()
    assert told["code"] == code
    assert told.get("field") == field
    assert set(told) == {"code", "message"} | ({"field"} if field else set())
    message: str = told["message"]
    assert message
    return message


@dataclass
class Helpers:
    """Assistants that judge by colour, or fail with a reason."""

    fails: str = ""

    async def rate(self, picture: Image.Image, wish: RatingWish) -> str:
        self._fail()
        levels = [level.value for level in wish.levels] or ["sfw", "nsfw"]
        red, *_ = picture.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        return levels[int(red > 128)]

    async def enhance(
        self, prompt: str, negative_prompt: str | None, notes: Sequence[Note], model: str
    ) -> Enhanced:
        self._fail()
        return Enhanced(prompt=f"{prompt}, in snow", negative_prompt="blur")

    async def describe(self, picture: Image.Image) -> str:
        self._fail()
        return f"{picture.width} by {picture.height}"

    async def review(self, picture: Image.Image, effort: Literal["low", "high"]) -> Review:
        self._fail()
        return Review(score=3, summary=effort, findings=("dull",), strengths=("red",))

    def _fail(self) -> None:
        if self.fails:
            raise AssistantFailed(self.fails)

    @property
    def all(self) -> Assistants:
        return Assistants(rater=self, enhancer=self, viewer=self)
