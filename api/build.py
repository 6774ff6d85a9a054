"""The composition root: settings become services. This and `ground` alone name concrete classes."""

from __future__ import annotations

from functools import partial

from api.accounts import Accounts
from api.assistants import Assistants
from api.destinations import Destinations
from api.dialects import DIALECTS
from api.dispatcher import Dispatcher
from api.ground import Ground, Records, lay_ground, records_of
from api.hooks import Hooks
from api.housekeeping import Housekeeper
from api.input_pictures import InputPictures
from api.late_engine import LateEngine
from api.links import PictureLink
from api.logs import configure_logging
from api.loras import FetchedLoras
from api.outbound.client import GuardedNetwork
from api.outputs import FileStyle
from api.own_links import OwnLinks
from api.reception import Reception
from api.scrape import Scraper
from api.services import Services
from api.settings import Settings
from api.submit import Darkroom
from api.tasks import Task
from api.uploads import Uploads
from api.watch import Updates
from api.webhooks import Courier
from api.workshop import EnginePort, Workshop
from inference.catalog import Catalog
from inference.settings import EngineSettings


def build(
    settings: Settings,
    *,
    engine: EnginePort | None = None,
    assistants: Assistants | None = None,
) -> Services:
    """The services of one process; raises CatalogError or SettingsError before anything starts."""
    ground = lay_ground(settings, assistants)
    engine = engine or build_engine(ground.catalog, settings)
    records = records_of(ground.database)
    accounts = Accounts(records.accounts)
    courier = _courier(ground, records, accounts)
    updates = Updates(on_end=courier.wake)
    destinations = _destinations(ground, records)
    loras = _loras(ground, records)
    uploads = _uploads(ground, records)
    workshop = _workshop(ground, records, engine, loras, destinations, updates)
    dispatcher = Dispatcher(workshop, settings)
    reception = _reception(ground, records, dispatcher, uploads, loras, destinations)
    darkroom = _darkroom(ground, records, dispatcher, updates, reception)
    return Services(
        settings=settings,
        catalog=ground.catalog,
        engine=engine,
        links=ground.links,
        tokens=ground.tokens,
        presign=ground.presign,
        database=ground.database,
        store=records.tasks,
        storage=ground.storage,
        updates=updates,
        dispatcher=dispatcher,
        darkroom=darkroom,
        accounts=accounts,
        outbound=ground.outbound,
        outbox=records.outbox,
        courier=courier,
        destinations=destinations,
        uploads=uploads,
        hooks=Hooks(records.hooks, ground.outbound),
        housekeeper=_housekeeper(ground, records),
        folder=ground.folder,
        pixels=ground.pixels,
        staff=ground.staff,
        metrics=ground.metrics,
        scraper=_scraper(ground, records, engine, darkroom),
    )


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
        device_processes=settings.device_processes,
        worker_restart_seconds=settings.worker_restart_seconds,
        prepare_process=partial(configure_logging, settings.log_level),
        compiled_folder=settings.data_dir / "compiled",
    )


def _courier(ground: Ground, records: Records, accounts: Accounts) -> Courier:
    links, presign = ground.links, ground.presign
    link_seconds = {one.name: one.link_seconds for one in DIALECTS}

    def link_for(task: Task) -> PictureLink:
        base_url, seconds = task.delivery.base_url, link_seconds.get(task.dialect)
        return lambda path, key: presign(key) or base_url + links.sign(path, ttl_seconds=seconds)

    return Courier(
        records.outbox,
        ground.outbound,
        styles={one.name: one.webhooks for one in DIALECTS if one.webhooks is not None},
        read_task=records.tasks.get,
        secrets_of=accounts.webhook_secrets,
        hook_of=records.hooks.enabled,
        link_for=link_for,
        credit_usd=ground.settings.credit_usd,
        takes_over=not ground.database.is_shared,
        tally=ground.metrics,
        now_ms=ground.database.now_ms,
    )


def _destinations(ground: Ground, records: Records) -> Destinations:
    outbound = ground.outbound
    network = GuardedNetwork(outbound.addresses_of)
    return Destinations(records.destinations, outbound.check_host, network=network)


def _loras(ground: Ground, records: Records) -> FetchedLoras:
    return FetchedLoras(
        ground.folder.loras,
        settings=ground.settings,
        outbound=ground.outbound,
        needed=records.housekeeping.fetched_loras,
        threads=ground.pixels,
    )


def _uploads(ground: Ground, records: Records) -> Uploads:
    return Uploads(
        settings=ground.settings,
        store=records.uploads,
        storage=ground.storage,
        links=ground.links,
        pixels=ground.pixels,
        now_ms=ground.database.now_ms,
    )


def _workshop(
    ground: Ground,
    records: Records,
    engine: EnginePort,
    loras: FetchedLoras,
    destinations: Destinations,
    updates: Updates,
) -> Workshop:
    return Workshop(
        engine=engine,
        store=records.tasks,
        storage=ground.storage,
        loras=loras,
        updates=updates,
        pixels=ground.pixels,
        style=_style(ground.settings),
        deliver=destinations.deliver_for,
        assistants=ground.staff.assistants,
        tally=ground.metrics,
    )


def _style(settings: Settings) -> FileStyle:
    return FileStyle(
        format=settings.output_format,
        quality=settings.output_quality,
        embed_parameters=settings.embed_parameters,
        mark_ai_origin=settings.mark_ai_origin,
    )


def _reception(
    ground: Ground,
    records: Records,
    dispatcher: Dispatcher,
    uploads: Uploads,
    loras: FetchedLoras,
    destinations: Destinations,
) -> Reception:
    return Reception(
        settings=ground.settings,
        catalog=ground.catalog,
        store=records.tasks,
        dispatcher=dispatcher,
        outbound=ground.outbound,
        pictures=_input_pictures(ground, records, uploads),
        loras=loras,
        destinations=destinations,
        assistants=ground.staff.assistants,
        tally=ground.metrics,
    )


def _input_pictures(ground: Ground, records: Records, uploads: Uploads) -> InputPictures:
    own_links = OwnLinks(
        links=ground.links,
        store=records.tasks,
        storage=ground.storage,
        uploads=uploads,
        outbound=ground.outbound,
        readers=[(one.alias or "", one.linked) for one in DIALECTS if one.linked is not None],
        public_url=ground.settings.public_url or "",
    )
    return InputPictures(
        settings=ground.settings, storage=ground.storage, source=own_links, pixels=ground.pixels
    )


def _darkroom(
    ground: Ground,
    records: Records,
    dispatcher: Dispatcher,
    updates: Updates,
    reception: Reception,
) -> Darkroom:
    return Darkroom(
        settings=ground.settings,
        store=records.tasks,
        storage=ground.storage,
        dispatcher=dispatcher,
        updates=updates,
        reception=reception,
        tally=ground.metrics,
    )


def _housekeeper(ground: Ground, records: Records) -> Housekeeper:
    return Housekeeper(
        records.housekeeping,
        ground.storage,
        retention_hours=ground.settings.output_retention_hours,
        leads=ground.database.leads,
        now_ms=ground.database.now_ms,
    )


def _scraper(ground: Ground, records: Records, engine: EnginePort, darkroom: Darkroom) -> Scraper:
    return Scraper(
        ground.metrics,
        settings=ground.settings,
        darkroom=darkroom,
        outbox=records.outbox,
        engine_status=engine.status,
    )
