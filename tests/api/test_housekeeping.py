"""What has had its time goes, and nothing else; whatever fails on the way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from api.clock import wall_clock_ms
from api.errors import Unavailable
from api.housekeeping import HOUR_MS, KEYS, LIST_PICTURES_EVERY_MS, ROWS, Housekeeper
from api.services import Services
from api.storage import LocalStorage, Storage, input_key, output_key, upload_key
from api.store import Store, sqlite_database
from api.store.database import Database
from api.store.housekeeping import HousekeepingStore
from api.store.uploads import KeptUpload, UploadStore
from api.tasks import Task, TaskState
from inference.job import ImageRole, InputImage
from tests.api.conftest import Serve
from tests.api.making import AMPLE, Clock, output_of, submission
from tests.api.places import Place
from tests.api.s3server import S3Server

DAY_MS = 24 * HOUR_MS
# Long ago: a file just written looks too young to be swept, until `put` has set its age.
START_MS = 1_000_000_000_000


class House:
    """A database, a storage and a housekeeper on one clock."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.clock = Clock(START_MS)
        self.place = place
        self.objects = folder / "objects"
        self.database = place.open()
        self.store = Store(self.database, self.clock)
        self.storage = LocalStorage(self.objects)

    def keeper(self, storage: Storage | None = None, **changes: Any) -> Housekeeper:
        rows = changes.pop("rows", HousekeepingStore(self.database, self.clock))
        values: dict[str, Any] = {"retention_hours": 24.0, "now_ms": self.clock}
        return Housekeeper(rows, storage or self.storage, **(values | changes))

    async def put(self, key: str) -> None:
        """An object as old as the clock says."""
        await self.storage.put(key, key.encode())
        os.utime(self.objects / key, (self.clock() / 1000, self.clock() / 1000))

    async def queue(self, task_id: str, *, count: int = 1, inputs: int = 0) -> None:
        """A task that waits, with its input pictures stored."""
        keys = [input_key(task_id, number) for number in range(inputs)]
        for key in keys:
            await self.put(key)
        images = tuple(InputImage(role=ImageRole.SOURCE, key=key) for key in keys)
        made = submission(task_id, count=count, images=images)
        await self.store.accept(replace(made, credits=0), AMPLE)

    async def run(self, task_id: str, *, count: int = 1, inputs: int = 0, end: bool = True) -> Task:
        """A task whose pictures are made, ended or not."""
        await self.queue(task_id, count=count, inputs=inputs)
        claim = await self.store.claim("worker", lease_ms=DAY_MS)
        assert claim is not None and claim.task.id == task_id
        for index in range(count):
            output = output_of(task_id, index)
            await self.put(output.key)
            await self.store.add_output(claim.holding, output)
        if end:
            assert await self.store.finish(claim.holding, TaskState.SUCCEEDED)
        found = await self.store.get(task_id)
        assert found is not None
        return found

    def files(self) -> set[str]:
        return {
            path.relative_to(self.objects).as_posix()
            for path in self.objects.rglob("*")
            if path.is_file()
        }

    async def upload(self, upload_id: str, *, hours: int) -> str:
        """The key of an upload that is kept for so long from now on."""
        key = upload_key(upload_id)
        await self.put(key)
        now_ms = self.clock()
        kept = KeptUpload(
            id=upload_id, account="me", key=key, media_type="image/png", size_bytes=9,
            width=1, height=1, created_ms=now_ms, expires_ms=now_ms + hours * HOUR_MS,
        )  # fmt: skip
        assert await UploadStore(self.database, self.clock).insert("me", [kept], max_bytes=10**6)
        return key

    async def marked(self, task_id: str) -> int | None:
        task = await self.store.get(task_id)
        assert task is not None
        return task.files_deleted_ms

    def execute(self, statement: str, *values: Any) -> list[Any]:
        return self.place.rows(statement, *values)


@pytest.fixture
async def house(tmp_path: Path, place: Place) -> AsyncIterator[House]:
    """An empty one."""
    made = House(tmp_path, place)
    yield made
    await made.database.close()


