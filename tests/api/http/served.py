"""A whole server in a thread: real sockets, real database, a scripted engine."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
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
from inference.errors import JobError
from inference.job import Job
from tests.api.scripted import ScriptedEngine

ROOT = Path(__file__).parents[3]
START_SECONDS = 60
NO_KEY: Mapping[str, str] = {}


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

    def newest(self, headers: Mapping[str, str] = NO_KEY) -> dict[str, Any]:
        """The generation that was asked for last, as our own API tells it, once there is one."""
        until(lambda: self._newest(headers) != [])
        (task,) = self._newest(headers)
        return task

    def leave(self, path: str, body: Any, headers: Mapping[str, str] = NO_KEY) -> str:
        """Ask for a picture, and hang up once it is accepted; its id."""
        before = self._newest(headers)
        caller = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=90)
        sent = {"Content-Type": "application/json"} | dict(headers)
        with closing(caller):
            caller.request("POST", path, json.dumps(body), sent)
            until(lambda: _ids(self._newest(headers)) != _ids(before))
            return str(self.newest(headers)["id"])

    @contextmanager
    def jobs(self) -> Iterator[list[Job]]:
        """The jobs that reach the engine meanwhile."""
        seen: list[Job] = []

        def note(job: Job, index: int) -> JobError | None:
            seen.append(job)
            return None

        self.script.fails = note
        yield seen

    def settle(self) -> None:
        """Wait until all that was accepted has ended, and has been counted."""
        query = "SELECT count(*) FROM tasks WHERE finished_ms IS NULL"
        with closing(sqlite3.connect(self.services.folder.database)) as database:
            until(lambda: database.execute(query).fetchone() == (0,))
        until(lambda: not self.services.dispatcher._runs)

    def _newest(self, headers: Mapping[str, str]) -> list[dict[str, Any]]:
        reply = self.client.get("/darkroom/generations?limit=1", headers=dict(headers))
        found: list[dict[str, Any]] = reply.raise_for_status().json()["generations"]
        return found


def _ids(tasks: list[dict[str, Any]]) -> list[str]:
    return [task["id"] for task in tasks]


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
        "drain_seconds": 0.2,
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


def bearer(key: str) -> dict[str, str]:
    """The header that a key is sent in."""
    return {"Authorization": f"Bearer {key}"}


def until(holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Wait until something holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
