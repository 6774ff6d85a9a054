"""Who is behind a request, and whether it comes too often: the same in every dialect."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.accounts import Caller, Scope
from api.dialects.base import Desk, DeskOf, Dialect, dialect_of, owner_of
from api.errors import Forbidden
from api.limits import TooOften

SCHEMES = ("bearer", "key", "token")


def key_in(request: Request) -> str | None:
    """The API key that a request carries, in either header that clients use."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in SCHEMES and text.strip():
        return text.strip()
    return request.headers.get("x-api-key") or None


async def caller_of(request: Request, desk: DeskOf) -> Caller:
    """Who calls; raises Unauthorized, or Forbidden for a key of another dialect.

    Where several dialects share a path, a key of one of them says which is spoken. One that is for
    /metrics alone is good for nothing else.
    """
    caller = await reader_of(request, desk)
    if caller.key is not None and caller.key.scopes <= {Scope.METRICS}:
        raise Forbidden("this key is for /metrics only")
    return caller


async def reader_of(request: Request, desk: DeskOf) -> Caller:
    """Who calls, whatever the key is for."""
    caller = await desk.accounts.caller(key_in(request))
    if caller.key is not None and caller.key.dialect is not None:
        request.state.dialect = _dialect_of_key(request, desk, caller.key.dialect)
    return caller


CallerOf = Annotated[Caller, Depends(caller_of)]


async def asker_of(request: Request, desk: DeskOf, caller: CallerOf) -> Caller:
    """Who asks for pictures, counted; raises RateLimited."""
    caller.need(Scope.USE)
    dialect = dialect_of(request, desk.dialects)
    rate, who = _rate(desk.rate_per_minute, caller, dialect)
    if rate is None:
        return caller
    try:
        allowance = desk.limiter.take(who, rate)
    except TooOften as refused:
        request.state.headers.update(dialect.rate_headers(refused.allowance))
        raise
    request.state.headers.update(dialect.rate_headers(allowance))
    return caller


AskerOf = Annotated[Caller, Depends(asker_of)]


async def observer_of(request: Request, desk: DeskOf) -> Caller:
    """Who watches the server; raises Forbidden."""
    caller = await reader_of(request, desk)
    caller.need(Scope.METRICS, Scope.ADMIN)
    return caller


ObserverOf = Annotated[Caller, Depends(observer_of)]


async def admin_of(caller: CallerOf) -> Caller:
    """Who manages the server; raises Forbidden."""
    caller.need(Scope.ADMIN)
    return caller


AdminOf = Annotated[Caller, Depends(admin_of)]


def _dialect_of_key(request: Request, desk: Desk, name: str) -> Dialect:
    path = request.scope["path"]
    here = owner_of(desk.dialects, path)
    for dialect in desk.dialects:
        if dialect.name == name and (dialect is here or dialect.is_spoken_at(path)):
            return dialect
    raise Forbidden(f"this key is for the paths of {name} only")


def _rate(general: int | None, caller: Caller, dialect: Dialect) -> tuple[int | None, str]:
    """The limit that holds for a caller, and the bucket it counts in."""
    own = caller.key.rate_per_minute if caller.key is not None else None
    if own is not None or general is not None:
        return own or general, caller.id
    return dialect.rate_per_minute, f"{caller.id} {dialect.name}"