class Failing:
    """A storage that does as `inner` does until a delete is to fail."""

    def __init__(self, inner: Storage, error: BaseException, deletes: int = 0) -> None:
        self.inner = inner
        self.error = error
        self.deletes = deletes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def delete(self, key: str) -> None:
        if self.deletes == 0:
            raise self.error
        self.deletes -= 1
        await self.inner.delete(key)


# Pictures whose time is up


async def test_pictures_go_when_their_time_is_up(house: House) -> None:
    old = await house.run("old", count=2)
    house.clock.ms += 10 * HOUR_MS
    await house.run("young")
    house.clock.ms += 14 * HOUR_MS + 1
    assert await house.keeper().sweep() == {"pictures": 2}
    assert house.files() == {output_of("young", 0).key}
    assert await house.marked("old") == house.clock()
    assert await house.marked("young") is None
    left = await house.store.get("old")
    assert left is not None and left.outputs == old.outputs, "the record of them stays"
    assert await house.keeper().sweep() == {}


async def test_pictures_stay_to_the_last_moment(house: House) -> None:
    await house.run("task")
    house.clock.ms += DAY_MS
    assert await house.keeper().sweep() == {}
    house.clock.ms += 1
    assert await house.keeper().sweep() == {"pictures": 1}


async def test_without_a_time_pictures_stay_for_ever(house: House) -> None:
    await house.run("task")
    house.clock.ms += 1000 * DAY_MS
    assert await house.keeper(retention_hours=None).sweep() == {}
    assert house.files() == {output_of("task", 0).key}
    assert await house.marked("task") is None


async def test_what_runs_or_waits_is_not_touched(house: House) -> None:
    await house.run("running", inputs=1, end=False)
    await house.queue("waiting", inputs=2)
    await house.put(output_key("running", 1, 7, "png"))
    (house.objects / f"{output_key('running', 1, 8, 'png')}#1").write_bytes(b"hal")
    before = house.files()
    house.clock.ms += 1000 * DAY_MS
    assert await house.keeper().sweep() == {}
    assert house.files() == before
    assert await house.marked("running") is None


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_many_go_in_small_batches(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2 * ROWS + 5):
        await house.run(f"task{number}")
    house.clock.ms += DAY_MS + 1
    written: list[int] = []
    kind = type(house.database)
    write = kind.write

    async def record(self: Database, work: Any) -> Any:
        result = await write(self, work)
        written.append(getattr(result, "tasks", 0))
        return result

    monkeypatch.setattr(kind, "write", record)
    assert await house.keeper().sweep() == {"pictures": 2 * ROWS + 5}
    assert written == [ROWS, ROWS, 5]
    assert house.files() == set()


@pytest.mark.parametrize("deletes", [0, 1, 2])
async def test_a_crash_between_mark_and_delete_leaves_nothing_for_ever(
    house: House, deletes: int
) -> None:
    await house.run("task", count=3)
    house.clock.ms += DAY_MS + 1

    class Crash(BaseException):
        pass

    with pytest.raises(Crash):
        await house.keeper(Failing(house.storage, Crash(), deletes)).sweep()
    assert len(house.files()) == 3 - deletes
    assert await house.marked("task") == house.clock(), "nobody is promised them any more"
    assert await house.keeper().sweep() == {"strays": 3 - deletes}
    assert house.files() == set()


async def test_a_storage_that_is_away_is_swept_when_it_is_back(house: House) -> None:
    await house.run("task", count=3)
    failing = Failing(house.storage, Unavailable("away"), 100)
    keeper = house.keeper(failing)  # type: ignore[arg-type]
    house.clock.ms += DAY_MS
    assert await keeper.sweep() == {}, "all pictures were listed, and are again in an hour"
    failing.deletes = 1
    house.clock.ms += 1
    with structlog.testing.capture_logs() as logs:
        assert await keeper.sweep() == {"pictures": 1}
    failed = [line for line in logs if line["event"] == "housekeeping_failed"]
    assert {(line["duty"], line["reason"]) for line in failed} >= {("pictures", "away")}
    failing.deletes = 100
    assert await keeper.sweep() == {"strays": 2}, "listed at once"
    assert house.files() == set()


