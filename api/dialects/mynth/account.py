"""Mynth's routes that tell: which models there are, who calls, and what is left to spend."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

from fastapi import APIRouter

from api.accounts import Account, Caller, Key, Spent
from api.dialects.base import DeskOf
from api.dialects.callers import CallerOf
from api.dialects.mynth import replies
from api.dialects.mynth.bodies import money, user_id
from inference.catalog import Catalog
from inference.errors import Refused
from inference.job import ImageRequest, ImageRole, InputImage, Job
from inference.resolve import resolve
from inference.sizes import tier_of

# What a model may need to be asked at all.
SOURCE, MASK = (InputImage(role=role, key="") for role in (ImageRole.SOURCE, ImageRole.MASK))
PICTURES: tuple[tuple[InputImage, ...], ...] = ((), (SOURCE,), (SOURCE, MASK))
PREVIEW_CHARS = 4

public = APIRouter()
keyed = APIRouter()


@public.get("/models", response_model=replies.ModelList, response_model_exclude_unset=True)
async def models(desk: DeskOf) -> dict[str, Any]:
    """Every model by each of its names, and what a picture costs; needs no key."""
    return to_models(desk.catalog, desk.credit_usd)


@keyed.get("/me", response_model=replies.Me, response_model_exclude_unset=True)
async def me(caller: CallerOf) -> dict[str, Any]:
    """Who calls."""
    return to_me(caller)


@keyed.get("/balance", response_model=replies.Balance, response_model_exclude_unset=True)
async def balance(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """The account's balance, and what is left of the key's spending limit if it has one."""
    account, key = await desk.accounts.account(caller.account), caller.key
    spent = None
    if key is not None and key.spend_limit is not None:
        spent = await desk.accounts.spent(key)
    return to_balance(account, key, spent, desk.credit_usd)


def to_models(catalog: Catalog, credit_usd: Decimal) -> dict[str, Any]:
    """A `ModelList`."""
    return {
        "data": [
            {
                "id": name,
                "displayName": catalog.models[name].description or None
                if name in catalog.models
                else None,
                "pricing": _pricing(catalog, name, credit_usd),
            }
            for name in catalog.names()
        ]
    }


def is_4k(job: Job) -> bool:
    """Whether a picture that was asked for at 4k really is so large."""
    return tier_of(job.width, job.height) == "4k"


def _pricing(catalog: Catalog, name: str, credit_usd: Decimal) -> dict[str, Any] | None:
    base = _priced(catalog, ImageRequest(model=name, prompt="a"))
    if base is None:
        return None
    per_image = {"base": money(base[1], credit_usd)}
    large = _priced(catalog, ImageRequest(model=name, prompt="a", resolution="4k"))
    if large is not None and is_4k(large[0]):
        per_image["4k"] = money(large[1], credit_usd)
    return {"perImage": per_image}


def _priced(catalog: Catalog, request: ImageRequest) -> tuple[Job, int] | None:
    """What a model would make of the least that it can be asked, and the credits for that."""
    for images in PICTURES:
        with suppress(Refused):
            asked = replace(request, images=images)
            job = resolve(catalog, asked, job_id="")
            return job, catalog.price(asked, job)
    return None


def to_me(caller: Caller) -> dict[str, Any]:
    """A `Me`."""
    auth: dict[str, Any] = {"method": "none"}
    if (key := caller.key) is not None:
        preview = f"{key.id[:PREVIEW_CHARS]}…"
        told = {"id": key.id, "name": key.label or key.id, "keyPreview": preview}
        auth = {"method": "api-key", "apiKey": told}
    return {"data": {"userId": user_id(caller.account), "auth": auth}}


def to_balance(
    account: Account, key: Key | None, spent: Spent | None, credit_usd: Decimal
) -> dict[str, Any]:
    """A `Balance`; `spent` is None for a key without a limit."""
    data: dict[str, Any] = {
        "balance": money(account.balance + account.held, credit_usd),
        "reserved": money(account.held, credit_usd),
        "available": money(account.balance, credit_usd),
        "currency": "usd",
    }
    if key is not None and spent is not None:
        limit = key.spend_limit or 0
        data["apiKey"] = {
            "spendingLimit": money(limit, credit_usd),
            "spendingLimitPeriod": key.spend_period.value,
            "usedInPeriod": money(spent.credits, credit_usd),
            "remainingInPeriod": money(max(limit - spent.credits, 0), credit_usd),
        }
    return {"data": data}
