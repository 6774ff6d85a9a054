"""Pictures put into words by a chat model that sees: what it is shown, and what is made of it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from PIL import Image

from api.assistants import AssistantFailed, Review, Viewer
from tests.api.assist.conftest import Hire
from tests.api.assist.replies import chats, sent
from tests.api.receivers import Receiver

PICTURE = Image.new("RGB", (2400, 1200), (10, 200, 30))


@pytest.fixture
async def seer() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


def viewer(hired: Hire, seer: Receiver) -> Viewer:
    spec = {
        "endpoint": f"http://127.0.0.1:{seer.port}/v1",
        "model": "sees",
        "api_key_env": "SEER_KEY",
    }
    hands = hired(viewer=spec, environment={"SEER_KEY": "sk-2"}).viewer
    assert hands is not None
    return hands


def shown(seer: Receiver) -> tuple[Image.Image, dict[str, Any]]:
    body = sent(seer.received[-1])
    (message,) = body["messages"]
    text, image = message["content"]
    assert (body["model"], message["role"], text["type"]) == ("sees", "user", "text")
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    picture.load()
    return picture, {"text": text["text"], "detail": image["image_url"]["detail"]}


async def test_a_picture_is_described(hired: Hire, seer: Receiver) -> None:
    seer.answers = [chats('<think>hm</think>"A green\n field."')]
    assert await viewer(hired, seer).describe(PICTURE) == "A green field."
    picture, _ = shown(seer)
    assert picture.size == (1024, 512)
    red, green, blue = picture.getpixel((5, 5))  # type: ignore[misc]
    assert abs(red - 10) + abs(green - 200) + abs(blue - 30) < 12
    assert seer.received[0].headers["authorization"] == "Bearer sk-2"


async def test_what_is_transparent_is_shown_on_white(hired: Hire, seer: Receiver) -> None:
    seer.answers = [chats("nothing")]
    await viewer(hired, seer).describe(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    picture, _ = shown(seer)
    assert picture.size == (64, 64) and picture.getpixel((5, 5)) == (255, 255, 255)


async def test_a_long_description_is_cut_and_an_empty_one_is_a_failure(
    hired: Hire, seer: Receiver
) -> None:
    seer.answers = [chats("word " * 5000), chats(" ")]
    assert len(await viewer(hired, seer).describe(PICTURE)) == 999
    with pytest.raises(AssistantFailed, match="the viewer said nothing of the picture"):
        await viewer(hired, seer).describe(PICTURE)


@pytest.mark.parametrize(("effort", "side"), [("low", 512), ("high", 1024)])
async def test_a_picture_is_reviewed_with_more_or_less_effort(
    hired: Hire, seer: Receiver, effort: Literal["low", "high"], side: int
) -> None:
    told = {"score": 3, "summary": "Fine.", "findings": ["a hand"], "strengths": ["light", ""]}
    seer.answers = [chats(f"```json\n{json.dumps(told)}\n```")]
    assert await viewer(hired, seer).review(PICTURE, effort) == Review(
        score=3, summary="Fine.", findings=("a hand",), strengths=("light",)
    )
    picture, asked = shown(seer)
    assert (picture.width, asked["detail"]) == (side, effort)
    assert ("at most three" in asked["text"]) == (effort == "low")


@pytest.mark.parametrize(
    ("given", "score"),
    [(1, 1), (4, 4), (0, 1), (-3, 1), (99, 4), (2.6, 3), ("3", 3), ("2/4", 2), ("4.0", 4)],
)
async def test_a_score_is_kept_within_its_bounds(
    hired: Hire, seer: Receiver, given: object, score: int
) -> None:
    seer.answers = [chats(json.dumps({"score": given}))]
    review = await viewer(hired, seer).review(PICTURE, "low")
    assert review == Review(score=score, summary="")


@pytest.mark.parametrize("given", ["good", None, True, [], {}, "NaN", float("nan"), ""])
async def test_a_review_without_a_score_is_a_failure(
    hired: Hire, seer: Receiver, given: object
) -> None:
    seer.answers = [chats(json.dumps({"score": given, "summary": "Fine."}))]
    with pytest.raises(AssistantFailed, match="gave a review without a score"):
        await viewer(hired, seer).review(PICTURE, "low")


@pytest.mark.parametrize("reply", ["I would give it a 3.", '{"score": 3, "summ', "[3]"])
async def test_a_review_that_is_no_object_is_a_failure(
    hired: Hire, seer: Receiver, reply: str
) -> None:
    seer.answers = [chats(reply)]
    with pytest.raises(AssistantFailed, match="gave a review that is no JSON object"):
        await viewer(hired, seer).review(PICTURE, "low")


async def test_points_are_texts_and_bounded(hired: Hire, seer: Receiver) -> None:
    told = {"score": 2, "findings": "one", "strengths": [{}, 3, *(["a " * 900] * 50)]}
    seer.answers = [chats(json.dumps(told))]
    review = await viewer(hired, seer).review(PICTURE, "high")
    assert review.findings == ("one",)
    assert [len(text) for text in review.strengths] == [499] * 20
