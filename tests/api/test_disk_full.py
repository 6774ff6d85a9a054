"""A disk that really is full: refused or waited out, nothing lost, nothing corrupt."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import Unavailable
from api.services import Services
from api.tasks import Task, TaskState
from inference.job import ImageRequest
from tests.api.conftest import Serve
from tests.api.making import submitted
from tests.api.scripted import ScriptedEngine

WISH = ImageRequest(model="paint", prompt="x" * 400, count=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data folder on a file system of 2 MB."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Leave not a single block free."""
    with path.open("ab", buffering=0) as filler:
        for size in (65536, 4096, 1):
            try:
                while filler.write(bytes(size)):
                    pass
            except OSError:
                continue


async def submit(services: Services) -> Task:
    return await submitted(services, WISH, dialect="darkroom")


async def test_a_full_disk_loses_nothing(
    serve: Serve, engine: ScriptedEngine, small_disk: Path
) -> None:
    engine.gate.clear()
    async with serve(images_in_flight=4, max_queue_tasks=1000) as services:
        accepted = [await submit(services) for _ in range(6)]
        async with asyncio.timeout(60):
            while (await services.darkroom.get(accepted[1].id)).state is TaskState.QUEUED:
                await asyncio.sleep(0.01)
        fill(small_disk / "filler")
        refusals = 0
        for _ in range(300):
            try:
                accepted.append(await submit(services))
            except Unavailable as refused:
                assert refused.retry_after_seconds
                refusals += 1
        assert refusals > 0, "the database found room where there is none"
        engine.gate.set()
        await asyncio.sleep(1)
        made = sum(len(indexes) for _, indexes in engine.orders)
        assert made <= 4, "more is made than can be stored"
        assert await services.darkroom.get(accepted[0].id), "reading goes on"
        (small_disk / "filler").unlink()
        for task in accepted:
            done = await services.darkroom.wait(task.id, timeout_seconds=40)
            assert done.state is TaskState.SUCCEEDED, done
            for output in done.outputs:
                stored = await services.darkroom.image(task.id, output.index)
                assert len(stored.data) == output.size_bytes
        await submit(services)
    database = sqlite3.connect(small_disk / "darkroom.db")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
