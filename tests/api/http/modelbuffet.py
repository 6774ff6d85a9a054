"""What a Model Buffet client does, for the tests of its contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.api import making
from tests.api.http.served import Served, serving

PATH = "/v1/images/generate"
EDIT = "/v1/images/edit"
KEY = {"Authorization": "Bearer sk_live_any"}
ASYNC = {"Prefer": "respond-async"}
FIELDS = {"model": "flux-2-max", "prompt": "a red fox in fresh snow"}

# A model that makes any size up to that of the largest ratio.
MODELS = """
models:
  wide:
    family: flux
    source: builtin:tiny-flux
    defaults: {num_inference_steps: 2, guidance_scale: 1, size: 1024x1024}
    limits: {count: 8, max_side: 2048}
    price: 8
aliases:
  auto: wide
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server of a file, which may be asked more often than the provider's is."""
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, rate_per_minute=100_000, allowed_targets=("127.0.0.1",)) as running:
        yield running


def generate(
    client: httpx2.Client, headers: dict[str, str] | None = None, **fields: Any
) -> httpx2.Response:
    return client.post(PATH, json=FIELDS | fields, headers=KEY | (headers or {}))


def done(client: httpx2.Client, **fields: Any) -> dict[str, Any]:
    """A completed generation."""
    reply = generate(client, **fields)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    assert told["status"] == "completed"
    return told


def data_uri(side_px: int = 32, colour: str = "red") -> str:
    return making.data_uri(making.png(side_px, colour=colour))


def neutral(client: httpx2.Client, generation_id: str) -> dict[str, Any]:
    """What our own API tells of a generation."""
    told: dict[str, Any] = client.get(f"/darkroom/generations/{generation_id[4:]}").json()
    return told


def assert_error(
    reply: httpx2.Response, status: int, kind: str, code: str, param: str | None
) -> None:
    """The reply is an error of the documented shape."""
    assert reply.status_code == status, reply.text
    told = reply.json()
    assert set(told) == {"error", "request_id"}
    assert set(told["error"]) == {"type", "code", "message", "param"}
    assert (told["error"]["type"], told["error"]["code"]) == (kind, code)
    assert told["error"]["param"] == param
    assert told["request_id"] == reply.headers["x-request-id"]


def is_generation_id(text: str) -> bool:
    return re.fullmatch(r"gen_[A-Za-z0-9]{10}", text) is not None
