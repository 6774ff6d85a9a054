"""GET /metrics: what the services know when they are asked, beside what was counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.checks import DATABASE_SECONDS, free_bytes
from api.dialects.callers import ObserverOf
from api.errors import Unavailable
from api.metrics import Metrics, Reading
from api.settings import Settings
from api.store.outbox import Outbox
from api.submit import Darkroom
from inference.status import EngineStatus

T = TypeVar("T")


class Scraper:
    """Asks the services; a database that does not answer costs the scrape its figures alone."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        settings: Settings,
        darkroom: Darkroom,
        outbox: Outbox,
        engine_status: Callable[[], EngineStatus],
    ) -> None:
        self._metrics = metrics
        self._settings = settings
        self._darkroom = darkroom
        self._outbox = outbox
        self._engine_status = engine_status

    async def text(self, accept: str) -> tuple[bytes, str]:
        """Everything in a format that is accepted, and its media type."""
        return self._metrics.text(await self._reading(), accept)

    async def _reading(self) -> Reading:
        health, queue, webhooks = await asyncio.gather(
            self._darkroom.health(),
            _in_time(self._darkroom.queue()),
            _in_time(self._outbox.backlog()),
        )
        return Reading(
            engine=self._engine_status(),
            checks=health.checks,
            queue=queue,
            webhooks=webhooks,
            free_bytes=self._free_bytes(),
        )

    def _free_bytes(self) -> int | None:
        try:
            return free_bytes(self._settings)
        except OSError:
            return None


async def _in_time(asked: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(DATABASE_SECONDS):
            return await asked
    except (TimeoutError, Unavailable):
        return None


def routes(scraper: Scraper) -> APIRouter:
    """The route, for whoever may see what all accounts do together."""
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    async def metrics(request: Request, observer: ObserverOf) -> Response:
        """What Prometheus reads."""
        body, media_type = await scraper.text(request.headers.get("accept", ""))
        # the media type's own charset is to stay the only one
        return Response(body, headers={"Content-Type": media_type})

    return router
