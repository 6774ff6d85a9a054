"""Eigen's contract, errors: no page of the provider tells them, so that all here is inferred.

`T` in an id is a shape that clients are seen to read; `INF` is what we do where all are silent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference.errors import ModelFailed, OutOfMemory
from tests.api.http.eigen import LEAST, PATH, ask, fault, made, send
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.making import png

JSON = {"Content-Type": "application/json"}
PICTURE = ("image_file", png())


@pytest.mark.parametrize(
    ("fields", "status", "code", "named"),
    [
        pytest.param({"prompt": ...}, 400, "invalid_request", "prompt", id="T no prompt"),
        pytest.param({"prompt": ""}, 400, "invalid_request", "prompt", id="INF empty prompt"),
        pytest.param({"prompt": "x" * 40_000}, 400, "invalid_request", "prompt", id="INF long"),
        pytest.param({"model": ...}, 400, "invalid_request", "model", id="T no model"),
        pytest.param({"model": "flux-9"}, 404, "model_not_found", "eigen-image", id="INF model"),
        pytest.param({"mode": "video"}, 400, "invalid_request", "mode", id="INF mode"),
        pytest.param(
            {"mode": "image-editing"}, 400, "invalid_request", "picture", id="INF no picture"
        ),
        pytest.param({"seed": -1}, 400, "invalid_request", "seed", id="INF seed"),
        pytest.param({"seed": 2**40}, 400, "invalid_request", "seed", id="INF large seed"),
        pytest.param({"width": 256}, 400, "invalid_request", "width", id="S2 width below 512"),
        pytest.param({"height": 4096}, 400, "invalid_request", "height", id="S2 above 2048"),
        pytest.param({"size": "64x64"}, 400, "invalid_request", "size", id="INF size"),
        pytest.param({"sample_steps": 99}, 400, "invalid_request", "sample_steps", id="INF steps"),
        pytest.param(
            {"sample_steps": 5, "num_inference_steps": 6},
            *(400, "invalid_request", "num_inference_steps and sample_steps"),
            id="INF two names, two values",
        ),
        pytest.param(
            {"true_cfg_scale": 99}, 400, "invalid_request", "true_cfg_scale", id="INF guidance"
        ),
        pytest.param(
            {"true_cfg_scale": 1, "guidance_scale": 2},
            *(400, "invalid_request", "guidance_scale and true_cfg_scale"),
            id="INF two guidances",
        ),
        pytest.param({"weight": "heavy"}, 400, "unsupported", "weight", id="INF weight"),
        pytest.param({"rank": 16}, 400, "invalid_request", "rank needs", id="INF rank of no LoRA"),
        pytest.param(
            {"lora_strength": 1}, 400, "invalid_request", "lora_strength", id="INF strength"
        ),
        pytest.param(
            {"weight": "striped", "rank": 0}, 400, "invalid_request", "rank", id="INF rank"
        ),
        pytest.param(
            {"downsizing_mp": 1},
            400,
            "invalid_request",
            "downsizing_mp",
            id="INF no picture",
        ),
        pytest.param(
            {"output_format": "gif"}, 400, "invalid_request", "output_format", id="S2 format"
        ),
        pytest.param({"real_time": True}, 400, "unsupported", "real_time", id="INF no search here"),
        pytest.param(
            {"s3_output_path": "bucket/key"},
            *(400, "invalid_request", "s3_output_path"),
            id="S2 not an s3 path",
        ),
        pytest.param(
            {"image": "no picture"}, 400, "invalid_request", "image is neither", id="INF image"
        ),
        pytest.param(
            {"image_url": "http://127.0.0.1:1/a.png"},
            *(400, "invalid_request", "image_url"),
            id="INF our own machine",
        ),
    ],
)
def test_a_bad_field_is_told(
    client: httpx2.Client, fields: dict[str, Any], status: int, code: str, named: str
) -> None:
    reply = ask(client, **fields)

    assert reply.status_code == status, reply.text
    assert reply.json()["code"] == code
    assert named in fault(reply)


@pytest.mark.parametrize(
    ("texts", "files", "status", "named"),
    [
        pytest.param({"seed": "seven"}, [], 400, "seed", id="INF no number"),
        pytest.param({"guidance_scale": "nan"}, [], 400, "guidance_scale", id="INF NaN"),
        pytest.param({"downsizing_mp": "inf"}, [PICTURE], 400, "downsizing_mp", id="INF infinite"),
        pytest.param({"binary_response": "maybe"}, [], 400, "binary_response", id="INF no bool"),
        pytest.param({"image": "https://a.example/b"}, [], 400, "must be a file", id="INF text"),
        pytest.param({}, [("image", b"no picture")], 415, "image", id="INF no picture"),
        pytest.param({}, [("image", b"")], 400, "image", id="INF an empty file"),
        pytest.param({}, [("mask", png())], 400, "mask", id="INF a file that is not known"),
        pytest.param(
            {}, [PICTURE, ("image", png(8))], 400, "image_file and image", id="INF two names"
        ),
        pytest.param(
            {"image_url": "https://a.example/b"},
            [PICTURE],
            *(400, "image_file and image_url"),
            id="INF a file and an address",
        ),
        pytest.param(
            {"real_time": "true"}, [PICTURE], 400, "real_time is for text", id="S2 words alone"
        ),
        pytest.param({"sample_steps": "0"}, [PICTURE], 400, "sample_steps", id="INF no step"),
    ],
)
def test_a_bad_form_is_told(
    client: httpx2.Client, texts: dict[str, str], files: list[Any], status: int, named: str
) -> None:
    reply = send(client, *files, **texts)

    assert reply.status_code == status, reply.text
    assert named in fault(reply)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        pytest.param({"content": b"{", "headers": JSON}, 400, "JSON", id="INF no JSON"),
        pytest.param({"content": b"[]", "headers": JSON}, 400, "object", id="INF no object"),
        pytest.param({"content": b"", "headers": JSON}, 400, "JSON", id="INF nothing"),
        pytest.param(
            {"data": {"model": "eigen-image", "prompt": "a"}},
            *(415, "application/json"),
            id="INF a form of another kind",
        ),
        pytest.param(
            {"content": b'{"model":"eigen-image","prompt":"\\ud800"}', "headers": JSON},
            *(400, "prompt"),
            id="INF surrogate",
        ),
        pytest.param(
            {"json": LEAST, "headers": {"Idempotency-Key": "x" * 256}}, 400, "255", id="INF key"
        ),
    ],
)
def test_a_bad_body_is_told(
    client: httpx2.Client, body: dict[str, Any], status: int, named: str
) -> None:
    reply = client.post(PATH, **body)

    assert reply.status_code == status, reply.text
    assert named in fault(reply)


@pytest.mark.parametrize("prefix", ["", "/eigen"])
@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        pytest.param("POST", f"{PATH}/upload", 400, "pictures", id="D voices are not taken"),
        pytest.param("GET", PATH, 405, "POST", id="INF another method"),
        pytest.param("DELETE", f"{PATH}/status", 405, "GET", id="INF no way to cancel"),
        pytest.param("GET", f"{PATH}/nowhere", 404, "nothing", id="INF another path"),
    ],
)
def test_what_is_not_done_here_is_told_in_shape(
    client: httpx2.Client, prefix: str, method: str, path: str, status: int, named: str
) -> None:
    reply = client.request(method, prefix + path)

    assert reply.status_code == status, reply.text
    assert named in fault(reply)


def test_conversations_are_not_held_here__D(client: httpx2.Client) -> None:
    """At the root that path is another provider's as well."""
    reply = client.post("/eigen/api/v1/chat/completions", json={"messages": []})

    assert reply.status_code == 400
    assert "pictures" in fault(reply)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(OutOfMemory("too large"), "out_of_memory", id="INF out of memory"),
        pytest.param(ModelFailed("/srv/weights"), "model_failed", id="INF model failed"),
    ],
)
def test_a_picture_that_was_not_made_is_500(served: Served, error: Any, code: str) -> None:
    served.script.fails = lambda job, index: error

    reply = ask(served.client)

    assert (reply.status_code, reply.json()["code"]) == (500, code)
    assert "/srv" not in fault(reply), "where a model lies is no caller's business"


