"""A worker in a process of its own: what ends or hangs there ends alone, and is started again.

Faults of a driver included. The pictures that it was making are cancelled then; whoever asked for
them may ask again.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection

import structlog

from inference.catalog import Catalog
from inference.events import Cancelled, Emit, Event, ImageDone, Progress
from inference.hosts.base import Cancel, Close, Command, Manage, Submit
from inference.hosts.child import Birth, Message, Report, Take, Watch
from inference.settings import EngineSettings
from inference.status import DeviceStatus, ModelAction, ModelState, ModelStatus

log = structlog.get_logger()

_LOOK_SECONDS = 0.25
# One that has ended so often without a picture in between is not started again.
_MAX_ENDS = 5
_MAX_PAUSE_SECONDS = 30.0
_KILL_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class _Handed:
    """What a child was given and has not ended: who asks for it, and which pictures are left."""

    number: int
    job_id: str
    emit: Emit
    previews: Callable[[], bool]
    left: set[int]
    is_watched: bool

    @classmethod
    def of(cls, work: Submit, number: int) -> _Handed:
        """What is kept of it here; its pictures travel on."""
        left = set(work.indexes)
        return cls(number, work.job.id, work.emit, work.previews, left, work.previews())

    def tell(self, event: Event) -> None:
        """Pass an event on; a receiver that raises must not end the device."""
        try:
            self.emit(event)
        except Exception as error:
            log.error("emit.failed", job_id=self.job_id, error=repr(error))

    def cancel(self) -> None:
        """Answer for the pictures that nobody will make."""
        for index in sorted(self.left):
            self.tell(Cancelled(job_id=self.job_id, index=index))


@dataclass(slots=True, eq=False)
class _Life:
    """One process from its start to its end, what it is to be told and what it has in hand."""

    outbox: queue.SimpleQueue[Message | None] = field(default_factory=queue.SimpleQueue)
    handed: dict[int, _Handed] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    has_made: bool = False


class ProcessHost:
    """Keeps a process for one device, and starts it again when it ends or hangs."""

    def __init__(
        self,
        device: str,
        catalog: Catalog,
        settings: EngineSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._birth = Birth(device, catalog, settings)
        self._settings = settings
        self._clock = clock
        self._numbers = count()
        self._wishes: dict[tuple[str, bool], Manage] = {}
        # Held by who hands something in and by who changes one life for the next.
        self._door = threading.Lock()
        self._life = _Life()
        self._closing = threading.Event()
        self._is_forced = False
        self._ended = False
        self._starts = 0
        self._status = self._unborn = _unborn(device, catalog)
        self._told_at = clock()
        self._thread = threading.Thread(target=self._run, name=f"engine-{device}", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether it runs no more, for whatever reason; what it is still sent is cancelled."""
        return self._ended

    def start(self) -> None:
        """Begin to run; models load behind it."""
        self._thread.start()

    def send(self, command: Command) -> None:
        """Hand a command in, from any thread; it is taken up between two steps."""
        with self._door:
            is_late = self._ended
            if not is_late:
                self._life.outbox.put(self._message(command))
            if isinstance(command, Close):
                self._closing.set()
        if is_late and isinstance(command, Submit):
            _Handed.of(command, number=-1).cancel()

    def status(self) -> DeviceStatus:
        """What the worker is doing, from any thread."""
        is_alive = self._thread.is_alive() and not self._ended
        return replace(
            self._status,
            alive=is_alive,
            idle_seconds=self._silence_seconds(),
            restarts=max(0, self._starts - 1),
        )

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end after Close; False if it has not come in time, and was forced."""
        self._thread.join(timeout_seconds)
        if not self._thread.is_alive():
            return True
        with self._door:
            self._is_forced = True
            if self._life.process is not None:
                self._life.process.kill()
        self._thread.join(_KILL_SECONDS)
        return False

    def _message(self, command: Command) -> Message:
        """The command as it travels; what it leads to is noted."""
        match command:
            case Submit(job, pictures, indexes=indexes):
                handed = _Handed.of(command, next(self._numbers))
                self._life.handed[handed.number] = handed
                return Take(handed.number, job, pictures, indexes, handed.is_watched)
            case Manage(model, action):
                # the next life is told again what was wanted last
                is_pinning = action in (ModelAction.PIN, ModelAction.UNPIN)
                self._wishes[model, is_pinning] = command
                return command
            case Cancel() | Close():
                return command

    def _run(self) -> None:
        ends = 0
        try:
            while not self._closing.is_set() and ends < _MAX_ENDS:
                life = self._life
                self._live(life)
                if not self._closing.is_set():
                    ends = 1 if life.has_made else ends + 1
                    self._bury(life, ends)
                    self._closing.wait(min(_MAX_PAUSE_SECONDS, 2.0 ** (ends - 2)))
            if not self._closing.is_set():
                log.error("device.given_up", device=self._birth.device, ends=ends)
        except Exception:
            log.exception("worker.ended", device=self._birth.device)
        finally:
            with self._door:
                self._ended = True
            self._cancel(self._life)

    def _live(self, life: _Life) -> None:
        """One process, from its start to its end."""
        ours, theirs = socket.socketpair()
        with Connection(ours.detach()) as connection:
            with theirs, self._door:
                if self._is_forced:
                    return
                life.process = _child_of(theirs.fileno())
                self._told_at = self._clock()
                self._starts += 1
            writing = threading.Thread(
                target=self._write, args=(connection, life), name="outbox", daemon=True
            )
            writing.start()
            try:
                self._read(connection, life)
            finally:
                life.process.kill()
                life.process.wait()
                life.outbox.put(None)
                writing.join()

    def _write(self, connection: Connection, life: _Life) -> None:
        with suppress(OSError):
            connection.send(self._birth)
            while (message := life.outbox.get()) is not None:
                connection.send(message)

    def _read(self, connection: Connection, life: _Life) -> None:
        """Hear what the process tells, until it has gone; one that hangs is ended."""
        with suppress(EOFError, OSError):
            while True:
                if connection.poll(_LOOK_SECONDS):
                    self._hear(connection.recv(), life)
                if self._silence_seconds() > self._settings.worker_restart_seconds:
                    log.error("device.hangs", device=self._birth.device)
                    return

    def _hear(self, report: Report, life: _Life) -> None:
        if report.status is not None:
            self._status, self._told_at = report.status, self._clock()
        for number, event in report.events:
            handed = life.handed[number]
            if isinstance(event, Progress):
                self._note_watching(handed, life)
            else:
                life.has_made |= isinstance(event, ImageDone)
                self._note_end(handed, event.index, life)
            handed.tell(event)

    def _note_watching(self, handed: _Handed, life: _Life) -> None:
        """Say so where somebody has come to look, or has left."""
        if handed.previews() != handed.is_watched:
            handed.is_watched = not handed.is_watched
            life.outbox.put(Watch(handed.number, handed.is_watched))

    def _note_end(self, handed: _Handed, index: int, life: _Life) -> None:
        handed.left.discard(index)
        if not handed.left:
            with self._door:
                del life.handed[handed.number]
            if handed.is_watched:
                life.outbox.put(Watch(handed.number, False))

    def _bury(self, life: _Life, ends: int) -> None:
        """Answer for what a process had in hand when it ended, and prepare for the next."""
        assert life.process is not None
        log.error(
            "device.ended",
            device=self._birth.device,
            exit_status=life.process.returncode,
            images=sum(len(one.left) for one in life.handed.values()),
            ends=ends,
        )
        with self._door:
            self._life = _Life()
            for wish in self._wishes.values():
                self._life.outbox.put(wish)
        self._status, self._told_at = self._unborn, self._clock()
        self._cancel(life)

    def _cancel(self, life: _Life) -> None:
        for handed in list(life.handed.values()):
            handed.cancel()
        life.handed.clear()

    def _silence_seconds(self) -> float:
        return self._status.idle_seconds + self._clock() - self._told_at


def _child_of(descriptor: int) -> subprocess.Popen[bytes]:
    """A process that is the child at the other end of a socket.

    In a group of its own, so that the Ctrl-C of a terminal does not reach it; -P keeps folders of
    the working directory from being taken for the package. Not with -m: what is sent would be of
    another module there than here.
    """
    command = f"from inference.hosts.child import main; main({descriptor})"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", command],
        stdin=subprocess.DEVNULL,
        pass_fds=[descriptor],
        process_group=0,
    )


def _unborn(device: str, catalog: Catalog) -> DeviceStatus:
    """What is told of a device whose process has not said anything yet."""
    models = (ModelStatus(name=name, state=ModelState.UNLOADED) for name in catalog.models)
    return DeviceStatus(
        device=device,
        name=device,
        alive=True,
        idle_seconds=0.0,
        running_images=0,
        waiting_images=0,
        models=tuple(models),
    )
