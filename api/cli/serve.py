"""`darkroom serve`: says what it serves, serves it, and drains before it goes."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import socket
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from sse_starlette.sse import AppStatus

from api.build import build
from api.cli.models import aliases, sizes
from api.cli.terminal import Failure, UsageError, out, say
from api.errors import Unavailable
from api.logs import configure_logging
from api.punctual import Punctual
from api.services import Services
from api.settings import Settings, SettingsError
from inference.catalog import Catalog
from inference.errors import CatalogError
from inference.status import ModelState

if TYPE_CHECKING:
    from fastapi import FastAPI

# After the last picture is finished its readers get this long to fetch it.
FETCH_SECONDS = 1.0
# Connections that are still open after the drain get this long to end by themselves.
LAST_WORDS_SECONDS = 3
LOOK_SECONDS = 0.25
# The catalogue shipped has 60 for each model, which would hide the lines after them.
SHOWN_ALIASES = 4


class Server(uvicorn.Server):
    """uvicorn, which starts the services itself and drains them before it closes connections."""

    def __init__(self, config: uvicorn.Config, services: Services, url: str) -> None:
        super().__init__(config)
        self._services = services
        self._url = url
        self.exit_status = 0

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end, and wait for no thread: one may compile or hang for minutes."""
        loop = (self.config.get_loop_factory() or asyncio.new_event_loop)()
        try:
            loop.run_until_complete(self.serve(sockets))
        finally:
            loop.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._services.start()
        await super().startup(sockets)
        needs_key = await self._needs_key()
        out().print(greeting(self._services.catalog, self._url, needs_key=needs_key), markup=False)
        self._watches = [
            asyncio.create_task(_tell_when_ready(self._services)),
            asyncio.create_task(self._stop_without_devices()),
        ]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for watch in self._watches:
            watch.cancel()
        unfinished = _unfinished(self._services)
        say(_farewell(unfinished, self._services.settings.drain_seconds))
        # Still answering: who waits for a picture that is being finished comes to fetch it.
        await self._services.dispatcher.close()
        if unfinished:
            await asyncio.sleep(FETCH_SECONDS)
        AppStatus.enable_automatic_graceful_drain = True
        await super().shutdown(sockets)
        await self._services.stop()

    async def _needs_key(self) -> bool:
        try:
            return await self._services.accounts.any_keys()
        except Unavailable:
            # it went away just now; with a key the example is good in either case
            return True

    async def _stop_without_devices(self) -> None:
        """Leave it to the next start, and to whoever starts it, once no device works any more."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._services.dispatcher.fault is not None:
                self.should_exit = True
                return
            devices = self._services.engine.status().devices
            if self._services.dispatcher.started and not any(one.alive for one in devices):
                say("no device works any more; what is not finished waits for the next start")
                self.exit_status, self.should_exit = 1, True
                return

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # what was running is claimed again at the next start
            os._exit(128 + sig)
        self.should_exit = True


def run(settings: Settings) -> int:
    """Serve until a signal, or until no device works; the exit status.

    Raises UsageError when it cannot start, and Failure when its devices are not there, or its
    database not now.
    """
    configure_logging(settings.log_level)
    try:
        services = build(settings)
    except (CatalogError, SettingsError) as error:
        raise UsageError(str(error)) from None
    listener = bind(settings.host, settings.port)
    url = address(settings.host, listener.getsockname()[1])
    from api.app import create_app

    server = Server(_config(create_app(services), settings), services, url)
    # Streams of events must outlive the signal; the server ends them after the drain.
    AppStatus.enable_automatic_graceful_drain = False
    try:
        server.run(sockets=[listener])
    except (SettingsError, OSError) as error:
        raise UsageError(str(error)) from None
    except Unavailable as error:
        raise Failure(str(error)) from None
    if services.dispatcher.fault is not None:
        raise Failure(f"DARKROOM_DEVICES: {services.dispatcher.fault}")
    return server.exit_status


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        http=Punctual,
        # its loggers hand on to ours
        log_config=None,
        log_level="info" if settings.log_level == "debug" else "warning",
        # our own line leaves out the query, where signatures of links are
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_WORDS_SECONDS,
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises UsageError with the reason when there is none to be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        # create_server adds the address to the reason, which the line has already
        reason = (error.strerror or str(error)).partition(" (while")[0]
        field = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        raise UsageError(f"cannot listen on {host} port {port}: {reason}", field) from None


def address(host: str, port: int) -> str:
    """The base URL at which this machine reaches a server bound to `host`."""
    name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def example(url: str, *, needs_key: bool = False) -> str:
    """A command that asks the server for a picture, to be pasted as it is; `$key` is the key."""
    body = shlex.quote('{"prompt": "a red circle on a blue background"}')
    key = ' -H "Authorization: Bearer $key"' if needs_key else ""
    return f"curl -s {url}/darkroom/generations{key} -H 'Content-Type: application/json' -d {body}"


def greeting(catalog: Catalog, url: str, *, needs_key: bool) -> str:
    """What is printed at the start: where it listens, what it serves, and a first request."""
    lines = [f"Darkroom listens on {url}, which is also its page. Ctrl-C stops it.", ""]
    for spec in catalog.models.values():
        lines.append(f"  {spec.name}: {', '.join(spec.modes)}; {sizes(spec)}")
        if also := aliases(catalog, spec):
            lines.append(f"    also answers to {_some(also)}")
    lines += ["", "Try it:", f"  {example(url, needs_key=needs_key)}", ""]
    return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_ALIASES])
    left = len(names) - SHOWN_ALIASES
    return f"{shown} and {left} more; `darkroom models` shows all" if left > 0 else shown


async def _tell_when_ready(services: Services) -> None:
    """Print each model once as it becomes ready or fails on a device."""
    told: set[tuple[str, str, ModelState]] = set()
    while True:
        for device in services.engine.status().devices:
            for model in device.models:
                news = (device.device, model.name, model.state)
                if news in told or model.state not in (ModelState.READY, ModelState.FAILED):
                    continue
                told.add(news)
                reason = f": {model.reason}" if model.reason else ""
                line = f"{model.name} is {model.state} on {device.name}{reason}"
                out().print(line, markup=False)
        await asyncio.sleep(LOOK_SECONDS)


def _unfinished(services: Services) -> int:
    devices = services.engine.status().devices
    return sum(device.running_images + device.waiting_images for device in devices)


def _farewell(unfinished: int, drain_seconds: float) -> str:
    if unfinished == 0:
        return "stopping"
    pictures = "1 picture" if unfinished == 1 else f"{unfinished} pictures"
    return (
        f"finishing {pictures} for up to {drain_seconds:g} seconds, press Ctrl-C again to stop now"
    )
