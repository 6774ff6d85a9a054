"""A running service: its parts, in which order they start, and in which order they stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from api.errors import Unavailable
from api.folder import FolderInUse
from api.settings import SettingsError
from api.store import MigrationError
from api.store.company import CANCELLING
from api.tasks import TaskState, TaskUpdate

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from api.accounts import Accounts
    from api.assist import Staff
    from api.destinations import Destinations
    from api.dispatcher import Dispatcher
    from api.folder import DataFolder
    from api.hooks import Hooks
    from api.housekeeping import Housekeeper
    from api.links import Links, Presign
    from api.metrics import Metrics
    from api.outbound import Outbound
    from api.scrape import Scraper
    from api.settings import Settings
    from api.storage import Storage
    from api.store import Database, Store
    from api.store.outbox import Outbox
    from api.submit import Darkroom
    from api.tokens import Tokens
    from api.uploads import Uploads
    from api.watch import Updates
    from api.webhooks import Courier
    from api.workshop import EnginePort
    from inference.catalog import Catalog

log = structlog.get_logger()

STORAGE_SECONDS = 5

NO_KEYS = (
    "{host} is not loopback, and there is no API key yet, so anybody could use this server. "
    "Make one first: darkroom keys create NAME --data-dir {data_dir}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a running service consists of; `start` before the first request, `stop` after."""

    settings: Settings
    catalog: Catalog
    engine: EnginePort
    links: Links
    tokens: Tokens
    presign: Presign
    database: Database
    store: Store
    storage: Storage
    updates: Updates
    dispatcher: Dispatcher
    darkroom: Darkroom
    accounts: Accounts
    outbound: Outbound
    outbox: Outbox
    courier: Courier
    destinations: Destinations
    uploads: Uploads
    hooks: Hooks
    housekeeper: Housekeeper
    folder: DataFolder
    pixels: ThreadPoolExecutor
    staff: Staff
    metrics: Metrics
    scraper: Scraper

    async def start(self) -> None:
        """Lock the data folder, migrate the database, start the engine behind, begin to dispatch.

        Raises SettingsError if the folder is in use or the database was made by a newer version,
        Unavailable while the database cannot be used.
        """
        try:
            await self._open()
        except (SettingsError, Unavailable):
            await self._undo()
            raise
        log.info("started", data_dir=str(self.folder.path), shared=self.database.is_shared)
        await self.database.listen(self._hear)
        self.dispatcher.start()
        self.courier.start()
        self.housekeeper.start()
        await self._look_at_storage()

    async def _open(self) -> None:
        try:
            self.folder.lock(shared=self.database.is_shared)
            await self.database.migrate()
        except (FolderInUse, MigrationError) as error:
            raise SettingsError(str(error)) from None
        if not self.settings.is_loopback and not await self.accounts.any_keys():
            raise SettingsError(NO_KEYS.format(host=self.settings.host, data_dir=self.folder.path))
        if not self.database.is_shared:
            await self._take_over()

    async def _take_over(self) -> None:
        # The lock says that every lease in the database belongs to a process that is no more.
        taken_over = await self.store.expire_leases()
        # Nor is there anybody left who waited for a reply.
        given_up = await self.store.give_up_unread()
        for task in given_up:
            self.metrics.ended(task)
        log.info("taken_over", tasks=taken_over, tasks_given_up=len(given_up))

    def _hear(self, task_id: str, word: str) -> None:
        """What a server says of a task: this one, or another on the same database."""
        if word == CANCELLING:
            self.dispatcher.cancel(task_id)
        elif word == TaskState.QUEUED:
            self.dispatcher.wake()
        elif word in list(TaskState):
            self.updates.publish(TaskUpdate(task_id=task_id, state=TaskState(word)))

    async def _look_at_storage(self) -> None:
        """Tell early of a storage that fails; no start is refused for it, pictures can wait."""
        try:
            async with asyncio.timeout(STORAGE_SECONDS):
                await self.storage.check()
        except (Unavailable, TimeoutError) as error:
            log.warning("storage_fails", reason=str(error) or f"no answer in {STORAGE_SECONDS} s")

    async def stop(self) -> None:
        """Take no more, finish or put back what runs, close the engine and the store."""
        await self.dispatcher.close()
        await self.darkroom.settle()
        await self.uploads.settle()
        await self.housekeeper.close()
        await self.courier.close()
        await self.outbound.close()
        await self.staff.close()
        await self._undo()
        log.info("stopped")

    async def _undo(self) -> None:
        await self.store.close()
        # nobody waits for what it still does
        self.pixels.shutdown(wait=False, cancel_futures=True)
        self.folder.unlock()
