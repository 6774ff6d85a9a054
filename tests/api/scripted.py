"""An engine that follows a script, on a thread of its own, for tests of everything above it."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from inference.errors import EngineClosed, JobError, UnknownModel
from inference.events import Cancelled, Emit, Failed, ImageDone, Progress
from inference.job import Job
from inference.status import DeviceStatus, EngineStatus, ModelAction

STEPS = 2
# Longer than any test waits.
HOLD_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to be made."""

    job: Job
    index: int
    emit: Emit
    previews: Callable[[], bool]


class ScriptedEngine:
    """Makes plain pictures whose colour is their seed, one after the other.

    `fails` names the error of a picture. While `gate` is clear every picture waits after step 0,
    as one does whose step takes long; it still hears of its cancellation. While it is `starting` it
    knows no devices.
    """

    def __init__(self, *, picture_seconds: float = 0.0) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.fails: Callable[[Job, int], JobError | None] = lambda job, index: None
        self.orders: list[tuple[str, tuple[int, ...]]] = []
        self.pictures: dict[str, bytes] = {}
        self.models = {"tiny-flux", "tiny-flux-fill", "tiny-flux-kontext"}
        self.managed: list[tuple[str, ModelAction, str | None]] = []
        self.idle_seconds = 0.0
        self.starting = False
        self._picture_seconds = picture_seconds
        self._cancelled: set[str] = set()
        self._inbox: queue.Queue[Order | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="scripted engine", daemon=True)
        self._closed = False
        self._running = 0

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        job: Job,
        pictures: Mapping[str, bytes],
        emit: Emit,
        indexes: Sequence[int] | None = None,
        previews: Callable[[], bool] = lambda: False,
    ) -> None:
        if self._closed:
            raise EngineClosed("closed")
        indexes = range(len(job.seeds)) if indexes is None else indexes
        self.orders.append((job.id, tuple(indexes)))
        self.pictures.update(pictures)
        self._cancelled.discard(job.id)
        for index in indexes:
            self._inbox.put(Order(job, index, emit, previews))

    def cancel(self, job_id: str) -> None:
        self._cancelled.add(job_id)

    def was_cancelled(self, job_id: str) -> bool:
        return job_id in self._cancelled

    def hold_after(self, count: int) -> threading.Event:
        """Make so many pictures at once, and the others when the event is set."""
        go_on, begun = threading.Event(), itertools.count()

        def hold(job: Job, index: int) -> None:
            if next(begun) >= count:
                go_on.wait(HOLD_SECONDS)

        self.fails = hold
        return go_on

    def manage(self, model: str, action: ModelAction, device: str | None = None) -> None:
        if model not in self.models:
            raise UnknownModel("model", f"no model {model!r} here")
        self.managed.append((model, action, device))

    def status(self) -> EngineStatus:
        if self.starting:
            return EngineStatus(devices=())
        device = DeviceStatus(
            device="cpu",
            name="script",
            alive=self._thread.is_alive(),
            idle_seconds=self.idle_seconds,
            running_images=self._running,
            waiting_images=self._inbox.qsize(),
            models=(),
        )
        return EngineStatus(devices=(device,))

    def close(self, timeout_seconds: float = 30.0) -> None:
        self._closed = True
        self._inbox.put(None)
        self.gate.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _work(self) -> None:
        while (order := self._inbox.get()) is not None:
            self._running = 1
            order.emit(self._make(order))
            self._running = 0

    def _make(self, order: Order) -> ImageDone | Failed | Cancelled:
        job, index = order.job, order.index
        if job.id not in self._cancelled and not self._closed:
            order.emit(Progress(job_id=job.id, index=index, step=0, steps=STEPS))
        while not self.gate.wait(0.005) and job.id not in self._cancelled:
            pass
        time.sleep(self._picture_seconds)
        if job.id in self._cancelled or self._closed:
            return Cancelled(job_id=job.id, index=index)
        if (error := self.fails(job, index)) is not None:
            return Failed(job_id=job.id, index=index, error=error)
        preview = picture_of(job, index).resize((8, 8)) if order.previews() else None
        order.emit(Progress(job_id=job.id, index=index, step=1, steps=STEPS, preview=preview))
        return ImageDone(job_id=job.id, index=index, picture=picture_of(job, index), seconds=0.01)


def picture_of(job: Job, index: int) -> Image.Image:
    """The picture that the script makes for one seed."""
    seed = job.seeds[index]
    colour = (seed % 256, seed // 256 % 256, seed // 65536 % 256)
    return Image.new("RGB", (job.width, job.height), colour)
