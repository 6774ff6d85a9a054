"""What does each way of offloading save and cost, and what does a small budget leave of the speed?

    python -m benchmarks.memory [--device cuda:0] [--models models.yaml] [--model flux-dev]
        [--scale full] [--text full] [--pictures 4] [--crowd 6] [--budget-gb 12]

One model is served four times: with its weights on the device, a part at a time, by blocks and by
layers. For each: the most bytes on the device while pictures are made, and seconds a picture, after
one to warm up. Then a crowd asks at once, of the resident model, and of one that comes by blocks
within a budget. On a CPU there is nowhere to offload to: every mode is "none" there, the figures
say so, and their bytes are what the weights and the tracked operations take.
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks import report, subjects
from benchmarks.engine import Engine, picture_of, seconds_of, settle
from inference import selftest
from inference.job import Job
from inference.model_spec import ModelSpec
from inference.residency.offload import Offload
from inference.status import ModelStatus

MIB = 1024**2
LEAST_SHARE = 0.8


def serve(
    spec: ModelSpec, mode: Offload, device: str, rounds: list[list[Job]], budget: int | None = None
) -> dict[str, Any]:
    """The figures of one mode: each round's jobs asked for at once, after the first as warm-up."""
    own = spec.model_copy(update={"offload": mode.value})
    engine = Engine(subjects.catalog_of(own), device, device_memory_bytes=budget)
    status = engine.load(own.name)
    on_card = device.startswith("cuda")
    try:
        engine.make(rounds[0])
        if on_card:
            torch.cuda.reset_peak_memory_stats(device)
        seconds = [seconds_of(partial(engine.make, jobs), device) for jobs in rounds[1:]]
        counted = engine.used_bytes
        peak = torch.cuda.max_memory_allocated(device) if on_card else counted
    except RuntimeError as error:
        return {"requested": mode.value, "failed": str(error)[:300]}
    finally:
        engine.close()
    return {
        "requested": mode.value,
        "effective": effective(status),
        "peak_mib": round(peak / MIB, 1),
        "is_measured": on_card,
        "counted_mib": round(counted / MIB, 1),
        "seconds_per_picture": round(statistics.median(seconds) / len(rounds[0]), 4),
    }


def effective(status: ModelStatus) -> str:
    """What became of the mode."""
    options = status.options.get("offload")
    return options.effective if options is not None else Offload.NONE.value


def modes(
    spec: ModelSpec, device: str, pictures: int, side: int | None, steps: int | None
) -> list[dict[str, Any]]:
    """Each way of offloading, one picture at a time."""
    # room for one picture at a time: how many share a forward is timed anew for each mode
    before, selftest.MEASURED_SIZES = selftest.MEASURED_SIZES, 1
    rounds = [[picture_of(spec, one, side=side, steps=steps)] for one in range(pictures + 1)]
    rows = []
    for mode in Offload:
        rows.append(serve(spec, mode, device, rounds))
        print(rows[-1], flush=True)
    selftest.MEASURED_SIZES = before
    return rows


def crowd(
    spec: ModelSpec, device: str, size: int, side: int | None, steps: int | None, budget: int
) -> dict[str, Any]:
    """So many at once, resident and within the budget; the share of the resident's throughput."""
    rounds = [
        [picture_of(spec, size * turn + one, side=side, steps=steps) for one in range(size)]
        for turn in range(3)
    ]
    resident = serve(spec, Offload.NONE, device, rounds)
    within = serve(spec, Offload.GROUP, device, rounds, budget)
    told: dict[str, Any] = {"pictures": size, "budget_mib": round(budget / MIB, 1)}
    if "failed" not in resident and "failed" not in within:
        ratio = resident["seconds_per_picture"] / within["seconds_per_picture"]
        told["share_of_resident"] = round(ratio, 3)
        told["is_within"] = within["peak_mib"] * MIB <= budget
    return {**told, "resident": resident, "within": within}


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    subjects.add_arguments(parser, "flux-dev")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--side", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--crowd", type=int, default=6)
    parser.add_argument("--budget-gb", type=float, default=12.0)
    return parser


def main() -> None:
    """Run everything and report."""
    asked = command_line().parse_args()
    settle()
    spec = subjects.spec_named(asked, asked.model)
    sizes = (asked.side, asked.steps)
    rows = modes(spec, asked.device, asked.pictures, *sizes)
    together = crowd(spec, asked.device, asked.crowd, *sizes, int(asked.budget_gb * 1e9))
    lines = []
    if (share := together.get("share_of_resident")) is not None:
        what = f"throughput of {asked.crowd} at once in {asked.budget_gb:g} GB, of the resident's"
        goal = LEAST_SHARE if subjects.has_goals(asked) else None
        lines.append(report.headline(what, share, least=goal))
    about = subjects.told(asked, spec.name)
    about |= {"side": asked.side or spec.default_size[0], "steps": asked.steps}
    figures = {**about, "modes": rows, "crowd": together}
    report.save("memory", figures, headlines=lines, folder=asked.results)


if __name__ == "__main__":
    main()
