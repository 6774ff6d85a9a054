"""Mynth's routes that tell: which models there are, who calls, and what is left to spend."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from api.accounts import Account, Caller, Key, Spent
from api.dialects.base import DeskOf
from api.dialects.callers import CallerOf
from api.dialects.mynth import replies
from api.dialects.mynth.bodies import money, user_id
from inference.catalog import Catalog
from inference.errors import Refused
from inference.job import ImageRequest, ImageRole, InputImage, Job, Mode
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


@public.get("/openapi", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """The document of this server, where clients look for it."""
    return JSONResponse(request.app.openapi())


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
    jobs = LeastJobs(catalog)
    return {"data": [_line(catalog, jobs, name, credit_usd) for name in catalog.names()]}


def is_4k(job: Job) -> bool:
    """Whether a picture that was asked for at 4k really is so large."""
    return tier_of(job.width, job.height) == "4k"


class LeastJobs:
    """What models would make of the least that they can be asked.

    Names that mean the same models share it: to resolve each would hold up all others.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._made: dict[object, Job | None] = {}

    def of(self, name: str, resolution: str | None) -> Job | None:
        """The job at a resolution, None where there is none."""
        alias = self._catalog.aliases.get(name)
        targets = (name,) if alias is None else tuple(map(alias.models_for, Mode))
        key = (targets, resolution)
        if key not in self._made:
            self._made[key] = self._make(name, resolution)
        return self._made[key]

    def _make(self, name: str, resolution: str | None) -> Job | None:
        for images in PICTURES:
            with suppress(Refused):
                wish = ImageRequest(model=name, prompt="a", resolution=resolution, images=images)
                return resolve(self._catalog, wish, job_id="")
        return None


def _line(catalog: Catalog, jobs: LeastJobs, name: str, credit_usd: Decimal) -> dict[str, Any]:
    spec = catalog.models.get(name)
    base = _price(catalog, jobs, name, None)
    large = _price(catalog, jobs, name, "4k")
    prices = {"base": base, "4k": large}
    per_image = {what: money(one, credit_usd) for what, one in prices.items() if one is not None}
    return {
        "id": name,
        "displayName": spec.description or None if spec is not None else None,
        "pricing": {"perImage": per_image} if base is not None else None,
    }


def _price(catalog: Catalog, jobs: LeastJobs, name: str, resolution: str | None) -> int | None:
    job = jobs.of(name, resolution)
    if job is None or (resolution == "4k" and not is_4k(job)):
        return None
    try:
        return catalog.price(ImageRequest(model=name, prompt="a", resolution=resolution), job)
    except Refused:
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
        "balance": money(account.spendable + account.held, credit_usd),
        "reserved": money(account.held, credit_usd),
        "available": money(account.spendable, credit_usd),
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
