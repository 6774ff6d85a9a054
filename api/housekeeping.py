"""Deletes what has had its time: pictures, inputs, strays, and rows that nobody asks for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from api.clock import wall_clock_ms
from api.errors import Unavailable
from api.idempotency import KEEP_MS
from api.storage import INPUTS, OUTPUTS, UPLOADS, Storage
from api.store.housekeeping import HousekeepingStore

log = structlog.get_logger()

HOUR_MS = 3_600_000
SWEEP_EVERY_SECONDS = 600.0
# Listing every picture costs a request per thousand of them.
LIST_PICTURES_EVERY_MS = HOUR_MS
# An object this old is in no hand any more: it is recorded within seconds of being written, and
# an input of a request that is still being accepted is written at its end.
STRAY_MS = HOUR_MS
INPUTS_MS = HOUR_MS
MESSAGES_MS = 30 * 24 * HOUR_MS
# Rows of one transaction: a few milliseconds, in which nobody else writes.
ROWS = 100
# Of one question to the database: 2 ms of the event loop.
KEYS = 200


async def _always() -> bool:
    return True


class Housekeeper:
    """Sweeps now and again, or when told; `retention_hours` None keeps pictures for ever.

    Of several servers on one database only that which `leads` sweeps of its own accord.
    """

    # A picture is first marked as deleted and then deleted. A crash between the two leaves bytes
    # that nobody is promised any more, and the next list of pictures finds them. The other way
    # round it would leave a task that promises a picture which is gone.

    def __init__(
        self,
        store: HousekeepingStore,
        storage: Storage,
        *,
        retention_hours: float | None,
        every_seconds: float = SWEEP_EVERY_SECONDS,
        leads: Callable[[], Awaitable[bool]] = _always,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._store = store
        self._storage = storage
        self._retention_hours = retention_hours
        self._every_seconds = every_seconds
        self._leads = leads
        self._now_ms = now_ms
        self._list_pictures_ms = 0
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweep from now on."""
        self._loop = asyncio.create_task(self._sweep_for_ever(), name="housekeeping")

    async def close(self) -> None:
        """Stop, also in the middle of a sweep."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
            self._loop = None

    async def sweep(self) -> dict[str, int]:
        """Delete what may go and return how much of what; a duty that fails stops no other."""
        done: Counter[str] = Counter()
        duties = (
            *(self._pictures, self._uploads, self._inputs, self._strays),
            *(self._idempotency, self._messages),
        )
        for duty in duties:
            name = duty.__name__.strip("_")
            try:
                await duty(done)
            except Unavailable as error:
                log.warning("housekeeping_failed", duty=name, reason=str(error))
            except Exception:
                log.exception("housekeeping_failed", duty=name)
        if done:
            log.info("swept", **done)
        return dict(done)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                if await self._leads():
                    await self.sweep()
            except Unavailable as error:
                log.warning("housekeeping_waits", reason=str(error))
            except Exception:
                log.exception("housekeeping_broke")
            await asyncio.sleep(self._every_seconds)

    async def _pictures(self, done: Counter[str]) -> None:
        if self._retention_hours is None:
            return
        before_ms = self._now_ms() - int(self._retention_hours * HOUR_MS)
        while True:
            expired = await self._store.expire_files(ended_before_ms=before_ms, limit=ROWS)
            for key in expired.keys:
                try:
                    await self._storage.delete(key)
                except Unavailable:
                    # marked and still there, like after a crash
                    self._list_pictures_ms = 0
                    raise
                done["pictures"] += 1
            if expired.tasks < ROWS:
                return

    async def _uploads(self, done: Counter[str]) -> None:
        while keys := await self._store.expire_uploads(limit=ROWS):
            for key in keys:
                try:
                    await self._storage.delete(key)
                except Unavailable:
                    # forgotten and still there, like after a crash
                    self._list_pictures_ms = 0
                    raise
                done["uploads"] += 1

    async def _inputs(self, done: Counter[str]) -> None:
        # There are only those of unfinished and lately finished tasks, so listing them is cheap.
        await self._clear(INPUTS, done, "inputs")

    async def _strays(self, done: Counter[str]) -> None:
        now_ms = self._now_ms()
        if now_ms >= self._list_pictures_ms:
            await self._clear(OUTPUTS, done, "strays")
            await self._clear(UPLOADS, done, "strays")
            self._list_pictures_ms = now_ms + LIST_PICTURES_EVERY_MS

    async def _clear(self, prefix: str, done: Counter[str], what: str) -> None:
        before_ms, keys = self._now_ms() - STRAY_MS, list[str]()
        async for key in self._storage.list(prefix, before_ms=before_ms):
            keys.append(key)
            if len(keys) == KEYS:
                await self._delete_unneeded(keys, prefix, done, what)
                keys.clear()
        if keys:
            await self._delete_unneeded(keys, prefix, done, what)

    async def _delete_unneeded(
        self, keys: list[str], prefix: str, done: Counter[str], what: str
    ) -> None:
        if prefix == UPLOADS:
            unneeded = await self._store.unnamed_uploads(keys)
        else:
            ended_before_ms = self._now_ms() - INPUTS_MS
            unneeded = await self._store.unneeded(keys, ended_before_ms=ended_before_ms)
        for key in unneeded:
            await self._storage.delete(key)
            done[what] += 1

    async def _idempotency(self, done: Counter[str]) -> None:
        before_ms = self._now_ms() - KEEP_MS
        while gone := await self._store.forget_idempotency(before_ms=before_ms, limit=ROWS):
            done["idempotency_keys"] += gone

    async def _messages(self, done: Counter[str]) -> None:
        before_ms = self._now_ms() - MESSAGES_MS
        while gone := await self._store.forget_messages(before_ms=before_ms, limit=ROWS):
            done["messages"] += gone
