"""Shared by the engine's tests: catalogs, jobs, a recorder of events, a hand-driven worker."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from inference.calls import accepted
from inference.catalog import Catalog
from inference.events import Cancelled, Event, Failed, ImageDone, Progress
from inference.feather import feathered
from inference.job import ImageRole, InputImage, Job, Mode
from inference.loading import load_pipelines
from inference.model_spec import ModelSpec
from inference.pixels import as_mask, decoded, fit
from inference.settings import EngineSettings
from inference.worker import Worker

LIMITS = {"min_side": 32, "max_side": 256, "max_megapixels": 0.07}
BLUR = {"defaults": {"size": (64, 64), "guidance_scale": 3.0, "negative_prompt": "blur"}}
ENTRIES: dict[str, dict[str, Any]] = {
    "flux": {"family": "flux", "max_sequence_length": 16},
    "flux-cfg": {
        "family": "flux",
        "max_sequence_length": 16,
        "guidance_field": "true_cfg_scale",
        **BLUR,
    },
    "sdxl": {"family": "sdxl", **BLUR},
}


def catalog_over(
    folders: Mapping[str, Path], entries: Mapping[str, dict[str, Any]] = ENTRIES
) -> Catalog:
    """A catalog of saved test pipelines."""
    models = {
        name: {
            "name": name,
            "source": str(folder),
            "dtype": "float32",
            "limits": LIMITS,
            "defaults": {"size": (64, 64), "guidance_scale": 3.0},
            **entries[name],
        }
        for name, folder in folders.items()
    }
    return Catalog.model_validate({"models": models})


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """A random smooth RGB picture."""
    noise = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def as_png(image: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def half_mask(width: int = 64, height: int = 64) -> Image.Image:
    """White on the right half."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask


PICTURES = {
    "source": as_png(picture()),
    "other": as_png(picture(96, 64, seed=1)),
    "mask": as_png(half_mask()),
}
IMAGES = {
    Mode.GENERATE: (),
    Mode.IMG2IMG: (InputImage(role=ImageRole.SOURCE, key="source"),),
    Mode.INPAINT: (
        InputImage(role=ImageRole.SOURCE, key="source"),
        InputImage(role=ImageRole.MASK, key="mask"),
    ),
    Mode.EDIT: (InputImage(role=ImageRole.SOURCE, key="source"),),
}


def job(name: str = "j", model: str = "flux", **changes: Any) -> Job:
    """A small job; keyword arguments replace its fields."""
    values: dict[str, Any] = {
        "id": name,
        "model": model,
        "mode": Mode.GENERATE,
        "prompt": "a red fox",
        "negative_prompt": "blur",
        "width": 64,
        "height": 64,
        "seeds": (1,),
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "strength": 0.9,
    }
    values |= changes
    values.setdefault("images", IMAGES[values["mode"]])
    return Job(**values)


def plain(spec: ModelSpec, wanted: Job, index: int = 0) -> Image.Image:
    """The picture as diffusers alone makes it: a fresh pipeline, one ordinary call.

    Outside a mask the source's own pixels, as everywhere here.
    """
    pipe = load_pipelines(spec, "cpu")[wanted.mode]
    arguments = spec.rules.routes[wanted.mode].arguments(wanted, spec, decoded(wanted, PICTURES))
    if spec.rules.any_pipeline:
        arguments = accepted(pipe, arguments)
    generator = torch.Generator("cpu").manual_seed(wanted.seeds[index])
    made: Image.Image = pipe(**arguments, generator=generator).images[0]
    if wanted.mode is not Mode.INPAINT:
        return made
    given = decoded(wanted, PICTURES)
    assert given.mask is not None
    source, mask = fit(given.sources[0], *made.size), as_mask(given.mask, *made.size)
    return Image.composite(made, source, feathered(mask, wanted.mask_blur))


def difference(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of a channel, in 0..255."""
    assert one.size == other.size
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


@dataclass
class Recorder:
    """Keeps every event; the last one of each image is its outcome."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def outcome(self, name: str, index: int = 0) -> ImageDone | Failed | Cancelled:
        """The one event that ended an image."""
        ends = [
            event
            for event in self.events
            if event.job_id == name and event.index == index and not isinstance(event, Progress)
        ]
        assert len(ends) == 1, f"{name}[{index}] ended {len(ends)} times"
        assert not isinstance(ends[0], Progress)
        return ends[0]

    def picture(self, name: str, index: int = 0) -> Image.Image:
        """The picture of an image that was made."""
        outcome = self.outcome(name, index)
        assert isinstance(outcome, ImageDone), outcome
        return outcome.picture

    def progress(self, name: str, index: int = 0) -> list[Progress]:
        """The steps that were reported of an image."""
        return [
            event
            for event in self.events
            if isinstance(event, Progress) and event.job_id == name and event.index == index
        ]


class Bench:
    """A worker on the CPU whose ticks the test makes; remembers how many rows each forward had."""

    def __init__(self, catalog: Catalog, **settings: Any) -> None:
        torch.set_grad_enabled(False)
        self.worker = Worker("cpu", catalog, EngineSettings(**settings))
        self.seen = Recorder()
        self.looking = False

    def submit(self, wanted: Job) -> None:
        """Queue all pictures of a job."""
        self.worker.submit(
            wanted, PICTURES, self.seen, range(len(wanted.seeds)), lambda: self.looking
        )

    def ticks(self, count: int) -> None:
        """So many turns of the loop."""
        for _ in range(count):
            self.worker.tick()

    def finish(self, limit: int = 2000) -> None:
        """Turn until nothing is left."""
        for _ in range(limit):
            if not self.worker.busy:
                return
            self.worker.tick()
        raise AssertionError(f"still busy after {limit} ticks")
