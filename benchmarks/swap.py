"""How long until the first step of a model that has to take another's place, coming from RAM?

    python -m benchmarks.swap [--device cuda:0] [--model flux-dev,qwen-image] [--scale full]
        [--rounds 5]

Two models on a device whose budget of bytes holds one of them, with copies of both in RAM. Pictures
are asked for in turn, so that each request is a swap, and once more of the same model, which is
none. For each: seconds from the request to the end of its first step, against what copying as many
bytes from pinned memory takes in the same run: the floor of the link. On a CPU both places are the
same memory: the swap is made, nothing is copied, and the floor is that of a copy within RAM.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks import report, subjects
from benchmarks.engine import Engine, picture_of, settle
from inference import selftest
from inference.model_spec import ModelSpec
from inference.residency.memory import machine_bytes
from inference.residency.standing import Budget
from inference.status import ModelState

MOST_FLOORS = 1.5
# Of the machine's memory: both models' copies, and room for reading them.
_RAM_SHARE = 0.8
_PIECE_BYTES = 1 << 30


def link_seconds(size: int, device: str) -> float:
    """What copying so many bytes from pinned memory to the device takes, best of three."""
    on_card = device.startswith("cuda")
    piece = min(size, _PIECE_BYTES)
    here = torch.ones(piece, dtype=torch.uint8, pin_memory=on_card)
    there = torch.empty(piece, dtype=torch.uint8, device=device)

    def copy_all() -> float:
        if on_card:
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        for start in range(0, size, piece):
            part = min(piece, size - start)
            there[:part].copy_(here[:part], non_blocking=True)
        if on_card:
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    copy_all()
    return min(copy_all() for _ in range(3))


def device_for_one(asked: argparse.Namespace, names: Sequence[str]) -> tuple[Engine, list[Any]]:
    """An engine with copies of all in RAM, and room on the device for any one; what it tells.

    Where the disk holds one random checkpoint at a time, each is read before the next is written;
    with models that may share parts, such as CLIP, that would be compared and are gone, it fails.
    """
    is_roomy = asked.models is not None or subjects.fit_together(asked, names)
    if is_roomy:
        for name in names:
            subjects.spec_named(asked, name, keep=names)
    specs = [subjects.spec_unwritten(asked, name) for name in names]
    ram = int(machine_bytes() * _RAM_SHARE)
    engine = Engine(subjects.catalog_of(*specs), asked.device, ram_bytes=ram)
    for name in names:
        subjects.spec_named(asked, name, keep=names if is_roomy else ())
        status = engine.load(name)
        if status.reason:
            raise SystemExit(f"{name}: {status.reason}")
    told = [engine.status(name) for name in names]
    needed = max(one.weight_bytes + one.working_bytes for one in told)
    engine.narrow(Budget(device_bytes=needed, ram_bytes=ram))
    return engine, told


def first_step_seconds(engine: Engine, spec: ModelSpec, number: int, side: int | None) -> float:
    """From the request to the end of its first step."""
    job = picture_of(spec, number, side=side, steps=2)
    return engine.make([job]).first_steps[job.id]


def compare(
    engine: Engine, specs: Sequence[ModelSpec], rounds: int, side: int | None
) -> dict[str, dict[str, float]]:
    """Per model the medians over the rounds: seconds to the first step after a swap, and without.

    The first round is to warm up.
    """
    swapped: dict[str, list[float]] = {spec.name: [] for spec in specs}
    resident: dict[str, list[float]] = {spec.name: [] for spec in specs}
    for number in range(rounds + 1):
        for spec in specs:
            before = engine.swaps
            taken = first_step_seconds(engine, spec, 2 * number, side)
            assert number == 0 or engine.swaps == before + 1, "each request is a swap"
            left = [engine.status(one.name).state for one in specs if one is not spec]
            assert set(left) <= {ModelState.IN_RAM}, "whoever leaves stays in RAM"
            again = first_step_seconds(engine, spec, 2 * number + 1, side)
            if number:
                swapped[spec.name].append(taken)
                resident[spec.name].append(again)
    return {
        spec.name: {
            "first_step_seconds": round(statistics.median(swapped[spec.name]), 4),
            "resident_first_step_seconds": round(statistics.median(resident[spec.name]), 4),
        }
        for spec in specs
    }


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    subjects.add_arguments(parser, "flux-dev", "qwen-image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int)
    return parser


def main() -> None:
    """Run everything and report."""
    asked = command_line().parse_args()
    settle()
    # one picture at a time
    selftest.MEASURED_SIZES = 1
    names = subjects.names_of(asked)
    engine, statuses = device_for_one(asked, names)
    specs = [subjects.spec_unwritten(asked, name) for name in names]
    found: dict[str, dict[str, Any]] = dict(compare(engine, specs, asked.rounds, asked.side))
    lines = []
    for status in statuses:
        own, size = found[status.name], status.weight_bytes
        floor = link_seconds(size, asked.device)
        own |= {"weight_bytes": size, "floor_seconds": round(floor, 5)}
        own["link_gb_per_second"] = round(size / floor / 1e9, 1)
        own["floors"] = round(own["first_step_seconds"] / floor, 3)
        what = f"request to first step of {status.name} after a swap"
        if asked.device.startswith("cuda"):
            goal = MOST_FLOORS if subjects.has_goals(asked) else None
            lines.append(
                report.headline(f"{what}, in floors of the link", own["floors"], most=goal)
            )
        else:
            lines.append(report.headline(f"{what}, in seconds", own["first_step_seconds"]))
        print(status.name, own, flush=True)
    engine.close()
    about = {**subjects.told(asked, ",".join(names)), "rounds": asked.rounds, "models": found}
    report.save("swap", about, headlines=lines, folder=asked.results)


if __name__ == "__main__":
    main()
