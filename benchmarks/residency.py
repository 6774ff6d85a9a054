"""What does it cost to share a device for one among three models, and who waits how long?

    python -m benchmarks.residency [--requests 60] [--rounds 3]

Sixty requests for three models in a shuffled order, on a device whose budget of bytes holds one of
them. Darkroom's worker against the same worker that takes them first come, first served: one
request after the other, each loading its model where another's is loaded. Two traces: all at once,
and as Poisson arrivals with a bound on waiting so short that it counts. Both run on one thread
against a clock that counts CPU time and jumps over idle stretches. Prints swaps, waits until the
first step, and throughput; saved beside this file with the machine's name.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog
import torch

from benchmarks import report
from benchmarks.traces import Arrival, make_job
from inference import selftest, skeletons
from inference.catalog import Catalog
from inference.events import Event, Failed, ImageDone, Progress
from inference.residency.plan import Patience
from inference.residency.standing import Budget
from inference.settings import EngineSettings
from inference.status import ModelAction
from inference.worker import Worker

MODELS = ("a", "b", "c")
SIDE_PX = 128
STEPS = (4, 20)


class Clock:
    """CPU seconds of this process, those of threads that read weights included, plus jumps."""

    def __init__(self) -> None:
        self._skipped = -time.process_time()

    def __call__(self) -> float:
        return time.process_time() + self._skipped

    def jump_to(self, at: float) -> None:
        """Idle until `at`."""
        self._skipped += max(0.0, at - self())


@dataclass
class Run:
    """What became of a trace: seconds from arrival to the first step and to the end."""

    swaps: int = 0
    starts: dict[str, float] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)


def catalog_of(folder: Path) -> Catalog:
    """Three models of one size, no two parts of them the same."""
    models = {}
    for seed, name in enumerate(MODELS):
        skeletons.tiny_flux(seed=seed).save_pretrained(folder / name)
        models[name] = {
            "name": name,
            "family": "flux",
            "source": str(folder / name),
            "modes": ("generate",),
            "max_sequence_length": 16,
            "defaults": {"size": (SIDE_PX, SIDE_PX)},
            "limits": {"min_side": 64, "max_side": SIDE_PX},
        }
    return Catalog.model_validate({"models": models})


def trace_of(requests: int, gap_seconds: float, seed: int) -> list[Arrival]:
    """As many requests for each model, shuffled; Poisson with a mean gap, or all at once."""
    dice = random.Random(seed)
    names = [MODELS[number % len(MODELS)] for number in range(requests)]
    dice.shuffle(names)
    at, arrivals = 0.0, []
    for number, name in enumerate(names):
        job = make_job(f"r{number}", name, SIDE_PX, dice.randint(*STEPS), 3.0, number)
        arrivals.append(Arrival(at, job))
        at += dice.expovariate(1 / gap_seconds) if gap_seconds else 0.0
    return arrivals


def run(worker: Worker, clock: Clock, trace: Sequence[Arrival], at_once: int) -> Run:
    """The trace through a worker that is given at most `at_once` requests at a time."""
    made, coming, begin = Run(), deque(trace), clock()
    due = {one.job.id: begin + one.at for one in trace}
    before, failed = worker.status(True).swaps, list[str]()

    def emit(event: Event) -> None:
        if isinstance(event, Failed):
            failed.append(str(event.error))
        if isinstance(event, Progress) and event.step == 1:
            made.starts[event.job_id] = clock() - due[event.job_id]
        if isinstance(event, ImageDone):
            made.ends[event.job_id] = clock() - due[event.job_id]

    given = 0
    while coming or worker.busy:
        if failed:
            raise RuntimeError(failed[0])
        if not worker.busy and coming:
            clock.jump_to(due[coming[0].job.id])
        while coming and given - len(made.ends) < at_once and due[coming[0].job.id] <= clock():
            given += 1
            worker.submit(coming.popleft().job, {}, emit, [0])
        worker.tick()
    made.swaps = worker.status(True).swaps - before
    return made


def device_for_one(catalog: Catalog) -> tuple[Worker, Clock]:
    """A worker whose device holds one of the models, all of which it has tested."""
    # one call to a forward: the question is who waits for which model, and not who shares a step
    selftest.MEASURED_SIZES = 1
    clock = Clock()
    worker = Worker("cpu", catalog, EngineSettings(preview_side_px=0, ram_bytes=0), clock)
    for name in MODELS:
        worker._residents.get(name)
    found = worker.status(True).models
    needed = max(one.weight_bytes + one.working_bytes for one in found)
    pair = sum(sorted(one.weight_bytes for one in found)[:2])
    assert needed < pair + min(one.working_bytes for one in found), "no two of them fit"
    worker._residents.budget = Budget(device_bytes=needed, ram_bytes=0)
    for name in MODELS:
        worker.command(name, ModelAction.UNLOAD)
    while worker.at_work:
        worker.tick()
    # each once more from its files: what that takes is known from here on
    for name in MODELS:
        worker._residents.get(name)
    return worker, clock


def figures(found: Run, trace: Sequence[Arrival]) -> dict[str, float]:
    """Swaps, waits until the first step in seconds, and requests a second."""
    starts = sorted(found.starts.values())
    last = max(found.ends[one.job.id] + one.at for one in trace)
    return {
        "swaps": found.swaps,
        "wait_p50_seconds": round(starts[len(starts) // 2], 3),
        "wait_longest_seconds": round(starts[-1], 3),
        "requests_per_second": round(len(trace) / last, 3),
    }


def service_seconds(worker: Worker, clock: Clock, model: str) -> float:
    """CPU seconds of a mean request for a model that is loaded, alone."""
    worker._residents.get(model)
    jobs = [make_job(f"s{steps}", model, SIDE_PX, steps, 3.0, 0) for steps in STEPS]
    found = run(worker, clock, [Arrival(0.0, job) for job in jobs], 1)
    return max(found.ends.values()) / len(jobs)


def compare(
    worker: Worker, clock: Clock, requests: int, load: float | None, bound: float, seed: int
) -> dict[str, dict[str, float]]:
    """Both ways on one trace; `bound` in mean requests, of which `load` come in the time of one."""
    mean = service_seconds(worker, clock, MODELS[0])
    trace = trace_of(requests, mean / load if load else 0.0, seed)
    patience = Patience(age_bound_seconds=bound * mean, min_stay_seconds=mean)
    worker._residents._patience = patience
    told: dict[str, dict[str, float]] = {}
    for name, at_once in (("first come, first served", 1), ("darkroom", requests)):
        worker._residents.get(MODELS[0])
        told[name] = figures(run(worker, clock, trace, at_once), trace)
    told["bound"] = {"seconds": round(bound * mean, 3), "mean_request_seconds": round(mean, 3)}
    return told


QUESTIONS: dict[str, tuple[float | None, float]] = {
    # how many mean requests' time: the first bound is never reached, the second is
    "all at once": (None, 300.0),
    "poisson, load 0.5": (0.5, 100.0),
}


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser


def main() -> None:
    """Run everything and report."""
    options = command_line().parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_grad_enabled(False)
    results: dict[str, list[dict[str, dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        worker, clock = device_for_one(catalog_of(Path(folder)))
        for question, (load, bound) in QUESTIONS.items():
            rounds = [
                compare(worker, clock, options.requests, load, bound, seed)
                for seed in range(options.rounds)
            ]
            results[question] = rounds
            for told in rounds:
                print(question, *(f"{name}: {values}" for name, values in told.items()), sep="\n  ")
    figures = {"requests": options.requests, "models": len(MODELS), **results}
    report.save("residency", figures, folder=options.results)


if __name__ == "__main__":
    main()
