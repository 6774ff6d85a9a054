"""The SQL of destinations: places of an account's own that get copies of its pictures."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms
from api.errors import Conflict
from api.store.database import Database
from api.store.opening import open_database
from api.store.schema import destinations

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A place on S3 under an account's name for it; `secret` is in no repr.

    `endpoint` None is AWS's own of the region. `public_url` is the address by which others reach
    what `url` names, if there is one. `provider` is what its owner calls the kind of server.
    `path_template` names copies, `url_template` tells where they are; `api.copies` fills both.
    """

    account: str
    name: str
    url: str
    endpoint: str | None
    region: str
    access_key_id: str
    secret: str = field(repr=False)
    public_url: str | None
    provider: str = "s3"
    path_template: str | None = None
    url_template: str | None = None
    id: str = ""
    created_ms: int = 0
    updated_ms: int = 0


# As the record calls them.
_COLUMNS = (
    *(column for column in destinations.c if column.name != "secret_access_key"),
    destinations.c.secret_access_key.label("secret"),
)


class DestinationStore:
    """Destinations in a database; every method raises Unavailable while that cannot be used."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def insert(self, destination: Destination) -> Destination:
        """Keep a new one under a new id, as it is returned; raises Conflict for a name in use."""
        now_ms = self._now_ms()
        row = insert(destinations).values(
            id=f"dst_{secrets.token_hex(12)}",
            account=destination.account,
            created_ms=now_ms,
            updated_ms=now_ms,
            **_values(destination),
        )

        async def work(connection: AsyncConnection) -> Destination:
            return _to_destination((await connection.execute(row.returning(*_COLUMNS))).one())

        return await self._write(work, destination.name)

    async def replace(self, destination: Destination) -> Destination | None:
        """Keep other values under its id, or its name if it has none; None if there is no such.

        By its id it may get another name; raises Conflict for one in use.
        """
        same = destinations.c.name == destination.name
        if destination.id:
            same = destinations.c.id == destination.id
        changed = update(destinations).where(destinations.c.account == destination.account, same)
        changed = changed.values(updated_ms=self._now_ms(), **_values(destination))

        async def work(connection: AsyncConnection) -> Destination | None:
            row = (await connection.execute(changed.returning(*_COLUMNS))).one_or_none()
            return None if row is None else _to_destination(row)

        return await self._write(work, destination.name)

    async def list(self, account: str) -> tuple[Destination, ...]:
        """All of an account's, by name."""
        wanted = select(*_COLUMNS).where(destinations.c.account == account)

        async def work(connection: AsyncConnection) -> tuple[Destination, ...]:
            rows = await connection.execute(wanted.order_by(destinations.c.name))
            return tuple(map(_to_destination, rows))

        return await self._database.read(work)

    async def get(self, account: str, name: str) -> Destination | None:
        """The one of that name, if there is one."""
        return await self._one(destinations.c.account == account, destinations.c.name == name)

    async def of_id(self, account: str, destination_id: str) -> Destination | None:
        """The one of that id, if it is the account's."""
        return await self._one(
            destinations.c.account == account, destinations.c.id == destination_id
        )

    async def delete(self, account: str, name: str) -> bool:
        """Forget one; False if there was none."""
        gone = delete(destinations).where(
            destinations.c.account == account, destinations.c.name == name
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(gone)).rowcount > 0

        return await self._database.write(work)

    async def _one(self, *wanted: ColumnElement[bool]) -> Destination | None:
        query = select(*_COLUMNS).where(*wanted)

        async def work(connection: AsyncConnection) -> Destination | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _to_destination(row)

        return await self._database.read(work)

    async def _write(
        self, work: Callable[[AsyncConnection], Coroutine[Any, Any, T]], name: str
    ) -> T:
        try:
            return await self._database.write(work)
        except IntegrityError:
            raise Conflict(f"there is a destination {name!r} already", field="name") from None


@asynccontextmanager
async def destinations_in(path: Path, url: str | None) -> AsyncIterator[DestinationStore]:
    """The destinations of a database that is there; a service may run on it meanwhile."""
    database = open_database(path, url)
    try:
        yield DestinationStore(database)
    finally:
        await database.close()


def _values(destination: Destination) -> dict[str, Any]:
    return {
        "name": destination.name,
        "url": destination.url,
        "endpoint": destination.endpoint,
        "region": destination.region,
        "access_key_id": destination.access_key_id,
        "secret_access_key": destination.secret,
        "public_url": destination.public_url,
        "provider": destination.provider,
        "path_template": destination.path_template,
        "url_template": destination.url_template,
    }


def _to_destination(row: Row[Any]) -> Destination:
    return Destination(**row._mapping)
