"""Draws the figures of every benchmark beside their JSON.

python -m benchmarks.plots [FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Document = Mapping[str, Any]
# Of each row a value per series.
Rows = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars side by side; `line` is what they are to be compared with."""

    title: str
    rows: Rows
    line: float | None = None


def batching(told: Document) -> list[Panel]:
    """Ratios to the sequential loop."""
    found = []
    for key, better in (("throughput", "more"), ("p95", "less")):
        rows = {
            f"{model}: {trace}": {name: own[key] for name, own in systems.items()}
            for model, traces in told["ratios"].items()
            for trace, systems in traces.items()
        }
        found.append(Panel(f"{key} over a sequential loop ({better} is better)", rows, 1.0))
    return found


def options(told: Document) -> list[Panel]:
    """Speeds over plain diffusers, and bytes of the weights."""
    ways = {name: one for name, one in told["ways"].items() if "times_as_fast" in one}
    speeds = {name: {"": one["times_as_fast"]} for name, one in ways.items()}
    known = {name: one["weight_bytes"] for name, one in ways.items() if "weight_bytes" in one}
    sizes = {name: {"": size / 1e9} for name, size in known.items()}
    title = f"times as fast as diffusers: {told['model']}, {told['side']} px"
    return [Panel(title, speeds, 1.0), Panel("GB of weights", sizes)]


def memory(told: Document) -> list[Panel]:
    """Peaks and times of each mode, and of the crowd."""
    modes = [one for one in told["modes"] if "failed" not in one]
    crowd = told.get("crowd", {})
    together = {
        name: {"": crowd[key]["seconds_per_picture"]}
        for key, name in (("resident", "resident"), ("within", "within the budget"))
        if "seconds_per_picture" in crowd.get(key, {})
    }
    found = [
        Panel("peak MiB", {one["requested"]: {"": one["peak_mib"]} for one in modes}),
        Panel(
            "seconds a picture",
            {one["requested"]: {"": one["seconds_per_picture"]} for one in modes},
        ),
    ]
    title = f"seconds a picture, {crowd.get('pictures')} at once"
    return [*found, Panel(title, together)] if together else found


def lora(told: Document) -> list[Panel]:
    """How many times as fast mixed LoRAs are as the other ways."""
    title = f"{told['adapters']} LoRAs in one batch: times as fast as"
    return [Panel(title, {name: dict(own) for name, own in told["mixed_speed_over"].items()}, 1.0)]


def residency(told: Document) -> list[Panel]:
    """Swaps, waits and throughput, medians of the rounds."""
    questions = {name: own for name, own in told.items() if isinstance(own, list)}
    questions.pop("headlines", None)
    titles = {
        "swaps": "swaps",
        "wait_p50_seconds": "median wait, s",
        "requests_per_second": "requests a second",
    }
    return [
        Panel(
            title,
            {
                name: {
                    way: statistics.median(one[way][key] for one in rounds)
                    for way in rounds[0]
                    if way != "bound"
                }
                for name, rounds in questions.items()
            },
        )
        for key, title in titles.items()
    ]


def frontdoor(told: Document) -> list[Panel]:
    """Answers while the engine is busy, and what a picture costs."""
    answers = {
        f"{name}, engine in a {kind}": {key: own[f"{name}_ms"][key] for key in ("p50", "p99")}
        for kind, own in told["engine_in"].items()
        for name in ("poll", "submit")
    }
    costs = {
        name: {kind: own["ms_per_image"][name]["time"] for kind, own in told["engine_in"].items()}
        for name in ("alone", "quiet", "loaded")
    }
    return [Panel("ms to an answer, engine busy", answers), Panel("ms a picture", costs)]


def swap(told: Document) -> list[Panel]:
    """Seconds to the first step, and the link's floor."""
    keys = {
        "first_step_seconds": "after a swap",
        "resident_first_step_seconds": "resident",
        "floor_seconds": "floor of the link",
    }
    rows = {
        name: {title: own[key] for key, title in keys.items()}
        for name, own in told["models"].items()
    }
    return [Panel("seconds to the first step", rows)]


def speed(told: Document) -> list[Panel]:
    """A lone picture both ways, and a crowd."""
    well = {name: own for name, own in told["models"].items() if "failed" not in own}
    alone = {
        f"{name}, {own['steps']} steps, {own['side']} px": {
            "diffusers": own["diffusers_seconds"],
            "engine": own["engine_seconds"],
        }
        for name, own in well.items()
    }
    crowd = {name: {"": own["crowd_pictures_per_second"]} for name, own in well.items()}
    return [Panel("seconds of a lone picture", alone), Panel("pictures a second, crowd", crowd)]


KINDS: Mapping[str, Callable[[Document], list[Panel]]] = {
    "batching": batching,
    "options": options,
    "memory": memory,
    "lora": lora,
    "residency": residency,
    "frontdoor": frontdoor,
    "swap": swap,
    "speed": speed,
}


def draw(path: Path) -> Path | None:
    """The picture of one file of figures; None where there is nothing to see in it."""
    told = json.loads(path.read_text())
    panels = [panel for panel in KINDS[told["benchmark"]](told) if panel.rows]
    if not panels:
        return None
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    bars = max(len(panel.rows) * len(_series(panel)) for panel in panels)
    size = (4.6 * len(panels) + 1.5, 0.2 * bars + 1.6)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw_panel(axis, panel)
    machine = told["machine"]
    figure.suptitle(f"{told['benchmark']}, {machine.get('gpu') or machine['cpu']}", fontsize=9)
    figure.tight_layout()
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=70)
    pyplot.close(figure)
    return target


def _draw_panel(axis: Any, panel: Panel) -> None:
    names = _series(panel)
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        rows = [(row, own[name]) for row, own in enumerate(panel.rows.values()) if name in own]
        where = [row + height * place for row, _ in rows]
        drawn = axis.barh(where, [value for _, value in rows], height * 0.9, label=name)
        axis.bar_label(drawn, fmt="%.3g", fontsize=6, padding=2)
    axis.set_yticks([row + height * (len(names) - 1) / 2 for row in range(len(panel.rows))])
    axis.set_yticklabels([*panel.rows], fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.set_title(panel.title, fontsize=8)
    if panel.line is not None:
        axis.axvline(panel.line, color="grey", linewidth=0.8)
    if names != [""]:
        axis.legend(fontsize=6)


def _series(panel: Panel) -> list[str]:
    return list(dict.fromkeys(name for own in panel.rows.values() for name in own))


def draw_all(folder: Path) -> list[Path]:
    """A picture beside each file of figures in a folder and its folders."""
    drawn = [draw(path) for path in sorted(folder.rglob("*.json"))]
    return [path for path in drawn if path is not None]


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS)
    for path in draw_all(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
