"""OpenAI's own Python client, unmodified, aimed at the test server."""

from __future__ import annotations

import math
from typing import Any

import httpx2
import openai
from openai.types import ImagesResponse
from PIL import Image

from api.storage import input_key
from inference.pixels import as_mask, decode
from tests.api.http.served import Served
from tests.api.making import encoded, opened, png

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
VARIATIONS = "/v1/images/variations"


def client_of(served: Served, key: str = "any-key", base: str = "/v1") -> openai.OpenAI:
    """A client that reads no reply which lacks anything, as those of stricter languages do."""
    return openai.OpenAI(
        base_url=served.url + base,
        api_key=key,
        max_retries=0,
        _strict_response_validation=True,
    )


def async_client_of(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{served.url}/v1",
        api_key="any-key",
        max_retries=0,
        _strict_response_validation=True,
    )


def half_transparent(width: int = 32, height: int = 32) -> bytes:
    """A mask as OpenAI means it: the left half transparent, and so to be redrawn."""
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return encoded(mask)


def turned_jpeg(width: int, height: int) -> bytes:
    """A picture stored as `width` × `height` pixels that is looked at turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(width, height, form="JPEG", exif=exif)


def headless_png(width: int, height: int) -> bytes:
    """A PNG whose header is whole and whose pixels are not."""
    whole = png(width, height)
    return whole[: whole.index(b"IDAT") + 6]


def pictures_of(reply: ImagesResponse) -> list[Image.Image]:
    assert reply.data is not None
    return [opened(item.b64_json) for item in reply.data]


def mask_seen(served: Served, width: int, height: int) -> Image.Image:
    """What the model would be given as the mask of the newest task."""
    job_id = served.newest()["id"]
    data = served.script.pictures[input_key(job_id, 1)]
    return as_mask(decode(data), width, height)


def tokens(width: int, height: int) -> int:
    return math.ceil(width / 16) * math.ceil(height / 16)


def fault(reply: httpx2.Response) -> dict[str, Any]:
    """The error object of a raw reply, which holds nothing else."""
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error
