"""Accounts and keys in the database: each method is one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.accounts import (
    Account,
    Accounts,
    Entry,
    Key,
    Period,
    Scope,
    Spent,
)
from api.clock import wall_clock_ms
from api.errors import NoCredits, NotFound
from api.idempotency import Once
from api.keys import new_key_id, new_webhook_secret
from api.store import once as idempotency
from api.store.company import hold_account
from api.store.database import Database
from api.store.ledger import bounds_of, spent, write_line
from api.store.opening import open_database
from api.store.schema import accounts, keys, ledger


class AccountStore:
    """Raises Unavailable while the database cannot be used."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def any_keys(self) -> bool:
        """Whether a key was ever made."""

        async def work(connection: AsyncConnection) -> bool:
            return await connection.scalar(select(keys.c.id).limit(1)) is not None

        return await self._database.read(work)

    async def find_key(self, digest: str) -> Key | None:
        """The key with that hash, revoked or not."""
        return await self._one_key(keys.c.hash == digest)

    async def key(self, key_id: str) -> Key | None:
        """The key with that id, revoked or not."""
        return await self._one_key(keys.c.id == key_id)

    async def keys(self) -> list[Key]:
        """Every key, newest first."""

        async def work(connection: AsyncConnection) -> list[Key]:
            query = select(keys).order_by(keys.c.created_ms.desc(), keys.c.id)
            return [_to_key(row) for row in await connection.execute(query)]

        return await self._database.read(work)

    async def add_key(self, key: Key, digest: str, *, credits: int | None) -> Key:
        """Keep a key under a new id, and its account if that is new."""

        async def work(connection: AsyncConnection) -> Key:
            now_ms = self._now_ms()
            await self._open(connection, key.account, now_ms)
            await hold_account(connection, key.account)
            if credits is not None:
                await _grant(connection, key.account, credits, "with a new key", now_ms)
            added = insert(keys).values(
                id=new_key_id(),
                account=key.account,
                hash=digest,
                label=key.label,
                scopes=" ".join(sorted(key.scopes)),
                dialect=key.dialect,
                rate_per_minute=key.rate_per_minute,
                max_unfinished=key.max_unfinished,
                spend_limit=key.spend_limit,
                spend_period=key.spend_period.value,
                created_ms=now_ms,
            )
            return _to_key((await connection.execute(added.returning(*keys.c))).one())

        return await self._database.write(work)

    async def revoke(self, key_id: str) -> Key | None:
        """The key, revoked now or before; None if there is none."""

        async def work(connection: AsyncConnection) -> Key | None:
            revoked = func.coalesce(keys.c.revoked_ms, self._now_ms())
            changed = update(keys).where(keys.c.id == key_id).values(revoked_ms=revoked)
            row = (await connection.execute(changed.returning(*keys.c))).one_or_none()
            return _to_key(row) if row is not None else None

        return await self._database.write(work)

    async def accounts(self) -> list[Account]:
        """Every account by name."""

        async def work(connection: AsyncConnection) -> list[Account]:
            rows = await connection.execute(select(accounts).order_by(accounts.c.name))
            return [_to_account(row) for row in rows]

        return await self._database.read(work)

    async def account(self, name: str) -> Account | None:
        """One account."""

        async def work(connection: AsyncConnection) -> Account | None:
            found = await connection.execute(select(accounts).where(accounts.c.name == name))
            row = found.one_or_none()
            return _to_account(row) if row is not None else None

        return await self._database.read(work)

    async def open_account(self, name: str) -> Account:
        """The account, made without credits or meter if it is new."""

        async def work(connection: AsyncConnection) -> Account:
            await self._open(connection, name, self._now_ms())
            return await _read(connection, name)

        return await self._database.write(work)

    async def grant(self, name: str, amount: int, note: str, once: Once | None = None) -> Account:
        """Add `amount`, which may be negative; raises NotFound or NoCredits.

        What counts `once` and came before changes nothing; raises IdempotencyMismatch.
        """

        async def work(connection: AsyncConnection) -> Account:
            now_ms = self._now_ms()
            await hold_account(connection, name)
            if once is not None:
                if await idempotency.find(connection, name, once, now_ms=now_ms) is not None:
                    return await _read(connection, name)
                await idempotency.keep(
                    connection, name, once, task_id="", reply=None, now_ms=now_ms
                )
            await _grant(connection, name, amount, note, now_ms)
            return await _read(connection, name)

        return await self._database.write(work)

    async def unmeter(self, name: str) -> Account:
        """Take the meter off; raises NotFound."""
        return await self._set(name, {"metered": False})

    async def rotate_webhook_secret(self, name: str) -> Account:
        """A new secret, the present one beside it; raises NotFound."""
        return await self._set(
            name,
            {
                "old_webhook_secret": accounts.c.webhook_secret,
                "webhook_secret": new_webhook_secret(),
                "secret_changed_ms": self._now_ms(),
            },
        )

    async def entries(self, name: str, *, limit: int) -> list[Entry]:
        """The newest lines of an account's ledger."""

        async def work(connection: AsyncConnection) -> list[Entry]:
            query = select(ledger).where(ledger.c.account == name).order_by(ledger.c.id.desc())
            rows = await connection.execute(query.limit(limit))
            return [_to_entry(row) for row in rows]

        return await self._database.read(work)

    async def spent(self, key: Key) -> Spent:
        """What a key's tasks have cost, or still hold, within its present period."""

        async def work(connection: AsyncConnection) -> Spent:
            since_ms, until_ms = bounds_of(key.spend_period, self._now_ms())
            used = await spent(connection, key.id, since_ms)
            return Spent(credits=used, since_ms=since_ms, until_ms=until_ms)

        return await self._database.read(work)

    async def _one_key(self, which: ColumnElement[bool]) -> Key | None:
        async def work(connection: AsyncConnection) -> Key | None:
            row = (await connection.execute(select(keys).where(which))).one_or_none()
            return _to_key(row) if row is not None else None

        return await self._database.read(work)

    async def _open(self, connection: AsyncConnection, name: str, now_ms: int) -> None:
        known = select(accounts.c.name).where(accounts.c.name == name)
        if await connection.scalar(known) is None:
            await connection.execute(
                insert(accounts).values(
                    name=name,
                    metered=False,
                    balance=0,
                    held=0,
                    webhook_secret=new_webhook_secret(),
                    created_ms=now_ms,
                )
            )

    async def _set(self, name: str, values: dict[str, Any]) -> Account:
        async def work(connection: AsyncConnection) -> Account:
            await connection.execute(
                update(accounts).where(accounts.c.name == name).values(**values)
            )
            return await _read(connection, name)

        return await self._database.write(work)


