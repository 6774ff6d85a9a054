"""What does the engine cost a lone request, and what does a crowd get? For every architecture.

    python -m benchmarks.speed [--device cuda:0] [--model klein,sdxl] [--scale full]
        [--rounds 3] [--crowd 8] [--most-steps 12]

One model after the other, a picture at its own defaults: by plain diffusers, and then by the
engine, so that the device holds one of them at a time. Their ratio is what the engine costs where
there is nothing to share. Then a crowd asks at once, in pictures a second. A model that fails ends
alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


from benchmarks import report, subjects
from benchmarks.checkpoints import SKELETONS
from benchmarks.engine import Engine, Plain, mode_of, picture_of, release, seconds_of, settle
from inference.errors import ModelFailed
from inference.model_spec import ModelSpec

LEAST_KLEIN = 3.6


def measure(
    spec: ModelSpec, device: str, *, rounds: int, crowd: int, side: int | None, steps: int
) -> dict[str, Any]:
    """Seconds of a lone picture both ways, and pictures a second of a crowd; raises ModelFailed."""
    steps = min(steps, spec.defaults.num_inference_steps)
    alone, *others = (picture_of(spec, one, side=side, steps=steps) for one in range(crowd))
    plain = Plain(spec, device)
    base = typical_seconds(partial(plain.make, [alone]), rounds, device)
    plain.close()
    engine = Engine(subjects.catalog_of(spec), device)
    try:
        status = engine.load(spec.name)
        if status.reason:
            raise ModelFailed(status.reason)
        own = typical_seconds(partial(engine.make, [alone]), rounds, device)
        together = typical_seconds(partial(engine.make, [alone, *others]), 2, device)
    finally:
        engine.close()
    return {
        "steps": steps,
        "side": alone.width,
        "weight_bytes": status.weight_bytes,
        "lane": status.lanes[alone.mode],
        "diffusers_seconds": round(base, 4),
        "engine_seconds": round(own, 4),
        "overhead": round(own / base - 1, 4),
        "crowd": crowd,
        "crowd_pictures_per_second": round(crowd / together, 3),
    }


def typical_seconds(action: Callable[[], object], rounds: int, device: str) -> float:
    """The median, after one to warm up."""
    action()
    return statistics.median(seconds_of(action, device) for _ in range(rounds))


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    subjects.add_arguments(parser, *SKELETONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crowd", type=int, default=8)
    parser.add_argument("--side", type=int)
    parser.add_argument("--most-steps", type=int, default=12, help="of models that take more")
    return parser


def main() -> None:
    """Run everything and report."""
    asked = command_line().parse_args()
    settle()
    sizes = {"rounds": asked.rounds, "crowd": asked.crowd, "side": asked.side}
    sizes |= {"steps": asked.most_steps}
    found: dict[str, dict[str, Any]] = {}
    for name in subjects.names_of(asked):
        try:
            spec = subjects.spec_named(asked, name)
            spec = spec.model_copy(update={"modes": (mode_of(spec),)})
            found[name] = measure(spec, asked.device, **sizes)
        except (ModelFailed, RuntimeError, SystemExit) as error:
            found[name] = {"failed": str(error)[:300]}
            release(asked.device)
        print(name, found[name], flush=True)
    lines = []
    for name, own in found.items():
        if "failed" in own:
            continue
        lines.append(report.headline(f"{name}: more time alone than diffusers", own["overhead"]))
        goal = LEAST_KLEIN if name == "klein" and subjects.has_goals(asked) else None
        what = f"{name}: pictures a second, {own['steps']} steps at {own['side']} px"
        lines.append(report.headline(what, own["crowd_pictures_per_second"], least=goal))
    about = {**subjects.told(asked, asked.model), "rounds": asked.rounds, "models": found}
    report.save("speed", about, headlines=lines, folder=asked.results)


if __name__ == "__main__":
    main()
