"""What pages of any origin may read, as browsers ask to be told before they let them."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = "GET, HEAD"
# Chromium asks again after two hours, whatever is said.
MAX_AGE_SECONDS = 7200
HEADERS_SHOWN = "X-Request-Id, Retry-After"


class Cors:
    """Answers the preflights of the paths that `is_for_pages`, and marks their replies.

    Nothing is allowed that a page could not send without us: there are no cookies here, and a page
    that sends a token must have been given it.
    """

    def __init__(self, app: ASGIApp, *, is_for_pages: Callable[[str], bool]) -> None:
        self.app = app
        self.is_for_pages = is_for_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.is_for_pages(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(headers)(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told["Access-Control-Allow-Origin"] = "*"
                told["Access-Control-Expose-Headers"] = HEADERS_SHOWN
            await send(message)

        await self.app(scope, receive, send_marked)


def _preflight(headers: Headers) -> Response:
    allowed = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        "Vary": "Access-Control-Request-Headers",
    }
    # "*" would not stand for Authorization.
    if wanted := headers.get("access-control-request-headers"):
        allowed["Access-Control-Allow-Headers"] = wanted
    return Response(status_code=204, headers=allowed)
