"""The engine's front: takes jobs from any thread, hands each to the worker of a device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from inference.balance import Balance
from inference.catalog import Catalog
from inference.devices import devices_of
from inference.errors import EngineClosed, ModelFailed, UnknownModel
from inference.events import Emit, Event, Failed, Progress
from inference.homes import Homes
from inference.hosts.base import Cancel, Close, Host, Manage, Submit
from inference.hosts.process import ProcessHost
from inference.hosts.thread import ThreadHost
from inference.job import Job
from inference.residency.reader import foreseen
from inference.running import nobody_looks
from inference.settings import EngineSettings
from inference.status import EngineStatus, ModelAction, ModelState, ModelStatus
from inference.worker import Worker


class Engine:
    """Makes the pictures of jobs; all methods may be called from any thread.

    Raises DeviceMissing for a device of the settings that is not there.
    """

    def __init__(self, catalog: Catalog, settings: EngineSettings | None = None) -> None:
        settings = settings or EngineSettings()
        devices = devices_of(settings.devices)
        self._homes = Homes(catalog, devices, foreseen)
        self._hosts: list[Host] = [
            host_of(device, self._homes.catalog_of(number), settings)
            for number, device in enumerate(devices)
        ]
        self._balance = Balance(len(self._hosts), settings.worker_silence_seconds)
        self._names = frozenset(catalog.models)
        self._homeless = tuple(
            ModelStatus(name=name, state=ModelState.FAILED, reason=reason)
            for name, reason in self._homes.homeless().items()
        )
        self._closed = False
        # Keeps a job from slipping in behind the Close command, where nobody would answer it.
        self._door = threading.Lock()

    def start(self) -> None:
        """Start the workers; returns at once, models load behind it."""
        for host in self._hosts:
            host.start()

    def submit(
        self,
        job: Job,
        pictures: Mapping[str, bytes],
        emit: Emit,
        indexes: Sequence[int] | None = None,
        previews: Callable[[], bool] = nobody_looks,
    ) -> None:
        """Make the job's pictures (`indexes` of them, all by default).

        `pictures` holds the encoded bytes of each input image by its key. `previews` is asked at
        each step, on a thread of the engine, whether one is wanted. Every index ends in exactly one
        of ImageDone, Failed, Cancelled, passed to `emit` on a thread of the engine, or on this one
        where no device could have the model. They are cancelled if their device stops.
        Raises EngineClosed after `close`, and once every device has stopped.
        """
        wanted = range(len(job.seeds)) if indexes is None else indexes
        with self._door:
            if self._closed:
                raise EngineClosed("the engine is closing and takes no more work")
            if all(host.ended for host in self._hosts):
                raise EngineClosed("every device has stopped")
            device = self._choose(job)
            if device is not None:
                self._balance.hand(device, job.model, len(wanted))
                passed = self._counted(device, job, emit)
                self._hosts[device].send(Submit(job, pictures, passed, tuple(wanted), previews))
                return
        reason = self._homes.homeless().get(job.model, f"every device of {job.model} has stopped")
        for index in wanted:
            emit(Failed(job_id=job.id, index=index, error=ModelFailed(reason)))

    def cancel(self, job_id: str) -> None:
        """Give up every unfinished picture of a job, at its next step; unknown ids are ignored."""
        for host in self._hosts:
            host.send(Cancel(job_id))

    def manage(self, model: str, action: ModelAction, device: str | None = None) -> None:
        """Load, unload, pin or unpin a model on every device it may be on, or on the one named.

        Taken up at once, done in time. Raises UnknownModel, Unsupported where it may not be there,
        and EngineClosed after `close`.
        """
        if model not in self._names:
            raise UnknownModel("model", f"no model {model!r} here")
        homes = self._homes.named(model, device)
        with self._door:
            if self._closed:
                raise EngineClosed("the engine is closing")
            for home in homes:
                self._hosts[home].send(Manage(model, action))

    def status(self) -> EngineStatus:
        """Devices, their models, and how much is running and waiting.

        A model that no device may have is failed on all.
        """
        found = [host.status() for host in self._hosts]
        return EngineStatus(
            devices=tuple(replace(one, models=one.models + self._homeless) for one in found)
        )

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Take no more, finish what is running within the time, cancel the rest, stop threads."""
        with self._door:
            self._closed = True
        deadline = time.monotonic() + timeout_seconds
        for host in self._hosts:
            host.send(Close(deadline))
        for host in self._hosts:
            # a step or a load that is under way cannot be interrupted, hence the grace
            host.join(max(0.0, deadline - time.monotonic()) + 5.0)

    def _choose(self, job: Job) -> int | None:
        """The number of the device that has the least to do before it could make the job."""
        return min(
            (one for one in self._homes.of(job.model) if not self._hosts[one].ended),
            key=lambda one: self._balance.burden(one, self._hosts[one].status(), job.model),
            default=None,
        )

    def _counted(self, device: int, job: Job, emit: Emit) -> Emit:
        """Passes events on, and takes what has ended off the device's burden."""

        def passed(event: Event) -> None:
            if not isinstance(event, Progress):
                self._balance.end(device, job.model)
            emit(event)

        return passed


def host_of(device: str, catalog: Catalog, settings: EngineSettings) -> Host:
    """Where the worker of a device is to live."""
    if settings.device_processes:
        return ProcessHost(device, catalog, settings)
    return ThreadHost(Worker(device, catalog, settings))
