"""What happens to every request before any route sees it: an id, a guard, a net."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.dialects.base import Internal
from api.errors import ApiError, Forbidden
from api.settings import Settings

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
DEFAULT_PORTS = {"http": "80", "https": "443"}

# Given a request's scope and an error: the reply in the shape of the dialect that is spoken.
Dress = Callable[[Scope, ApiError], Response]


class Net:
    """Gives every request an id and catches what nobody else did.

    The caller's own `X-Request-Id` is kept if it is plain enough to be logged.
    """

    def __init__(self, app: ASGIApp, *, dress: Dress) -> None:
        self.app = app
        self.dress = dress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        # What a route's dependencies add here goes out with the reply, errors included.
        extra: dict[str, str] = {}
        scope.setdefault("state", {}).update(request_id=request_id, headers=extra)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.update(extra)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("client_left", request_id=request_id)
        except Exception:
            log.exception("request_failed", request_id=request_id, path=scope["path"])
            if status:
                raise
            reply = self.dress(scope, Internal("something broke here"))
            await reply(scope, receive, send_with_id)
        finally:
            log.debug(
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
            )


@dataclass(frozen=True, slots=True)
class Hosts:
    """The host names this server answers to; empty means any."""

    names: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def refusal(self, headers: Headers, *, from_anywhere: bool = False) -> Forbidden | None:
        """Why a request may not come in, if it may not; `from_anywhere`, its origin is no reason.

        While the server asks for no keys, any page open in a browser on this machine could drive
        it: directly, which its Origin shows, or through a name it controls that leads here, which
        the Host shows.
        """
        host = headers.get("host", "")
        if self.names and _name_of(host) not in self.names:
            what = "this server does not answer to that host name; see DARKROOM_PUBLIC_URL"
            return Forbidden(what, field="Host")
        origin = headers.get("origin")
        if from_anywhere or origin is None or origin in self.origins or _same(origin, host):
            return None
        return Forbidden("pages of another origin may not use this server", field="Origin")


def hosts_of(settings: Settings) -> Hosts:
    """Loopback names and the public one for a server bound to loopback; any name elsewhere."""
    public = settings.public_url
    origins = frozenset({_origin_of(public)} if public else ())
    if not settings.is_loopback:
        return Hosts(origins=origins)
    names = {"localhost", "127.0.0.1", "::1", settings.host.lower()}
    return Hosts(frozenset(names | {urlsplit(one).hostname or "" for one in origins}), origins)


class Guard:
    """Refuses what `Hosts` refuses, but lets every origin read what `is_for_pages`."""

    def __init__(
        self, app: ASGIApp, *, hosts: Hosts, dress: Dress, is_for_pages: Callable[[str], bool]
    ) -> None:
        self.app = app
        self.hosts = hosts
        self.dress = dress
        self.is_for_pages = is_for_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        reads = method in ("GET", "HEAD") and self.is_for_pages(path)
        refusal = self.hosts.refusal(Headers(scope=scope), from_anywhere=reads)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        reply = self.dress(scope, refusal)
        await reply(scope, receive, send)


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else secrets.token_hex(8)


def _name_of(host: str) -> str:
    """The name in a Host header, without port and brackets; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _same(origin: str, host: str) -> bool:
    scheme, colon, netloc = origin.lower().partition("://")
    if not colon or scheme not in DEFAULT_PORTS:
        return False
    suffix = f":{DEFAULT_PORTS[scheme]}"
    return bool(netloc) and netloc.removesuffix(suffix) == host.lower().removesuffix(suffix)
