"""One device, one loop: receive, start, step, report. The only thread that touches tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
import torch

from inference.catalog import Catalog
from inference.coalesce import Abandon, Carrier, Rendezvous
from inference.errors import ModelFailed
from inference.events import Cancelled, Emit, Failed, ImageDone
from inference.faults import (
    DeviceLost,
    as_job_error,
    free_cache,
    is_lost,
    without_tensors,
)
from inference.job import Job
from inference.pixels import decoded
from inference.reports import Reports
from inference.residency.demand import demands_of
from inference.residency.quiet import QUIET
from inference.residency.residents import Residents
from inference.running import Running, bounded, nobody_looks
from inference.schedule import Schedule, Waiting
from inference.settings import EngineSettings
from inference.status import DeviceStatus, Lane, ModelAction
from inference.steps import Steps

if TYPE_CHECKING:
    from PIL.Image import Image


log = structlog.get_logger()

_BREATH_SECONDS = 0.002
# Commands are taken up between two ticks.
_PIECES_SECONDS = _REST_SECONDS = 0.05


class Worker:
    """Runs the images of one device; every method but `status` belongs to the engine thread."""

    def __init__(
        self,
        device: str,
        catalog: Catalog,
        settings: EngineSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = device
        self._clock = clock
        self._settings = settings
        self._rendezvous = Rendezvous()
        self._residents = Residents(device, catalog, self._rendezvous, settings, clock)
        self._schedule = Schedule()
        self._steps = Steps(device, self.beat)
        self._reports = Reports(clock, settings.preview_interval_seconds)
        self._waiting: list[Running] = []
        self._running: list[Running] = []
        self._beat = self._clock()

    @property
    def busy(self) -> bool:
        """Whether there is an image to work on."""
        return bool(self._waiting or self._running)

    @property
    def at_work(self) -> bool:
        """Whether there is anything to do, such as loading a model that nobody waits for."""
        return self.busy or self._residents.at_work

    def preload(self) -> None:
        """Ask for what models.yaml wants loaded from the start; ticks bring it."""
        self._residents.preload()

    def prepare(self) -> None:
        """The same, until it is there."""
        self.preload()
        while self._residents.at_work:
            self.tick()

    def command(self, name: str, action: ModelAction) -> None:
        """What an operator wants of a model."""
        self._residents.command(name, action)

    def submit(
        self,
        job: Job,
        pictures: Mapping[str, bytes],
        emit: Emit,
        indexes: Iterable[int],
        previews: Callable[[], bool] = nobody_looks,
    ) -> None:
        """Queue the pictures of a job; each is scheduled on its own."""
        is_served = self._residents.serves(job)
        work = self._residents.work_seconds(job) if is_served else 0.0
        for index in indexes:
            ticket = self._schedule.admit(
                account=job.account,
                priority=job.priority,
                work_seconds=work,
                now=self._clock(),
            )
            image = Running(job, index, pictures, emit, previews, ticket)
            self._waiting.append(image)
            if not is_served:
                image.error = ModelFailed(f"{job.model} is served for {job.mode} no more")
                self._end(image)

    def cancel(self, wanted: Callable[[Job], bool]) -> None:
        """Give up the images of the jobs that `wanted` accepts; they end at once."""
        for image in [*self._waiting, *self._running]:
            if wanted(image.job):
                image.cancelled = True
                if image.carrier is not None and not image.carrier.ended:
                    image.carrier.throw(Abandon())
                self._end(image)

    def close(self) -> None:
        """Let nothing come from the hub any more; nobody waits for it."""
        self._residents.close()

    def fail_all(self, error: Exception) -> None:
        """After a fault of the loop itself: answer everybody, so that nobody waits for ever."""
        for image in [*self._running, *self._waiting]:
            image.error = error
            if image.carrier is not None and not image.carrier.ended:
                image.carrier.throw(Abandon())
            self._end(image)

    def tick(self) -> None:
        """Start what may start, run one forward, end what is finished."""
        self.beat()
        with QUIET.step():
            self._move_models()
            self._find_models()
            for image in self._admissible():
                # who started before it may have taken the place of its LoRA
                if image.ready:
                    self._start(image)
            batch = self._pick()
            if batch:
                begin = self._clock()
                self._steps.step(batch)
                seconds = (self._clock() - begin) / len(batch)
                for image in batch:
                    self._schedule.charge(image.ticket, seconds)
            for image in [image for image in self._running if image.call is None]:
                self._end(image)
        if self.at_work and not self._running and not self._residents.has_pieces:
            # only for what is still being read
            is_reading = self._residents.rest(_REST_SECONDS)
            if not is_reading:
                time.sleep(_BREATH_SECONDS)

    def beat(self) -> None:
        """Show a sign of life."""
        self._beat = self._clock()

    def status(self, alive: bool) -> DeviceStatus:
        """What the device is doing; safe from any thread, since it only reads whole values."""
        return DeviceStatus(
            device=self.device,
            name=device_name(self.device),
            alive=alive,
            idle_seconds=self._clock() - self._beat,
            running_images=len(self._running),
            waiting_images=len(self._waiting),
            memory_bytes=self._residents.budget.device_bytes,
            used_memory_bytes=self._residents.used_bytes[0],
            ram_bytes=self._residents.budget.ram_bytes,
            used_ram_bytes=self._residents.used_bytes[1],
            swaps=self._residents.swaps,
            models=self._residents.status(),
        )

    def _find_models(self) -> None:
        """Give each that waits its model, if that may start it; without any it ends here."""
        for image in [*self._waiting]:
            try:
                image.model = self._residents.usable(image.job.model)
            except ModelFailed as error:
                image.error = error
                self._end(image)

    def _move_models(self) -> None:
        """A piece of work on what is being loaded; several where no picture waits for its step."""
        demands = demands_of(self._waiting, self._running)
        until = self._clock() + _PIECES_SECONDS
        self._residents.advance(demands)
        while not self._running and self._residents.has_pieces and self._clock() < until:
            self._residents.advance(demands)

    def _admissible(self) -> list[Running]:
        """Waiting images that may start, best first, within the room there is.

        An exclusive image needs its model for itself: it starts when nothing else runs there, and
        once it is first in line nothing else starts there before it.
        """
        room = self._settings.max_running_images - len(self._running)
        if not self._waiting or room <= 0:
            return []
        now = self._clock()
        users: dict[str, int] = {}
        closed: set[str] = set()
        for image in self._running:
            users[image.job.model] = users.get(image.job.model, 0) + 1
            if image.lane is Lane.EXCLUSIVE:
                closed.add(image.job.model)
        chosen: list[Running] = []
        ready = [image for image in self._waiting if image.ready]
        for image in sorted(ready, key=lambda one: self._schedule.rank(one.ticket, now)):
            name = image.job.model
            if len(chosen) == room:
                break
            if name in closed:
                continue
            if image.lane is Lane.EXCLUSIVE:
                closed.add(name)
                if users.get(name):
                    continue
            users[name] = users.get(name, 0) + 1
            chosen.append(image)
        return chosen

    def _start(self, image: Running) -> None:
        """Run an image up to its first forward; whatever goes wrong ends only that image."""
        self._waiting.remove(image)
        self._running.append(image)
        image.started = self._clock()
        carrier = Carrier(lambda: self._make(image))
        image.carrier = carrier
        carrier.advance()
        self.beat()

    def _make(self, image: Running) -> Image:
        """Inside the carrier: the whole pipeline call of one image."""
        assert image.model is not None
        pictures = decoded(image.job, image.pictures)

        def on_step(scheduler: Any, before: torch.Tensor, after: torch.Tensor) -> None:
            self._reports.step(image, pipe, scheduler, before, after)

        pipe, call = image.model.call(image.job, image.index, pictures, on_step)
        self._reports.start(image)
        picture: Image = call()
        return picture

    def _pick(self) -> list[Running]:
        """The images whose forwards run together next."""
        by_ticket = {image.ticket: image for image in self._running if image.call is not None}
        waiting = [self._as_waiting(image) for image in by_ticket.values()]
        picked = self._schedule.pick(waiting, self._clock())
        chosen = [by_ticket[one.ticket] for one in picked]
        return bounded(chosen, self._settings.max_loras_per_forward)

    def _as_waiting(self, image: Running) -> Waiting:
        call, model = image.call, image.model
        assert call is not None and model is not None, "only started images are asked"
        merges = image.lane is Lane.MERGE and not model.is_alone(call.target)
        return Waiting(
            ticket=image.ticket,
            key=call.key if merges else (call.key, image.ticket),
            tokens=call.tokens,
            budget_tokens=self._steps.budget_tokens(image, call.target.budget_tokens),
            is_brief=not model.denoises(call.target),
        )

    def _end(self, image: Running) -> None:
        """Report how an image ended and forget it; raises DeviceLost where it is not its fault."""
        name, index, carrier = image.job.id, image.index, image.carrier
        error = image.error or (carrier.error if carrier is not None else None)
        if error is not None and not image.cancelled and is_lost(self.device):
            raise DeviceLost(f"{self.device} computes no more") from error
        (self._running if image in self._running else self._waiting).remove(image)
        self._schedule.leave(image.ticket)
        if image.cancelled:
            image.tell(Cancelled(job_id=name, index=index))
        elif error is not None:
            failure = as_job_error(error)
            log.warning(
                "image.failed", job_id=name, index=index, kind=failure.kind, exc_info=failure
            )
            image.tell(Failed(job_id=name, index=index, error=without_tensors(failure)))
            free_cache(self.device)
        elif carrier is not None:
            seconds = self._clock() - image.started
            image.tell(ImageDone(job_id=name, index=index, picture=carrier.result, seconds=seconds))


def device_name(device: str) -> str:
    """The card's product name, or the device as it is."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
