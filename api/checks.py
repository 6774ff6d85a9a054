"""What must hold for work to be taken and done; each check says "ok" or what is wrong."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable

import structlog

from api.dispatcher import Dispatcher
from api.errors import ApiError, Unavailable
from api.settings import Settings
from api.storage import Storage
from api.store import Store

log = structlog.get_logger()

OK = "ok"
DATABASE_SECONDS = 2.0
STORAGE_SECONDS = 2.0
# A look costs a request of S3 and a file of a folder, however often somebody asks.
STORAGE_EVERY_SECONDS = 5.0


class Checks:
    """Looks at what a service stands on; used on the event loop only."""

    def __init__(
        self, settings: Settings, store: Store, storage: Storage, dispatcher: Dispatcher
    ) -> None:
        self._settings = settings
        self._store = store
        self._dispatcher = dispatcher
        self._storage = StorageCheck(storage)

    async def all(self) -> dict[str, str]:
        """Every check by its name; busy is no fault."""
        database, storage = await asyncio.gather(_database(self._store), self._storage.found())
        return {
            "database": database,
            "storage": storage,
            "disk": _disk(self._settings),
            "dispatcher": _dispatcher(self._settings, self._dispatcher),
            "engine": _engine(self._settings, self._dispatcher),
        }

    async def close(self) -> None:
        """Look no further."""
        await self._storage.close()


class StorageCheck:
    """What the storage said within the last seconds; whoever asks waits for two at most."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._asked_at = 0.0
        # One that does not answer is asked no second time meanwhile: each may hold a thread.
        self._asking: asyncio.Task[None] | None = None

    async def found(self) -> str:
        """Whether it can be used."""
        now = self._clock()
        is_old = now - self._asked_at >= STORAGE_EVERY_SECONDS
        if self._asking is None or (self._asking.done() and is_old):
            self._asking, self._asked_at = asyncio.create_task(self._storage.reach()), now
        left_seconds = max(self._asked_at + STORAGE_SECONDS - now, 0.0)
        done, _ = await asyncio.wait({self._asking}, timeout=left_seconds)
        if not done:
            return f"no answer within {STORAGE_SECONDS:g} s"
        return _told(self._asking.exception())

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)


def _told(error: BaseException | None) -> str:
    if error is None:
        return OK
    if not isinstance(error, ApiError):
        log.error("storage_check_broke", exc_info=error)
        return "it cannot be asked; the log says why"
    return str(error)


def free_bytes(settings: Settings) -> int:
    """What the disk of the data folder has left."""
    return shutil.disk_usage(settings.data_dir).free


async def _database(store: Store) -> str:
    try:
        async with asyncio.timeout(DATABASE_SECONDS):
            await store.check_writable()
    except TimeoutError:
        return f"no answer within {DATABASE_SECONDS:g} s"
    except Unavailable as error:
        return str(error)
    return OK


def _disk(settings: Settings) -> str:
    try:
        free, floor = free_bytes(settings), settings.disk_floor_bytes
    except OSError as error:
        return f"the data folder cannot be read: {error.strerror}"
    return OK if free >= floor else f"{free} bytes are free, fewer than {floor}"


def _dispatcher(settings: Settings, dispatcher: Dispatcher) -> str:
    if dispatcher.closing:
        return "shutting down"
    if not dispatcher.started:
        return "starting"
    # Two heartbeats, and a write that waits as long as it may.
    silence, most = dispatcher.silence_seconds, 2 * settings.heartbeat_seconds + DATABASE_SECONDS
    if silence <= most:
        return OK
    why = f": {dispatcher.trouble}" if dispatcher.trouble else ""
    return f"no heartbeat for {silence:.0f} s{why}"


def _engine(settings: Settings, dispatcher: Dispatcher) -> str:
    devices = dispatcher.engine_status().devices
    if not devices:
        return "starting"
    most = settings.worker_silence_seconds
    if any(device.alive and device.idle_seconds <= most for device in devices):
        return OK
    return "no worker is alive" if not any(d.alive for d in devices) else "every worker hangs"
