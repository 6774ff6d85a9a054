"""OpenAI's contract, streams: a test per documented statement, by OpenAI's own client.

`V` in an id is what the client (3.51) reads; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from inference.errors import OutOfMemory
from tests.api.http.openai_client import EDITS, GENERATIONS, client_of, fault, half_transparent
from tests.api.http.served import Served, until
from tests.api.http.test_events import events_of
from tests.api.making import opened, png

PROMPT = "a red circle"
COMMON = {
    *("type", "b64_json", "created_at", "size", "quality", "background", "output_format"),
}


@pytest.fixture
def once() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


@pytest.fixture
def ai(served: Served) -> Iterator[openai.OpenAI]:
    with client_of(served) as client:
        yield client


@pytest.mark.usefixtures("begins_when_watched")
def test_a_stream_tells_of_a_partial_image_and_the_picture__V(ai: openai.OpenAI) -> None:
    before = int(time.time())
    with ai.images.generate(prompt=PROMPT, stream=True, partial_images=1) as stream:
        partial, completed = stream

    assert partial.type == "image_generation.partial_image"
    assert partial.partial_image_index == 0
    assert set(partial.to_dict()) == COMMON | {"partial_image_index"}
    assert completed.type == "image_generation.completed"
    assert set(completed.to_dict()) == COMMON | {"usage"}
    assert completed.usage.to_dict() == {
        "input_tokens": 3,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 3},
        "output_tokens": 64,
        "total_tokens": 67,
    }
    for event in (partial, completed):
        assert before <= event.created_at <= time.time()
        assert (event.quality, event.background) == ("auto", "opaque")
        assert opened(event.b64_json).size == (128, 128)


@pytest.mark.usefixtures("begins_when_watched")
@pytest.mark.parametrize(
    ("fields", "size", "format"),
    [
        pytest.param({}, "128x128", "png", id="V png"),
        pytest.param(
            {"size": "1536x1024", "output_format": "jpeg", "output_compression": 30},
            *("144x96", "jpeg"),
            id="V jpeg",
        ),
        pytest.param({"size": "80x144", "output_format": "webp"}, "80x144", "webp", id="V webp"),
    ],
)
def test_partial_images_are_files_like_the_picture(
    ai: openai.OpenAI, fields: dict[str, Any], size: str, format: str
) -> None:
    stream = ai.images.generate(prompt=PROMPT, stream=True, partial_images=1, **fields)

    types = []
    for event in stream:
        picture = opened(event.b64_json)
        types.append(event.type.rpartition(".")[2])
        assert (event.size, event.output_format) == (size, format)
        assert (f"{picture.width}x{picture.height}", str(picture.format).lower()) == (size, format)
    assert types == ["partial_image", "completed"]


@pytest.mark.usefixtures("begins_when_watched")
def test_a_partial_image_looks_like_the_picture__V(served: Served, ai: openai.OpenAI) -> None:
    partial, completed = ai.images.generate(prompt=PROMPT, stream=True, partial_images=1)

    # the script draws one plain colour, which the small preview's file keeps roughly
    first, last = (opened(event.b64_json).getpixel((64, 64)) for event in (partial, completed))
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert max(abs(a - b) for a, b in zip(first, last, strict=True)) < 24


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="INF none unless asked for"),
        pytest.param({"partial_images": 0}, id="V 0"),
        pytest.param({"partial_images": None}, id="V null"),
    ],
)
def test_a_stream_may_be_the_picture_alone(ai: openai.OpenAI, fields: dict[str, Any]) -> None:
    (event,) = ai.images.generate(prompt=PROMPT, stream=True, **fields)

    assert event.type == "image_generation.completed"


@pytest.mark.usefixtures("begins_when_watched")
def test_a_stream_of_several_completes_each__INF(ai: openai.OpenAI) -> None:
    events = list(ai.images.generate(prompt=PROMPT, stream=True, partial_images=1, n=3))

    done = [event for event in events if event.type == "image_generation.completed"]
    assert len(events) == 4
    assert len({opened(event.b64_json).tobytes() for event in done}) == 3


@pytest.mark.usefixtures("begins_when_watched")
def test_an_edit_has_events_of_its_own__V(ai: openai.OpenAI) -> None:
    partial, completed = ai.images.edit(
        image=png(),
        mask=half_transparent(),
        prompt=PROMPT,
        stream=True,
        partial_images=1,
        quality="low",
        user="u1",
    )

    assert partial.type == "image_edit.partial_image"
    assert completed.type == "image_edit.completed"
    assert (partial.quality, completed.quality) == ("low", "low")
    assert completed.usage.input_tokens_details.image_tokens == 2 * 64
    assert completed.safety_identifier == "u1"
    assert opened(completed.b64_json).size == (128, 128)


@pytest.mark.usefixtures("begins_when_watched")
def test_a_stream_on_the_wire_names_its_events__V(served: Served) -> None:
    body = {"prompt": PROMPT, "stream": True, "partial_images": 1}
    with served.client.stream("POST", GENERATIONS, json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-request-id"]
        events = list(events_of(reply))

    assert [name for name, _ in events] == [told["type"] for _, told in events]
    assert len(events) == 2


# what goes wrong


@pytest.mark.parametrize("bad", [pytest.param(0, id="V at once"), pytest.param(1, id="V midway")])
def test_a_failure_is_an_event__V(served: Served, ai: openai.OpenAI, bad: int) -> None:
    def fails(job: Any, index: int) -> OutOfMemory | None:
        return OutOfMemory("does not fit") if index == bad else None

    served.script.fails = fails
    types = []

    with pytest.raises(openai.APIError, match="does not fit") as caught:
        for event in ai.images.generate(prompt=PROMPT, stream=True, n=2):
            types.append(event.type)

    assert (caught.value.type, caught.value.code) == ("server_error", "out_of_memory")
    assert types == ["image_generation.completed"], "the other picture comes all the same"


def test_a_stream_sent_again_tells_of_the_same_failure__INF(
    served: Served, once: dict[str, str]
) -> None:
    served.script.fails = lambda job, index: OutOfMemory("does not fit") if index == 0 else None
    body = {"prompt": PROMPT, "stream": True, "n": 3}
    told = []
    for _ in range(2):
        with served.client.stream("POST", GENERATIONS, json=body, headers=once) as reply:
            told.append(list(events_of(reply)))

    for events in told:
        names = [name for name, _ in events]
        assert names == ["image_generation.completed"] * 2 + ["error"]
        assert events[-1][1]["error"]["message"] == "1 of 3 pictures were not made: does not fit"
    pictures = [{one["b64_json"] for _, one in events[:-1]} for events in told]
    assert pictures[0] == pictures[1]


def test_a_cancellation_is_an_event__INF(served: Served, ai: openai.OpenAI) -> None:
    served.script.gate.clear()
    stream = ai.images.generate(prompt=PROMPT, stream=True)
    served.client.post(served.newest()["links"]["cancel"])

    with pytest.raises(openai.APIError, match="cancelled"):
        list(stream)


def test_a_refusal_comes_before_the_stream__V(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ai.images.generate(prompt=PROMPT, model="flux-9", stream=True)


def test_a_stream_has_no_url__INF(client: httpx2.Client) -> None:
    body = {"prompt": PROMPT, "stream": True, "response_format": "url"}
    reply = client.post(GENERATIONS, json=body)

    assert (reply.status_code, fault(reply)["param"]) == (400, "response_format")


@pytest.mark.parametrize(
    ("path", "send"),
    [
        pytest.param(GENERATIONS, {"json": {"prompt": PROMPT, "stream": True}}, id="INF generate"),
        pytest.param(
            EDITS,
            {"data": {"prompt": PROMPT, "stream": "true"}, "files": {"image": png()}},
            id="INF edit",
        ),
    ],
)
def test_a_reader_who_leaves_cancels(served: Served, path: str, send: dict[str, Any]) -> None:
    served.script.gate.clear()

    with served.client.stream("POST", path, **send) as reply:
        assert reply.status_code == 200
        assert served.newest()["state"] in ("queued", "running")

    until(lambda: served.newest()["state"] == "cancelled")


# sent again


def test_a_stream_sent_again_tells_of_the_same_picture__INF(
    served: Served, once: dict[str, str]
) -> None:
    body = {"prompt": PROMPT, "stream": True, "partial_images": 1}
    told, made_by = [], []

    for _ in range(2):
        with served.client.stream("POST", GENERATIONS, json=body, headers=once) as reply:
            told.append((reply.headers.get("idempotent-replayed"), list(events_of(reply))))
        made_by.append(served.newest()["id"])

    (first, made), (again, repeated) = told
    assert (first, again) == (None, "true")
    assert [name for name, _ in repeated] == ["image_generation.completed"]
    assert repeated[-1][1]["b64_json"] == made[-1][1]["b64_json"]
    assert made_by[0] == made_by[1]


def test_a_reader_with_a_key_may_leave_and_come_back__INF(
    served: Served, once: dict[str, str]
) -> None:
    served.script.gate.clear()
    body = {"prompt": PROMPT, "stream": True, "n": 2}
    with served.client.stream("POST", GENERATIONS, json=body, headers=once) as reply:
        assert reply.status_code == 200
    # whoever leaves after it, without a key, is noticed after it
    with served.client.stream("POST", GENERATIONS, json=body) as reply:
        assert reply.status_code == 200
    other = served.newest()["id"]
    until(lambda: served.newest()["state"] == "cancelled" or served.script.was_cancelled(other))

    with served.client.stream("POST", GENERATIONS, json=body, headers=once) as reply:
        served.script.gate.set()
        events = list(events_of(reply))

    assert [name for name, _ in events] == ["image_generation.completed"] * 2


def test_a_key_is_for_the_stream_alone__INF(client: httpx2.Client, once: dict[str, str]) -> None:
    client.post(GENERATIONS, json={"prompt": PROMPT, "stream": True}, headers=once)
    reply = client.post(GENERATIONS, json={"prompt": PROMPT}, headers=once)

    assert (reply.status_code, fault(reply)["code"]) == (422, "idempotency_mismatch")
