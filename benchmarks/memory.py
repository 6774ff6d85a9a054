"""What does each way of offloading save, and what does it cost?

    python -m benchmarks.memory [--device cuda:0] [--model models.yaml's name] [--pictures 4]

One model is served four times: with its weights on the device, a part at a time, by blocks and by
layers. For each: the most bytes on the device while pictures are made, and seconds a picture, after
one to warm up. Without a model a random FLUX of a few million weights is taken. On a CPU there is
nowhere to offload to: every mode is "none" there, the figures say so, and their bytes are what the
weights and the tracked operations take.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog
import torch

from benchmarks import report
from inference import selftest, skeletons
from inference.catalog import Catalog, load_catalog
from inference.events import Event, Failed, ImageDone
from inference.job import Job, Mode
from inference.model_spec import ModelSpec
from inference.residency.offload import Offload
from inference.settings import EngineSettings
from inference.worker import Worker

MIB = 1024**2


def random_model(folder: Path) -> ModelSpec:
    """A FLUX with random weights."""
    skeletons.tiny_flux().save_pretrained(folder)
    entry = {
        "name": "flux",
        "family": "flux",
        "source": str(folder),
        "modes": ("generate",),
        "max_sequence_length": 16,
        "defaults": {"size": (128, 128), "num_inference_steps": 8},
        "limits": {"min_side": 64, "max_side": 128},
    }
    return ModelSpec.model_validate(entry)


def picture_of(spec: ModelSpec, number: int) -> Job:
    """A picture at the model's own defaults."""
    width, height = spec.default_size
    return Job(
        id=f"p{number}",
        model=spec.name,
        mode=Mode.GENERATE,
        prompt=f"a red circle number {number}",
        negative_prompt=spec.defaults.negative_prompt,
        images=(),
        width=width,
        height=height,
        seeds=(number,),
        num_inference_steps=spec.defaults.num_inference_steps,
        guidance_scale=spec.defaults.guidance_scale,
        strength=1.0,
    )


def make(worker: Worker, job: Job) -> float:
    """Seconds of one picture; raises RuntimeError if it fails."""
    ends: list[Event] = []
    begin = time.perf_counter()
    worker.submit(job, {}, ends.append, [0])
    while worker.busy:
        worker.tick()
    if isinstance(ends[-1], Failed):
        raise RuntimeError(str(ends[-1].error))
    assert isinstance(ends[-1], ImageDone), "every picture ends"
    return time.perf_counter() - begin


def measure(spec: ModelSpec, mode: Offload, device: str, pictures: int) -> dict[str, Any]:
    """The mode's own figures, and what became of it."""
    own = spec.model_copy(update={"offload": mode.value})
    settings = EngineSettings(preview_side_px=0)
    worker = Worker(device, Catalog(models={own.name: own}), settings)
    make(worker, picture_of(own, 0))
    on_card = device.startswith("cuda")
    if on_card:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [make(worker, picture_of(own, number)) for number in range(1, pictures + 1)]
    (told,) = worker.status(True).models
    counted = worker.status(True).used_memory_bytes
    options = told.options.get("offload")
    peak = torch.cuda.max_memory_allocated(device) if on_card else counted
    return {
        "requested": mode.value,
        "effective": options.effective if options is not None else Offload.NONE.value,
        "peak_mib": round(peak / MIB, 1),
        "is_measured": on_card,
        "counted_mib": round(counted / MIB, 1),
        "seconds_per_picture": round(sorted(seconds)[len(seconds) // 2], 3),
    }


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", type=Path, default=Path("models.yaml"))
    parser.add_argument("--model")
    parser.add_argument("--pictures", type=int, default=4)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_grad_enabled(False)
    # room for one picture at a time: how many share a forward is timed anew for each mode
    selftest.MEASURED_SIZES = 1
    with tempfile.TemporaryDirectory() as folder:
        if options.model is not None:
            spec = load_catalog(options.models).models[options.model]
        else:
            spec = random_model(Path(folder))
        rows = [measure(spec, mode, options.device, options.pictures) for mode in Offload]
    for row in rows:
        print(row)
    report.save("memory", {"model": spec.name, "device": options.device, "modes": rows})


if __name__ == "__main__":
    main()
