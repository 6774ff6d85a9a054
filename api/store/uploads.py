"""The SQL of uploads: pictures that accounts leave here to be named in requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Select, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms
from api.store.company import hold_account
from api.store.database import Database
from api.store.schema import uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptUpload:
    """A picture that an account left here, until `expires_ms`; times are since the epoch."""

    id: str
    account: str
    key: str
    media_type: str
    size_bytes: int
    width: int
    height: int
    created_ms: int
    expires_ms: int


class UploadStore:
    """Uploads in a database; every method raises Unavailable while that cannot be used."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def insert(self, account: str, kept: Sequence[KeptUpload], *, max_bytes: int) -> bool:
        """Keep all of them; False, and none, if the account would have more than `max_bytes`."""
        more = sum(one.size_bytes for one in kept)

        async def work(connection: AsyncConnection) -> bool:
            await hold_account(connection, account)
            if await _used(connection, self._of(account)) + more > max_bytes:
                return False
            await connection.execute(insert(uploads).values([asdict(one) for one in kept]))
            return True

        return await self._database.write(work)

    async def used_bytes(self, account: str) -> int:
        """How many bytes an account has here that have not expired."""
        return await self._database.read(lambda connection: _used(connection, self._of(account)))

    async def get(self, upload_id: str) -> KeptUpload | None:
        """The upload, unless its time is up."""
        wanted = select(uploads).where(
            uploads.c.id == upload_id, uploads.c.expires_ms > self._now_ms()
        )

        async def work(connection: AsyncConnection) -> KeptUpload | None:
            row = (await connection.execute(wanted)).one_or_none()
            return None if row is None else KeptUpload(**row._mapping)

        return await self._database.read(work)

    async def delete(self, account: str, upload_id: str) -> str | None:
        """Forget one and return the key of its bytes; None if the account has none of that id."""
        gone = delete(uploads).where(uploads.c.account == account, uploads.c.id == upload_id)

        async def work(connection: AsyncConnection) -> str | None:
            key = (await connection.execute(gone.returning(uploads.c.key))).scalar_one_or_none()
            return None if key is None else str(key)

        return await self._database.write(work)

    def _of(self, account: str) -> Select[int]:
        total = func.coalesce(func.sum(uploads.c.size_bytes), 0)
        mine = uploads.c.account == account, uploads.c.expires_ms > self._now_ms()
        return select(total).where(*mine)


async def _used(connection: AsyncConnection, query: Select[int]) -> int:
    # PostgreSQL sums big integers to a decimal.
    return int(await connection.scalar(query) or 0)