# Inputs


async def test_inputs_go_an_hour_after_the_end(house: House) -> None:
    await house.run("task", inputs=3)
    await house.queue("waiting", inputs=1)
    waiting = input_key("waiting", 0)
    house.clock.ms += HOUR_MS
    assert await house.keeper().sweep() == {}
    house.clock.ms += 1
    assert await house.keeper().sweep() == {"inputs": 3}
    assert house.files() == {output_of("task", 0).key, waiting}


async def test_inputs_of_a_long_task_are_not_old_at_its_end(house: House) -> None:
    await house.queue("task", inputs=1)
    house.clock.ms += 10 * HOUR_MS
    assert await house.store.request_cancel("task")
    assert await house.keeper().sweep() == {}
    house.clock.ms += HOUR_MS + 1
    assert await house.keeper().sweep() == {"inputs": 1}


async def test_inputs_that_are_just_being_accepted_stay(house: House) -> None:
    await house.put(input_key("not-a-task-yet", 0))
    house.clock.ms += HOUR_MS
    assert await house.keeper().sweep() == {}
    house.clock.ms += 1
    assert await house.keeper().sweep() == {"inputs": 1}


# Strays


async def test_remains_of_a_cut_write_go(house: House) -> None:
    task = await house.run("task")
    remains = house.objects / f"{output_key('task', 1, 1, 'png')}#1"
    remains.write_bytes(b"hal")
    os.utime(remains, (0, 0))
    assert await house.keeper().sweep() == {"strays": 1}
    assert house.files() == {task.outputs[0].key}


async def test_uploads_go_when_their_time_is_up(house: House) -> None:
    await house.upload("short", hours=2)
    long = await house.upload("long", hours=3)
    house.clock.ms += 2 * HOUR_MS - 1
    assert await house.keeper(retention_hours=None).sweep() == {}
    house.clock.ms += 1
    assert await house.keeper(retention_hours=None).sweep() == {"uploads": 1}
    assert house.files() == {long}
    assert house.execute("SELECT id FROM uploads") == [("long",)]


async def test_many_uploads_go_in_small_batches(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.housekeeping.ROWS", 2)
    for number in range(5):
        await house.upload(f"u{number}", hours=1)
    house.clock.ms += HOUR_MS
    assert await house.keeper().sweep() == {"uploads": 5}
    assert house.files() == set()


async def test_an_upload_that_could_not_be_deleted_is_found_later(house: House) -> None:
    key = await house.upload("one", hours=1)
    keeper = house.keeper(Failing(house.storage, Unavailable("away")))
    house.clock.ms += HOUR_MS - 1
    assert await keeper.sweep() == {}
    house.clock.ms += 2
    assert await keeper.sweep() == {}
    assert house.files() == {key} and house.execute("SELECT id FROM uploads") == []
    keeper._storage = house.storage
    assert await keeper.sweep() == {"strays": 1}
    assert house.files() == set()


async def test_uploads_that_no_row_names_go_after_an_hour(house: House) -> None:
    await house.put(upload_key("stray"))
    kept = await house.upload("kept", hours=9)
    house.clock.ms += HOUR_MS - 1
    assert await house.keeper().sweep() == {}
    house.clock.ms += 2
    assert await house.keeper().sweep() == {"strays": 1}
    assert house.files() == {kept}


async def test_what_no_row_names_goes_after_an_hour(house: House) -> None:
    task = await house.run("task")
    strays = {output_key("task", 2, 0, "png"), output_key("nobody", 1, 0, "webp")}
    for key in strays:
        await house.put(key)
    house.clock.ms += HOUR_MS
    assert await house.keeper().sweep() == {}
    house.clock.ms += 1
    assert await house.keeper().sweep() == {"strays": 2}
    assert house.files() == {task.outputs[0].key}


async def test_pictures_of_a_task_that_failed_go_and_those_of_a_cancelled_one_stay(
    house: House,
) -> None:
    """The one is given its price back, the other pays for them."""
    files = {}
    for state in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED):
        task = await house.run(state.value)
        files[state] = task.outputs[0].key
        house.execute("UPDATE tasks SET state = ? WHERE id = ?", state.value, task.id)
    await house.run("running", end=False)
    house.clock.ms += HOUR_MS + 1
    assert await house.keeper().sweep() == {"strays": 1}
    assert files.pop(TaskState.FAILED) not in house.files()
    assert set(files.values()) < house.files() and len(house.files()) == 3


