"""The systems compared: one call after another, static batching, LitServe's loop, Darkroom.

All run on one thread against a clock that counts that thread's CPU time and jumps over idle
stretches, so other load on the machine changes nothing; with a card it counts real time, since
that computes by itself. Each returns when every request was
finished, in seconds of that clock.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import litserve
from litserve.callbacks.base import CallbackRunner
from litserve.loops.simple_loops import BatchedLoop

from benchmarks.traces import Arrival
from inference.calls import generator
from inference.catalog import Catalog
from inference.events import Event, Failed, ImageDone
from inference.job import Job, Mode
from inference.loading import load_pipelines
from inference.pixels import Pictures
from inference.settings import EngineSettings
from inference.worker import Worker

MAX_BATCH = 8
Finished = dict[str, float]


class Clock:
    """Seconds of this thread, or of the card's, since the start, and those that were jumped over.

    A picture that is finished is in RAM, so no time of the card is left out.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._seconds = time.perf_counter if device.startswith("cuda") else time.thread_time
        self._skipped = -self._seconds()

    def now(self) -> float:
        """The time on this clock."""
        return self._seconds() + self._skipped

    def jump_to(self, at: float) -> None:
        """Idle until `at`."""
        self._skipped += max(0.0, at - self.now())


class Plain:
    """Diffusers as it comes: pipelines called with one request or a list of equal ones."""

    def __init__(self, catalog: Catalog, device: str = "cpu") -> None:
        self.device = device
        self._catalog = catalog
        self._pipes = {
            name: load_pipelines(spec, device)[Mode.GENERATE]
            for name, spec in catalog.models.items()
        }

    def make(self, jobs: Sequence[Job]) -> Any:
        """Pictures of requests that differ in prompt and seed only."""
        first = jobs[0]
        spec = self._catalog.models[first.model]
        arguments = spec.rules.routes[Mode.GENERATE].arguments(first, spec, Pictures())
        arguments["prompt"] = [job.prompt for job in jobs]
        if arguments.get("negative_prompt") is not None:
            arguments["negative_prompt"] = [first.negative_prompt] * len(jobs)
        noise = [generator(job.seeds[0]) for job in jobs]
        return self._pipes[first.model](**arguments, generator=noise).images


def equality(job: Job) -> Hashable:
    """What one ordinary call must share."""
    return job.model, job.width, job.height, job.num_inference_steps, job.guidance_scale


def sequential(plain: Plain, trace: Sequence[Arrival]) -> Finished:
    """A loop over `pipe()`: first come, first served."""
    clock, finished = Clock(plain.device), {}
    for arrival in trace:
        clock.jump_to(arrival.at)
        plain.make([arrival.job])
        finished[arrival.job.id] = clock.now()
    return finished


def static(plain: Plain, trace: Sequence[Arrival]) -> Finished:
    """The oldest request with every equal one that waits, up to a batch of eight."""
    clock, finished = Clock(plain.device), {}
    coming, waiting = deque(trace), list[Job]()
    while coming or waiting:
        if not waiting:
            clock.jump_to(coming[0].at)
        while coming and coming[0].at <= clock.now():
            waiting.append(coming.popleft().job)
        batch = [job for job in waiting if equality(job) == equality(waiting[0])][:MAX_BATCH]
        plain.make(batch)
        for job in batch:
            waiting.remove(job)
            finished[job.id] = clock.now()
    return finished


class _Api(litserve.LitAPI):
    """A LitServe service that runs what is equal in its batch in one call."""

    def __init__(self, plain: Plain) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=0, enable_async=False)
        self._plain = plain

    def setup(self, device: str) -> None:
        """Nothing: the pipelines are loaded already."""

    def decode_request(self, request: Job) -> Job:
        """Requests arrive as jobs."""
        return request

    def batch(self, inputs: list[Job]) -> list[Job]:
        """Unequal sizes cannot be stacked, so the batch stays a list."""
        return inputs

    def predict(self, x: list[Job]) -> list[Job]:
        """One call for each set of equal requests."""
        groups: dict[Hashable, list[Job]] = {}
        for job in x:
            groups.setdefault(equality(job), []).append(job)
        for jobs in groups.values():
            self._plain.make(jobs)
        return x

    def unbatch(self, output: list[Job]) -> list[Job]:
        """One answer per request."""
        return output

    def encode_response(self, output: Job) -> str:
        """The request's name."""
        return output.id


class _Arrivals:
    """The queue that LitServe's loop reads, holding what has come by the clock's time."""

    def __init__(self, trace: Sequence[Arrival], clock: Clock) -> None:
        self._coming = deque(trace)
        self._clock = clock
        self._handed_out = False

    def get_nowait(self) -> Any:
        """The next request that has come; idles until there is one if the batch is empty."""
        if not self._coming:
            if self._handed_out:
                self._handed_out = False
                raise queue.Empty
            return (None, None, None, None)  # LitServe's own sign to stop
        if self._coming[0].at > self._clock.now():
            if self._handed_out:
                self._handed_out = False
                raise queue.Empty
            self._clock.jump_to(self._coming[0].at)
        self._handed_out = True
        job = self._coming.popleft().job
        return 0, job.id, time.monotonic(), job


class _Answers:
    """The transport that LitServe's loop answers through."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.finished: Finished = {}

    def send(self, item: Any, consumer_id: int) -> None:
        """Note when the answer came; the sign that a request has started is passed over."""
        uid, (response, *_) = item
        if isinstance(response, str):
            self.finished[uid] = self._clock.now()


def lit_serve(plain: Plain, trace: Sequence[Arrival]) -> Finished:
    """LitServe's dynamic batching: its own loop and collation, fed from the trace."""
    clock = Clock(plain.device)
    answers = _Answers(clock)
    api = _Api(plain)
    api.pre_setup(spec=None)
    api.request_timeout = -1
    BatchedLoop().run_batched_loop(
        api,
        _Arrivals(trace, clock),
        answers,
        CallbackRunner(),  # type: ignore[arg-type]
    )
    return answers.finished


class Darkroom:
    """The engine's own worker, ticked on this thread."""

    def __init__(self, catalog: Catalog, device: str = "cpu") -> None:
        self._device = device
        self._clock = Clock(device)
        # rounds repeat the prompts, which the others encode every time
        settings = EngineSettings(prompt_cache_bytes=0)
        self._worker = Worker(device, catalog, settings, clock=lambda: self._clock.now())
        self._worker.prepare()

    def run(self, trace: Sequence[Arrival]) -> Finished:
        """Submit what has come, then tick, until all is done."""
        self._clock = clock = Clock(self._device)
        finished: Finished = {}

        def emit(event: Event) -> None:
            if isinstance(event, Failed):
                raise RuntimeError(str(event.error))
            if isinstance(event, ImageDone):
                finished[event.job_id] = clock.now()

        coming = deque(trace)
        while coming or self._worker.busy:
            if not self._worker.busy:
                clock.jump_to(coming[0].at)
            while coming and coming[0].at <= clock.now():
                self._worker.submit(coming.popleft().job, {}, emit, [0])
            self._worker.tick()
        return finished


def all_systems(
    catalog: Catalog, device: str = "cpu"
) -> dict[str, Callable[[Sequence[Arrival]], Finished]]:
    """Every system by name, loaded and ready; `sequential` is the baseline."""
    plain, darkroom = Plain(catalog, device), Darkroom(catalog, device)
    return {
        "sequential": lambda trace: sequential(plain, trace),
        "static": lambda trace: static(plain, trace),
        "litserve": lambda trace: lit_serve(plain, trace),
        "darkroom": darkroom.run,
    }
