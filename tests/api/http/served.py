"""A whole server in a thread: real sockets, real database, a scripted engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from api.accounts import Accounts, Key
from api.app import create_app
from api.assistants import Assistants
from api.build import build
from api.services import Services
from api.settings import Settings
from api.store import migrate_sqlite, sqlite_database
from api.store.accounts import AccountStore
from tests.api.scripted import ScriptedEngine

ROOT = Path(__file__).parents[3]
START_SECONDS = 60


@dataclass(frozen=True)
class Served:
    """A running server and its insides."""

    url: str
    client: httpx2.Client
    services: Services

    @property
    def script(self) -> ScriptedEngine:
        engine = self.services.engine
        assert isinstance(engine, ScriptedEngine)
        return engine

    def make(self, **fields: Any) -> dict[str, Any]:
        """A generation that has ended."""
        reply = self.client.post("/darkroom/generations", json={"prompt": "a"} | fields)
        assert reply.status_code == 202, reply.text
        return self.end(reply.json()["id"])

    def end(self, task_id: str) -> dict[str, Any]:
        """The same generation once it has ended."""
        told: dict[str, Any] = self.client.get(f"/darkroom/generations/{task_id}?wait=60").json()
        assert told["finished_at"] is not None
        return told


@contextmanager
def serving(
    folder: Path,
    *,
    is_scripted: bool = True,
    assistants: Assistants | None = None,
    **changes: Any,
) -> Iterator[Served]:
    """A server on a free port of loopback, by default with the catalog that is shipped."""
    values: dict[str, Any] = {
        "data_dir": folder,
        "models": ROOT / "models.yaml",
        "drain_seconds": 2.0,
        "disk_floor_bytes": 0,
    }
    engine = ScriptedEngine() if is_scripted else None
    services = build(Settings(**(values | changes)), engine=engine, assistants=assistants)
    config = uvicorn.Config(
        create_app(services), port=0, log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        url = f"http://{host}:{port}"
        with httpx2.Client(base_url=url, timeout=90, trust_env=False) as client:
            yield Served(url, client, services)
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)


def make_key(folder: Path, account: str = "team", credits: int | None = None, **fields: Any) -> str:
    """A new key for the server of a data folder, running or not."""

    async def make() -> str:
        migrate_sqlite(folder / "darkroom.db")
        database = sqlite_database(folder / "darkroom.db")
        try:
            accounts = Accounts(AccountStore(database))
            wanted = Key(id="", account=account, **fields)
            _, text = await accounts.create_key(wanted, credits=credits)
            return text
        finally:
            await database.close()

    return asyncio.run(make())


def until(holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Wait until something holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
