"""A whole service in one process: real database, real files, a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from api.assistants import Assistants
from api.build import build
from api.services import Services
from api.settings import Settings
from tests.api.places import place as place
from tests.api.postgres import cluster as cluster
from tests.api.s3server import s3_server as s3_server
from tests.api.scripted import ScriptedEngine

MODELS = """
models:
  paint:
    family: flux
    source: builtin:tiny-flux
    sizes: [64x64, 128x64]
    defaults: {num_inference_steps: 2, guidance_scale: 1}
    limits: {count: 8, prompt_chars: 500}
    price: 3
aliases:
  auto: paint
"""

Serve = Callable[..., AbstractAsyncContextManager[Services]]


@pytest.fixture(autouse=True, scope="session")
def _plain_tracebacks() -> None:
    """As the service writes them; the others print every variable, which takes 20 s a traceback."""
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models.yaml with one model, `paint`, at three credits a picture."""
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return path


@pytest.fixture
def engine() -> ScriptedEngine:
    """The engine that `serve` uses unless it is given another."""
    return ScriptedEngine()


@pytest.fixture
def serve(tmp_path: Path, models: Path, engine: ScriptedEngine) -> Serve:
    """`async with serve(**settings) as services`; always on the same data folder."""

    @asynccontextmanager
    async def run(
        engine: ScriptedEngine = engine, assistants: Assistants | None = None, **changes: Any
    ) -> AsyncIterator[Services]:
        values: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "models": models,
            "drain_seconds": 2.0,
            "disk_floor_bytes": 0,
        }
        services = build(Settings(**(values | changes)), engine=engine, assistants=assistants)
        await services.start()
        try:
            yield services
        finally:
            await services.stop()

    return run


@pytest.fixture
async def services(serve: Serve) -> AsyncIterator[Services]:
    """One running service."""
    async with serve() as running:
        yield running
