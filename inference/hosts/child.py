"""What a device's own process runs: its worker in a thread, and the post with who started it."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import structlog

from inference.events import Event, Progress
from inference.hosts.base import Cancel, Close, Manage, Submit
from inference.job import Job
from inference.status import DeviceStatus

if TYPE_CHECKING:
    from inference.catalog import Catalog
    from inference.hosts.thread import ThreadHost
    from inference.settings import EngineSettings

log = structlog.get_logger()

# How often it tells of itself when nothing happens.
STATUS_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Birth:
    """The first message to a child: what it is."""

    device: str
    catalog: Catalog
    settings: EngineSettings


@dataclass(frozen=True, slots=True)
class Take:
    """A Submit on its way to a child; `number` tells its events from those of any other."""

    number: int
    job: Job
    pictures: Mapping[str, bytes]
    indexes: Sequence[int]
    is_watched: bool


@dataclass(frozen=True, slots=True)
class Watch:
    """Whether somebody looks at the previews of what was taken under a number."""

    number: int
    is_watched: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a child tells: events in their order, each under its number, and how it stands."""

    events: Sequence[tuple[int, Event]]
    status: DeviceStatus | None


Message = Take | Watch | Cancel | Manage | Close


class Child:
    """A worker's thread in this process, fed from a connection."""

    def __init__(self, connection: Connection, birth: Birth) -> None:
        # torch is imported here, behind the handlers of signals
        from inference.hosts.thread import ThreadHost
        from inference.worker import Worker

        worker = Worker(birth.device, birth.catalog, birth.settings)
        self._host: ThreadHost = ThreadHost(worker)
        self._connection = connection
        self._watched: set[int] = set()
        self._told: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until the worker has ended, and all is told."""
        self._host.start()
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()
        due = time.monotonic()
        has_ended = False
        while not has_ended:
            # looked at before the rest is collected: nothing is told behind it
            has_ended = self._host.join(0)
            events = self._collected()
            is_due = has_ended or time.monotonic() >= due
            if is_due or any(not isinstance(event, Progress) for _, event in events):
                status = self._host.status()
                due = time.monotonic() + STATUS_SECONDS
            else:
                status = None
            self._connection.send(Report(events, status))

    def _collected(self) -> list[tuple[int, Event]]:
        """What has come to tell; waits for the first for as long as no status is due."""
        events: list[tuple[int, Event]] = []
        try:
            events.append(self._told.get(timeout=STATUS_SECONDS))
            while True:
                events.append(self._told.get_nowait())
        except queue.Empty:
            return events

    def _listen(self) -> None:
        """Hand in what comes, until nobody is there any more to work for."""
        try:
            with suppress(EOFError, OSError):
                while True:
                    self._obey(self._connection.recv())
        except Exception:
            log.exception("worker.deaf")
        finally:
            os._exit(1)

    def _obey(self, message: Message) -> None:
        match message:
            case Take():
                self._take(message)
            case Watch(number, is_watched):
                self._watch(number, is_watched)
            case _:
                self._host.send(message)

    def _take(self, taken: Take) -> None:
        number = taken.number
        self._watch(number, taken.is_watched)
        is_watched = partial(self._watched.__contains__, number)
        tell = partial(self._tell, number)
        self._host.send(Submit(taken.job, taken.pictures, tell, taken.indexes, is_watched))

    def _tell(self, number: int, event: Event) -> None:
        self._told.put((number, event))

    def _watch(self, number: int, is_watched: bool) -> None:
        if is_watched:
            self._watched.add(number)
        else:
            self._watched.discard(number)


def main(descriptor: int) -> None:
    """Be the child at the other end of a connection, whose first message is a Birth."""
    # Supervisors signal every process they find; who started this one says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(descriptor)
    status = 1
    try:
        birth: Birth = connection.recv()
        birth.settings.prepare_process()
        Child(connection, birth).run()
        status = 0
    except (EOFError, BrokenPipeError):
        pass
    except Exception:
        sys.excepthook(*sys.exc_info())
    # neither a compiler's threads nor a driver's farewell are waited for
    sys.stderr.flush()
    os._exit(status)
