"""Does step-level batching pay, and for whom? Darkroom's engine against three other ways.

    python -m benchmarks.batching [--repeats 3] [--requests 40] [--only flux]

Every trace is run by every system in turn, several times over, in one process. The ratio to the
sequential loop of the same round is what counts; the medians of the rounds are printed, saved
beside this file with the machine's name, and drawn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog
import torch

from benchmarks import report
from benchmarks.systems import Finished, all_systems
from benchmarks.traces import Arrival, mixed, short_behind_long, uniform
from inference.catalog import Catalog
from inference.skeletons import tiny_sdxl

Trace = list[Arrival]
System = Callable[[Sequence[Arrival]], Finished]
SIDES = {"flux": (64, 128), "sdxl": (64, 128)}


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
    models = {
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


def traces_of(model: str, count: int, service_seconds: float) -> dict[str, Trace]:
    """The questions asked of one model; `service_seconds` is a mean request alone."""
    sides, small, gap = SIDES[model], min(SIDES[model]), service_seconds / 4
    return {
        "poisson, load 0.8": mixed(model, sides, count, 1, service_seconds / 0.8),
        "poisson, load 1.3": mixed(model, sides, count, 2, service_seconds / 1.3),
        "all at once, mixed": mixed(model, sides, count, 3, 0.0),
        "all at once, uniform 64 px": uniform(model, small, count, 10),
        "4 steps behind 30": short_behind_long(model, (small, small), 4, 8, gap),
        "4 steps behind 30 of another size": short_behind_long(model, sides, 4, 8, gap),
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


def mean_service_seconds(run: System, model: str) -> float:
    """CPU seconds of a mean request of the mixed trace, alone."""
    sample = mixed(model, SIDES[model], 12, 9, 0.0)
    finished = run(sample)
    return max(finished.values()) / len(sample)


def overhead(systems: dict[str, System], model: str, pairs: int = 25) -> float:
    """Extra CPU time of a lone request through the engine, as a share of the plain call's."""
    spent: dict[str, list[float]] = {"sequential": [], "darkroom": []}
    for number in range(pairs):
        trace = uniform(model, 128, 1, 30)
        for name in sorted(spent, reverse=bool(number % 2)):
            begin = time.thread_time()
            systems[name](trace)
            spent[name].append(time.thread_time() - begin)
    ratios = [d / s for d, s in zip(spent["darkroom"], spent["sequential"], strict=True)]
    return statistics.median(ratios) - 1


def show(model: str, name: str, ratios: dict[str, dict[str, float]]) -> None:
    """One block of the table."""
    print(f"\n{model}: {name}  (ratios to sequential)")
    for system, values in ratios.items():
        cells = "  ".join(f"{key} {value:5.2f}" for key, value in values.items())
        print(f"  {system:11s} {cells}")


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of throughput and p95 per trace and system."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [(model, trace) for model in results for trace in results[model]]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 0.75 * len(rows) + 1.2), sharey=True)
    names = list(next(iter(results[rows[0][0]].values())))
    for axis, key, title in zip(
        axes,
        ("throughput", "p95"),
        ("throughput (more is better)", "p95 (less is better)"),
        strict=True,
    ):
        for place, name in enumerate(names):
            values = [results[model][trace][name][key] for model, trace in rows]
            height = [row + 0.2 * place for row in range(len(rows))]
            axis.barh(height, values, height=0.18, label=name)
        axis.axvline(1.0, color="grey", linewidth=0.8)
        axis.set_title(f"{title}, ratio to sequential")
        axis.set_yticks([row + 0.3 for row in range(len(rows))])
        axis.set_yticklabels([f"{model}: {trace}" for model, trace in rows])
        axis.invert_yaxis()
    axes[1].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--only", choices=sorted(SIDES))
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_grad_enabled(False)
    results: dict[str, dict[str, Any]] = {}
    taxes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        systems = all_systems(catalog_of(Path(folder)))
        for model in [options.only] if options.only else list(SIDES):
            service = mean_service_seconds(systems["sequential"], model)
            results[model] = {}
            for name, trace in traces_of(model, options.requests, service).items():
                results[model][name] = compare(trace, systems, options.repeats)
                show(model, name, results[model][name])
            taxes[model] = overhead(systems, model)
            print(f"\n{model}: a lone request through the engine costs {taxes[model]:+.1%}")
    saved = report.save("batching", {"ratios": results, "overhead": taxes})
    draw(results, saved.with_suffix(".png"))


if __name__ == "__main__":
    main()