def test_a_wrong_key_is_401__T(tmp_path: Path) -> None:
    make_key(tmp_path)
    with serving(tmp_path) as served:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            for method, path in (("POST", PATH), ("GET", f"{PATH}/status?jobId=a")):
                reply = served.client.request(method, path, headers=headers)
                assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
                assert fault(reply)


def test_no_credits_is_402__INF(tmp_path: Path) -> None:
    headers = bearer(make_key(tmp_path, credits=1))
    with serving(tmp_path) as served:
        made(served.client.post(PATH, json=LEAST, headers=headers))
        reply = served.client.post(PATH, json=LEAST, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (402, "insufficient_credits")
        assert fault(reply)


def test_too_many_requests_are_429__T(tmp_path: Path) -> None:
    headers = bearer(make_key(tmp_path, rate_per_minute=1))
    with serving(tmp_path) as served:
        made(served.client.post(PATH, json=LEAST, headers=headers))
        reply = served.client.post(PATH, json=LEAST, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
        assert int(reply.headers["retry-after"]) >= 1
        assert fault(reply)


@pytest.mark.parametrize(
    ("bounds", "status"),
    [
        pytest.param({"max_account_tasks": 1}, 429, id="INF of one account"),
        pytest.param({"max_queue_tasks": 1}, 503, id="INF of all"),
    ],
)
def test_a_full_queue_is_told(tmp_path: Path, bounds: dict[str, Any], status: int) -> None:
    with serving(tmp_path, drain_seconds=0.1, **bounds) as served:
        served.script.gate.clear()
        made(ask(served.client, **{"async": True}))
        reply = ask(served.client)
        assert reply.status_code == status
        assert int(reply.headers["retry-after"]) >= 1
        assert fault(reply)


@pytest.mark.parametrize("bounds", [{"max_picture_bytes": 100}, {"max_body_bytes": 100}])
def test_what_is_too_large_is_413__INF(tmp_path: Path, bounds: dict[str, Any]) -> None:
    with serving(tmp_path, **bounds) as served:
        reply = send(served.client, ("image_file", png(64, 64)))
        assert (reply.status_code, reply.json()["code"]) == (413, "payload_too_large")
        assert fault(reply)


def test_a_cancelled_picture_is_gone__INF(served: Served) -> None:
    served.script.gate.clear()
    headers = {"Idempotency-Key": "cancelled"}
    task_id = served.leave(PATH, LEAST, headers)
    served.client.post(f"/darkroom/generations/{task_id}/cancel")
    assert served.end(task_id)["state"] == "cancelled"

    reply = served.client.post(PATH, json=LEAST, headers=headers)

    assert (reply.status_code, reply.json()["code"]) == (410, "cancelled")
