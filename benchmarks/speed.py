"""What does the engine cost a lone request, and what does a crowd get? For every architecture.

    python -m benchmarks.speed [--device cuda:0] [--model klein,sdxl] [--scale full]
        [--rounds 3] [--crowd 8]

One model after the other, a picture at its own defaults: by plain diffusers and by the engine in
turn, whose ratio is what the engine costs where there is nothing to share; then a crowd that asks
at once, in pictures a second. A model that fails ends alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


from benchmarks import report, subjects
from benchmarks.checkpoints import SKELETONS
from benchmarks.engine import Engine, Plain, picture_of, seconds_of, settle
from inference.errors import ModelFailed
from inference.job import Job, Mode
from inference.model_spec import ModelSpec

LEAST_KLEIN = 3.6


def measure(
    spec: ModelSpec, device: str, *, rounds: int, crowd: int, side: int | None, steps: int | None
) -> dict[str, Any]:
    """Seconds of a lone picture both ways, and pictures a second of a crowd; raises ModelFailed."""
    plain, engine = Plain(spec, device), Engine(subjects.catalog_of(spec), device)
    try:
        status = engine.load(spec.name)
        if status.reason:
            raise ModelFailed(status.reason)
        alone = [picture_of(spec, 0, side=side, steps=steps)]
        ways: dict[str, Callable[[Sequence[Job]], object]]
        ways = {"diffusers": plain.make, "engine": engine.make}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name in list(ways) if number % 2 else list(reversed(ways)):
                seconds = seconds_of(partial(ways[name], alone), device)
                # the first round is to warm up
                taken[name] += [seconds] if number else []
        many = [picture_of(spec, one, side=side, steps=steps) for one in range(crowd)]
        together = [seconds_of(lambda: engine.make(many), device) for _ in range(2)]
    finally:
        plain.close()
        engine.close()
    pairs = zip(taken["engine"], taken["diffusers"], strict=True)
    return {
        "steps": alone[0].num_inference_steps,
        "side": alone[0].width,
        "weight_bytes": status.weight_bytes,
        "lane": status.lanes[alone[0].mode],
        "diffusers_seconds": round(statistics.median(taken["diffusers"]), 4),
        "engine_seconds": round(statistics.median(taken["engine"]), 4),
        "overhead": round(statistics.median(own / base for own, base in pairs) - 1, 4),
        "crowd": crowd,
        "crowd_pictures_per_second": round(crowd / min(together), 3),
    }


def one_mode(spec: ModelSpec) -> ModelSpec:
    """The entry for the one mode that is measured."""
    mode = Mode.GENERATE if Mode.GENERATE in spec.modes else spec.modes[0]
    return spec.model_copy(update={"modes": (mode,)})


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    subjects.add_arguments(parser, *SKELETONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crowd", type=int, default=8)
    parser.add_argument("--side", type=int)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    settle()
    sizes = {key: getattr(asked, key) for key in ("rounds", "crowd", "side", "steps")}
    found: dict[str, dict[str, Any]] = {}
    for name in subjects.names_of(asked):
        try:
            spec = one_mode(subjects.spec_named(asked, name))
            found[name] = measure(spec, asked.device, **sizes)
        except (ModelFailed, RuntimeError, SystemExit) as error:
            found[name] = {"failed": str(error)[:300]}
        print(name, found[name], flush=True)
    lines = []
    for name, own in found.items():
        if "failed" in own:
            continue
        lines.append(report.headline(f"{name}: more time alone than diffusers", own["overhead"]))
        goal = LEAST_KLEIN if name == "klein" and subjects.has_goals(asked) else None
        what = f"{name}: pictures a second, {own['steps']} steps at {own['side']} px"
        lines.append(report.headline(what, own["crowd_pictures_per_second"], least=goal))
    about = {**subjects.told(asked, asked.model), **sizes, "models": found}
    report.save("speed", about, headlines=lines, folder=asked.results)


if __name__ == "__main__":
    main()
