"""What do LoRAs cost in one batch? Eight of them together, against none and one at a time.

    python -m benchmarks.lora [--rounds 7] [--adapters 8] [--strengths 2] [--sides 64,128]
        [--device cuda:0] [--models models.yaml] [--model klein] [--scale full]

The same pictures, all asked for at once, are made four ways in turn: without any LoRA; with each
its own adapter and strength, mixed in one forward; the same by an engine that allows a forward one
adapter; and by diffusers alone, which sets its adapters for each call. Seconds are the CPU's, of
the one thread that computes; on a card the clock's. Ratios are taken within a round; their medians
are printed and saved beside this file with the machine's name.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import save_file

from benchmarks import report, subjects
from benchmarks.batching import catalog_asked
from benchmarks.engine import Engine, seconds_of, settle
from benchmarks.traces import make_job
from inference.calls import generator
from inference.catalog import Catalog
from inference.check.blueprint import build
from inference.job import Job, Lora, Mode
from inference.loading import folders_of, load_pipelines
from inference.loras.spec import LoraSpec
from inference.model_spec import ModelSpec
from inference.pixels import Pictures

RANK = 8
STEPS = 8
LEAST_OF_NONE, LEAST_OVER_ONE = 0.9, 1.5
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
        denoiser = _shape_of(spec, component)
        paths = [
            adapter_file(denoiser, component, seed, folder / f"{name}-{seed}.safetensors")
            for seed in range(count)
        ]
        loras = {f"l{seed}": LoraSpec(source=str(path)) for seed, path in enumerate(paths)}
        models[name] = spec.model_copy(update={"loras": loras})
    return catalog.model_copy(update={"models": models})


def _shape_of(spec: ModelSpec, component: str) -> Any:
    if folders := folders_of(spec):
        return build(folders, torch.float32).parts[component]
    # not fetched yet
    return getattr(load_pipelines(spec, "cpu")[Mode.GENERATE], component)


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


class Diffusers:
    """A loop over `pipe()`, the adapters loaded before and set for each call."""

    def __init__(self, catalog: Catalog, device: str) -> None:
        self._specs = catalog.models
        self._pipes: dict[str, Any] = {}
        for name, spec in catalog.models.items():
            pipe = load_pipelines(spec, device)[Mode.GENERATE]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft, of every adapter but the first
                for key, lora in spec.loras.items():
                    pipe.load_lora_weights(lora.source, adapter_name=key)
            self._pipes[name] = pipe

    def make(self, jobs: Sequence[Job]) -> None:
        """One after the other."""
        for job in jobs:
            pipe, spec = self._pipes[job.model], self._specs[job.model]
            pipe.set_adapters([one.name for one in job.loras], [one.strength for one in job.loras])
            arguments = spec.rules.routes[Mode.GENERATE].arguments(job, spec, Pictures())
            pipe(**arguments, generator=generator(job.seeds[0]))


def ways(catalog: Catalog, adapters: int, device: str = "cpu") -> dict[str, Way]:
    """The four by name."""
    engine, diffusers = Engine(catalog, device), Diffusers(catalog, device)
    for name in catalog.models:
        engine.load(name)

    def mixed(jobs: Sequence[Job], most_per_forward: int) -> float:
        # one worker for every way: another would have measured other token budgets at its start
        engine.mix_at_most(most_per_forward)
        return seconds_of(partial(engine.make, jobs), device)

    return {
        "none": lambda jobs: mixed([replace(job, loras=()) for job in jobs], adapters),
        "mixed": lambda jobs: mixed(jobs, adapters),
        "one at a time": lambda jobs: mixed(jobs, 1),
        "diffusers": lambda jobs: seconds_of(partial(diffusers.make, jobs), device),
    }


def compare(jobs: Sequence[Job], table: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Medians over the rounds of how many times as fast `mixed` is as each of the others."""
    for way in table.values():
        way(jobs)
    ratios: dict[str, list[float]] = {name: [] for name in table}
    for number in range(rounds):
        order = list(table) if number % 2 else [*table][::-1]
        taken = {name: table[name](jobs) for name in order}
        for name, seconds in taken.items():
            ratios[name].append(seconds / taken["mixed"])
    return {name: statistics.median(own) for name, own in ratios.items() if name != "mixed"}


def headlines(results: Mapping[str, Mapping[str, float]], has_goals: bool) -> list[dict[str, Any]]:
    """What mixing costs against no LoRA, and gains against one at a time."""
    found = []
    for name, ratios in results.items():
        for other, least in (("none", LEAST_OF_NONE), ("one at a time", LEAST_OVER_ONE)):
            what = f"{name}: throughput of mixed LoRAs, over {other}"
            goal = least if has_goals else None
            found.append(report.headline(what, round(ratios[other], 3), least=goal))
    return found


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--strengths", type=int, default=2)
    parser.add_argument("--sides", default="64,128", help="in pixels, with commas between")
    subjects.add_arguments(parser)
    return parser


def main() -> None:
    """Run everything and report."""
    options = command_line().parse_args()
    settle()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = catalog_asked(options, Path(folder))
        catalog = with_adapters(plain, options.adapters, Path(folder))
        table = ways(catalog, options.adapters, options.device)
        for model in catalog.models:
            for side in map(int, options.sides.split(",")):
                jobs = jobs_of(model, side, options.adapters, options.strengths)
                name = f"{model}, {side} px"
                results[name] = compare(jobs, table, options.rounds)
                cells = "  ".join(f"{key} {ratio:.2f}" for key, ratio in results[name].items())
                print(f"{name}: {len(jobs)} pictures mixed are so many times as fast as  {cells}")
    about = subjects.told(options, ",".join(catalog.models))
    about |= {"adapters": options.adapters, "strengths": options.strengths, "rank": RANK}
    lines = headlines(results, subjects.has_goals(options))
    figures = {**about, "mixed_speed_over": results}
    report.save("lora", figures, headlines=lines, folder=options.results)


if __name__ == "__main__":
    main()
