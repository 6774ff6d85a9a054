"""The composition root: settings become services. Only here are concrete classes named."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

import structlog

from api.accounts import Accounts
from api.assist import Staff, hire
from api.assistants import Assistants
from api.destinations import Destinations
from api.dialects import DIALECTS
from api.dispatcher import Dispatcher
from api.errors import Unavailable
from api.folder import DataFolder, FolderInUse
from api.hooks import Hooks
from api.housekeeping import Housekeeper
from api.late_engine import LateEngine
from api.links import Links, PictureLink, Presign, load_links
from api.loras import FetchedLoras
from api.metrics import Metrics
from api.outbound import Outbound
from api.outbound.client import GuardedNetwork
from api.outputs import FileStyle
from api.own_links import OwnLinks
from api.reception import Reception
from api.scrape import Scraper
from api.settings import Settings, SettingsError
from api.storage import Storage, storage_of
from api.store import Database, DriverMissing, MigrationError, Store, open_database
from api.store.accounts import AccountStore
from api.store.company import CANCELLING
from api.store.destinations import DestinationStore
from api.store.hooks import HookStore
from api.store.housekeeping import HousekeepingStore
from api.store.outbox import Outbox
from api.store.uploads import UploadStore
from api.submit import Darkroom
from api.tasks import Task, TaskState, TaskUpdate
from api.tokens import Tokens, load_tokens
from api.uploads import Uploads
from api.watch import Updates
from api.webhooks import Courier
from api.workshop import EnginePort, Workshop
from inference.catalog import Catalog, load_catalog
from inference.settings import EngineSettings

log = structlog.get_logger()

# Encoding takes the interpreter from the engine's thread; more threads would only take more of it.
PIXEL_THREADS = 2
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

        Raises SettingsError if the folder is in use or the database was made by a newer version.
        """
        try:
            self.folder.lock(shared=self.database.is_shared)
            await self.database.migrate()
        except (FolderInUse, MigrationError) as error:
            self.folder.unlock()
            raise SettingsError(str(error)) from None
        if not self.settings.is_loopback and not await self.accounts.any_keys():
            await self._undo()
            raise SettingsError(NO_KEYS.format(host=self.settings.host, data_dir=self.folder.path))
        if not self.database.is_shared:
            await self._take_over()
        log.info("started", data_dir=str(self.folder.path), shared=self.database.is_shared)
        await self.database.listen(self._hear)
        self.dispatcher.start()
        self.courier.start()
        self.housekeeper.start()
        await self._look_at_storage()

    async def _take_over(self) -> None:
        # The lock says that every lease in the database belongs to a process that is no more.
        taken_over = await self.store.expire_leases()
        # Nor is there anybody left who waited for a reply.
        given_up = await self.store.give_up_unread()
        log.info("taken_over", tasks=taken_over, tasks_given_up=given_up)

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


