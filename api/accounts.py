"""Who calls: keys, what each may do, and the accounts that pay.

A key is shown once and kept as its SHA-256 only. While there is no key at all, a server that only
its own machine can reach is open; the first key closes it for good.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from api.account_fields import check_credits, check_key, check_name
from api.clock import wall_clock_ms
from api.errors import BadRequest, Forbidden, NotFound, Unauthorized
from api.keys import hash_of, is_well_formed, new_key

if TYPE_CHECKING:
    from api.idempotency import Once
    from api.store.accounts import AccountStore

# What another process changed (a key revoked on the command line) is noticed after this long.
CACHE_SECONDS = 1.0
MAX_CACHED = 10_000
# How long receivers of webhooks may still verify with the secret that was replaced.
OLD_SECRET_MS = 24 * 3600 * 1000


class Scope(StrEnum):
    """What a key is good for: asking for pictures, managing the server, reading /metrics."""

    USE = "use"
    ADMIN = "admin"
    METRICS = "metrics"


class Period(StrEnum):
    """The calendar unit, in UTC, that a spending limit counts within."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is known of a key; None is unlimited, `dialect` None is every API.

    `spend_limit` is credits per `spend_period`, `max_unfinished` counts tasks.
    """

    id: str
    account: str
    label: str = ""
    scopes: frozenset[Scope] = frozenset({Scope.USE})
    dialect: str | None = None
    rate_per_minute: int | None = None
    max_unfinished: int | None = None
    spend_limit: int | None = None
    spend_period: Period = Period.MONTH
    created_ms: int = 0
    revoked_ms: int | None = None


# Of an account that is not metered: pictures of a hundred years at one a second.
UNMETERED_CREDITS = 10**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who pays; `balance` can be spent, `held` is set aside for unfinished tasks.

    An account that is not metered is never refused for want of credits; its use is still written
    down, so its balance goes below zero.
    """

    name: str
    metered: bool
    balance: int
    held: int
    webhook_secret: str = field(repr=False)
    old_webhook_secret: str | None = field(repr=False)
    secret_changed_ms: int | None
    created_ms: int

    @property
    def spendable(self) -> int:
        """What clients of hosted APIs are told: many look at it before they ask for a picture.

        Where nothing runs out it is more than anybody spends, less what was spent.
        """
        return self.balance if self.metered else UNMETERED_CREDITS + self.balance

    def webhook_secrets(self, now_ms: int) -> tuple[str, ...]:
        """The secrets that messages are signed with now, newest first."""
        changed = self.secret_changed_ms
        if self.old_webhook_secret and changed is not None and now_ms < changed + OLD_SECRET_MS:
            return self.webhook_secret, self.old_webhook_secret
        return (self.webhook_secret,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger."""

    id: int
    kind: str
    amount: int
    held: int
    task_id: str | None
    key_id: str | None
    note: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Credits that a key has used since its period began, which ends at `until_ms`."""

    credits: int
    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is served; without a key, that of an open server."""

    account: str = ""
    key: Key | None = None

    @property
    def id(self) -> str:
        """What rate limits count by."""
        return self.key.id if self.key is not None else self.account

    @property
    def key_id(self) -> str | None:
        """The key's id, if there is a key."""
        return self.key.id if self.key is not None else None

    def need(self, *scopes: Scope) -> None:
        """Raise Forbidden unless the key has one of these; an open server asks for none."""
        if self.key is not None and self.key.scopes.isdisjoint(scopes):
            names = " or ".join(repr(scope.value) for scope in scopes)
            raise Forbidden(f"this key lacks the scope {names}")


NOBODY = Caller()


class Accounts:
    """Finds out who calls, and manages keys and balances.

    Keys are looked up by their hash: there is nothing to compare, so nothing to time.
    """

    def __init__(
        self, store: AccountStore, *, now_seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._now_seconds = now_seconds
        self._known: dict[str, tuple[float, Key | None]] = {}
        self._closed: bool = False
        self._looked: float | None = None

    async def caller(self, text: str | None) -> Caller:
        """Who calls with this key; raises Unauthorized."""
        if not await self.any_keys():
            return NOBODY
        if text is None:
            raise Unauthorized("send a key, as Authorization: Bearer … or as x-api-key")
        key = await self._find(text) if is_well_formed(text) else None
        if key is None or key.revoked_ms is not None:
            raise Unauthorized("this key is not known here, or was revoked")
        return Caller(key.account, key)

    async def any_keys(self) -> bool:
        """Whether a key was ever made; from then on requests need one."""
        now = self._now_seconds()
        if not self._closed and (self._looked is None or now >= self._looked + CACHE_SECONDS):
            self._closed = await self._store.any_keys()
            self._looked = now
        return self._closed

    async def is_good(self, key_id: str) -> bool:
        """Whether the key with that id is there and not revoked, as of a second ago."""
        key = await self._cached(key_id, self._store.key)
        return key is not None and key.revoked_ms is None

    async def create_key(self, key: Key, *, credits: int | None = None) -> tuple[Key, str]:
        """Keep a new key, its account too if that is new; the record, and the text to show once.

        `credits` are granted to the account, which is metered from then on. Raises BadRequest.
        """
        check_key(key)
        if credits is not None and check_credits(credits, "credits") < 0:
            raise BadRequest("credits must not be negative", field="credits")
        text = new_key()
        made = await self._store.add_key(key, hash_of(text), credits=credits)
        self._forget()
        return made, text

    async def keys(self) -> list[Key]:
        """Every key, the revoked ones too, newest first."""
        return await self._store.keys()

    async def revoke(self, key_id: str) -> Key:
        """Make a key useless; raises NotFound."""
        key = await self._store.revoke(key_id)
        self._forget()
        if key is None:
            raise NotFound("there is no such key")
        return key

    async def accounts(self) -> list[Account]:
        """Every account by name."""
        return await self._store.accounts()

    async def account(self, name: str) -> Account:
        """One account; raises NotFound."""
        found = await self._store.account(name)
        if found is None:
            raise NotFound("there is no such account")
        return found

    async def open(self, name: str) -> Account:
        """The account, made without a meter if it is new."""
        return await self._store.open_account(check_name(name))

    async def grant(
        self, name: str, amount: int, note: str = "", *, once: Once | None = None
    ) -> Account:
        """Add credits, or take some back; raises NotFound, or NoCredits below zero.

        The account is metered from then on: what it used before is forgiven. Without keys nobody
        is asked to pay, so that account is never metered: BadRequest. With `once`, a repeat changes
        nothing; raises IdempotencyMismatch for another request under the same key.
        """
        return await self._store.grant(check_name(name), check_credits(amount), note, once)

    async def unmeter(self, name: str) -> Account:
        """Never refuse the account for want of credits again; raises NotFound."""
        return await self._store.unmeter(name)

    async def entries(self, name: str, *, limit: int = 50) -> list[Entry]:
        """The newest lines of an account's ledger."""
        return await self._store.entries(name, limit=limit)

    async def spent(self, key: Key) -> Spent:
        """What a key's tasks have cost, or still hold, within its present period."""
        return await self._store.spent(key)

    async def webhook_secrets(self, name: str) -> tuple[str, ...]:
        """What messages to an account are signed with now, the newest first; raises NotFound."""
        return (await self.account(name)).webhook_secrets(wall_clock_ms())

    async def rotate_webhook_secret(self, name: str) -> Account:
        """A new secret for an account's webhooks; the old one signs too for a day."""
        return await self._store.rotate_webhook_secret(name)

    async def _find(self, text: str) -> Key | None:
        return await self._cached(hash_of(text), self._store.find_key)

    async def _cached(self, name: str, find: Callable[[str], Awaitable[Key | None]]) -> Key | None:
        """What is found by a key's hash or by its id, which is never as long as a hash."""
        now, cached = self._now_seconds(), self._known.get(name)
        if cached is not None and now < cached[0] + CACHE_SECONDS:
            return cached[1]
        key = await find(name)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[name] = now, key
        return key

    def _forget(self) -> None:
        self._known.clear()
        self._looked = None
