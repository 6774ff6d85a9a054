"""One server for all tests of a file that change nothing about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx2
import pytest

from api.run import Run
from tests.api.http.served import Served, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def served(server: Served) -> Iterator[Served]:
    """The server, with its script as it was at first, and nothing of the last test under way."""
    yield server
    server.script.gate.set()
    server.settle()
    server.script.fails = lambda job, index: None


@pytest.fixture
def client(served: Served) -> httpx2.Client:
    return served.client


@pytest.fixture
def begins_when_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is begun before somebody looks, so that no step is missed."""
    make_missing = Run._make_missing

    async def wait_and_make(self: Run) -> None:
        while not self._shop.updates.looked_at(self.task.id):
            await asyncio.sleep(0.005)
        await make_missing(self)

    monkeypatch.setattr(Run, "_make_missing", wait_and_make)


@pytest.fixture
def long_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as long as those of a large model: who reads slowly misses some of short ones."""
    from inference.worker import Worker

    tick = Worker.tick

    def tick_slowly(self: Worker) -> None:
        tick(self)
        time.sleep(0.1)

    monkeypatch.setattr(Worker, "tick", tick_slowly)
