"""OpenAI's contract, generations: a test per documented statement, by OpenAI's own client.

`V` in an id is what the client (3.51) sends and reads; `K` is common knowledge of the hosted
service; `INF` is what we do where both are silent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import ImagesResponse
from PIL import Image

from tests.api.http.openai_client import (
    GENERATIONS,
    async_client_of,
    client_of,
    fault,
    pictures_of,
    tokens,
)
from tests.api.http.served import Served, serving, until
from tests.api.making import opened

PROMPT = "a red circle"


@pytest.fixture
def ai(served: Served) -> Iterator[openai.OpenAI]:
    with client_of(served) as client:
        yield client


def only(reply: ImagesResponse) -> Image.Image:
    (picture,) = pictures_of(reply)
    return picture


# the request


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        pytest.param({}, {"size": "128x128"}, id="V nothing but a prompt"),
        pytest.param({"size": "auto"}, {"size": "128x128"}, id="V size auto"),
        pytest.param({"size": "1024x1024"}, {"size": "128x128"}, id="INF the nearest square"),
        pytest.param({"size": "1536x1024"}, {"size": "144x96"}, id="INF the nearest wide size"),
        pytest.param({"size": "1024x1536"}, {"size": "96x144"}, id="INF the nearest tall size"),
        pytest.param({"size": "144x80"}, {"size": "144x80"}, id="V a size of its own"),
        pytest.param({"quality": "low"}, {"quality": "low"}, id="V quality low"),
        pytest.param({"quality": "medium"}, {"quality": "medium"}, id="V quality medium"),
        pytest.param({"quality": "high"}, {"quality": "high"}, id="V quality high"),
        pytest.param({"quality": "xhigh"}, {"quality": "high"}, id="INF xhigh is made as high"),
        pytest.param({"quality": "max"}, {"quality": "high"}, id="INF max is made as high"),
        pytest.param({"quality": "hd"}, {"quality": "high"}, id="INF hd is made as high"),
        pytest.param({"quality": "standard"}, {"quality": "low"}, id="INF standard is low"),
        pytest.param({"background": "opaque"}, {"background": "opaque"}, id="V background opaque"),
        pytest.param({"background": "auto"}, {"background": "opaque"}, id="V background auto"),
        pytest.param({}, {"output_format": "png"}, id="V png by default"),
        pytest.param({"output_format": "jpeg"}, {"output_format": "jpeg"}, id="V jpeg"),
        pytest.param({"output_format": "webp"}, {"output_format": "webp"}, id="V webp"),
        pytest.param({"output_compression": 100}, {"output_format": "png"}, id="K png at 100"),
        pytest.param({"moderation": "low"}, {}, id="INF moderation ignored"),
        pytest.param({"style": "vivid"}, {}, id="INF style ignored"),
        pytest.param({"complexity": "high"}, {}, id="INF complexity ignored"),
        pytest.param({"frame_count": 9, "frame_duration_ms": 1}, {}, id="INF frames ignored"),
        pytest.param({"svg": {"model": "x", "reasoning": None}}, {}, id="INF svg ignored"),
        pytest.param({"partial_images": 0}, {}, id="V no partial images without a stream"),
        pytest.param({"user": "u1"}, {"safety_identifier": "u1"}, id="V user echoed"),
        pytest.param(
            {"user": "u1", "safety_identifier": "s1"},
            {"safety_identifier": "s1"},
            id="V safety_identifier goes before user",
        ),
        pytest.param(
            {"user": "u1", "safety_identifier": ""},
            {"safety_identifier": "u1"},
            id="V an empty safety_identifier does not",
        ),
        pytest.param({"extra_body": {"nobody": {"knows": [1]}}}, {}, id="INF unknown keys ignored"),
        pytest.param(
            {"model": None, "n": None, "size": None, "quality": None, "style": None},
            {"size": "128x128"},
            id="V null is left out",
        ),
    ],
)
def test_a_field_is_taken(ai: openai.OpenAI, fields: dict[str, Any], told: dict[str, Any]) -> None:
    reply = ai.images.generate(prompt=PROMPT, **fields)

    body = reply.to_dict()
    assert body | told == body
    picture = only(reply)
    assert f"{picture.width}x{picture.height}" == reply.size
    assert str(picture.format).lower() == reply.output_format


@pytest.mark.parametrize(
    "model",
    [
        *(pytest.param(name, id=f"V {name}") for name in ("gpt-image-1-mini", "gpt-image-1.5")),
        *(pytest.param(name, id=f"V {name}") for name in ("gpt-image-2", "chatgpt-image-latest")),
        *(pytest.param(name, id=f"V {name}") for name in ("gpt-image-1", "dall-e-2", "dall-e-3")),
        *(pytest.param(name, id=f"INF {name}") for name in ("auto", "tiny-flux")),
    ],
)
def test_a_model_is_taken(ai: openai.OpenAI, model: str) -> None:
    assert only(ai.images.generate(prompt=PROMPT, model=model)).size == (128, 128)


def test_without_a_model_auto_is_taken__INF(served: Served, ai: openai.OpenAI) -> None:
    ai.images.generate(prompt=PROMPT)

    assert served.newest()["requested_model"] == "auto"


@pytest.mark.parametrize(
    ("quality", "steps"),
    [
        *(pytest.param(name, 8, id=f"INF {name}") for name in ("auto", "low", "standard")),
        pytest.param("medium", 12, id="INF medium"),
        *(pytest.param(name, 16, id=f"INF {name}") for name in ("high", "hd", "xhigh", "max")),
    ],
)
def test_a_quality_has_its_steps(
    served: Served, ai: openai.OpenAI, quality: Any, steps: int
) -> None:
    reply = ai.images.generate(prompt=PROMPT, quality=quality)

    assert served.newest()["num_inference_steps"] == steps
    assert (reply.quality is None) == (quality == "auto")


@pytest.mark.parametrize("n", [pytest.param(1, id="V n 1"), pytest.param(10, id="V n 10")])
def test_as_many_pictures_come_as_are_asked_for(ai: openai.OpenAI, n: int) -> None:
    pictures = pictures_of(ai.images.generate(prompt=PROMPT, n=n))

    assert len({picture.tobytes() for picture in pictures}) == n


@pytest.mark.parametrize(
    ("compression", "as_one_of"),
    [
        pytest.param(100, 100, id="V 100"),
        pytest.param(None, 100, id="V 100 by default"),
        pytest.param(40, 40, id="V 40"),
        pytest.param(0, 1, id="INF 0 is the least there is"),
    ],
)
def test_output_compression_is_the_quality_of_the_file(
    ai: openai.OpenAI, tmp_path: Path, compression: int | None, as_one_of: int
) -> None:
    reply = ai.images.generate(prompt=PROMPT, output_format="jpeg", output_compression=compression)

    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", quality=as_one_of)
    with Image.open(tmp_path / "a.jpg") as alike:
        assert only(reply).quantization == alike.quantization  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "param", "code", "named"),
    [
        pytest.param({"prompt": ""}, "prompt", "invalid_value", "prompt", id="V empty prompt"),
        pytest.param({"prompt": "   "}, "prompt", "invalid_value", "prompt", id="INF blank prompt"),
        pytest.param(
            {"prompt": "a" * 32_001}, "prompt", "invalid_value", "32000", id="V too long a prompt"
        ),
        pytest.param({"n": 0}, "n", "invalid_value", "1", id="V n below 1"),
        pytest.param({"n": 11}, "n", "invalid_value", "10", id="V n above 10"),
        pytest.param({"n": "2"}, "n", "invalid_value", "integer", id="INF n as text in JSON"),
        pytest.param({"size": "big"}, "size", "invalid_value", "1024x1536", id="V no size"),
        pytest.param({"size": "0x0"}, "size", "invalid_value", "16384", id="V size of nothing"),
        pytest.param({"size": "99999x9"}, "size", "invalid_value", "16384", id="V size too large"),
        pytest.param({"quality": "best"}, "quality", "invalid_value", "xhigh", id="V quality"),
        pytest.param({"style": "wild"}, "style", "invalid_value", "vivid", id="V style"),
        pytest.param(
            {"moderation": "none"}, "moderation", "invalid_value", "auto", id="V moderation"
        ),
        pytest.param(
            {"complexity": "max"}, "complexity", "invalid_value", "medium", id="V complexity"
        ),
        pytest.param(
            {"background": "red"}, "background", "invalid_value", "opaque", id="V background"
        ),
        pytest.param(
            {"background": "transparent"},
            *("background", "unsupported_value", "opaque"),
            id="INF no model here makes transparency",
        ),
        pytest.param(
            {"output_format": "tiff"}, "output_format", "invalid_value", "webp", id="V format"
        ),
        pytest.param(
            {"output_format": "gif"}, "output_format", "unsupported_value", "webp", id="INF no gif"
        ),
        pytest.param(
            {"output_format": "svg"}, "output_format", "unsupported_value", "webp", id="INF no svg"
        ),
        pytest.param(
            {"output_format": "jpeg", "output_compression": 101},
            *("output_compression", "invalid_value", "100"),
            id="V compression above 100",
        ),
        pytest.param(
            {"output_compression": 50},
            *("output_compression", "unsupported_value", "png"),
            id="K png is not compressed",
        ),
        pytest.param(
            {"partial_images": 1}, "partial_images", "invalid_value", "stream", id="INF no stream"
        ),
        pytest.param(
            {"partial_images": 4, "stream": True},
            *("partial_images", "invalid_value", "3"),
            id="V more than 3 partial images",
        ),
        pytest.param({"stream": "true"}, "stream", "invalid_value", "boolean", id="INF stream"),
        pytest.param(
            {"response_format": "file"},
            *("response_format", "invalid_value", "b64_json"),
            id="V response_format",
        ),
        pytest.param({"user": 5}, "user", "invalid_value", "string", id="V user"),
        pytest.param({"model": ""}, "model", "invalid_value", "model", id="INF empty model"),
    ],
)
def test_a_bad_value_is_told(
    ai: openai.OpenAI, fields: dict[str, Any], param: str, code: str, named: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ai.images.generate(**({"prompt": PROMPT} | fields))

    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert named in error.message
    assert param in error.message


def test_a_body_without_a_prompt_is_told__V(client: httpx2.Client) -> None:
    reply = client.post(GENERATIONS, json={"model": "gpt-image-2"})

    assert reply.status_code == 400
    assert fault(reply)["message"] == "prompt is required"


def test_files_are_not_taken_here__INF(client: httpx2.Client) -> None:
    reply = client.post(GENERATIONS, data={"prompt": "a"}, files={"image": b"1"})

    assert (reply.status_code, fault(reply)["param"]) == (400, "image")
    assert "/v1/images/edits" in fault(reply)["message"]


# the reply


def test_a_reply_has_all_fields_and_no_other__V(client: httpx2.Client) -> None:
    before = int(time.time())
    body = client.post(GENERATIONS, json={"prompt": PROMPT, "quality": "low"}).json()

    assert set(body) == {
        *("created", "data", "background", "output_format", "quality", "size", "usage"),
    }
    assert before <= body["created"] <= time.time()
    assert [set(item) for item in body["data"]] == [{"b64_json"}]


@pytest.mark.parametrize(
    ("fields", "text", "pixels"),
    [
        pytest.param({}, 3, tokens(128, 128), id="INF 12 bytes are 3 tokens, 128 x 128 are 64"),
        pytest.param({"n": 3}, 3, 3 * 64, id="INF each picture counts"),
        pytest.param({"size": "144x80"}, 3, 9 * 5, id="INF by the real size"),
        pytest.param({"prompt": "ééé"}, 2, 64, id="INF by the bytes of UTF-8, rounded up"),
    ],
)
def test_usage_is_reckoned(
    ai: openai.OpenAI, fields: dict[str, Any], text: int, pixels: int
) -> None:
    usage = ai.images.generate(**({"prompt": PROMPT} | fields)).usage

    assert usage is not None
    assert usage.to_dict() == {
        "input_tokens": text,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": text},
        "output_tokens": pixels,
        "output_tokens_details": {"image_tokens": pixels, "text_tokens": 0},
        "total_tokens": text + pixels,
    }


@pytest.mark.parametrize("format", [pytest.param(name, id=f"V {name}") for name in ("png", "jpeg")])
def test_a_url_leads_to_the_picture(served: Served, ai: openai.OpenAI, format: Any) -> None:
    reply = ai.images.generate(prompt=PROMPT, n=2, response_format="url", output_format=format)

    assert reply.data is not None
    for item in reply.data:
        assert item.b64_json is None
        assert item.url is not None
        assert item.url.startswith(f"{served.url}/v1/images/files/")
        # without a key, as whoever is handed the link
        got, head = httpx2.get(item.url, timeout=60), httpx2.head(item.url, timeout=60)
        assert got.headers["content-type"] == head.headers["content-type"] == f"image/{format}"
        assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
        assert int(head.headers["content-length"]) == len(got.content)
    assert len({item.url for item in reply.data}) == 2


def test_a_changed_url_leads_nowhere__INF(ai: openai.OpenAI) -> None:
    reply = ai.images.generate(prompt=PROMPT, n=2, response_format="url")

    assert reply.data is not None
    url = str(reply.data[0].url)
    other = httpx2.get(url.replace("/0.png", "/1.png"), timeout=60)
    assert (other.status_code, fault(other)["type"]) == (403, "permission_error")


@pytest.mark.parametrize(
    "base", [pytest.param("/v1", id="V /v1"), pytest.param("/openai/v1", id="INF /openai/v1")]
)
def test_both_base_urls_serve(served: Served, base: str) -> None:
    with client_of(served, base=base) as client:
        assert only(client.images.generate(prompt=PROMPT)).size == (128, 128)
        reply = client.images.generate(prompt=PROMPT, response_format="url")
        assert reply.data is not None
        assert httpx2.get(str(reply.data[0].url), timeout=60).status_code == 200


async def test_the_asynchronous_client_is_served__V(served: Served) -> None:
    async with async_client_of(served) as client:
        reply = await client.images.generate(prompt=PROMPT, n=2)
        stream = await client.images.generate(prompt=PROMPT, stream=True)
        types = [event.type async for event in stream]

    assert len(pictures_of(reply)) == 2
    assert types[-1] == "image_generation.completed"


def test_a_reply_carries_its_request_id__V(ai: openai.OpenAI) -> None:
    raw = ai.images.with_raw_response.generate(prompt=PROMPT)

    assert raw.request_id
    assert raw.request_id == raw.headers["x-request-id"]
    assert len(pictures_of(raw.parse())) == 1


# waiting


def test_a_reply_waits_as_long_as_it_takes__V(tmp_path: Path) -> None:
    with (
        serving(tmp_path, sync_wait_seconds=0.01) as served,
        client_of(served) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        served.script.gate.clear()
        asked = pool.submit(client.images.generate, prompt=PROMPT)
        until(lambda: served.client.get("/darkroom/queue").json()["running_tasks"] == 1)
        time.sleep(0.2)
        assert not asked.done()
        served.script.gate.set()
        assert only(asked.result()).size == (128, 128)


def test_a_caller_who_leaves_cancels__INF(served: Served) -> None:
    served.script.gate.clear()

    task_id = served.leave(GENERATIONS, {"prompt": PROMPT})

    assert served.end(task_id)["state"] == "cancelled"


def test_a_caller_who_leaves_and_may_come_back_does_not__INF(served: Served) -> None:
    served.script.gate.clear()
    send: dict[str, Any] = {"json": {"prompt": PROMPT}, "headers": {"Idempotency-Key": "leaves"}}

    task_id = served.leave(GENERATIONS, send["json"], send["headers"])
    until(lambda: served.newest()["state"] == "running")
    # time enough for the server to see that nobody listens, and to do the wrong thing
    time.sleep(0.5)
    assert not served.newest()["cancel_requested"]
    running = served.client.post(GENERATIONS, **send)
    served.script.gate.set()
    served.end(task_id)
    again = served.client.post(GENERATIONS, **send)

    assert (running.status_code, fault(running)["code"]) == (409, "idempotency_running")
    assert int(running.headers["retry-after"]) >= 1
    assert "idempotent-replayed" not in running.headers
    assert again.status_code == 200
    assert opened(again.json()["data"][0]["b64_json"]).size == (128, 128)


def test_a_repeated_request_gets_the_same_answer__INF(served: Served, ai: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "twice"}
    first = ai.images.with_raw_response.generate(prompt=PROMPT, n=2, extra_headers=headers)
    second = ai.images.with_raw_response.generate(
        prompt=PROMPT, n=2, style=None, extra_headers=headers
    )

    assert json.loads(first.text) == json.loads(second.text)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    with pytest.raises(openai.UnprocessableEntityError):
        ai.images.generate(prompt="another", n=2, extra_headers=headers)
