"""What is measured: Darkroom's worker and plain diffusers, each on this thread, on any device."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import structlog
import torch
import transformers
from PIL import Image

from inference.calls import generator
from inference.catalog import Catalog
from inference.events import Event, Failed, ImageDone, Progress
from inference.faults import free_cache
from inference.job import ImageRole, InputImage, Job, Mode
from inference.loading import load_pipelines
from inference.model_spec import ModelSpec
from inference.pixels import Pictures
from inference.residency.standing import Budget
from inference.settings import EngineSettings
from inference.status import ModelAction, ModelStatus
from inference.worker import Worker

SOURCE = "source"


def settle() -> None:
    """What every benchmark does first: no gradients, and no more words than it has itself."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    torch.set_grad_enabled(False)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def seconds_of(action: Callable[[], object], device: str) -> float:
    """What it takes: of the CPU, this thread's time; of a card, until all of its work is done."""
    if not device.startswith("cuda"):
        begin = time.thread_time()
        action()
        return time.thread_time() - begin
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    action()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def mode_of(spec: ModelSpec) -> Mode:
    """The one mode of a model that is measured."""
    return Mode.GENERATE if Mode.GENERATE in spec.modes else spec.modes[0]


def picture_of(
    spec: ModelSpec, number: int, *, side: int | None = None, steps: int | None = None
) -> Job:
    """A picture at the model's own defaults, or of that side and so many steps; edits get one."""
    width, height = (side, side) if side is not None else spec.default_size
    mode = mode_of(spec)
    source = InputImage(role=ImageRole.SOURCE, key=SOURCE)
    return Job(
        id=f"p{number}",
        model=spec.name,
        mode=mode,
        prompt=f"a red circle number {number}",
        negative_prompt=spec.defaults.negative_prompt,
        images=() if mode is Mode.GENERATE else (source,),
        width=width,
        height=height,
        seeds=(number,),
        num_inference_steps=steps or spec.defaults.num_inference_steps,
        guidance_scale=spec.defaults.guidance_scale,
        strength=1.0,
    )


def source_of(job: Job) -> Image.Image:
    """The picture that an edit is given, of the size that it makes."""
    return Image.linear_gradient("L").convert("RGB").resize((job.width, job.height))


@dataclass(slots=True)
class Made:
    """Pictures by job, and the seconds of the clock from the start to each one's first step."""

    pictures: dict[str, Image.Image] = field(default_factory=dict)
    first_steps: dict[str, float] = field(default_factory=dict)


class Engine:
    """Darkroom's worker; prompts are encoded every time, as plain diffusers does."""

    def __init__(self, catalog: Catalog, device: str, **settings: Any) -> None:
        self._device = device
        self._settings = EngineSettings(preview_side_px=0, prompt_cache_bytes=0, **settings)
        self._worker = Worker(device, catalog, self._settings)

    def load(self, name: str) -> ModelStatus:
        """Bring a model, and tell what became of it."""
        self._worker.command(name, ModelAction.LOAD)
        while self._worker.at_work:
            self._worker.tick()
        return self.status(name)

    def status(self, name: str) -> ModelStatus:
        """What is told of a model."""
        return next(one for one in self._worker.status(True).models if one.name == name)

    @property
    def used_bytes(self) -> int:
        """What the engine counts models to take of the device."""
        return self._worker.status(True).used_memory_bytes

    def mix_at_most(self, loras: int) -> None:
        """From now on no forward has more LoRAs than this."""
        self._settings = replace(self._settings, max_loras_per_forward=loras)
        self._worker._settings = self._settings

    @property
    def swaps(self) -> int:
        """How many models had to leave the device for others."""
        return self._worker.status(True).swaps

    def narrow(self, budget: Budget) -> None:
        """Leave the device no more room than this; what is too much goes at once."""
        residents = self._worker._residents
        residents.budget, residents._changed = budget, True
        self._worker.tick()

    def make(self, jobs: Sequence[Job]) -> Made:
        """All of them, asked for at once; raises RuntimeError where one fails."""
        made, failed, begin = Made(), list[str](), time.perf_counter()

        def emit(event: Event) -> None:
            if isinstance(event, Failed):
                failed.append(str(event.error))
            if isinstance(event, Progress) and event.step == 1:
                if self._device.startswith("cuda"):
                    torch.cuda.synchronize(self._device)
                made.first_steps[event.job_id] = time.perf_counter() - begin
            if isinstance(event, ImageDone):
                made.pictures[event.job_id] = event.picture

        for job in jobs:
            self._worker.submit(job, encoded(job), emit, [0])
        while self._worker.busy:
            self._worker.tick()
        if failed:
            raise RuntimeError(failed[0])
        assert len(made.pictures) == len(jobs), "every picture is made"
        return made

    def close(self) -> None:
        """Give back what its models took."""
        for one in self._worker.status(True).models:
            self._worker.command(one.name, ModelAction.UNLOAD)
        while self._worker.at_work:
            self._worker.tick()
        release(self._device)


class Plain:
    """A loop over `pipe()`."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        self._spec = spec
        self._device = device
        self._pipes = dict(load_pipelines(spec, device))

    def make(self, jobs: Sequence[Job]) -> dict[str, Image.Image]:
        """One after the other."""
        made = {}
        for job in jobs:
            pictures = Pictures(sources=(source_of(job),) if job.images else ())
            arguments = self._spec.rules.routes[job.mode].arguments(job, self._spec, pictures)
            noise = generator(job.seeds[0])
            made[job.id] = self._pipes[job.mode](**arguments, generator=noise).images[0]
        return made

    def close(self) -> None:
        """Give back what it took."""
        self._pipes.clear()
        release(self._device)


def encoded(job: Job) -> dict[str, bytes]:
    """The bytes that travel beside a job."""
    if not job.images:
        return {}
    file = io.BytesIO()
    source_of(job).save(file, "PNG")
    return {SOURCE: file.getvalue()}


def release(device: str) -> None:
    """Let the device have back what nobody holds any more."""
    gc.collect()
    free_cache(device)
