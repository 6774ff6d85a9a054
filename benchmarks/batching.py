"""Does step-level batching pay, and for whom? Darkroom's engine against three other ways.

    python -m benchmarks.batching [--repeats 3] [--requests 40] [--only flux]
        [--device cuda:0] [--model sdxl] [--scale full] [--sides 512,768,1024] [--traces mixed]

Every trace is run by every system in turn, several times over, in one process. The ratio to the
sequential loop of the same round is what counts; the medians of the rounds are printed, and saved
beside this file with the machine's name. Without a model the two small ones are taken, on the CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import report, subjects
from benchmarks.engine import seconds_of, settle
from benchmarks.systems import Finished, all_systems
from benchmarks.traces import Arrival, mixed, short_behind_long, uniform
from inference.catalog import Catalog
from inference.job import Mode
from inference.skeletons import tiny_sdxl

Trace = list[Arrival]
System = Callable[[Sequence[Arrival]], Finished]
LEAST_MIXED = 1.15


def catalog_of(folder: Path) -> Catalog:
    """The demo model with its sizes set free, and a random SDXL of about its size."""
    tiny_sdxl(width=64).save_pretrained(folder / "sdxl")
    limits = {"min_side": 64, "max_side": 256}
    flux = {
        "family": "flux",
        "source": "builtin:tiny-flux",
        "guidance_field": "true_cfg_scale",
        "max_sequence_length": 24,
    }
    models: dict[str, dict[str, Any]] = {
        "flux": flux,
        "sdxl": {"family": "sdxl", "source": str(folder / "sdxl")},
    }
    common = {
        "modes": ("generate",),
        "dtype": "float32",
        "preload": True,
        "defaults": {"size": (64, 64), "guidance_scale": 3.0},
        "limits": limits,
    }
    return Catalog.model_validate(
        {"models": {name: {"name": name, **common, **entry} for name, entry in models.items()}}
    )


def traces_of(
    model: str, sides: tuple[int, ...], count: int, service_seconds: float
) -> dict[str, Trace]:
    """The questions asked of one model; `service_seconds` is a mean request alone."""
    small, gap = min(sides), service_seconds / 4
    other = (small, max(sides))
    return {
        "poisson, load 0.8": mixed(model, sides, count, 1, service_seconds / 0.8),
        "poisson, load 1.3": mixed(model, sides, count, 2, service_seconds / 1.3),
        "all at once, mixed": mixed(model, sides, count, 3, 0.0),
        f"all at once, uniform {small} px": uniform(model, small, count, 10),
        "4 steps behind 30": short_behind_long(model, (small, small), 4, 8, gap),
        "4 steps behind 30 of another size": short_behind_long(model, other, 4, 8, gap),
    }


def figures(trace: Trace, finished: Finished) -> dict[str, float]:
    """Throughput in pictures a second, latencies in seconds; `short` is of 4-step requests."""
    waits = {one.job.id: finished[one.job.id] - one.at for one in trace}
    short = [waits[one.job.id] for one in trace if one.job.id.startswith("short")]
    return {
        "throughput": len(trace) / (max(finished.values()) - trace[0].at),
        "p50": percentile(list(waits.values()), 50),
        "p95": percentile(list(waits.values()), 95),
        **({"short p95": percentile(short, 95)} if short else {}),
    }


def percentile(values: Sequence[float], share: int) -> float:
    """The smallest value that `share` percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def compare(trace: Trace, systems: dict[str, System], repeats: int) -> dict[str, dict[str, float]]:
    """Per system, the medians over all rounds of its ratios to the sequential loop."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for _ in range(repeats):
        taken = {name: figures(trace, run(trace)) for name, run in systems.items()}
        for name, own in taken.items():
            base = taken["sequential"]
            rounds[name].append({key: own[key] / base[key] for key in own})
    return {
        name: {key: statistics.median(one[key] for one in ratios) for key in ratios[0]}
        for name, ratios in rounds.items()
    }


def mean_service_seconds(run: System, model: str, sides: tuple[int, ...]) -> float:
    """Seconds of a mean request of the mixed trace, alone."""
    sample = mixed(model, sides, 12, 9, 0.0)
    finished = run(sample)
    return max(finished.values()) / len(sample)


def overhead(systems: dict[str, System], model: str, side: int, device: str, pairs: int) -> float:
    """Extra time of a lone request through the engine, as a share of the plain call's."""
    spent: dict[str, list[float]] = {"sequential": [], "darkroom": []}
    for number in range(pairs):
        trace = uniform(model, side, 1, 30)
        for name in sorted(spent, reverse=bool(number % 2)):
            spent[name].append(seconds_of(partial(systems[name], trace), device))
    ratios = [d / s for d, s in zip(spent["darkroom"], spent["sequential"], strict=True)]
    return statistics.median(ratios) - 1


