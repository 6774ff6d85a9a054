"""The use cases: what is accepted is kept whole, what is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from api.errors import (
    BadRequest,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from api.orders import Order, Upload
from api.services import Services
from api.storage import LocalStorage
from api.tasks import Task, TaskState
from inference.errors import BadValue, Refused, Unsupported
from inference.job import ImageRequest, ImageRole
from tests.api.conftest import Serve
from tests.api.making import encoded, submitted
from tests.api.scripted import ScriptedEngine

SECONDS = 30
WISH = ImageRequest(model="auto", prompt="a red circle", count=3, seed=7)


def kept(tmp_path: Path) -> tuple[int, list[Path]]:
    """Tasks and files on the disk."""
    with sqlite3.connect(tmp_path / "data" / "darkroom.db") as database:
        (tasks,) = database.execute("SELECT count(*) FROM tasks").fetchone()
    database.close()
    files = (tmp_path / "data" / "objects").rglob("*")
    return tasks, [path for path in files if path.is_file()]


def upload(role: ImageRole = ImageRole.SOURCE, data: bytes | None = None) -> Upload:
    field = "mask" if role is ImageRole.MASK else "image"
    picture = data if data is not None else encoded(Image.new("RGB", (32, 16), "red"), "JPEG")
    return Upload(role=role, field=field, data=picture)


async def test_a_request_becomes_pictures(services: Services) -> None:
    task = await submitted(services, WISH, dialect="modelmux")
    assert (task.state, task.credits, task.dialect) == (TaskState.QUEUED, 9, "modelmux")
    assert len(task.id) == 21 and task.id.isalnum()
    done = await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
    assert done.state is TaskState.SUCCEEDED and done.request == WISH
    assert [output.seed for output in done.outputs] == [7, 8, 9]
    assert done.created_ms <= (done.started_ms or 0) <= (done.finished_ms or 0)


async def test_input_pictures_reach_the_engine_rewritten(
    services: Services, engine: ScriptedEngine
) -> None:
    mask = upload(ImageRole.MASK, encoded(Image.new("L", (32, 16), 255)))
    task = await submitted(
        services,
        ImageRequest(model="paint", prompt="x"),
        dialect="darkroom",
        uploads=[upload(), mask],
    )
    assert task.job.mode == "inpaint"
    await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
    source = engine.pictures[task.job.key_of(ImageRole.SOURCE) or ""]
    assert source.startswith(b"\x89PNG")
    assert set(engine.pictures) == {f"inputs/{task.id}/0.png", f"inputs/{task.id}/1.png"}


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"prompt": "a\0b"}, BadRequest, "prompt"),
        ({"negative_prompt": "\0"}, BadRequest, "negative_prompt"),
        ({"prompt": "\ud800"}, BadValue, "prompt"),
        ({"prompt": " "}, BadValue, "prompt"),
        ({"prompt": "x" * 501}, BadValue, "prompt"),
        ({"count": 9}, BadValue, "count"),
        ({"resolution": "2k", "width": 64}, BadValue, "height"),
    ],
)
async def test_a_refusal_keeps_nothing(
    services: Services,
    tmp_path: Path,
    change: dict[str, str | int],
    error: type[Exception],
    field: str,
) -> None:
    values = {"model": "paint", "prompt": "x"} | change
    with pytest.raises(error) as refused:
        await submitted(services, ImageRequest(**values), dialect="darkroom")  # type: ignore[arg-type]
    assert refused.value.field == field  # type: ignore[attr-defined]
    assert kept(tmp_path) == (0, [])


async def test_a_bad_second_picture_takes_the_first_with_it(serve: Serve, tmp_path: Path) -> None:
    async with serve(max_picture_bytes=2000) as services:
        for mask, error in [
            (b"GIF89a", UnsupportedMedia),
            (b"\xff\xd8\xff", BadRequest),
            (bytes(2001), TooLarge),
        ]:
            with pytest.raises(error) as refused:
                await submitted(
                    services,
                    ImageRequest(model="paint", prompt="x"),
                    dialect="darkroom",
                    uploads=[upload(), upload(ImageRole.MASK, mask)],
                )
            assert refused.value.field == "mask"  # type: ignore[attr-defined]
        assert kept(tmp_path) == (0, [])


async def test_pictures_that_the_mode_does_not_take_are_not_even_read(
    services: Services, tmp_path: Path
) -> None:
    two = [upload(data=b"not a picture"), upload(data=b"nor this")]
    with pytest.raises(Unsupported):
        await submitted(
            services, ImageRequest(model="paint", prompt="x"), dialect="darkroom", uploads=two
        )
    assert kept(tmp_path) == (0, [])


async def test_the_bound_holds_in_a_rush(
    serve: Serve, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    async with serve(max_queue_tasks=20) as services:
        results = await asyncio.gather(
            *(
                submitted(
                    services,
                    ImageRequest(model="paint", prompt="x"),
                    dialect="darkroom",
                    uploads=[upload()],
                )
                for _ in range(64)
            ),
            return_exceptions=True,
        )
        accepted = [result for result in results if isinstance(result, Task)]
        refused = [result for result in results if isinstance(result, Overloaded)]
        assert (len(accepted), len(refused)) == (20, 44)
        assert all(1 <= (full.retry_after_seconds or 0) <= 60 for full in refused)
        tasks, files = kept(tmp_path)
        assert tasks == len([path for path in files if "inputs" in path.parts]) == 20
        engine.gate.set()
        for task in accepted:
            done = await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
            assert done.state is TaskState.SUCCEEDED
        await submitted(services, WISH, dialect="darkroom")


async def test_a_client_that_leaves_does_not_leave_half_a_task(
    services: Services, tmp_path: Path
) -> None:
    for number in range(20):
        leaving = asyncio.create_task(
            submitted(
                services,
                ImageRequest(model="paint", prompt="x"),
                dialect="darkroom",
                uploads=[upload()],
            )
        )
        await asyncio.sleep(number / 1000)
        leaving.cancel()
    await services.darkroom.settle()
    tasks, files = kept(tmp_path)
    assert tasks == len([path for path in files if "inputs" in path.parts]) > 0


async def test_a_full_disk_refuses_and_recovers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with serve(disk_floor_bytes=2**62) as services:
        with pytest.raises(Unavailable, match="disk is full"):
            await submitted(services, WISH, dialect="darkroom")
        health = await services.darkroom.health()
        assert not health.ready and "bytes are free" in health.checks["disk"]
    async with serve() as services:

        async def no_space(self: LocalStorage, key: str, data: bytes) -> None:
            raise Unavailable("no space", retry_after_seconds=5)

        monkeypatch.setattr(LocalStorage, "put", no_space)
        with pytest.raises(Unavailable):
            await submitted(
                services,
                ImageRequest(model="paint", prompt="x"),
                dialect="darkroom",
                uploads=[upload()],
            )
        assert kept(tmp_path) == (0, [])


async def test_other_accounts_see_nothing(services: Services) -> None:
    darkroom = services.darkroom
    task = await submitted(services, WISH, dialect="darkroom", account="me")
    assert (await darkroom.wait(task.id, timeout_seconds=SECONDS, account="me")).state.ended
    for use in (
        darkroom.get(task.id, account="you"),
        darkroom.wait(task.id, timeout_seconds=1, account="you"),
        darkroom.cancel(task.id, account="you"),
        darkroom.image(task.id, 0, account="you"),
        anext(aiter(darkroom.watch(task.id, account="you"))),
        darkroom.get("no such task", account="me"),
    ):
        with pytest.raises(NotFound):
            await use  # type: ignore[misc]
    assert (await darkroom.list(account="you")).tasks == ()
    assert [found.id for found in (await darkroom.list(account="me")).tasks] == [task.id]


async def test_a_picture_is_there_or_why_not_is_said(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    task = await submitted(services, WISH, dialect="darkroom")
    with pytest.raises(NotReady):
        await services.darkroom.image(task.id, 0)
    for index in (-1, 3):
        with pytest.raises(NotFound):
            await services.darkroom.image(task.id, index)
    engine.gate.set()
    await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
    assert (await services.darkroom.image(task.id, 2)).output.seed == 9


@pytest.mark.parametrize("limit", [0, -1, 101])
async def test_pages_have_a_size(services: Services, limit: int) -> None:
    with pytest.raises(BadRequest) as refused:
        await services.darkroom.list(limit=limit)
    assert refused.value.field == "limit"


async def test_waiting_ends_with_the_task_or_the_time(
    services: Services, engine: ScriptedEngine
) -> None:
    loop = asyncio.get_running_loop()
    engine.gate.clear()
    task = await submitted(services, WISH, dialect="darkroom")
    started = loop.time()
    seen = await services.darkroom.wait(task.id, timeout_seconds=0.3)
    assert not seen.state.ended and 0.3 <= loop.time() - started < SECONDS
    waiters = [
        asyncio.create_task(services.darkroom.wait(task.id, timeout_seconds=60)) for _ in range(20)
    ]
    await asyncio.sleep(0.1)
    engine.gate.set()
    async with asyncio.timeout(SECONDS):
        done = await asyncio.gather(*waiters)
    assert {found.state for found in done} == {TaskState.SUCCEEDED}


async def test_a_watcher_sees_the_whole_story(serve: Serve, engine: ScriptedEngine) -> None:
    engine.gate.clear()
    async with serve(images_in_flight=1) as services:
        await submitted(services, WISH, dialect="darkroom")
        second = await submitted(
            services, ImageRequest(model="paint", prompt="x", count=2), dialect="darkroom"
        )
        updates = services.darkroom.watch(second.id)
        first_word = await anext(updates)
        assert first_word.state is TaskState.QUEUED and first_word.position in (0, 1)
        engine.gate.set()
        async with asyncio.timeout(SECONDS):
            told = [update async for update in updates]
    states = [update.state for update in told]
    assert states[-1] is TaskState.SUCCEEDED and states.count(TaskState.SUCCEEDED) == 1
    assert sorted(u.output.index for u in told if u.output) == [0, 1]
    previews = [update for update in told if update.preview]
    assert previews and {u.preview_media_type for u in previews} == {"image/webp"}
    assert all(u.step is not None and u.steps == 2 for u in previews)


async def test_watching_what_has_ended_tells_the_end(services: Services) -> None:
    task = await submitted(services, WISH, dialect="darkroom")
    await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
    told = [update async for update in services.darkroom.watch(task.id)]
    assert [u.output.index if u.output else u.state for u in told] == [0, 1, 2, "succeeded"]


async def test_a_cancelled_queued_task_wakes_its_watchers(
    serve: Serve, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.submit.RECHECK_SECONDS", 1000)
    engine.gate.clear()
    async with serve(images_in_flight=1) as services:
        await submitted(services, WISH, dialect="darkroom")
        task = await submitted(services, WISH, dialect="darkroom")
        waiter = asyncio.create_task(services.darkroom.wait(task.id, timeout_seconds=60))
        await asyncio.sleep(0.1)
        await services.darkroom.cancel(task.id)
        async with asyncio.timeout(SECONDS):
            assert (await waiter).state is TaskState.CANCELLED
        engine.gate.set()


async def test_a_list_can_be_of_one_dialect_and_go_on_after_a_task(services: Services) -> None:
    made = []
    for dialect in ("mynth", "darkroom", "mynth", "mynth"):
        wish = ImageRequest(model="auto", prompt="a")
        made.append(await submitted(services, wish, dialect=dialect))
    newest = [made[3].id, made[2].id, made[0].id]

    first = await services.darkroom.list(dialect="mynth", limit=2)
    rest = await services.darkroom.list(dialect="mynth", limit=2, after=made[2])

    assert [task.id for task in first.tasks] == newest[:2]
    assert [task.id for task in rest.tasks] == newest[2:]
    assert len((await services.darkroom.list()).tasks) == 4


async def test_a_quote_prices_an_order_and_keeps_nothing(services: Services) -> None:
    wish = ImageRequest(model="auto", prompt="a", count=4, width=128, height=64)
    quote = services.darkroom.quote(Order(request=wish, dialect="darkroom"))

    assert (quote.credits, quote.job.width, len(quote.job.seeds)) == (12, 128, 4)
    with pytest.raises(Refused):
        services.darkroom.quote(Order(request=replace(wish, model="other"), dialect="darkroom"))
    assert (await services.darkroom.list()).tasks == ()


TIERED = """
  tiers:
    family: flux
    source: builtin:tiny-flux
    price: {1k: 2, 2k: 20}
