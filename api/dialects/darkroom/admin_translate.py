"""Between the wire types of keys and accounts and the neutral ones; pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from api.accounts import OLD_SECRET_MS, Account, Entry, Key, Period, Scope, Spent
from api.dialects.darkroom.admin_schema import KeyRequest
from api.dialects.darkroom.translate import to_time
from api.errors import BadRequest


def to_key(wire: KeyRequest, dialects: Iterable[str]) -> Key:
    """The key that is wanted, without an id yet; raises BadRequest for an unknown dialect."""
    if wire.dialect is not None and wire.dialect not in (known := list(dialects)):
        message = f"{wire.dialect!r} is no dialect here; there are: {', '.join(known)}"
        raise BadRequest(message, field="dialect")
    return Key(
        id="",
        account=wire.account,
        label=wire.label,
        scopes=frozenset(map(Scope, wire.scopes)),
        dialect=wire.dialect,
        rate_per_minute=wire.rate_per_minute,
        max_unfinished=wire.max_unfinished,
        spend_limit=wire.spend_limit,
        spend_period=Period(wire.spend_period),
    )


def to_key_info(key: Key) -> dict[str, Any]:
    """A `KeyInfo`."""
    return {
        "id": key.id,
        "account": key.account,
        "label": key.label,
        "scopes": sorted(scope.value for scope in key.scopes),
        "dialect": key.dialect,
        "rate_per_minute": key.rate_per_minute,
        "max_unfinished": key.max_unfinished,
        "spend_limit": key.spend_limit,
        "spend_period": key.spend_period.value,
        "created_at": to_time(key.created_ms),
        "revoked_at": to_time(key.revoked_ms),
    }


def to_account(account: Account) -> dict[str, Any]:
    """An `AccountInfo`."""
    return {
        "name": account.name,
        "metered": account.metered,
        "balance": account.balance,
        "held": account.held,
        "created_at": to_time(account.created_ms),
    }


def to_account_with_ledger(account: Account, entries: Sequence[Entry]) -> dict[str, Any]:
    """An `AccountWithLedger`."""
    lines = [
        {
            "id": entry.id,
            "kind": entry.kind,
            "amount": entry.amount,
            "held": entry.held,
            "task_id": entry.task_id,
            "key_id": entry.key_id,
            "note": entry.note,
            "created_at": to_time(entry.created_ms),
        }
        for entry in entries
    ]
    return to_account(account) | {"ledger": lines}


def to_own_account(account: Account, key: Key | None, spent: Spent | None) -> dict[str, Any]:
    """An `OwnAccount`; `spent` is None for a key without a limit."""
    return to_account(account) | {
        "key": to_key_info(key) if key is not None else None,
        "spending": to_spending(key, spent) if key is not None and spent is not None else None,
    }


def to_spending(key: Key, spent: Spent) -> dict[str, Any]:
    """A `Spending`."""
    limit = key.spend_limit or 0
    return {
        "limit": limit,
        "period": key.spend_period.value,
        "spent": spent.credits,
        "left": max(limit - spent.credits, 0),
        "resets_at": to_time(spent.until_ms),
    }


def to_webhook_secret(account: Account, now_ms: int) -> dict[str, Any]:
    """A `WebhookSecret`."""
    secret, *old = account.webhook_secrets(now_ms)
    changed_ms = account.secret_changed_ms
    until_ms = changed_ms + OLD_SECRET_MS if old and changed_ms is not None else None
    return {
        "secret": secret,
        "old_secret": old[0] if old else None,
        "old_secret_until": to_time(until_ms),
    }
