"""The whole: starting, being healthy or saying why not, one process per folder."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest

from api.build import _engine_settings, build
from api.settings import Settings, SettingsError
from api.store.uploads import KeptUpload
from inference.errors import CatalogError
from inference.job import ImageRequest
from inference.settings import EngineSettings
from tests.api.conftest import Serve
from tests.api.making import png, submitted
from tests.api.scripted import ScriptedEngine

SECONDS = 30


async def healthy(services: object) -> dict[str, str]:
    health = await services.darkroom.health()  # type: ignore[attr-defined]
    assert health.ready == all(found == "ok" for found in health.checks.values())
    return {name: found for name, found in health.checks.items() if found != "ok"}


async def test_a_service_becomes_ready(serve: Serve) -> None:
    async with serve() as services:
        async with asyncio.timeout(SECONDS):
            while await healthy(services):
                await asyncio.sleep(0.01)
    assert await healthy(services) == {
        "database": "the service has stopped",
        "dispatcher": "shutting down",
        "engine": "no worker is alive",
    }


async def test_health_names_what_is_wrong(
    serve: Serve, engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with serve() as services:
        async with asyncio.timeout(SECONDS):
            while await healthy(services):
                await asyncio.sleep(0.01)
        engine.idle_seconds = 61
        assert await healthy(services) == {"engine": "every worker hangs"}
        engine.idle_seconds = 59
        assert await healthy(services) == {}
        path = tmp_path / "data" / "darkroom.db"
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # not on the loop, where it would wait for a transaction that waits for the loop
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        assert set(await healthy(services)) == {"database"}
        other.execute("ROLLBACK")
        other.close()
        async with asyncio.timeout(SECONDS):
            while await healthy(services):
                await asyncio.sleep(0.05)
        for loop in services.dispatcher._loops[1:]:
            loop.cancel()
        services.dispatcher._last_beat -= 3600
        assert set(await healthy(services)) == {"dispatcher"}
        engine.close()
        assert (await healthy(services))["engine"] == "no worker is alive"


async def test_requests_are_taken_before_the_engine_has_started(serve: Serve) -> None:
    class Slow(ScriptedEngine):
        def start(self) -> None:
            self.gate.wait(SECONDS)
            super().start()

    engine = Slow()
    engine.gate.clear()
    async with serve(engine) as services:
        assert "starting" in (await healthy(services))["dispatcher"]
        wish = ImageRequest(model="paint", prompt="x")
        task = await submitted(services, wish, dialect="darkroom")
        assert (await services.darkroom.wait(task.id, timeout_seconds=0.2)).state == "queued"
        engine.gate.set()
        assert (await services.darkroom.wait(task.id, timeout_seconds=SECONDS)).state == "succeeded"


async def test_an_engine_that_does_not_start_at_once_is_tried_again(serve: Serve) -> None:
    class Stubborn(ScriptedEngine):
        refusals = 1

        def start(self) -> None:
            if self.refusals:
                self.refusals -= 1
                raise RuntimeError("no device yet")
            super().start()

    async with serve(Stubborn()) as services:
        wish = ImageRequest(model="paint", prompt="x")
        task = await submitted(services, wish, dialect="darkroom")
        assert (await services.darkroom.wait(task.id, timeout_seconds=SECONDS)).state == "succeeded"


async def test_one_folder_serves_one_process(serve: Serve, tmp_path: Path, models: Path) -> None:
    async with serve():
        second = build(Settings(data_dir=tmp_path / "data", models=models), engine=ScriptedEngine())
        with pytest.raises(SettingsError, match="another darkroom"):
            await second.start()
    async with serve(ScriptedEngine()):
        pass


async def test_a_newer_database_stops_the_start(serve: Serve, tmp_path: Path) -> None:
    async with serve():
        pass
    with sqlite3.connect(tmp_path / "data" / "darkroom.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'next'")
    database.close()
    with pytest.raises(SettingsError, match="newer Darkroom"):
        async with serve(ScriptedEngine()):
            pass


def test_what_is_wrong_before_the_start_is_said(tmp_path: Path, models: Path) -> None:
    with pytest.raises(CatalogError):
        build(Settings(models=tmp_path / "none.yaml", data_dir=tmp_path / "data"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="data_dir"):
        build(Settings(models=models, data_dir=tmp_path / "file"))


def test_the_folder_is_private(tmp_path: Path, models: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    build(Settings(models=models, data_dir=tmp_path / "data"), engine=ScriptedEngine())
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_building_a_service_imports_no_torch(tmp_path: Path, models: Path) -> None:
    code = (
        "import sys; from api.build import build; from api.settings import Settings; "
        f"build(Settings(models={str(models)!r}, data_dir={str(tmp_path / 'data')!r})); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


async def test_logs_name_the_task_and_never_the_prompt(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve() as services:
        wish = ImageRequest(model="paint", prompt="canary in the prompt")
        task = await submitted(services, wish, dialect="darkroom")
        await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
    captured = capsys.readouterr()
    assert task.id in captured.out and "canary" not in captured.out + captured.err


def test_log_lines_are_json_when_nobody_reads_along(tmp_path: Path) -> None:
    code = (
        "import logging, structlog; from api.logs import configure_logging; "
        "configure_logging('info'); structlog.get_logger().info('made', task_id='t1'); "
        "structlog.get_logger().debug('hidden'); logging.getLogger('other').warning('heard'); "
        "secret = 'canary'\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: structlog.get_logger().exception('broke')"
    )
    here = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=here, text=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["made", "heard", "broke"]
    assert lines[0]["task_id"] == "t1" and lines[0]["level"] == "info"
    assert "ZeroDivisionError" in lines[2]["exception"] and "canary" not in done.stderr


def test_the_engine_is_told_every_setting_that_it_has_too(tmp_path: Path) -> None:
    shared = {field.name for field in fields(EngineSettings)} & set(Settings.model_fields)
    given = Settings(
        data_dir=tmp_path,
        devices=("cuda:7",),
        preview_side_px=11,
        device_memory_bytes=12,
        ram_bytes=13,
        model_wait_seconds=14,
        model_stay_seconds=15,
        worker_silence_seconds=16,
        device_processes=True,
        worker_restart_seconds=17,
    )
    told, plain = _engine_settings(given), EngineSettings()
    for name in shared:
        assert getattr(told, name) == getattr(given, name) != getattr(plain, name), name


async def test_a_stop_waits_for_what_is_being_kept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entered, go = asyncio.Event(), asyncio.Event()
    async with serve() as services:
        insert = services.uploads._store.insert

        async def slow(account: str, kept: Sequence[KeptUpload], *, max_bytes: int) -> bool:
            entered.set()
            await go.wait()
            return await insert(account, kept, max_bytes=max_bytes)

        monkeypatch.setattr(services.uploads._store, "insert", slow)
        keeping = asyncio.create_task(services.uploads.keep("ann", png(), field="image"))
        await entered.wait()
        asyncio.get_running_loop().call_later(0.1, go.set)
    assert (tmp_path / "data/objects" / (await keeping).key).exists()
