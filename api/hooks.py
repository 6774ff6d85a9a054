"""Webhooks that accounts register once, to be told of the end of every task of theirs."""

from __future__ import annotations

import secrets
from typing import Protocol

import structlog

from api.errors import BadRequest, NotFound
from api.keys import new_webhook_secret
from api.store.hooks import MOST_FAILURES, Hook, HookStore, event_of
from api.tasks import TaskKind

__all__ = ["EVENTS", "MOST_FAILURES", "MOST_HOOKS", "Hook", "Hooks", "event_of"]

log = structlog.get_logger()

ENDS = ("completed", "failed")
# What may be registered for: an end of one kind of task, or of any; a cancelled one has failed.
EVENTS = frozenset(f"{kind}.{end}" for kind in (*TaskKind, "*") for end in ENDS)
# Each gets a message for every task, so they multiply what is sent.
MOST_HOOKS = 20


class CheckAddress(Protocol):
    """Judges an address that messages are to be sent to; `api.outbound.Outbound` is one."""

    def check_url(self, text: str, *, field: str) -> str: ...

    async def check_host(self, url: str, *, field: str) -> None: ...


class Hooks:
    """The registered webhooks of accounts, each account's and each dialect's for itself."""

    def __init__(self, store: HookStore, addresses: CheckAddress) -> None:
        self._store = store
        self._addresses = addresses

    async def add(
        self,
        account: str,
        dialect: str,
        *,
        url: str,
        events: tuple[str, ...] | None = None,
        enabled: bool = True,
    ) -> Hook:
        """Register an address for `events`, None for all; the hook comes with its new secret.

        Raises BadRequest, naming the field.
        """
        hook = Hook(
            id=f"whk_{secrets.token_hex(12)}",
            account=account,
            dialect=dialect,
            url=await self._judged(url),
            secret=new_webhook_secret(),
            events=_checked(events),
            enabled=enabled,
        )
        kept = await self._store.insert(hook, most=MOST_HOOKS)
        if kept is None:
            raise BadRequest(f"an account has {MOST_HOOKS} registered webhooks at most")
        log.info("hook_added", account=account, dialect=dialect, hook_id=kept.id)
        return kept

    async def replace(
        self,
        account: str,
        dialect: str,
        hook_id: str,
        *,
        url: str,
        events: tuple[str, ...] | None,
        enabled: bool,
    ) -> Hook:
        """Another address and other events, the same id and secret; failures are forgotten.

        Raises NotFound, and BadRequest as `add` does.
        """
        old = await self.get(account, dialect, hook_id)
        wanted = Hook(
            id=hook_id,
            account=account,
            dialect=dialect,
            url=await self._judged(url),
            secret=old.secret,
            events=_checked(events),
            enabled=enabled,
        )
        kept = await self._store.replace(wanted)
        if kept is None:
            raise _missing()
        log.info("hook_replaced", account=account, dialect=dialect, hook_id=hook_id)
        return kept

    async def list(self, account: str, dialect: str) -> tuple[Hook, ...]:
        """All of them, oldest first."""
        return await self._store.list(account, dialect)

    async def get(self, account: str, dialect: str, hook_id: str) -> Hook:
        """The one of that id; raises NotFound."""
        found = await self._store.get(account, dialect, hook_id)
        if found is None:
            raise _missing()
        return found

    async def remove(self, account: str, dialect: str, hook_id: str) -> None:
        """Forget one; what waits to be sent to it is given up. Raises NotFound."""
        if not await self._store.delete(account, dialect, hook_id):
            raise _missing()
        log.info("hook_removed", account=account, dialect=dialect, hook_id=hook_id)

    async def _judged(self, url: str) -> str:
        """The address in its one spelling; raises BadRequest if it may not be sent to."""
        checked = self._addresses.check_url(url, field="url")
        await self._addresses.check_host(checked, field="url")
        return checked


def _checked(events: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if events is None:
        return None
    if not events or not EVENTS.issuperset(events):
        known = ", ".join(sorted(EVENTS))
        raise BadRequest(f"events must be some of: {known}", field="events")
    return tuple(dict.fromkeys(events))


def _missing() -> NotFound:
    return NotFound("there is no such webhook")
