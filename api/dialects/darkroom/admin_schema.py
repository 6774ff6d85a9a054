"""The wire types of keys, accounts and their ledgers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ScopeName = Literal["use", "admin", "metrics"]
PeriodName = Literal["day", "month"]
# Bounds of the values themselves are checked where the command line's are.
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
AccountName = Annotated[str, Field(min_length=1, max_length=64, examples=["team"])]


class KeyRequest(BaseModel):
    """A key to be made; what is left out is unlimited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    account: Annotated[AccountName, Field(description="who pays; made if it is new")]
    label: str = ""
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=3)] = ["use"]
    dialect: Annotated[
        str | None, Field(max_length=64, description="the only API it is good for")
    ] = None
    rate_per_minute: Annotated[
        Int64 | None, Field(description="requests for pictures a minute")
    ] = None
    max_unfinished: Annotated[Int64 | None, Field(description="unfinished tasks at once")] = None
    spend_limit: Annotated[Int64 | None, Field(description="credits in a spend_period")] = None
    spend_period: Annotated[PeriodName, Field(description="by the calendar, in UTC")] = "month"
    credits: Annotated[
        Int64 | None,
        Field(description="granted to the account, which is metered from then on"),
    ] = None


class CreditsRequest(BaseModel):
    """Credits to add to an account, or with a negative amount to take back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount: Int64
    note: Annotated[str, Field(max_length=200)] = ""


class KeyInfo(BaseModel):
    """What is known of a key; never the key."""

    id: str
    account: str
    label: str
    scopes: list[ScopeName]
    dialect: str | None
    rate_per_minute: int | None
    max_unfinished: int | None
    spend_limit: int | None
    spend_period: PeriodName
    created_at: str
    revoked_at: str | None


class NewKey(KeyInfo):
    """A key that has just been made."""

    key: Annotated[str, Field(description="shown this once; only its hash is kept")]


class KeyList(BaseModel):
    """Every key, newest first."""

    keys: list[KeyInfo]


class AccountInfo(BaseModel):
    """An account; `balance` can be spent, `held` is set aside for unfinished tasks.

    One that is not metered is never refused for want of credits; its balance goes below zero.
    """

    name: Annotated[str, Field(description="empty: who used the server while it asked for no key")]
    metered: bool
    balance: int
    held: int
    created_at: str


class AccountList(BaseModel):
    """Every account by name."""

    accounts: list[AccountInfo]


class LedgerLine(BaseModel):
    """One change of an account; the sums of `amount` and `held` are its balance and what it holds.

    `kind` is grant, hold, charge, release, refund or forgiven.
    """

    id: int
    kind: str
    amount: int
    held: int
    task_id: str | None
    key_id: str | None
    note: str
    created_at: str


class AccountWithLedger(AccountInfo):
    """An account and the newest lines of its ledger, newest first."""

    ledger: list[LedgerLine]


class Spending(BaseModel):
    """What a key may spend in its period, which ends at `resets_at`."""

    limit: int
    period: PeriodName
    spent: int
    left: int
    resets_at: str


class OwnAccount(AccountInfo):
    """The caller's own account, and the key that was sent; null where none is needed."""

    key: KeyInfo | None
    spending: Annotated[Spending | None, Field(description="null without a spending limit")]


class WebhookSecret(BaseModel):
    """What webhooks are signed with; the one before it, if any, signs too until then."""

    secret: str
    old_secret: str | None
    old_secret_until: str | None
