"""What does each option of speed and size bring? Attention, quantization, compiling, step caches.

    python -m benchmarks.options [--device cuda:0] [--models models.yaml --model NAME]
        [--side 64] [--steps 8] [--pictures 4] [--rounds 5] [--only none,bfloat16]

The same pictures are made by plain diffusers, one call after the other, and by the engine with each
option in turn, all in one process and every other round in reverse. For each: seconds a picture,
how many times as fast as plain diffusers in the same round (medians), the bytes of the weights, and
how far the first picture is from diffusers' own, of 255. What the machine lacks has its reason.
Seconds are the CPU's, of the one thread that computes; on a card they are those of the clock, after
all of its work is done. Without a model the one that ships is taken.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import structlog
import torch

from benchmarks import report
from benchmarks.batching import catalog_of
from benchmarks.traces import make_job
from inference.calls import generator
from inference.catalog import Catalog, load_catalog
from inference.events import Event, Failed, ImageDone
from inference.job import Job, Mode
from inference.loading import load_pipelines
from inference.model_spec import ModelSpec
from inference.pixels import Pictures
from inference.settings import EngineSettings
from inference.status import ModelStatus
from inference.worker import Worker

PLAIN = "diffusers"
ASKED: Mapping[str, dict[str, Any]] = {
    "none": {},
    "bfloat16": {"dtype": "bfloat16"},
    "attention _native_math": {"attention": "_native_math"},
    "attention _native_flash": {"attention": "_native_flash"},
    "attention _native_cudnn": {"attention": "_native_cudnn"},
    "attention flash": {"attention": "flash"},
    "attention sage": {"attention": "sage"},
    "attention xformers": {"attention": "xformers"},
    "torchao-int8": {"quantization": "torchao-int8"},
    "torchao-float8, bfloat16": {"quantization": "torchao-float8", "dtype": "bfloat16"},
    "bitsandbytes-8bit": {"quantization": "bitsandbytes-8bit"},
    "bitsandbytes-4bit": {"quantization": "bitsandbytes-4bit"},
    "first_block": {"cache": {"kind": "first_block", "threshold": 0.1}},
    "taylorseer": {"cache": "taylorseer"},
    "vae tiling": {"vae": {"tiling": True}},
    "compile": {"compile": True},
    "compile, torchao-int8": {"compile": True, "quantization": "torchao-int8"},
}
OPTIONS = ("attention", "quantization", "cache", "vae", "compile")

Picture = np.ndarray[Any, np.dtype[np.int16]]
Way = Callable[[Sequence[Job]], Picture]


class Plain:
    """A loop over `pipe()`."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        self._spec = spec
        self._pipe = load_pipelines(spec, device)[Mode.GENERATE]

    def __call__(self, jobs: Sequence[Job]) -> Picture:
        made = []
        for job in jobs:
            arguments = self._spec.rules.routes[Mode.GENERATE].arguments(
                job, self._spec, Pictures()
            )
            made.append(self._pipe(**arguments, generator=generator(job.seeds[0])).images[0])
        return np.asarray(made[0], np.int16)


class Engine:
    """Darkroom's worker, ticked on this thread."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        settings = EngineSettings(preview_side_px=0)
        self._worker = Worker(device, Catalog(models={spec.name: spec}), settings)
        self._worker.prepare()

    @property
    def status(self) -> ModelStatus:
        """What became of the options."""
        return self._worker.status(alive=True).models[0]

    def __call__(self, jobs: Sequence[Job]) -> Picture:
        made: dict[str, Any] = {}

        def emit(event: Event) -> None:
            if isinstance(event, Failed):
                raise RuntimeError(str(event.error))
            if isinstance(event, ImageDone):
                made[event.job_id] = event.picture

        for job in jobs:
            self._worker.submit(job, {}, emit, [0])
        while self._worker.busy:
            self._worker.tick()
        return np.asarray(made[jobs[0].id], np.int16)


def seconds_of(way: Way, jobs: Sequence[Job], device: str) -> float:
    """What all pictures take."""
    if not device.startswith("cuda"):
        begin = time.thread_time()
        way(jobs)
        return time.thread_time() - begin
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    way(jobs)
    torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def with_options(spec: ModelSpec, asked: Mapping[str, Any]) -> ModelSpec:
    """The model's entry with these and no other options."""
    values = spec.model_dump(mode="json", exclude_unset=True)
    kept = {key: value for key, value in values.items() if key not in OPTIONS}
    return ModelSpec.model_validate(kept | dict(asked) | {"preload": True, "modes": ["generate"]})


def built(
    spec: ModelSpec, device: str, names: Sequence[str]
) -> tuple[dict[str, Way], dict[str, Any]]:
    """An engine for each set of options that this machine has, and what is told of each."""
    ways: dict[str, Way] = {PLAIN: Plain(with_options(spec, {}), device)}
    told: dict[str, Any] = {}
    for name in names:
        begin = time.perf_counter()
        engine = Engine(with_options(spec, ASKED[name]), device)
        status = engine.status
        reasons = {key: one.reason for key, one in status.options.items() if one.reason}
        told[name] = {"reasons": reasons} if reasons else {"weight_bytes": status.weight_bytes}
        if status.reason:
            told[name] = {"reasons": {"load": status.reason}}
        if "reasons" not in told[name]:
            told[name]["load_seconds"] = round(time.perf_counter() - begin, 1)
            ways[name] = engine
    return ways, told


def compare(
    ways: Mapping[str, Way], jobs: Sequence[Job], rounds: int, device: str
) -> dict[str, dict[str, float]]:
    """Per way: seconds a picture, times as fast as diffusers, and how far from its picture."""
    first = {name: way(jobs) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 else list(reversed(ways)):
            taken[name].append(seconds_of(ways[name], jobs, device))
    return {
        name: {
            "seconds_per_picture": round(statistics.median(own) / len(jobs), 4),
            "times_as_fast": round(
                statistics.median(p / o for p, o in zip(taken[PLAIN], own, strict=True)), 3
            ),
            "largest_difference": int(np.abs(first[name] - first[PLAIN]).max()),
        }
        for name, own in taken.items()
    }


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--model", default="flux")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="names of options, separated by semicolons")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    torch.set_grad_enabled(False)
    names = asked.only.split(";") if asked.only else list(ASKED)
    with tempfile.TemporaryDirectory() as folder:
        catalog = load_catalog(asked.models) if asked.models else catalog_of(Path(folder))
        ways, told = built(catalog.models[asked.model], asked.device, names)
        jobs = [
            make_job(f"p{seed}", asked.model, asked.side, asked.steps, 3.0, seed)
            for seed in range(asked.pictures)
        ]
        for name, figures in compare(ways, jobs, asked.rounds, asked.device).items():
            told[name] = told.get(name, {}) | figures
    for name, one in told.items():
        print(f"{name}: {one}")
    how = {key: getattr(asked, key) for key in ("device", "model", "side", "steps", "pictures")}
    report.save("options", {**how, "rounds": asked.rounds, "ways": told})


if __name__ == "__main__":
    main()