def build(
    settings: Settings,
    *,
    engine: EnginePort | None = None,
    assistants: Assistants | None = None,
) -> Services:
    """The services of one process; raises CatalogError or SettingsError before anything starts."""
    catalog = load_catalog(settings.models)
    folder = DataFolder(settings.data_dir)
    try:
        folder.make()
        links = load_links(folder.link_keys, ttl_seconds=settings.link_ttl_seconds)
        tokens = load_tokens(folder.token_keys)
    except (OSError, ValueError) as error:
        raise SettingsError(f"data_dir cannot be used: {error}") from None
    try:
        storage = storage_of(settings, folder.objects)
    except (OSError, ValueError) as error:
        raise SettingsError(f"storage cannot be used: {error}") from None
    engine = engine or build_engine(catalog, settings)
    database = _database(settings, folder)
    clock = database.now_ms
    store, accounts = Store(database, clock), Accounts(AccountStore(database, clock))
    outbound, outbox = _outbound(settings), Outbox(database, clock)
    network = GuardedNetwork(outbound.addresses_of)
    places = DestinationStore(database, clock)
    destinations = Destinations(places, outbound.check_host, network=network)
    presign = _presign(settings, storage)
    hooks = HookStore(database, clock)
    courier = _courier(
        outbox, outbound, store, accounts, hooks, links, presign, settings.credit_usd, database
    )
    updates = Updates(on_end=courier.wake)
    metrics = Metrics(catalog.models, clock)
    staff = _hire(catalog) if assistants is None else Staff(assistants)
    pixels = ThreadPoolExecutor(PIXEL_THREADS, thread_name_prefix="pixels")
    uploads = Uploads(
        settings=settings,
        store=UploadStore(database, clock),
        storage=storage,
        links=links,
        pixels=pixels,
    )
    own_links = OwnLinks(
        links=links,
        store=store,
        storage=storage,
        uploads=uploads,
        outbound=outbound,
        readers=[(one.alias or "", one.linked) for one in DIALECTS if one.linked is not None],
        public_url=settings.public_url or "",
    )
    loras = FetchedLoras(
        folder.loras,
        settings=settings,
        outbound=outbound,
        needed=HousekeepingStore(database).fetched_loras,
        threads=pixels,
    )
    workshop = Workshop(
        engine=engine,
        store=store,
        storage=storage,
        loras=loras,
        updates=updates,
        pixels=pixels,
        style=_style(settings),
        deliver=destinations.deliver_for,
        assistants=staff.assistants,
        tally=metrics,
    )
    dispatcher = Dispatcher(workshop, settings)
    reception = Reception(
        settings=settings,
        catalog=catalog,
        store=store,
        storage=storage,
        dispatcher=dispatcher,
        outbound=outbound,
        pictures=own_links,
        loras=loras,
        destinations=destinations,
        pixels=pixels,
        assistants=staff.assistants,
        tally=metrics,
    )
    darkroom = Darkroom(
        settings=settings,
        store=store,
        storage=storage,
        dispatcher=dispatcher,
        updates=updates,
        reception=reception,
        tally=metrics,
    )
    scraper = Scraper(
        metrics,
        settings=settings,
        darkroom=darkroom,
        outbox=outbox,
        engine_status=engine.status,
    )
    return Services(
        settings=settings,
        catalog=catalog,
        engine=engine,
        links=links,
        tokens=tokens,
        presign=presign,
        database=database,
        store=store,
        storage=storage,
        updates=updates,
        dispatcher=dispatcher,
        darkroom=darkroom,
        accounts=accounts,
        outbound=outbound,
        outbox=outbox,
        courier=courier,
        destinations=destinations,
        uploads=uploads,
        hooks=Hooks(hooks, outbound),
        housekeeper=Housekeeper(
            HousekeepingStore(database, clock),
            storage,
            retention_hours=settings.output_retention_hours,
            leads=database.leads,
            now_ms=clock,
        ),
        folder=folder,
        pixels=pixels,
        staff=staff,
        metrics=metrics,
        scraper=scraper,
    )


def _database(settings: Settings, folder: DataFolder) -> Database:
    try:
        return open_database(folder.database, settings.postgres_url)
    except DriverMissing as error:
        raise SettingsError(f"DARKROOM_DATABASE_URL: {error}") from None


def _hire(catalog: Catalog) -> Staff:
    try:
        return hire(catalog, os.environ)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _presign(settings: Settings, storage: Storage) -> Presign:
    if settings.links != "presigned":
        return lambda key: None
    return lambda key: storage.presign(key, settings.link_ttl_seconds)


def _courier(
    outbox: Outbox,
    outbound: Outbound,
    store: Store,
    accounts: Accounts,
    hooks: HookStore,
    links: Links,
    presign: Presign,
    credit_usd: Decimal,
    database: Database,
) -> Courier:
    link_seconds = {one.name: one.link_seconds for one in DIALECTS}

    def link_for(task: Task) -> PictureLink:
        base_url, seconds = task.delivery.base_url, link_seconds.get(task.dialect)
        return lambda path, key: presign(key) or base_url + links.sign(path, ttl_seconds=seconds)

    return Courier(
        outbox,
        outbound,
        styles={one.name: one.webhooks for one in DIALECTS if one.webhooks is not None},
        read_task=store.get,
        secrets_of=accounts.webhook_secrets,
        hook_of=hooks.enabled,
        link_for=link_for,
        credit_usd=credit_usd,
        takes_over=not database.is_shared,
        now_ms=database.now_ms,
    )


def _style(settings: Settings) -> FileStyle:
    return FileStyle(
        format=settings.output_format,
        quality=settings.output_quality,
        embed_parameters=settings.embed_parameters,
        mark_ai_origin=settings.mark_ai_origin,
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
    return EngineSettings(
        devices=settings.devices,
        preview_side_px=settings.preview_side_px,
        device_memory_bytes=settings.device_memory_bytes,
        ram_bytes=settings.ram_bytes,
        model_wait_seconds=settings.model_wait_seconds,
        model_stay_seconds=settings.model_stay_seconds,
        worker_silence_seconds=settings.worker_silence_seconds,
        compiled_folder=settings.data_dir / "compiled",
    )
