"""The routes of keys and accounts: for who manages the server, and for each account its own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from api.body import read_body
from api.clock import wall_clock_ms
from api.dialects.base import DeskOf
from api.dialects.callers import AdminOf, CallerOf
from api.dialects.darkroom import admin_schema as schema
from api.dialects.darkroom import admin_translate as translate
from api.dialects.orders import once_of
from api.dialects.wire import json_docs, parse
from api.errors import BadRequest
from api.idempotency import HEADER

KeyId = Annotated[str, Path(pattern=r"^[A-Za-z0-9]{1,16}$")]
Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
MAX_LINES = 1000


async def _is_secret(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


SECRET = [Depends(_is_secret)]

router = APIRouter()


@router.get("/admin/keys", response_model=schema.KeyList)
async def list_keys(desk: DeskOf, _: AdminOf) -> dict[str, Any]:
    """Every key by its id, the revoked ones too, newest first."""
    return {"keys": [translate.to_key_info(key) for key in await desk.accounts.keys()]}


@router.post(
    "/admin/keys",
    status_code=201,
    response_model=schema.NewKey,
    dependencies=SECRET,
    openapi_extra=json_docs(schema.KeyRequest),
)
async def create_key(request: Request, desk: DeskOf, _: AdminOf) -> dict[str, Any]:
    """Make a key, and its account if that is new; the reply shows it, this once."""
    if HEADER in request.headers:
        raise BadRequest(f"a key is shown once, so no {HEADER} can repeat it", field=HEADER)
    wire = parse(schema.KeyRequest, await read_body(request, desk.limits))
    wanted = translate.to_key(wire, [dialect.name for dialect in desk.dialects])
    key, text = await desk.accounts.create_key(wanted, credits=wire.credits)
    return translate.to_key_info(key) | {"key": text}


@router.delete("/admin/keys/{key_id}", response_model=schema.KeyInfo)
async def revoke_key(key_id: KeyId, desk: DeskOf, _: AdminOf) -> dict[str, Any]:
    """Make a key useless."""
    return translate.to_key_info(await desk.accounts.revoke(key_id))


@router.get("/admin/accounts", response_model=schema.AccountList)
async def list_accounts(desk: DeskOf, _: AdminOf) -> dict[str, Any]:
    """Every account by name."""
    found = await desk.accounts.accounts()
    return {"accounts": [translate.to_account(account) for account in found]}


@router.get("/admin/accounts/{name}", response_model=schema.AccountWithLedger)
async def read_account(
    name: Name, desk: DeskOf, _: AdminOf, limit: Annotated[int, Query(ge=1, le=MAX_LINES)] = 50
) -> dict[str, Any]:
    """An account and the newest lines of its ledger."""
    account = await desk.accounts.account(name)
    return translate.to_account_with_ledger(account, await desk.accounts.entries(name, limit=limit))


@router.post(
    "/admin/accounts/{name}/credits",
    response_model=schema.AccountInfo,
    openapi_extra=json_docs(schema.CreditsRequest),
)
async def credit(name: Name, request: Request, desk: DeskOf, _: AdminOf) -> dict[str, Any]:
    """Add credits, or take some back; the account is metered from then on.

    With an `Idempotency-Key` a repeat changes nothing, for a day.
    """
    body = await read_body(request, desk.limits)
    wire = parse(schema.CreditsRequest, body)
    once = once_of(request, desk, body)
    account = await desk.accounts.grant(name, wire.amount, wire.note, once=once)
    return translate.to_account(account)


@router.get("/account", response_model=schema.OwnAccount)
async def own_account(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """The caller's balance, the limits of the key that was sent, and what it may still spend."""
    account, key = await desk.accounts.account(caller.account), caller.key
    is_limited = key is not None and key.spend_limit is not None
    spent = await desk.accounts.spent(key) if key is not None and is_limited else None
    return translate.to_own_account(account, key, spent)


@router.get("/account/webhook-secret", response_model=schema.WebhookSecret, dependencies=SECRET)
async def webhook_secret(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """What the caller's webhooks are signed with."""
    account = await desk.accounts.account(caller.account)
    return translate.to_webhook_secret(account, wall_clock_ms())


@router.post(
    "/account/webhook-secret/rotate", response_model=schema.WebhookSecret, dependencies=SECRET
)
async def rotate_webhook_secret(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """A new secret; the one before it signs too for a day, so that receivers can change over."""
    account = await desk.accounts.rotate_webhook_secret(caller.account)
    return translate.to_webhook_secret(account, wall_clock_ms())
