"""Servers on loopback that answer well, badly or never, and remember what they were sent."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

# Longer than a loaded machine takes.
ARRIVE_SECONDS = 60


@dataclass(frozen=True)
class Received:
    """One request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at_seconds: float


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """A whole reply; `retry_after="5"` is the header Retry-After."""
    named = {"content-length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in named.items())]
    return sends("\r\n".join([*lines, "", ""]).encode() + body)


def sends(data: bytes) -> Answer:
    """These bytes, then the end."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


def drips(data: bytes, *, every_seconds: float) -> Answer:
    """These bytes, one at a time."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(every_seconds)

    return answer


def pours(head: bytes, chunk: bytes) -> Answer:
    """A head, then chunks without end."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(chunk)
            await writer.drain()
            # A drain of little does not wait, and the other side is in the same loop.
            await asyncio.sleep(0)

    return answer


async def hangs(writer: asyncio.StreamWriter) -> None:
    """Nothing, for as long as the other side waits."""
    await asyncio.Event().wait()


async def resets(writer: asyncio.StreamWriter) -> None:
    """The connection is torn down."""
    writer.transport.abort()


@dataclass
class Receiver:
    """A server at `url` while its block runs; `answers` are used up but for the last."""

    answers: list[Answer] = field(default_factory=lambda: [says(200)])
    tls: ssl.SSLContext | None = None
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    server_names: list[str | None] = field(default_factory=list)

    async def __aenter__(self) -> Receiver:
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            # one whose task was cancelled before it began is still open
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def arrived(self, count: int = 1) -> list[Received]:
        """What it was sent, once that is so much."""
        async with asyncio.timeout(ARRIVE_SECONDS):
            while len(self.received) < count:
                await asyncio.sleep(0.01)
        return self.received

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.create_task(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                self.received.append(await _read(reader))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                hung_up = asyncio.create_task(reader.read())
                answering = asyncio.ensure_future(answer(writer))
                try:
                    await asyncio.wait({hung_up, answering}, return_when="FIRST_COMPLETED")
                    if answering.done():
                        answering.result()
                finally:
                    hung_up.cancel()
                    answering.cancel()
                    await asyncio.gather(hung_up, answering, return_exceptions=True)
        finally:
            self.open -= 1
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body, time.monotonic())
