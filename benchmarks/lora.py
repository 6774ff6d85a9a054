"""What do LoRAs cost in one batch? Eight of them together, against none and one at a time.

    python -m benchmarks.lora [--rounds 7] [--adapters 8] [--strengths 2] [--only flux]

The same pictures, all asked for at once, are made four ways in turn: without any LoRA; with each
its own adapter and strength, mixed in one forward; the same by an engine that allows a forward one
adapter; and by diffusers alone, which sets its adapters for each call. Seconds are the CPU's, of
the one thread that computes. Ratios are taken within a round; their medians are printed and saved
beside this file with the machine's name.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog
import torch
from safetensors.torch import save_file

from benchmarks import report
from benchmarks.batching import catalog_of
from benchmarks.traces import make_job
from inference.calls import generator
from inference.catalog import Catalog
from inference.events import Event, Failed, ImageDone
from inference.job import Job, Lora, Mode
from inference.loading import load_pipelines
from inference.loras.spec import LoraSpec
from inference.pixels import Pictures
from inference.settings import EngineSettings
from inference.worker import Worker

RANK = 8
SIDES = {"flux": (64, 128), "sdxl": (64, 128)}
STEPS = 8
# What LoRAs are mostly trained on: the projections of attention, and the layers between.
ADAPTED = (".to_q", ".to_k", ".to_v", ".to_out.0", ".net.0.proj", ".net.2", ".proj_mlp")

Way = Callable[[Sequence[Job]], float]


def adapter_file(denoiser: Any, component: str, seed: int, path: Path) -> Path:
    """A random LoRA of rank 8 on the usual layers, as a file."""
    dice = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for name, layer in denoiser.named_modules():
        if name.endswith(ADAPTED):
            key = f"{component}.{name}"
            inner, outer = layer.in_features, layer.out_features
            weights[f"{key}.lora_A.weight"] = torch.randn(RANK, inner, generator=dice) / inner
            weights[f"{key}.lora_B.weight"] = torch.randn(outer, RANK, generator=dice)
    save_file(weights, path)
    return path


def with_adapters(catalog: Catalog, count: int, folder: Path) -> Catalog:
    """The catalog, each model with so many LoRAs of its own."""
    models = {}
    for name, spec in catalog.models.items():
        component = spec.rules.denoisers[0]
        denoiser = getattr(load_pipelines(spec, "cpu")[Mode.GENERATE], component)
        paths = [
            adapter_file(denoiser, component, seed, folder / f"{name}-{seed}.safetensors")
            for seed in range(count)
        ]
        loras = {f"l{seed}": LoraSpec(source=str(path)) for seed, path in enumerate(paths)}
        models[name] = spec.model_copy(update={"loras": loras})
    return catalog.model_copy(update={"models": models})


def jobs_of(model: str, side: int, adapters: int, strengths: int) -> list[Job]:
    """A picture for each adapter at each strength, strengths from 1 down."""
    return [
        replace(
            make_job(f"l{adapter}-{part}", model, side, STEPS, 3.0, adapter),
            loras=(Lora(name=f"l{adapter}", strength=1 - part / strengths),),
        )
        for part in range(strengths)
        for adapter in range(adapters)
    ]


class Engine:
    """Darkroom's worker, ticked on this thread."""

    def __init__(self, catalog: Catalog) -> None:
        self._worker = Worker("cpu", catalog, EngineSettings())
        self._worker.prepare()

    def make(self, jobs: Sequence[Job], most_per_forward: int) -> float:
        """CPU seconds for all pictures."""
        # one worker for every way: another would have measured other token budgets at its start
        self._worker._settings = EngineSettings(max_loras_per_forward=most_per_forward)
        done: list[str] = []

        def emit(event: Event) -> None:
            if isinstance(event, Failed):
                raise RuntimeError(str(event.error))
            if isinstance(event, ImageDone):
                done.append(event.job_id)

        begin = time.thread_time()
        for job in jobs:
            self._worker.submit(job, {}, emit, [0])
        while self._worker.busy:
            self._worker.tick()
        assert len(done) == len(jobs), "every picture is made"
        return time.thread_time() - begin


class Diffusers:
    """A loop over `pipe()`, the adapters loaded before and set for each call."""

    def __init__(self, catalog: Catalog) -> None:
        self._specs = catalog.models
        self._pipes: dict[str, Any] = {}
        for name, spec in catalog.models.items():
            pipe = load_pipelines(spec, "cpu")[Mode.GENERATE]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft, of every adapter but the first
                for key, lora in spec.loras.items():
                    pipe.load_lora_weights(lora.source, adapter_name=key)
            self._pipes[name] = pipe

    def make(self, jobs: Sequence[Job]) -> float:
        """CPU seconds for all pictures."""
        begin = time.thread_time()
        for job in jobs:
            pipe, spec = self._pipes[job.model], self._specs[job.model]
            pipe.set_adapters([one.name for one in job.loras], [one.strength for one in job.loras])
            arguments = spec.rules.routes[Mode.GENERATE].arguments(job, spec, Pictures())
            pipe(**arguments, generator=generator(job.seeds[0]))
        return time.thread_time() - begin


def ways(catalog: Catalog, adapters: int) -> dict[str, Way]:
    """The four by name."""
    engine, diffusers = Engine(catalog), Diffusers(catalog)
    return {
        "none": lambda jobs: engine.make([replace(job, loras=()) for job in jobs], adapters),
        "mixed": lambda jobs: engine.make(jobs, adapters),
        "one at a time": lambda jobs: engine.make(jobs, 1),
        "diffusers": diffusers.make,
    }


def compare(jobs: Sequence[Job], table: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Medians over the rounds of how many times as fast `mixed` is as each of the others."""
    for way in table.values():
        way(jobs)
    ratios: dict[str, list[float]] = {name: [] for name in table}
    for number in range(rounds):
        order = list(table) if number % 2 else list(reversed(table))
        taken = {name: table[name](jobs) for name in order}
        for name, seconds in taken.items():
            ratios[name].append(seconds / taken["mixed"])
    return {name: statistics.median(own) for name, own in ratios.items() if name != "mixed"}


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--strengths", type=int, default=2)
    parser.add_argument("--only", choices=sorted(SIDES))
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_grad_enabled(False)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        catalog = with_adapters(catalog_of(Path(folder)), options.adapters, Path(folder))
        table = ways(catalog, options.adapters)
        for model in [options.only] if options.only else list(SIDES):
            for side in SIDES[model]:
                jobs = jobs_of(model, side, options.adapters, options.strengths)
                name = f"{model}, {side} px"
                results[name] = compare(jobs, table, options.rounds)
                cells = "  ".join(f"{key} {ratio:.2f}" for key, ratio in results[name].items())
                print(f"{name}: {len(jobs)} pictures mixed are so many times as fast as  {cells}")
    asked = {"adapters": options.adapters, "strengths": options.strengths, "rank": RANK}
    report.save("lora", {**asked, "mixed_speed_over": results})


if __name__ == "__main__":
    main()
