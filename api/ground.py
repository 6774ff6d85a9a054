"""What the services are built on: files, storage, database, network; opened or refused at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from api.assist import Staff, hire
from api.assistants import Assistants
from api.folder import DataFolder
from api.links import Links, Presign, load_links
from api.metrics import Metrics
from api.outbound import Outbound
from api.settings import Settings, SettingsError
from api.storage import Storage, storage_of
from api.store import Database, DriverMissing, Store, open_database
from api.store.accounts import AccountStore
from api.store.destinations import DestinationStore
from api.store.hooks import HookStore
from api.store.housekeeping import HousekeepingStore
from api.store.outbox import Outbox
from api.store.uploads import UploadStore
from api.tokens import Tokens, load_tokens
from inference.catalog import Catalog, load_catalog

# Encoding takes the interpreter from the engine's thread; more threads would only take more of it.
PIXEL_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every service stands on; whatever a wrong setting can spoil is here."""

    settings: Settings
    catalog: Catalog
    folder: DataFolder
    links: Links
    tokens: Tokens
    storage: Storage
    presign: Presign
    database: Database
    outbound: Outbound
    staff: Staff
    metrics: Metrics
    pixels: ThreadPoolExecutor


def lay_ground(settings: Settings, assistants: Assistants | None = None) -> Ground:
    """Open what the settings name; raises CatalogError or SettingsError."""
    catalog = load_catalog(settings.models)
    folder = DataFolder(settings.data_dir)
    with _blaming("data_dir cannot be used: ", OSError, ValueError):
        folder.make()
        links = load_links(folder.link_keys, ttl_seconds=settings.link_ttl_seconds)
        tokens = load_tokens(folder.token_keys)
    with _blaming("storage cannot be used: ", OSError, ValueError):
        storage = storage_of(settings, folder.objects)
    with _blaming("DARKROOM_DATABASE_URL: ", DriverMissing):
        database = open_database(folder.database, settings.postgres_url)
    with _blaming("DARKROOM_ALLOWED_TARGETS: ", ValueError):
        outbound = Outbound(settings.allowed_targets)
    with _blaming("", ValueError):
        staff = hire(catalog, os.environ) if assistants is None else Staff(assistants)
    return Ground(
        settings=settings,
        catalog=catalog,
        folder=folder,
        links=links,
        tokens=tokens,
        storage=storage,
        presign=_presign(settings, storage),
        database=database,
        outbound=outbound,
        staff=staff,
        metrics=Metrics(catalog.models, database.now_ms),
        pixels=ThreadPoolExecutor(PIXEL_THREADS, thread_name_prefix="pixels"),
    )


@contextmanager
def _blaming(prefix: str, *kinds: type[Exception]) -> Iterator[None]:
    """What goes wrong in here is a setting's fault."""
    try:
        yield
    except kinds as error:
        raise SettingsError(f"{prefix}{error}") from None


def _presign(settings: Settings, storage: Storage) -> Presign:
    if settings.links != "presigned":
        return lambda key: None
    return lambda key: storage.presign(key, settings.link_ttl_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What the database keeps, by subject."""

    tasks: Store
    accounts: AccountStore
    outbox: Outbox
    hooks: HookStore
    destinations: DestinationStore
    uploads: UploadStore
    housekeeping: HousekeepingStore


def records_of(database: Database) -> Records:
    """Everything that is kept there, by the database's own clock."""
    clock = database.now_ms
    return Records(
        tasks=Store(database, clock),
        accounts=AccountStore(database, clock),
        outbox=Outbox(database, clock),
        hooks=HookStore(database, clock),
        destinations=DestinationStore(database, clock),
        uploads=UploadStore(database, clock),
        housekeeping=HousekeepingStore(database, clock),
    )
