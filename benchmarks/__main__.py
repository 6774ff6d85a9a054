"""All benchmarks in one command, each in its own process, and a table at the end.

    python -m benchmarks gpu [--quick] [--scale tiny] [--models models.yaml --model NAME,OTHER]
    python -m benchmarks cpu [--quick]

On a card: full-size architectures with random weights, or models of one's own. A script that fails,
or that takes too long, ends alone. Figures and plots go to `results/`, those of a card to a folder
of its name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.questions import ON_CARD, ON_CPU, on_card

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
_LAST_LINES = 15
# In a process of its own: whoever asks torch for a card keeps some of its memory.
_NAME_OF_CARD = "import torch; print(torch.cuda.get_device_name(0))"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a script ended: "done", "failed", "took too long" or "left out", and its figures."""

    script: str
    state: str
    seconds: float = 0.0
    figures: Path | None = None


def run(script: str, arguments: Sequence[str], results: Path, limit_seconds: float) -> Outcome:
    """One script in a process of its own, which ends with all that it started."""
    figures = results / f"{script}.json"
    before = figures.stat().st_mtime_ns if figures.exists() else 0
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments]
    with tempfile.NamedTemporaryFile(
        "w+", prefix=f"darkroom-{script}-", suffix=".log", delete=False
    ) as log:
        print(f"{script}: {' '.join(command[1:])}\n  log: {log.name}", flush=True)
        begin = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        state = "done"
        try:
            if process.wait(timeout=limit_seconds) != 0:
                state = "failed"
        except subprocess.TimeoutExpired:
            state = "took too long"
        finally:
            _end(process)
        seconds = time.monotonic() - begin
        written = figures.exists() and figures.stat().st_mtime_ns != before
        if state == "done" and not written:
            state = "failed"
        if state != "done":
            print("".join(Path(log.name).read_text().splitlines(True)[-_LAST_LINES:]))
    print(f"  {state} after {seconds:.0f} s", flush=True)
    return Outcome(script, state, seconds, figures if written else None)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(outcomes: Sequence[Outcome]) -> str:
    """What became of each, and the figures that answer its question."""
    lines = []
    for one in outcomes:
        lines.append(f"{one.script:10s} {one.state}, {one.seconds:.0f} s")
        document: dict[str, Any] = json.loads(one.figures.read_text()) if one.figures else {}
        for told in document.get("headlines", []):
            goal = ""
            if "goal" in told:
                goal = f"  ({told['goal']}: {'met' if told['is_met'] else 'MISSED'})"
            lines.append(f"  {told['value']:10.3f}  {told['what']}{goal}")
    return "\n".join(lines)


def name_of_card() -> str:
    """The first card's name as a folder's; "" where there is none."""
    asked = subprocess.run([sys.executable, "-c", _NAME_OF_CARD], capture_output=True, text=True)
    return re.sub(r"[^a-z0-9]+", "-", asked.stdout.strip().lower()).strip("-")


def ask_card(asked: argparse.Namespace) -> list[Outcome]:
    """Every question of a card that is wanted."""
    device = ["--device", asked.device, "--checkpoints", str(asked.checkpoints)]
    device += ["--results", str(asked.results)]
    device += ["--models", str(asked.models)] if asked.models is not None else []
    own = [name for name in (asked.model or "").split(",") if name]
    outcomes = []
    for question in ON_CARD:
        if asked.only and question.script not in asked.only:
            continue
        arguments = on_card(
            question, scale=asked.scale, is_quick=asked.quick, text=asked.text, own=own
        )
        if arguments is None:
            outcomes.append(Outcome(question.script, "left out: it needs two models"))
            continue
        minutes = question.quick_minutes if asked.quick else question.minutes
        limit = asked.limit_seconds or 60 * minutes
        outcomes.append(run(question.script, [*device, *arguments], asked.results, limit))
    return outcomes


def ask_cpu(asked: argparse.Namespace) -> list[Outcome]:
    """Every question of a CPU that is wanted."""
    outcomes = []
    for question in ON_CPU:
        if asked.only and question.script not in asked.only:
            continue
        common = ["--results", str(asked.results)]
        arguments = question.quick if asked.quick else question.full
        limit = asked.limit_seconds or 60 * question.minutes
        outcomes.append(run(question.script, [*common, *arguments], asked.results, limit))
    return outcomes


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, its defaults by what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("where", choices=("gpu", "cpu"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, steps and options")
    parser.add_argument("--only", type=lambda text: text.split(","), help="scripts, with commas")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--text", choices=("small", "full"))
    parser.add_argument("--models", type=Path, help="a models.yaml, instead of random weights")
    parser.add_argument("--model", help="names in it, with commas")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--limit-seconds", type=float, help="of each script")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path(tempfile.gettempdir()) / "darkroom-checkpoints"
    )
    asked = parser.parse_args(arguments)
    if (asked.models is None) != (asked.model is None):
        parser.error("--models and --model go together")
    known = {question.script for question in (ON_CARD if asked.where == "gpu" else ON_CPU)}
    if unknown := set(asked.only or ()) - known:
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(sorted(known))}")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, draw, and tell; 1 where one of them failed."""
    asked = parsed(arguments)
    card = name_of_card() if asked.where == "gpu" and asked.device.startswith("cuda") else ""
    if asked.where == "gpu" and asked.device.startswith("cuda") and not card:
        print("no NVIDIA GPU here; --device cpu --scale tiny shows that everything runs")
        return 2
    if asked.results is None:
        folder = card or "cpu-tiny"
        asked.results = RESULTS / folder if asked.where == "gpu" else RESULTS
    asked.results = asked.results.resolve()
    outcomes = ask_card(asked) if asked.where == "gpu" else ask_cpu(asked)
    print(f"\n{table(outcomes)}\n\nfigures and plots: {asked.results}", flush=True)
    plots.draw_all(asked.results)
    is_well = all(one.state == "done" or one.state.startswith("left out") for one in outcomes)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
