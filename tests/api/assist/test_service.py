"""Assistants at work in a whole service: around real pictures, in every kind of task."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from api.build import build
from api.orders import Order, Upload
from api.services import Services
from api.settings import Settings, SettingsError
from api.tasks import Extras, Level, Rating, RatingWish, Task, TaskKind, TaskState
from inference.demo.judge import judge
from inference.demo.magic import scene_of
from inference.demo.scenes import Scene
from inference.errors import Unsupported
from inference.job import ImageRequest, ImageRole
from tests.api.assist.replies import chats, finds, sent
from tests.api.conftest import MODELS, Serve
from tests.api.making import encoded
from tests.api.receivers import Receiver, says
from tests.api.scripted import ScriptedEngine
from tests.inference import taught
from tests.inference.taught import COLOURS, plain_picture

NSFW = {"fine": ["green", "blue"], "nsfw": ["red"]}
DESCRIBED = {"red": "on fire", "green": "a lawn", "blue": "water"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    taught.classifier(folder / "classifier", NSFW)
    taught.clip(folder / "clip", DESCRIBED)
    taught.captioner(folder / "captioner", {"red": "a red wall", "blue": "the sea"})
    return folder


@pytest.fixture
async def server() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


def set_up(models: Path, **keys: Any) -> None:
    """Let models.yaml name these assistants."""
    models.write_text(MODELS + yaml.safe_dump(keys))


async def ended(services: Services, order: Order) -> Task:
    task = (await services.darkroom.submit(order)).task
    task = await services.darkroom.wait(task.id, timeout_seconds=60)
    assert task.state.ended
    return task


def wish(prompt: str = "a", model: str = "paint", **extras: Any) -> Order:
    request = ImageRequest(model=model, prompt=prompt, seed=1)
    return Order(request=request, dialect="darkroom", extras=Extras(**extras))


def look(kind: TaskKind, colour: str, **extras: Any) -> Order:
    source = Upload(role=ImageRole.SOURCE, field="image", data=encoded(plain_picture(colour)))
    request = ImageRequest(model="", prompt="")
    extras = {"kind": kind} | extras
    return Order(request=request, dialect="darkroom", uploads=[source], extras=Extras(**extras))


def in_colour(colour: str) -> int:
    """The seed of which the scripted engine makes that colour."""
    red, green, blue = COLOURS[colour]
    return red + 256 * green + 65536 * blue


def coloured(colour: str, **extras: Any) -> Order:
    order = wish(**extras)
    return replace(order, request=replace(order.request, seed=in_colour(colour)))


@pytest.fixture
async def demo(tmp_path: Path, root: Path, server: Receiver) -> AsyncIterator[Services]:
    """What is shipped, with a search beside, making real pictures."""
    models = tmp_path / "models.yaml"
    search = {"search": {"searxng": f"http://127.0.0.1:{server.port}"}}
    models.write_text((root / "models.yaml").read_text() + yaml.safe_dump(search))
    services = build(Settings(data_dir=tmp_path / "data", models=models, disk_floor_bytes=0))
    await services.start()
    try:
        yield services
    finally:
        await services.stop()


async def shows(services: Services, task: Task, scene: Scene) -> bool:
    assert task.state is TaskState.SUCCEEDED, task.error_message
    data = await services.storage.get(task.outputs[0].key)
    return judge(Image.open(io.BytesIO(data)), scene).right


async def test_what_is_shipped_draws_what_a_prompt_written_out_says(
    demo: Services, server: Receiver
) -> None:
    prompts = ["a golden disc", "something small on the left", "star, green background"]
    for prompt in prompts:
        task = await ended(demo, wish(prompt, "tiny-flux", magic_prompt=True))
        enhanced = task.findings.enhanced
        assert enhanced is not None and task.findings.sources == ()
        assert task.job.prompt == enhanced.prompt != prompt == task.request.prompt
        scene = scene_of(enhanced.prompt)
        assert scene.said().items() >= scene_of(prompt).said().items()
        assert await shows(demo, task, scene), enhanced.prompt

    found = {"url": "https://flags.example/", "title": "Ours", "content": "A blue star on pink."}
    server.answers = [finds(found)]
    task = await ended(demo, wish("the flag of Testland", "tiny-flux", real_time=True))
    assert task.findings.sources == ("https://flags.example/",)
    assert await shows(demo, task, Scene("blue", "star", "pink"))


async def test_a_prompt_that_nobody_writes_out_is_drawn_as_it_is(
    serve: Serve, models: Path, server: Receiver
) -> None:
    url = f"http://127.0.0.1:{server.port}"
    set_up(models, enhancer={"endpoint": url, "model": "m"}, search={"searxng": url})
    async with serve() as services:
        server.answers = [says(500), chats("a longer wish"), says(403), finds(), chats("late")]
        for extras, prompt in [
            ({"magic_prompt": True}, "a"),
            ({"magic_prompt": True}, "a longer wish"),
            ({"real_time": True}, "a"),
            ({"real_time": True}, "late"),
        ]:
            task = await ended(services, wish("a", **extras))
            assert (task.state, task.job.prompt) == (TaskState.SUCCEEDED, prompt)
            assert (task.findings.enhanced is None) == (prompt == "a")
    assert [one.method for one in server.received] == ["POST", "POST", "GET", "GET", "POST"]


async def test_what_was_found_is_handed_to_the_writer(
    serve: Serve, models: Path, server: Receiver
) -> None:
    url = f"http://127.0.0.1:{server.port}"
    set_up(models, enhancer={"endpoint": url, "model": "m"}, search={"searxng": url})
    server.answers = [finds({"url": "https://a.example", "title": "T", "content": "C"}), chats("b")]
    async with serve() as services:
        task = await ended(services, wish("a tower", real_time=True))
    assert task.findings.sources == ("https://a.example",)
    told = json.loads(sent(server.received[1])["messages"][1]["content"])
    assert told == {"prompt": "a tower", "notes": [{"title": "T", "text": "C"}]}


async def test_every_picture_gets_its_rating(serve: Serve, models: Path, shelf: Path) -> None:
    set_up(models, rater={"classifier": str(shelf / "classifier"), "clip": str(shelf / "clip")})
    levels = tuple(Level(value=name, description=text) for name, text in DESCRIBED.items())
    async with serve() as services:
        for colour in COLOURS:
            task = await ended(services, coloured(colour, rating=RatingWish()))
            level = "nsfw" if colour == "red" else "sfw"
            assert [one.rating for one in task.outputs] == [Rating(level=level)]
            task = await ended(services, coloured(colour, rating=RatingWish(levels=levels)))
            assert [one.rating for one in task.outputs] == [Rating(level=colour)]
        assert (await ended(services, coloured("red"))).outputs[0].rating is None


async def test_a_rater_that_fails_costs_no_picture_and_tells_no_folder(
    serve: Serve, models: Path, tmp_path: Path
) -> None:
    set_up(models, rater={"classifier": str(tmp_path / "nowhere")})
    async with serve() as services:
        task = await ended(services, coloured("red", rating=RatingWish()))
        assert task.state is TaskState.SUCCEEDED
        assert task.outputs[0].rating == Rating(error="the rater could not be loaded")
        task = await ended(services, look(TaskKind.RATE, "red"))
        assert (task.state, task.error_kind) == (TaskState.FAILED, "assistant_failed")
        assert task.error_message == "the rater could not be loaded"


async def test_pictures_are_rated_and_described_by_models_of_this_process(
    serve: Serve, models: Path, shelf: Path
) -> None:
    set_up(
        models,
        rater={"clip": str(shelf / "clip")},
        viewer={"captioner": str(shelf / "captioner")},
    )
    levels = RatingWish(levels=(Level(value="hot", description="on fire"), Level(value="water")))
    async with serve() as services:
        task = await ended(services, look(TaskKind.RATE, "red", rating=levels))
        assert task.findings.result == {"level": "hot"}
        task = await ended(services, look(TaskKind.ALT, "blue"))
        assert task.findings.result == {"alt": "the sea"}
        with pytest.raises(Unsupported, match="'viewer' has no 'endpoint'"):
            await ended(services, look(TaskKind.REVIEW, "blue"))


async def test_pictures_are_described_and_reviewed_by_a_model_that_sees(
    serve: Serve, models: Path, server: Receiver
) -> None:
    set_up(models, viewer={"endpoint": f"http://127.0.0.1:{server.port}/v1", "model": "m"})
    review = {"score": 4, "summary": "Red.", "findings": [], "strengths": ["It is red."]}
    server.answers = [chats("A red wall."), chats(json.dumps(review)), says(500)]
    async with serve() as services:
        task = await ended(services, look(TaskKind.ALT, "red"))
        assert task.findings.result == {"alt": "A red wall."}
        task = await ended(services, look(TaskKind.REVIEW, "red", effort="low"))
        assert task.findings.result == review
        task = await ended(services, look(TaskKind.REVIEW, "red"))
        assert task.state is TaskState.FAILED
        assert task.error_message == "the viewer answered with status 500"


@pytest.mark.parametrize(
    ("order", "field", "keys"),
    [
        (wish(magic_prompt=True), "magic_prompt", ["'enhancer'"]),
        (wish(real_time=True), "real_time", ["'search'", "'enhancer'"]),
        (wish(rating=RatingWish()), "rating", ["'rater'"]),
        (look(TaskKind.RATE, "red"), "rating", ["'rater'"]),
        (look(TaskKind.ALT, "red"), "alt", ["'viewer'"]),
        (look(TaskKind.REVIEW, "red"), "review", ["'viewer'"]),
    ],
)
async def test_who_is_not_set_up_is_named_at_the_door(
    services: Services, order: Order, field: str, keys: list[str]
) -> None:
    with pytest.raises(Unsupported) as caught:
        await services.darkroom.submit(order)
    assert caught.value.field == field
    assert all(key in str(caught.value) for key in keys)


async def test_a_search_without_a_writer_is_refused(
    serve: Serve, models: Path, server: Receiver
) -> None:
    set_up(models, search={"searxng": f"http://127.0.0.1:{server.port}"})
    async with serve() as services:
        with pytest.raises(Unsupported, match="'enhancer'") as caught:
            await services.darkroom.submit(wish(real_time=True))
    assert caught.value.field == "real_time" and server.connections == 0


async def test_levels_of_ones_own_need_a_clip(serve: Serve, models: Path, shelf: Path) -> None:
    set_up(models, rater={"classifier": str(shelf / "classifier")})
    levels = RatingWish(levels=(Level(value="a"), Level(value="b")))
    async with serve() as services:
        for order in (wish(rating=levels), look(TaskKind.RATE, "red", rating=levels)):
            with pytest.raises(Unsupported, match="'rater' has no 'clip'"):
                await services.darkroom.submit(order)


def test_a_key_that_is_not_there_stops_the_start(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"endpoint": "http://127.0.0.1:1", "model": "m", "api_key_env": "WRITER_KEY"}
    set_up(models, enhancer=spec)
    settings = Settings(data_dir=tmp_path / "data", models=models)
    monkeypatch.delenv("WRITER_KEY", raising=False)
    with pytest.raises(SettingsError, match="enhancer: api_key_env names WRITER_KEY"):
        build(settings, engine=ScriptedEngine())
    monkeypatch.setenv("WRITER_KEY", "sk-1")
    assert build(settings, engine=ScriptedEngine()).staff.assistants.enhancer is not None
