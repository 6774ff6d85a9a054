"""The machine a figure was taken on, the JSON line and the file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": card.name if card is not None else None,
        "gpu_memory_gib": round(card.total_memory / 1024**3, 1) if card is not None else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def headline(
    what: str, value: float, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """One figure that answers the question, with its goal where there is one."""
    if least is None and most is None:
        return {"what": what, "value": value}
    goal = f"at least {least:g}" if least is not None else f"at most {most:g}"
    is_met = (least is None or value >= least) and (most is None or value <= most)
    return {"what": what, "value": value, "goal": goal, "is_met": is_met}


def save(
    name: str,
    figures: Mapping[str, Any],
    *,
    headlines: Sequence[Mapping[str, Any]] = (),
    folder: Path = RESULTS,
) -> Path:
    """Write the figures with the machine beside them, and print them as one JSON line."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": name, "machine": machine(), **figures}
    if headlines:
        document["headlines"] = [*headlines]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))
    sys.stdout.flush()
    return path
