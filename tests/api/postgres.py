"""A real PostgreSQL of the tests' own: in a folder for a while, reached by a socket in it."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from api.store.postgres import postgres_database
from api.store.schema import metadata

asyncpg = pytest.importorskip("asyncpg")

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name))
# PostgreSQL does not run as root.
USER = "nobody" if os.geteuid() == 0 else None
# Nothing outlives a test but what it kills: of a power cut this database knows nothing.
CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{folder}'
unix_socket_permissions = 0777
fsync = {durable}
synchronous_commit = on
full_page_writes = {durable}
max_connections = 200
shared_buffers = 32MB
autovacuum = on
"""
SHARED = "shared"


class Cluster:
    """One server.

    `running` is the one of all tests, once a test has asked for it by its fixture.
    """

    running: ClassVar[Cluster]

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._data = self.folder / "data"
        self._durable = durable
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        if USER is not None:
            owner = pwd.getpwnam(USER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", str(self._data), "-U", "darkroom", "-A", "trust", "--no-sync")
        durable_now = "on" if durable else "off"
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION.format(folder=self.folder, durable=durable_now))

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary("postgres"), "-D", str(self._data)],
                stdout=log,
                stderr=log,
                user=USER,
                group=_group(),
                extra_groups=[] if USER else None,
            )
        deadline = time.monotonic() + 30
        while subprocess.run(
            [self._binary("pg_isready"), "-q", "-h", str(self.folder)], check=False
        ).returncode:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it; SIGINT cuts every connection, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def remove(self) -> None:
        """Stop it and delete what it kept."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_shared(self) -> None:
        """Make the database that is used again and again."""
        self.execute(f"CREATE DATABASE {SHARED}", "postgres")

        async def migrate() -> None:
            database = postgres_database(self.url(SHARED))
            await database.migrate()
            await database.close()

        _apart(migrate())

    def emptied(self) -> str:
        """The URL of a database that is as if it had just been made: the same each time."""
        tables = ", ".join(name for name in metadata.tables if name != "accounts")
        self.execute(f"TRUNCATE {tables} RESTART IDENTITY", SHARED)
        self.execute("DELETE FROM accounts WHERE name <> ''", SHARED)
        self.execute("UPDATE accounts SET metered = false, balance = 0, held = 0", SHARED)
        return self.url(SHARED)

    def create(self, *, migrated: bool = True) -> str:
        """The URL of a new database; each takes a second to delete in the end."""
        self._count += 1
        name = f"test_{self._count}"
        template = SHARED if migrated else "template0"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}", "postgres")
        return self.url(name)

    def url(self, name: str) -> str:
        """Where a database of this server is."""
        return f"postgresql://darkroom@/{name}?host={self.folder}"

    def execute(self, statement: str, name: str) -> None:
        """Run one statement in a database."""
        rows(self.url(name), statement)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binary(name), *arguments],
            capture_output=True,
            user=USER,
            group=_group(),
            extra_groups=[] if USER else None,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd="/tmp",
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    def _binary(self, name: str) -> str:
        return str(BINARIES[-1] / name)


def rows(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What a statement finds, on a connection of its own."""

    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    return _apart(fetch())


def _apart(work: Any) -> Any:
    """The result of a coroutine, also where a loop runs already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _group() -> int | None:
    return pwd.getpwnam(USER).pw_gid if USER else None


@contextmanager
def started() -> Iterator[Cluster]:
    """A running PostgreSQL; skips where the machine has none."""
    if not BINARIES:
        pytest.skip("there is no PostgreSQL in /usr/lib/postgresql")
    made = Cluster()
    try:
        made.start()
        made.make_shared()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL of all tests of this process."""
    with started() as made:
        Cluster.running = made
        yield made