async def test_pictures_are_listed_once_an_hour(house: House) -> None:
    keeper = house.keeper()
    assert await keeper.sweep() == {}
    await house.put(output_key("nobody", 1, 0, "png"))
    house.clock.ms += LIST_PICTURES_EVERY_MS - 1
    assert await keeper.sweep() == {}
    house.clock.ms += 2
    assert await keeper.sweep() == {"strays": 1}


async def test_more_strays_than_one_question_holds(house: House) -> None:
    keys = {output_key(f"nobody{n}", 1, 0, "png") for n in range(KEYS + 3)}
    for key in keys:
        await house.put(key)
    kept = await house.run("task")
    house.clock.ms += HOUR_MS + 1
    assert await house.keeper().sweep() == {"strays": KEYS + 3}
    assert house.files() == {kept.outputs[0].key}


async def test_s3_is_swept_like_a_folder(house: House, s3_server: S3Server) -> None:
    storage = s3_server.storage("housekeeping")
    task = await house.run("task", inputs=1)
    stray = output_key("nobody", 1, 0, "png")
    for key in (task.outputs[0].key, input_key("task", 0), stray):
        await storage.put(key, b"x")
    # Here the server's clock gives the ages, so ours is put an hour after that.
    now_ms = wall_clock_ms()
    house.execute("UPDATE tasks SET finished_ms = ?", now_ms - 2 * HOUR_MS)
    house.clock.ms = now_ms
    assert await house.keeper(storage).sweep() == {}
    house.clock.ms = now_ms + HOUR_MS + 60_000
    assert await house.keeper(storage).sweep() == {"inputs": 1, "strays": 1}
    assert await storage.get(task.outputs[0].key) == b"x"
    house.clock.ms = now_ms + DAY_MS
    assert await house.keeper(storage).sweep() == {"pictures": 1}
    before = now_ms + 2 * DAY_MS
    assert [key async for key in storage.list("outputs", before_ms=before)] == []


# Rows


async def test_idempotency_keys_go_after_a_day(house: House) -> None:
    for number in range(ROWS + 5):
        created = START_MS - DAY_MS - 1 - number
        house.execute(*idempotency_row(f"old{number}", created))
    house.execute(*idempotency_row("young", START_MS - DAY_MS + 1))
    assert await house.keeper().sweep() == {"idempotency_keys": ROWS + 5}
    assert house.execute("SELECT key FROM idempotency") == [("young",)]


def idempotency_row(key: str, created_ms: int) -> tuple[Any, ...]:
    statement = "INSERT INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?)"
    return statement, "ann", "/x", key, "f" * 64, "task", "{}", created_ms


async def test_messages_go_a_month_after_they_were_made(house: House) -> None:
    await house.run("task")
    month_ms = 30 * DAY_MS
    for number in range(ROWS + 5):
        state = "delivered" if number % 2 else "failed"
        house.execute(*message_row(f"old{number}", state, None, START_MS - month_ms - 1))
    house.execute(*message_row("young", "delivered", None, START_MS - month_ms + 1))
    house.execute(*message_row("waits", "waiting", START_MS + 1, START_MS - 2 * month_ms))
    assert await house.keeper().sweep() == {"messages": ROWS + 5}
    assert set(house.execute("SELECT id FROM outbox")) == {("young",), ("waits",)}


