"""A worker in a thread of this process."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress

import structlog
import torch

from inference.events import Cancelled
from inference.hosts.base import Cancel, Close, Command, Manage, Submit
from inference.status import DeviceStatus
from inference.worker import Worker

log = structlog.get_logger()

# An idle worker wakes this often only to show that it is alive.
_IDLE_SECONDS = 1.0


class ThreadHost:
    """Owns the engine thread of one device and its inbox."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=f"engine-{worker.device}", daemon=True
        )
        self._deadline: float | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether it runs no more, for whatever reason; what it is still sent is cancelled."""
        return self._ended

    def start(self) -> None:
        """Begin to run; models load behind it."""
        self._thread.start()

    def send(self, command: Command) -> None:
        """Hand a command in, from any thread; it is taken up between two steps."""
        self._inbox.put(command)
        if self._ended:
            # what came in behind the last look, too
            self._refuse_all()

    def status(self) -> DeviceStatus:
        """What the worker is doing, from any thread."""
        return self._worker.status(alive=self._thread.is_alive())

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end after Close; False if it has not come in time."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            # a panic of a compiled library, or a device that is not there
            log.exception("worker.ended", device=self._worker.device)
        finally:
            self._ended = True
            self._answer_all()

    def _answer_all(self) -> None:
        """Leave nobody waiting for a device that has stopped."""
        try:
            self._worker.close()
            self._worker.cancel(lambda job: True)
        except BaseException:
            log.exception("worker.fault", device=self._worker.device)
        self._refuse_all()

    def _refuse_all(self) -> None:
        """Cancel the pictures that nobody will take up."""
        with suppress(queue.Empty):
            while True:
                command = self._inbox.get_nowait()
                if isinstance(command, Submit):
                    for index in command.indexes:
                        command.emit(Cancelled(job_id=command.job.id, index=index))

    def _serve(self) -> None:
        # Both are per thread, and every carrier must find them alike when it is resumed.
        torch.set_grad_enabled(False)
        if self._worker.device.startswith("cuda"):
            torch.cuda.set_device(self._worker.device)
        self._prepare()
        while self._deadline is None or self._worker.busy:
            try:
                self._receive()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._worker.cancel(lambda job: True)
                self._worker.tick()
            except Exception as error:
                log.exception("worker.fault", device=self._worker.device)
                self._worker.fail_all(error)

    def _prepare(self) -> None:
        """Ask for what is wanted from the start; a model that fails says so in its status."""
        try:
            self._worker.preload()
        except Exception:
            log.exception("worker.fault", device=self._worker.device)

    def _receive(self) -> None:
        """Take up all commands; wait for one only while there is nothing to work on."""
        idle = not self._worker.at_work and self._deadline is None
        try:
            command = self._inbox.get(timeout=_IDLE_SECONDS) if idle else self._inbox.get_nowait()
            while True:
                self._obey(command)
                command = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _obey(self, command: Command) -> None:
        match command:
            case Submit():
                self._worker.submit(
                    command.job,
                    command.pictures,
                    command.emit,
                    command.indexes,
                    command.previews,
                )
            case Cancel(job_id):
                self._worker.cancel(lambda job: job.id == job_id)
            case Manage():
                self._worker.command(command.model, command.action)
            case Close():
                self._deadline = command.deadline
