"""A server of its own to be measured, and a client that adds as little as it can."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent


class Server:
    """`darkroom serve` in a process of its own, on a fresh folder."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._database = folder / "data" / "darkroom.db"
        command = [sys.executable, "-c", "from api.cli.commands import main; main()", "serve"]
        command += ["--port", str(self.port), "--data-dir", str(folder / "data")]
        self._log = (folder / "log").open("wb")
        quiet = {"DARKROOM_LOG_LEVEL": "warning", "DARKROOM_DRAIN_SECONDS": "0"}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | quiet | dict(environment or {}),
            stdout=self._log,
            stderr=self._log,
        )

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)
        self._log.close()

    def unfinished(self) -> int:
        """How many pictures are asked for and not finished, read beside the server."""
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as database:
            (asked,) = database.execute("SELECT coalesce(sum(images), 0) FROM tasks").fetchone()
            (made,) = database.execute("SELECT count(*) FROM outputs").fetchone()
        return int(asked) - int(made)

    def cpu_seconds(self) -> float:
        """Processor time that the server has used, and its devices' processes."""
        server = psutil.Process(self._process.pid)
        used = [one.cpu_times() for one in (server, *server.children(recursive=True))]
        return float(sum(one.user + one.system for one in used))


class Client:
    """One connection that is kept open; raw, so that a measured answer is the server's time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: object = None) -> tuple[float, Any]:
        """The seconds until the whole answer was there, and the answer."""
        # The server closes what was idle for seconds, and the loop has to turn to hear of it.
        await asyncio.sleep(0.001)
        if self._streams is None or self._streams[0].at_eof():
            await self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        data = json.dumps(body).encode() if body is not None else b""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        started = time.perf_counter()
        writer.write(head.encode() + data)
        status, length = await _head(reader)
        content = await reader.readexactly(length)
        seconds = time.perf_counter() - started
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {content[:300]!r}")
        return seconds, json.loads(content)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with suppress(ConnectionError):
                await self._streams[1].wait_closed()


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    names = {line.partition(":")[0].lower(): line.partition(":")[2] for line in lines[1:]}
    return int(lines[0].split()[1]), int(names["content-length"])
