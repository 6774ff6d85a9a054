"""What a task asks besides pictures: written-out prompts, ratings, looks at a picture."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from api.accounts import NOBODY
from api.assistants import AssistantFailed, Assistants, Note, Review
from api.orders import Order, Upload
from api.services import Services
from api.tasks import (
    Enhanced,
    Extras,
    Findings,
    Level,
    Output,
    Rating,
    RatingWish,
    Task,
    TaskKind,
    TaskState,
)
from inference.errors import Unsupported
from inference.job import ImageRequest, ImageRole
from tests.api.conftest import Serve
from tests.api.making import encoded
from tests.api.scripted import ScriptedEngine

SECONDS = 30
RED = Image.new("RGB", (8, 8), "red")
CUSTOM = RatingWish(levels=(Level(value="calm"), Level(value="loud", description="bright")))


@dataclass
class Helpers:
    """Assistants that answer from what they are given, or fail with a reason."""

    fails: str = ""
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def rate(self, picture: Image.Image, wish: RatingWish) -> str:
        self._fail()
        levels = [level.value for level in wish.levels] or ["sfw", "nsfw"]
        red, *_ = picture.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        return levels[int(red > 128)]

    async def enhance(
        self, prompt: str, negative_prompt: str | None, notes: Sequence[Note], model: str
    ) -> Enhanced:
        self.asked.append(model)
        await self.gate.wait()
        self._fail()
        told = " ".join(note.text for note in notes)
        return Enhanced(prompt=f"{prompt}, large {told}".strip(), negative_prompt="blur")

    async def search(self, query: str) -> tuple[Note, ...]:
        return (Note(title="News", url="https://news.example/1", text=f"on {query}"),)

    async def describe(self, picture: Image.Image) -> str:
        self._fail()
        return f"{picture.width} by {picture.height}"

    async def review(self, picture: Image.Image, effort: Literal["low", "high"]) -> Review:
        self._fail()
        return Review(score=3, summary=effort, findings=("dull",))

    def _fail(self) -> None:
        if self.fails:
            raise AssistantFailed(self.fails)

    @property
    def all(self) -> Assistants:
        return Assistants(rater=self, enhancer=self, searcher=self, viewer=self)


@pytest.fixture
def helpers() -> Helpers:
    found = Helpers()
    found.gate.set()
    return found


def order(extras: Extras, *uploads: Upload, count: int = 1, seed: int = 0) -> Order:
    wish = ImageRequest(model="auto", prompt="a red circle", count=count, seed=seed)
    return Order(request=wish, dialect="darkroom", uploads=uploads, extras=extras)


async def done(services: Services, extras: Extras, *uploads: Upload, **more: int) -> Task:
    accepted = await services.darkroom.submit(order(extras, *uploads, **more), NOBODY)
    return await services.darkroom.wait(accepted.task.id, timeout_seconds=SECONDS)


def source() -> Upload:
    return Upload(role=ImageRole.SOURCE, field="url", data=encoded(RED))


@pytest.mark.parametrize(
    ("extras", "key", "name"),
    [
        (Extras(rating=RatingWish()), "rater", "rating"),
        (Extras(kind=TaskKind.RATE), "rater", "rating"),
        (Extras(kind=TaskKind.ALT), "viewer", "alt"),
        (Extras(kind=TaskKind.REVIEW), "viewer", "review"),
        (Extras(magic_prompt=True), "enhancer", "magic_prompt"),
        (Extras(real_time=True), "search", "real_time"),
    ],
)
async def test_what_is_not_set_up_is_refused_by_its_key(
    services: Services, extras: Extras, key: str, name: str
) -> None:
    with pytest.raises(Unsupported, match=f"no '{key}'") as refused:
        await services.darkroom.submit(order(extras), NOBODY)
    assert refused.value.field == name


async def test_a_prompt_is_written_out_before_it_is_made(serve: Serve, helpers: Helpers) -> None:
    async with serve(assistants=helpers.all) as services:
        task = await done(services, Extras(magic_prompt=True))
    assert task.state is TaskState.SUCCEEDED
    assert task.request.prompt == "a red circle"
    assert (task.job.prompt, task.job.negative_prompt) == ("a red circle, large", "blur")
    assert task.findings == Findings(
        enhanced=Enhanced(prompt="a red circle, large", negative_prompt="blur")
    )
    assert helpers.asked == ["paint"]


async def test_live_references_reach_the_prompt_and_are_named(
    serve: Serve, helpers: Helpers
) -> None:
    async with serve(assistants=helpers.all) as services:
        task = await done(services, Extras(real_time=True))
    assert task.job.prompt == "a red circle, large on a red circle"
    assert task.findings.sources == ("https://news.example/1",)


async def test_a_writer_that_fails_costs_nobody_their_picture(
    serve: Serve, helpers: Helpers
) -> None:
    helpers.fails = "no answer"
    async with serve(assistants=helpers.all) as services:
        task = await done(services, Extras(magic_prompt=True))
    assert task.state is TaskState.SUCCEEDED
    assert (task.job.prompt, task.findings) == ("a red circle", Findings())


async def test_a_task_that_runs_again_is_not_written_out_again(
    serve: Serve, helpers: Helpers, engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    async with serve(assistants=helpers.all, drain_seconds=0.0) as services:
        accepted = await services.darkroom.submit(order(Extras(magic_prompt=True)), NOBODY)
        async with asyncio.timeout(SECONDS):
            while not engine.orders:
                await asyncio.sleep(0.005)
    async with serve(ScriptedEngine(), assistants=helpers.all) as services:
        task = await services.darkroom.wait(accepted.task.id, timeout_seconds=SECONDS)
    assert (task.state, task.attempt) == (TaskState.SUCCEEDED, 2)
    assert task.job.prompt == "a red circle, large"
    assert helpers.asked == ["paint"]


async def test_a_task_cancelled_while_its_prompt_is_written_makes_nothing(
    serve: Serve, helpers: Helpers, engine: ScriptedEngine
) -> None:
    helpers.gate.clear()
    async with serve(assistants=helpers.all) as services:
        accepted = await services.darkroom.submit(order(Extras(magic_prompt=True)), NOBODY)
        async with asyncio.timeout(SECONDS):
            while not helpers.asked:
                await asyncio.sleep(0.005)
        await services.darkroom.cancel(accepted.task.id)
        helpers.gate.set()
        task = await services.darkroom.wait(accepted.task.id, timeout_seconds=SECONDS)
    assert task.state is TaskState.CANCELLED
    assert not engine.orders


@pytest.mark.parametrize(("wish", "level"), [(RatingWish(), "sfw"), (CUSTOM, "calm")])
async def test_every_picture_is_rated(
    serve: Serve, helpers: Helpers, wish: RatingWish, level: str
) -> None:
    async with serve(assistants=helpers.all) as services:
        task = await done(services, Extras(rating=wish), count=3)
    assert [output.rating for output in task.outputs] == [Rating(level=level)] * 3


async def test_a_rater_that_fails_is_told_and_the_picture_stays(
    serve: Serve, helpers: Helpers
) -> None:
    helpers.fails = "out of order"
    async with serve(assistants=helpers.all) as services:
        task = await done(services, Extras(rating=RatingWish()))
    assert task.state is TaskState.SUCCEEDED
    assert task.outputs[0].rating == Rating(error="out of order")


@pytest.mark.parametrize(
    ("extras", "result"),
    [
        (Extras(kind=TaskKind.RATE), {"level": "nsfw"}),
        (Extras(kind=TaskKind.RATE, rating=CUSTOM), {"level": "loud"}),
        (Extras(kind=TaskKind.ALT), {"alt": "8 by 8"}),
        (
            Extras(kind=TaskKind.REVIEW, effort="low"),
            {"score": 3, "summary": "low", "findings": ["dull"], "strengths": []},
        ),
    ],
)
async def test_a_look_at_a_picture_is_a_task(
    serve: Serve, helpers: Helpers, extras: Extras, result: dict[str, object]
) -> None:
    async with serve(assistants=helpers.all) as services:
        task = await done(services, extras, source())
    no_pictures: tuple[Output, ...] = ()
    assert (task.state, task.credits, task.outputs) == (TaskState.SUCCEEDED, 0, no_pictures)
    assert task.findings.result == result


async def test_a_look_that_fails_fails_the_task(serve: Serve, helpers: Helpers) -> None:
    helpers.fails = "cannot see"
    async with serve(assistants=helpers.all) as services:
        task = await done(services, Extras(kind=TaskKind.ALT), source())
    assert (task.state, task.error_kind) == (TaskState.FAILED, "assistant_failed")
    assert task.error_message == "cannot see"


async def test_what_was_asked_is_kept_to_be_repeated(serve: Serve, tmp_path: Path) -> None:
    asked = {"prompt": "a red circle", "metadata": {"n": [1, None, "ü"]}}
    async with serve() as services:
        task = await done(services, Extras(asked=asked, tells_hooks=False))
    assert task.extras == Extras(asked=asked, tells_hooks=False)
