"""What is refused at the door of our own API, and that nothing is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.http.served import serving

JSON = {"Content-Type": "application/json"}
REFUSED: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "no body": ({}, 415, None),
    "empty body": ({"content": b"", "headers": JSON}, 400, None),
    "text": ({"content": b"a", "headers": {"Content-Type": "text/plain"}}, 415, None),
    "url-encoded": ({"data": {"prompt": "a"}}, 415, None),
    "no prompt": ({"json": {}}, 400, "prompt"),
    "blank prompt": ({"json": {"prompt": "  "}}, 400, "prompt"),
    "endless prompt": ({"json": {"prompt": "a" * 10_000_000}}, 400, "prompt"),
    "unknown field": ({"json": {"prompt": "a", "steps": 4}}, 400, "steps"),
    "unknown model": ({"json": {"prompt": "a", "model": "x"}}, 404, "model"),
    "NaN": ({"content": b'{"prompt":"a","guidance_scale":NaN}', "headers": JSON}, 400, "guidance"),
    "1e400": ({"content": b'{"prompt":"a","strength":1e400}', "headers": JSON}, 400, "strength"),
    "surrogate": ({"content": b'{"prompt":"\\ud800"}', "headers": JSON}, 400, "prompt"),
    "surrogate name": ({"content": b'{"\\ud800":1}', "headers": JSON}, 400, None),
    "5000 digits": ({"content": b'{"seed":' + b"9" * 5000 + b"}", "headers": JSON}, 400, "seed"),
    "19 digits": ({"json": {"prompt": "a", "seed": 10**18}}, 400, "seed"),
    "negative seed": ({"json": {"prompt": "a", "seed": -1}}, 400, "seed"),
    "huge width": ({"json": {"prompt": "a", "width": 10**18, "height": 64}}, 400, "width"),
    "one side": ({"json": {"prompt": "a", "width": 64}}, 400, "height"),
    "count 0": ({"json": {"prompt": "a", "count": 0}}, 400, "count"),
    "ratio": ({"json": {"prompt": "a", "aspect_ratio": "1:0"}}, 400, "aspect_ratio"),
    "long ratio": ({"json": {"prompt": "a", "aspect_ratio": "9" * 39 + ":1"}}, 400, "aspect"),
    "tier": ({"json": {"prompt": "a", "resolution": "8k"}}, 400, "resolution"),
    "quality": ({"json": {"prompt": "a", "quality": "x"}}, 400, "quality"),
    "strength alone": ({"json": {"prompt": "a", "strength": 0.5}}, 400, "strength"),
    "mask alone": ({"json": {"prompt": "a", "mask": "AAEC"}}, 400, "image"),
    "no base64": ({"json": {"prompt": "a", "image": "?"}}, 400, "image"),
    "link": ({"json": {"prompt": "a", "image": "http://127.0.0.1/a.png"}}, 400, "image"),
    "no picture": ({"json": {"prompt": "a", "image": "AAEC"}}, 415, "image"),
    "deep": ({"content": b"[" * 100_000, "headers": JSON}, 400, None),
    "broken form": (
        {"content": b"--a\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=a"}},
        400,
        None,
    ),
    "other file": ({"data": {"prompt": "a"}, "files": {"picture": b"x"}}, 400, "picture"),
    "form number": ({"files": {"prompt": (None, "a"), "seed": (None, "x")}}, 400, "seed"),
}


@pytest.mark.parametrize(("send", "status", "field"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_made_is_refused_at_the_door(
    client: httpx2.Client, send: dict[str, Any], status: int, field: str | None
) -> None:
    before = client.get("/darkroom/generations?limit=1").json()["generations"]

    reply = client.post("/darkroom/generations", **send)

    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert len(reply.content) < 1500
    if field is not None:
        assert reply.json()["field"].startswith(field)
    after = client.get("/darkroom/generations?limit=1").json()["generations"]
    assert [one["id"] for one in after] == [one["id"] for one in before]


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit_is_cut_off(tmp_path: Path, chunked: bool) -> None:
    with serving(tmp_path, max_body_bytes=100_000) as served:
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            while sent < 50_000_000:
                sent += 50_000
                yield b" " * 50_000

        content = chunks() if chunked else b" " * 100_001
        reply = served.client.post("/darkroom/generations", content=content, headers=JSON)

        assert (reply.status_code, reply.json()["type"]) == (413, "urn:darkroom:too_large")
        assert served.client.get("/livez").status_code == 200