aliases:"""


@pytest.fixture
async def tiered(serve: Serve, models: Path) -> AsyncIterator[Services]:
    """With a model of any size, at a price by size."""
    models.write_text(models.read_text().replace("aliases:", TIERED))
    async with serve() as running:
        yield running


class TestASizeThatTheSourceTells:
    async def test_the_job_and_its_price_are_of_the_picture_that_came(
        self, tiered: Services
    ) -> None:
        large = upload(data=encoded(Image.new("RGB", (1600, 1200), "red"), "JPEG"))
        wish = ImageRequest(model="tiers", prompt="x", seed=3, count=2)
        task = await submitted(tiered, wish, uploads=[large])
        assert (task.job.width, task.job.height, task.credits) == (1600, 1200, 2 * 20)
        assert task.job.seeds == (3, 4)
        small = await submitted(tiered, replace(wish, downsizing_mp=0.4801), uploads=[large])
        assert (small.job.width, small.job.height, small.credits) == (800, 608, 2 * 2)
        done = await tiered.darkroom.wait(small.id, timeout_seconds=SECONDS)
        assert [(one.width, one.height) for one in done.outputs] == [(800, 608)] * 2

    async def test_a_picture_on_its_side_counts_as_it_is_seen(self, tiered: Services) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        sideways = encoded(Image.new("RGB", (800, 608)), "JPEG", exif=exif)
        task = await submitted(
            tiered, ImageRequest(model="tiers", prompt="x"), uploads=[upload(data=sideways)]
        )
        assert (task.job.width, task.job.height) == (608, 800)

    async def test_a_size_that_is_named_stays(self, tiered: Services) -> None:
        wish = ImageRequest(model="tiers", prompt="x", width=512, height=512)
        task = await submitted(tiered, wish, uploads=[upload()])
        assert (task.job.width, task.job.height, task.credits) == (512, 512, 2)
