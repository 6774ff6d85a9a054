"""HTTP connections that cut whoever sends too slowly; uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a request's head may take in all, its body between two pieces, and in all."""

    head_seconds: float = 20.0
    body_pause_seconds: float = 30.0
    body_seconds: float = 600.0


class Punctual(HttpToolsProtocol):
    """Closes the connection when a deadline passes; the application sees the client leave."""

    deadlines: ClassVar[Deadlines] = Deadlines()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._body_until: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self.deadlines.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._body_until is not None:
            self._expect(self.deadlines.body_pause_seconds, self._body_until)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect(self.deadlines.head_seconds)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._body_until = self.loop.time() + self.deadlines.body_seconds
        self._expect(self.deadlines.body_pause_seconds)

    def on_message_complete(self) -> None:
        self._rest()
        super().on_message_complete()

    def _expect(self, seconds: float, until: float | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        at = self.loop.time() + seconds
        self._timer = self.loop.call_at(at if until is None else min(at, until), self._cut)

    def _rest(self) -> None:
        self._body_until = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        if self.flow.read_paused:
            # It is we who do not read.
            self._expect(self.deadlines.body_pause_seconds)
            return
        log.info("slow_client_cut", client=self.client[0] if self.client else None)
        self.transport.abort()