def message_row(id: str, state: str, next_ms: int | None, created_ms: int) -> tuple[Any, ...]:
    columns = "id, task_id, account, dialect, url, state, attempts, next_ms, created_ms"
    statement = f"INSERT INTO outbox ({columns}) VALUES (?, 'task', 'ann', 'd', 'u', ?, 1, ?, ?)"
    return statement, id, state, next_ms, created_ms


# The loop


async def test_it_sweeps_now_and_again_until_it_is_closed(house: House) -> None:
    keeper = house.keeper(every_seconds=0.01)
    keeper.start()
    for number in range(3):
        await house.put(input_key(f"nobody{number}", 0))
        house.clock.ms += HOUR_MS + 1
        async with asyncio.timeout(30):
            while house.files():
                await asyncio.sleep(0.01)
    await keeper.close()
    await keeper.close()
    await house.put(input_key("nobody", 0))
    house.clock.ms += HOUR_MS + 1
    await asyncio.sleep(0.1)
    assert len(house.files()) == 1


async def test_no_failure_ends_it(house: House) -> None:
    await house.run("task")
    house.execute(*idempotency_row("old", START_MS - 2 * DAY_MS))
    failing = Failing(house.storage, RuntimeError("a fault of the program"))
    keeper = house.keeper(failing, every_seconds=0.01)  # type: ignore[arg-type]
    house.clock.ms += DAY_MS + 1
    with structlog.testing.capture_logs() as logs:
        assert await keeper.sweep() == {"idempotency_keys": 1}, "the other duties are done"
    assert [line["duty"] for line in logs if line["log_level"] == "error"] == ["pictures", "strays"]
    keeper.start()
    failing.deletes = 100
    async with asyncio.timeout(30):
        while house.files():
            await asyncio.sleep(0.01)
    await keeper.close()


async def test_a_database_that_is_away_ends_nothing(house: House) -> None:
    away = house.place.open()
    await away.close()
    keeper = house.keeper(rows=HousekeepingStore(away))
    with structlog.testing.capture_logs() as logs:
        assert await keeper.sweep() == {}
    duties = [line["duty"] for line in logs if line["event"] == "housekeeping_failed"]
    assert duties == ["pictures", "uploads", "idempotency", "messages"]


async def test_one_line_tells_what_was_done(house: House) -> None:
    await house.run("task", inputs=2)
    house.clock.ms += DAY_MS + 1
    with structlog.testing.capture_logs() as logs:
        await house.keeper().sweep()
        await house.keeper().sweep()
    assert logs == [{"event": "swept", "log_level": "info", "pictures": 1, "inputs": 2}]


async def test_sweeping_all_the_time_harms_no_task(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of many pictures come and go; each object looks as old as can be."""
    monkeypatch.setattr("api.housekeeping.LIST_PICTURES_EVERY_MS", 0)
    async with serve() as services:
        keeper = Housekeeper(
            HousekeepingStore(sqlite_database(tmp_path / "data" / "darkroom.db")),
            LocalStorage(tmp_path / "data" / "objects"),
            retention_hours=None,
            every_seconds=0,
            now_ms=lambda: wall_clock_ms() + 2 * HOUR_MS,
        )
        keeper.start()
        done = await asyncio.gather(*(finished(services, f"task{n}") for n in range(30)))
        await keeper.close()
        await keeper._store._database.close()
        assert {task.state for task in done} == {TaskState.SUCCEEDED}
        for task in done:
            for output in task.outputs:
                stored = await services.darkroom.image(task.id, output.index)
                assert len(stored.data) == output.size_bytes


async def finished(services: Services, task_id: str) -> Task:
    made = replace(submission(task_id, count=4), credits=0)
    await services.store.accept(made, AMPLE)
    services.dispatcher.wake()
    return await services.darkroom.wait(task_id, timeout_seconds=60)