def show(model: str, name: str, ratios: dict[str, dict[str, float]]) -> None:
    """One block of the table."""
    print(f"\n{model}: {name}  (ratios to sequential)")
    for system, values in ratios.items():
        cells = "  ".join(f"{key} {value:5.2f}" for key, value in values.items())
        print(f"  {system:11s} {cells}")


def catalog_asked(asked: argparse.Namespace, folder: Path) -> Catalog:
    """The models that are named, each to generate; the two small ones where none is."""
    names = subjects.names_of(asked)
    if not names:
        return catalog_of(folder)
    common = {"modes": (Mode.GENERATE,), "preload": True}
    specs = [subjects.spec_named(asked, name, keep=names) for name in names]
    return subjects.catalog_of(*(spec.model_copy(update=common) for spec in specs))


def headlines(
    results: dict[str, dict[str, Any]], taxes: dict[str, float], has_goals: bool
) -> list[dict[str, Any]]:
    """What a crowd of mixed requests gains, and what a lone one pays."""
    found = []
    for model, traces in results.items():
        for name, systems in traces.items():
            if "mixed" in name:
                what = f"{model}: {name}, throughput over a sequential loop"
                value = round(systems["darkroom"]["throughput"], 3)
                goal = LEAST_MIXED if has_goals else None
                found.append(report.headline(what, value, least=goal))
        what = f"{model}: more time of a lone request than diffusers"
        found.append(report.headline(what, round(taxes[model], 4)))
    return found


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--only", choices=("flux", "sdxl"), help="of the two small models")
    parser.add_argument("--sides", default="64,128", help="in pixels, with commas between")
    parser.add_argument("--pairs", type=int, default=25, help="of lone requests")
    parser.add_argument("--traces", default="", help="only those with this in their names")
    subjects.add_arguments(parser)
    return parser


def main() -> None:
    """Run everything and report."""
    options = command_line().parse_args()
    settle()
    results: dict[str, dict[str, Any]] = {}
    taxes: dict[str, float] = {}
    device = options.device if options.model else "cpu"
    sides = tuple(map(int, options.sides.split(",")))
    with tempfile.TemporaryDirectory() as folder:
        catalog = catalog_asked(options, Path(folder))
        systems = all_systems(catalog, device)
        for model in [options.only] if options.only else list(catalog.models):
            service = mean_service_seconds(systems["sequential"], model, sides)
            results[model] = {}
            for name, trace in traces_of(model, sides, options.requests, service).items():
                if options.traces in name:
                    results[model][name] = compare(trace, systems, options.repeats)
                    show(model, name, results[model][name])
            taxes[model] = overhead(systems, model, max(sides), device, options.pairs)
            print(f"\n{model}: a lone request through the engine costs {taxes[model]:+.1%}")
    about = subjects.told(options, ",".join(results)) | {"device": device, "sides": sides}
    lines = headlines(results, taxes, subjects.has_goals(options))
    figures = {**about, "ratios": results, "overhead": taxes}
    report.save("batching", figures, headlines=lines, folder=options.results)


if __name__ == "__main__":
    main()