@asynccontextmanager
async def accounts_in(path: Path, url: str | None) -> AsyncIterator[Accounts]:
    """The accounts of a database, for who needs no service; one may run on it meanwhile.

    Raises MigrationError for a database that cannot be used, and DriverMissing.
    """
    database = open_database(path, url)
    try:
        await database.migrate()
        yield Accounts(AccountStore(database, database.now_ms))
    finally:
        await database.close()


async def _read(connection: AsyncConnection, name: str) -> Account:
    found = await connection.execute(select(accounts).where(accounts.c.name == name))
    row = found.one_or_none()
    if row is None:
        raise NotFound("there is no such account")
    return _to_account(row)


async def _grant(
    connection: AsyncConnection, name: str, amount: int, note: str, now_ms: int
) -> None:
    account = await _read(connection, name)
    if not account.metered and account.balance < 0:
        await write_line(
            connection,
            account=name,
            kind="forgiven",
            amount=-account.balance,
            note="used before it was metered",
            now_ms=now_ms,
        )
        account = await _read(connection, name)
    if account.balance + amount < 0:
        raise NoCredits(f"the balance is {account.balance}, {-amount} cannot be taken from it")
    await write_line(
        connection, account=name, kind="grant", amount=amount, note=note, now_ms=now_ms
    )
    metered = update(accounts).where(accounts.c.name == name).values(metered=True)
    await connection.execute(metered)


def _to_key(row: Row[Any]) -> Key:
    values = dict(row._mapping)
    del values["hash"]
    values["scopes"] = frozenset(Scope(scope) for scope in row.scopes.split())
    values["spend_period"] = Period(row.spend_period or Period.MONTH)
    return Key(**values)


def _to_account(row: Row[Any]) -> Account:
    return Account(**row._mapping)


def _to_entry(row: Row[Any]) -> Entry:
    values = dict(row._mapping)
    del values["account"]
    return Entry(**values)
