"""ModelMux's contract, errors: a test per documented statement.

`S1` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import gzip
from typing import Any

import httpx2
import pytest

from tests.api.http.modelmux import KEY, PATH, create
from tests.api.http.served import serving
from tests.api.making import png

# 2.5 errors

JSON = {"Content-Type": "application/json"}
GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("send", "status", "code", "named"),
    [
        pytest.param({"json": {}}, 400, "invalid_request", "prompt", id="S1 no prompt"),
        pytest.param({"json": {"prompt": ""}}, 400, "invalid_request", "prompt", id="S1 empty"),
        pytest.param(
            {"json": {"prompt": "a", "model": ""}},
            *(400, "invalid_request", "model"),
            id="S1 empty model",
        ),
        pytest.param({"content": b"{", "headers": JSON}, 400, "invalid_request", "JSON", id="S1"),
        pytest.param(
            {"json": {"prompt": "a", "model": "flux-9"}},
            *(400, "unsupported_model", "served are: tiny-flux"),
            id="S1 model, naming those served",
        ),
        pytest.param(
            {"json": {"prompt": "a", "model": "nano-banana", "resolution": "2k"}},
            *(400, "unsupported_resolution", "1k"),
            id="S1 resolution, naming those served",
        ),
        pytest.param(
            {"json": {"prompt": "a", "resolution": "8k"}},
            *(400, "unsupported_resolution", "1k"),
            id="S1 no such resolution",
        ),
        pytest.param(
            {"json": {"prompt": "a", "aspectRatio": "5:4"}},
            *(400, "invalid_request", "16:9"),
            id="S1 ratio, naming those served",
        ),
        pytest.param(
            {"json": {"prompt": "a", "model": "gpt-image-2", "quality": "low"}},
            *(400, "invalid_request", "standard"),
            id="S1 quality, naming those served",
        ),
        pytest.param(
            {"data": {"prompt": "a"}, "files": {"image": ("a.txt", b"not a picture")}},
            *(415, "unsupported_media_type", "PNG"),
            id="S1 reference that is no image",
        ),
        pytest.param(
            {"data": {"prompt": ""}, "files": {"image": png()}},
            *(400, "invalid_request", "prompt"),
            id="S1 picture but empty prompt",
        ),
        *(
            pytest.param(
                {"files": {"prompt": (None, "a"), name: (None, "https://example.com/a.png")}},
                *(400, "invalid_request", f"{name} must be a file"),
                id=f"INF {name} as text",
            )
            for name in ("image", "images[]", "reference_image")
        ),
        pytest.param(
            {"content": gzip.compress(b'{"prompt":"a"}'), "headers": JSON | GZIP},
            *(415, "unsupported_media_type", "Content-Encoding"),
            id="INF compressed",
        ),
        pytest.param(
            {"data": {"prompt": "a"}, "files": [("image", png())] * 5},
            *(400, "invalid_request", "not 5"),
            id="INF more references than the model takes",
        ),
        pytest.param(
            {"content": b"prompt=a", "headers": {"Content-Type": "text/plain"}},
            *(415, "unsupported_media_type", "application/json"),
            id="INF other content type",
        ),
        pytest.param(
            {"content": b'{"prompt":"\\ud800"}', "headers": JSON},
            *(400, "invalid_request", "prompt"),
            id="INF lone surrogate",
        ),
        pytest.param(
            {"content": b'{"prompt":"a","resolution":NaN}', "headers": JSON},
            *(400, "invalid_request", "resolution"),
            id="INF NaN",
        ),
    ],
)
def test_a_bad_creation_is_told(
    client: httpx2.Client, send: dict[str, Any], status: int, code: str, named: str
) -> None:
    reply = client.post(PATH, **send)

    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error", "code"}
    assert reply.json()["code"] == code
    assert named in reply.json()["error"]


@pytest.mark.parametrize("path", [f"{PATH}/none", f"{PATH}/none/image", f"{PATH}/a%00b"])
def test_an_unknown_generation_is_404__S1(client: httpx2.Client, path: str) -> None:
    reply = client.get(path, headers=KEY)

    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_a_reference_too_large_is_413__S1(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("data"), max_picture_bytes=100) as served:
        reply = served.client.post(PATH, data={"prompt": "a"}, files={"image": png(64)})
        assert (reply.status_code, reply.json()["code"]) == (413, "payload_too_large")


def test_a_full_queue_is_429__S1(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("data"), max_queue_tasks=1) as served:
        served.script.gate.clear()
        assert create(served.client).status_code == 200
        reply = create(served.client)
        assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
        assert int(reply.headers["retry-after"]) >= 1
