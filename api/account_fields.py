"""What the fields of keys, accounts and grants may hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from api.errors import BadRequest

if TYPE_CHECKING:
    from api.accounts import Key

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_LABEL_CHARS = 64
# Far below what 64 bits hold, so that no sum of a ledger overflows.
MAX_CREDITS = 10**12
MAX_LIMIT = 10**9


def check_name(name: str) -> str:
    """An account's name, if it is fit to be one; raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            "account must be 1 to 64 of a-z, 0-9, - and _, and begin with a letter or digit",
            field="account",
        )
    return name


def check_key(key: Key) -> None:
    """Raise BadRequest unless all of a key is fit to be kept."""
    check_name(key.account)
    if len(key.label) > MAX_LABEL_CHARS or not (key.label.isprintable() or not key.label):
        message = f"label must be at most {MAX_LABEL_CHARS} printable characters"
        raise BadRequest(message, field="label")
    if not key.scopes:
        raise BadRequest("a key needs a scope: use, admin or metrics", field="scopes")
    for name, value, least, most in (
        ("rate_per_minute", key.rate_per_minute, 1, MAX_LIMIT),
        ("max_unfinished", key.max_unfinished, 1, MAX_LIMIT),
        ("spend_limit", key.spend_limit, 0, MAX_CREDITS),
    ):
        if value is not None and not least <= value <= most:
            raise BadRequest(f"{name} must lie between {least} and {most}", field=name)


def check_credits(amount: int, what: str = "amount") -> int:
    """The number of credits, if it is one that is dealt in; raises BadRequest."""
    if not -MAX_CREDITS <= amount <= MAX_CREDITS:
        raise BadRequest(f"{what} must lie between -{MAX_CREDITS} and {MAX_CREDITS}", field=what)
    return amount
