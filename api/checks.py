"""What must hold for work to be taken and done; each check says "ok" or what is wrong."""

from __future__ import annotations

import asyncio
import shutil

from api.dispatcher import Dispatcher
from api.errors import Unavailable
from api.settings import Settings
from api.store import Store

OK = "ok"
DATABASE_SECONDS = 2.0


async def check_all(settings: Settings, store: Store, dispatcher: Dispatcher) -> dict[str, str]:
    """Every check by its name; busy is no fault."""
    return {
        "database": await _database(store),
        "disk": _disk(settings),
        "dispatcher": _dispatcher(settings, dispatcher),
        "engine": _engine(settings, dispatcher),
    }


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
    return OK if silence <= most else f"no heartbeat for {silence:.0f} s"


def _engine(settings: Settings, dispatcher: Dispatcher) -> str:
    devices = dispatcher.engine_status().devices
    if not devices:
        return "starting"
    most = settings.worker_silence_seconds
    if any(device.alive and device.idle_seconds <= most for device in devices):
        return OK
    return "no worker is alive" if not any(d.alive for d in devices) else "every worker hangs"
