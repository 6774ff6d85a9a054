"""The composition root: settings become services. Only here are concrete classes named."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from api.accounts import Accounts
from api.dialects import DIALECTS
from api.dispatcher import Dispatcher
from api.folder import DataFolder, FolderInUse
from api.late_engine import LateEngine
from api.links import Links, PictureLink, load_links
from api.outbound import Outbound
from api.reception import Reception
from api.run import EnginePort, Workshop
from api.settings import Settings, SettingsError
from api.storage import LocalStorage, Storage
from api.store import MigrationError, Store, migrate_sqlite, sqlite_database
from api.store.accounts import AccountStore
from api.store.outbox import Outbox
from api.submit import Darkroom
from api.tasks import Task
from api.watch import Updates
from api.webhooks import Courier
from inference.catalog import Catalog, load_catalog
from inference.settings import EngineSettings

log = structlog.get_logger()

# Encoding takes the interpreter from the engine's thread; more threads would only take more of it.
PIXEL_THREADS = 2

NO_KEYS = (
    "{host} is not loopback, and there is no API key yet, so anybody could use this server. "
    "Make one first: darkroom keys create NAME"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a running service consists of; `start` before the first request, `stop` after."""

    settings: Settings
    catalog: Catalog
    engine: EnginePort
    links: Links
    store: Store
    storage: Storage
    dispatcher: Dispatcher
    darkroom: Darkroom
    accounts: Accounts
    outbound: Outbound
    outbox: Outbox
    courier: Courier
    folder: DataFolder
    pixels: ThreadPoolExecutor

    async def start(self) -> None:
        """Lock and migrate the data folder, start the engine behind, begin to dispatch.

        Raises SettingsError if the folder is in use or was written by a newer version.
        """
        try:
            self.folder.lock()
            await asyncio.to_thread(migrate_sqlite, self.folder.database)
        except (FolderInUse, MigrationError) as error:
            self.folder.unlock()
            raise SettingsError(str(error)) from None
        if not self.settings.is_loopback and not await self.accounts.any_keys():
            await self._undo()
            raise SettingsError(NO_KEYS.format(host=self.settings.host))
        # The lock says that every lease in the database belongs to a process that is no more.
        taken_over = await self.store.expire_leases()
        log.info("started", data_dir=str(self.folder.path), tasks_taken_over=taken_over)
        self.dispatcher.start()
        self.courier.start()

    def presign(self, key: str) -> str | None:
        """A link to a stored picture that the storage itself has signed, where it is to."""
        return None

    async def stop(self) -> None:
        """Take no more, finish or put back what runs, close the engine and the store."""
        await self.dispatcher.close()
        await self.darkroom.settle()
        await self.courier.close()
        await self.outbound.close()
        await self._undo()
        log.info("stopped")

    async def _undo(self) -> None:
        await self.store.close()
        self.pixels.shutdown()
        self.folder.unlock()


def build(settings: Settings, *, engine: EnginePort | None = None) -> Services:
    """The services of one process; raises CatalogError or SettingsError before anything starts."""
    catalog = load_catalog(settings.models)
    folder = DataFolder(settings.data_dir)
    try:
        folder.make()
        links = load_links(folder.link_keys, ttl_seconds=settings.link_ttl_seconds)
        storage = LocalStorage(folder.objects)
    except (OSError, ValueError) as error:
        raise SettingsError(f"data_dir cannot be used: {error}") from None
    engine = engine or build_engine(catalog, settings)
    database = sqlite_database(folder.database)
    store, accounts = Store(database), Accounts(AccountStore(database))
    outbound, outbox = _outbound(settings), Outbox(database)
    courier = _courier(outbox, outbound, store, accounts, links)
    updates = Updates(on_end=courier.wake)
    pixels = ThreadPoolExecutor(PIXEL_THREADS, thread_name_prefix="pixels")
    workshop = Workshop(engine=engine, store=store, storage=storage, updates=updates, pixels=pixels)
    dispatcher = Dispatcher(workshop, settings)
    reception = Reception(
        settings=settings,
        catalog=catalog,
        store=store,
        storage=storage,
        dispatcher=dispatcher,
        outbound=outbound,
        pixels=pixels,
    )
    darkroom = Darkroom(
        settings=settings,
        store=store,
        storage=storage,
        dispatcher=dispatcher,
        updates=updates,
        reception=reception,
    )
    return Services(
        settings=settings,
        catalog=catalog,
        engine=engine,
        links=links,
        store=store,
        storage=storage,
        dispatcher=dispatcher,
        darkroom=darkroom,
        accounts=accounts,
        outbound=outbound,
        outbox=outbox,
        courier=courier,
        folder=folder,
        pixels=pixels,
    )


def _courier(
    outbox: Outbox, outbound: Outbound, store: Store, accounts: Accounts, links: Links
) -> Courier:
    def link_for(task: Task) -> PictureLink:
        return lambda path, key: task.delivery.base_url + links.sign(path)

    return Courier(
        outbox,
        outbound,
        styles={one.name: one.webhooks for one in DIALECTS if one.webhooks is not None},
        read_task=store.get,
        secrets_of=accounts.webhook_secrets,
        link_for=link_for,
    )


def _outbound(settings: Settings) -> Outbound:
    try:
        return Outbound(settings.allowed_targets)
    except ValueError as error:
        raise SettingsError(f"DARKROOM_ALLOWED_TARGETS: {error}") from None


def build_engine(catalog: Catalog, settings: Settings) -> EnginePort:
    """An engine alone, for who needs no service around it."""
    return LateEngine(catalog, _engine_settings(settings))


def _engine_settings(settings: Settings) -> EngineSettings:
    return EngineSettings(devices=settings.devices, preview_side_px=settings.preview_side_px)
