"""The SQL of destinations: places of an account's own that get copies of its pictures."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms
from api.store.database import Database, sqlite_database
from api.store.schema import destinations

if TYPE_CHECKING:
    from api.folder import DataFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A place on S3 under an account's name for it; `secret` is in no repr.

    `endpoint` None is AWS's own of the region. `public_url` is the address by which others reach
    what `url` names, if there is one.
    """

    account: str
    name: str
    url: str
    endpoint: str | None
    region: str
    access_key_id: str
    secret: str = field(repr=False)
    public_url: str | None


class DestinationStore:
    """Destinations in a database; every method raises Unavailable while that cannot be used."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def insert(self, destination: Destination) -> bool:
        """Keep a new one; False if the account has one of that name."""
        now_ms = self._now_ms()
        row = insert(destinations).values(
            id=f"dst_{secrets.token_hex(12)}",
            account=destination.account,
            name=destination.name,
            url=destination.url,
            endpoint=destination.endpoint,
            region=destination.region,
            access_key_id=destination.access_key_id,
            secret_access_key=destination.secret,
            public_url=destination.public_url,
            created_ms=now_ms,
            updated_ms=now_ms,
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(row)

        try:
            await self._database.write(work)
        except IntegrityError:
            return False
        return True

    async def replace(self, destination: Destination) -> bool:
        """Keep another place and key under a name; False if the account has none of that name."""
        changed = (
            update(destinations)
            .where(
                destinations.c.account == destination.account,
                destinations.c.name == destination.name,
            )
            .values(
                url=destination.url,
                endpoint=destination.endpoint,
                region=destination.region,
                access_key_id=destination.access_key_id,
                secret_access_key=destination.secret,
                public_url=destination.public_url,
            )
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(changed)).rowcount > 0

        return await self._database.write(work)

    async def list(self, account: str) -> tuple[Destination, ...]:
        """All of an account's, by name."""
        wanted = select(destinations).where(destinations.c.account == account)

        async def work(connection: AsyncConnection) -> tuple[Destination, ...]:
            rows = await connection.execute(wanted.order_by(destinations.c.name))
            return tuple(map(_to_destination, rows))

        return await self._database.read(work)

    async def get(self, account: str, name: str) -> Destination | None:
        """The one of that name, if there is one."""
        wanted = select(destinations).where(
            destinations.c.account == account, destinations.c.name == name
        )

        async def work(connection: AsyncConnection) -> Destination | None:
            row = (await connection.execute(wanted)).one_or_none()
            return None if row is None else _to_destination(row)

        return await self._database.read(work)

    async def delete(self, account: str, name: str) -> bool:
        """Forget one; False if there was none."""
        gone = delete(destinations).where(
            destinations.c.account == account, destinations.c.name == name
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(gone)).rowcount > 0

        return await self._database.write(work)


@asynccontextmanager
async def destinations_in(folder: DataFolder) -> AsyncIterator[DestinationStore]:
    """The destinations of a data folder whose database is there; a service may run on it."""
    database = sqlite_database(folder.database)
    try:
        yield DestinationStore(database)
    finally:
        await database.close()


def _to_destination(row: Row[Any]) -> Destination:
    return Destination(
        account=row.account,
        name=row.name,
        url=row.url,
        endpoint=row.endpoint,
        region=row.region,
        access_key_id=row.access_key_id,
        secret=row.secret_access_key,
        public_url=row.public_url,
    )
