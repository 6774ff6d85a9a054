"""What does each option of speed and size bring? Attention, quantization, compiling, step caches.

    python -m benchmarks.options [--device cuda:0] [--models models.yaml] [--model flux-dev]
        [--scale full] [--side 1024] [--steps 28] [--pictures 1] [--only "none;compile"]

The same pictures are made by plain diffusers, one call after the other, and by the engine with each
option in turn, all in one process. For each: seconds a picture, how many times as fast as plain
diffusers in the same round (medians), the bytes of the weights, and how far the first picture is
from diffusers' own, of 255. What the machine lacks has its reason, and an option that fails ends
alone. Seconds are the CPU's, of the one thread that computes; on a card they are those of the
clock, after all of its work is done. Without a model the one that ships is taken. The device has to
hold the model twice.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks import report, subjects
from benchmarks.batching import catalog_of
from benchmarks.engine import Engine, Plain, mode_of, picture_of, seconds_of, settle
from inference import selftest
from inference.job import Job
from inference.model_spec import ModelSpec

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
    "compile, attention _native_cudnn": {"compile": True, "attention": "_native_cudnn"},
    "compile, torchao-int8": {"compile": True, "quantization": "torchao-int8"},
    "compile, torchao-float8, bfloat16": {
        "compile": True,
        "quantization": "torchao-float8",
        "dtype": "bfloat16",
    },
}
OPTIONS = ("attention", "quantization", "cache", "vae", "compile")
# On a card weights are bfloat16 anyway, and attention by plain sums takes minutes.
SENSELESS_ON_CARD = ("bfloat16", "attention _native_math")
# What leaves the arithmetic in 16 bits, and computes every step.
SAME_ARITHMETIC = {"none", "attention _native_flash", "attention _native_cudnn", "compile"}
LEAST_TIMES = 1.7

Picture = np.ndarray[Any, np.dtype[np.int16]]


def with_options(spec: ModelSpec, asked: Mapping[str, Any]) -> ModelSpec:
    """The model's entry with these and no other options."""
    values = spec.model_dump(mode="json", exclude_unset=True)
    kept = {key: value for key, value in values.items() if key not in OPTIONS}
    return ModelSpec.model_validate(kept | dict(asked) | {"modes": [mode_of(spec)]})


def compare(
    spec: ModelSpec, names: Sequence[str], jobs: Sequence[Job], rounds: int, device: str
) -> dict[str, Any]:
    """What each option brings, and plain diffusers beside them."""
    plain = Plain(with_options(spec, {}), device)
    first = as_numbers(plain.make(jobs), jobs)
    told: dict[str, Any] = {}
    for name in names:
        engine = Engine(subjects.catalog_of(with_options(spec, ASKED[name])), device)
        try:
            told[name] = _figures(engine, plain, jobs, rounds, device, first)
        except RuntimeError as error:
            told[name] = {"reasons": {"run": str(error)[:300]}}
        finally:
            engine.close()
            if ASKED[name].get("compile"):
                torch.compiler.reset()
        print(f"{name}: {told[name]}", flush=True)
    taken = [one["diffusers_seconds"] for one in told.values() if "diffusers_seconds" in one]
    if taken:
        told[PLAIN] = {"seconds_per_picture": statistics.median(taken), "times_as_fast": 1.0}
    plain.close()
    return told


def _figures(
    engine: Engine, plain: Plain, jobs: Sequence[Job], rounds: int, device: str, first: Picture
) -> dict[str, Any]:
    begin = time.perf_counter()
    status = engine.load(jobs[0].model)
    reasons = {key: one.reason for key, one in status.options.items() if one.reason}
    if status.reason:
        reasons["load"] = status.reason
    if reasons:
        return {"reasons": reasons}
    load_seconds = time.perf_counter() - begin
    made = as_numbers(engine.make(jobs).pictures, jobs)
    own, base = list[float](), list[float]()
    for number in range(rounds):
        turns: list[tuple[list[float], Callable[[Sequence[Job]], object]]]
        turns = [(own, engine.make), (base, plain.make)]
        for taken, make in turns if number % 2 else reversed(turns):
            taken.append(seconds_of(partial(make, jobs), device))
    ratios = [p / o for p, o in zip(base, own, strict=True)]
    return {
        "weight_bytes": status.weight_bytes,
        "working_bytes": status.working_bytes,
        "load_seconds": round(load_seconds, 1),
        "seconds_per_picture": round(statistics.median(own) / len(jobs), 4),
        "diffusers_seconds": round(statistics.median(base) / len(jobs), 4),
        "times_as_fast": round(statistics.median(ratios), 3),
        "largest_difference": int(np.abs(made - first).max()),
    }


def as_numbers(made: Mapping[str, Any], jobs: Sequence[Job]) -> Picture:
    """The first job's picture, in 0..255."""
    return np.asarray(made[jobs[0].id], np.int16)


def headlines(told: Mapping[str, Any], has_goals: bool) -> list[dict[str, Any]]:
    """The fastest options, with changed arithmetic and without."""
    speeds = {
        name: one["times_as_fast"]
        for name, one in told.items()
        if name != PLAIN and "times_as_fast" in one
    }
    exact = {
        name: speed for name, speed in speeds.items() if {*name.split(", ")} <= SAME_ARITHMETIC
    }
    found = []
    goals = ((speeds, LEAST_TIMES), (exact, None))
    for table, goal in (one for one in goals if one[0]):
        name = max(table, key=lambda key: table[key])
        what = "of all options" if table is speeds else "with 16-bit arithmetic and every step"
        told_name = f"fastest {what}, over eager diffusers: {name}"
        found.append(report.headline(told_name, table[name], least=goal if has_goals else None))
    return found


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    subjects.add_arguments(parser)
    parser.add_argument("--side", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="names of options, separated by semicolons")
    return parser


def main() -> None:
    """Run everything and report."""
    asked = command_line().parse_args()
    settle()
    if asked.pictures == 1:
        # nothing will share a forward, so nobody need know how many could
        selftest.MEASURED_SIZES = 1
    on_card = asked.device.startswith("cuda")
    names = [name for name in ASKED if not (on_card and name in SENSELESS_ON_CARD)]
    names = asked.only.split(";") if asked.only else names
    with tempfile.TemporaryDirectory() as folder:
        spec = catalog_of(Path(folder)).models["flux"]
        if asked.model:
            spec = subjects.spec_named(asked, asked.model)
        jobs = [
            picture_of(spec, seed, side=asked.side, steps=asked.steps)
            for seed in range(asked.pictures)
        ]
        ways = compare(spec, names, jobs, asked.rounds, asked.device)
    how = {"side": jobs[0].width, "steps": jobs[0].num_inference_steps, "pictures": len(jobs)}
    figures = {**subjects.told(asked, spec.name), **how, "rounds": asked.rounds, "ways": ways}
    lines = headlines(ways, subjects.has_goals(asked))
    report.save("options", figures, headlines=lines, folder=asked.results)


if __name__ == "__main__":
    main()
