"""What every dialect is, and the desk that its routes work with."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from api.accounts import Accounts
from api.body import BodyLimits
from api.deliveries import Deliveries
from api.destinations import Destinations
from api.errors import STATUS, ApiError, Unauthorized, kind_of
from api.hooks import Hooks
from api.limits import Allowance, Limiter
from api.links import Links, PictureLink, Presign, ReadLink
from api.picture_folder import PictureFolder
from api.submit import Darkroom
from api.tokens import Tokens
from api.uploads import Uploads
from api.webhooks import WebhookStyle
from inference.catalog import Catalog
from inference.errors import EngineError
from inference.status import EngineStatus, ModelAction


class MethodNotAllowed(ApiError):
    """The path exists, but not for that method; `allow` lists those it has."""

    kind: ClassVar[str] = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class Internal(ApiError):
    """Something broke on our side; the log knows what."""

    kind: ClassVar[str] = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """An error as a dialect writes it."""

    status: int
    body: Mapping[str, Any]
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorContext:
    """Where an error happened, for dialects that say so."""

    path: str
    request_id: str


ToError = Callable[[ApiError | EngineError, ErrorContext], ErrorBody]
RateHeaders = Callable[[Allowance], Mapping[str, str]]


def rate_headers(allowance: Allowance) -> dict[str, str]:
    """A rate limit as the IETF's draft writes it, in version 11."""
    reset = math.ceil(allowance.reset_seconds)
    return {
        "RateLimit-Policy": f'"requests";q={allowance.limit};w=60',
        "RateLimit": f'"requests";r={allowance.remaining};t={reset}',
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One provider's way of speaking.

    Its routes answer at their native paths and again below `alias`; `owns` are the native path
    prefixes on which even a wrong path is answered in its shape. `rate_per_minute` is the limit of
    requests that the provider publishes, for callers that have no other. Without `webhooks` it has
    no field for an address to be told. `linked` reads its links to pictures, so that requests may
    name them, and `link_seconds` is how long they hold, None as the settings say. `shares` are
    native paths of other dialects at which it is spoken as well, so that its keys hold there.
    `for_pages` are patterns of native paths that pages of any origin may read.
    """

    name: str
    owns: tuple[str, ...]
    router: APIRouter
    to_error: ToError
    alias: str | None = None
    rate_headers: RateHeaders = rate_headers
    rate_per_minute: int | None = None
    webhooks: WebhookStyle | None = None
    linked: ReadLink | None = None
    link_seconds: int | None = None
    shares: tuple[str, ...] = ()
    for_pages: tuple[str, ...] = ()

    def prefix_of(self, path: str) -> str | None:
        """The longest of its prefixes that `path` lies below."""
        prefixes = (*self.owns, self.alias) if self.alias is not None else self.owns
        return max((one for one in prefixes if _lies_below(path, one)), key=len, default=None)

    def is_spoken_at(self, path: str) -> bool:
        """Whether `path` is one of those that it shares."""
        return any(_lies_below(self._native(path), one) for one in self.shares)

    def is_for_pages(self, path: str) -> bool:
        """Whether pages of any origin may read what is at `path`."""
        return any(re.fullmatch(pattern, self._native(path)) for pattern in self.for_pages)

    def _native(self, path: str) -> str:
        return path.removeprefix(self.alias) if self.alias is not None else path


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the routes of a dialect work with.

    `credit_usd` is what a credit is in dollars; with `mynth_compat`, Mynth's clients of before
    June 2026 are understood as well; `mynth_balance_status` tells its clients of want of money.
    """

    darkroom: Darkroom
    accounts: Accounts
    destinations: Destinations
    deliveries: Deliveries
    uploads: Uploads
    hooks: Hooks
    catalog: Catalog
    engine_status: Callable[[], EngineStatus]
    manage_model: Callable[[str, ModelAction, str | None], None]
    links: Links
    tokens: Tokens
    presign: Presign
    limiter: Limiter
    limits: BodyLimits
    picture_folder: PictureFolder
    dialects: tuple[Dialect, ...]
    rate_per_minute: int | None
    sync_wait_seconds: float
    credit_usd: Decimal = Decimal("0.01")
    mynth_compat: bool = False
    mynth_balance_status: int = 402
    apimodels_sync_models: tuple[str, ...] = ()
    public_url: str = ""

    def link(self, path: str, key: str) -> str:
        """The URL of a picture: absolute where the server knows its public name."""
        return self.presign(key) or self.public_url + self.links.sign(path)

    def base_url(self, request: Request) -> str:
        """The origin that the caller reaches the server by."""
        return self.public_url or str(request.base_url).rstrip("/")

    def link_at(self, base_url: str, *, ttl_seconds: int | None = None) -> PictureLink:
        """A maker of absolute URLs of pictures, which hold as long as others unless told."""

        def link(path: str, key: str) -> str:
            return self.presign(key) or base_url + self.links.sign(path, ttl_seconds=ttl_seconds)

        return link


async def desk_of(request: Request) -> Desk:
    """The desk that `create_app` put into the application.

    A coroutine, or the framework would hand it to a thread for every request.
    """
    desk: Desk = request.app.state.desk
    return desk


DeskOf = Annotated[Desk, Depends(desk_of)]


def owner_of(dialects: tuple[Dialect, ...], path: str) -> Dialect:
    """The dialect whose prefix fits `path` best; the first of them owns what no other does."""

    def fit(dialect: Dialect) -> int:
        prefix = dialect.prefix_of(path)
        return -1 if prefix is None else len(prefix)

    return max(dialects, key=fit)


def dialect_of(request: Request, dialects: tuple[Dialect, ...]) -> Dialect:
    """The dialect that a request is answered in: what was found of it, or its path's owner."""
    found: Dialect | None = getattr(request.state, "dialect", None)
    return found or owner_of(dialects, request.scope["path"])


def spoken(dialect: Dialect) -> Callable[[Request], Awaitable[None]]:
    """A dependency of routes that are of one dialect, whoever owns their path."""

    async def speak(request: Request) -> None:
        request.state.dialect = dialect

    return speak


def status_of(error: ApiError | EngineError) -> int:
    """The HTTP status that a neutral kind commonly has."""
    if isinstance(error, MethodNotAllowed):
        return 405
    return STATUS.get(kind_of(error), 500)


def error_reply(
    dialect: Dialect, error: ApiError | EngineError, *, path: str, request_id: str
) -> Response:
    """The whole reply for an error: the dialect's body, and the headers all dialects share."""
    told = dialect.to_error(error, ErrorContext(path=path, request_id=request_id))
    headers = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, ApiError) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    return JSONResponse(
        dict(told.body), status_code=told.status, headers=headers, media_type=told.media_type
    )


def _lies_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")
