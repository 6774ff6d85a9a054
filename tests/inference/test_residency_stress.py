"""Models that come and go under random requests: all is answered, alike, and nothing is left."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image

from inference import selftest, skeletons
from inference.catalog import Catalog
from inference.engine import Engine
from inference.events import Cancelled, Event, Failed, ImageDone, Progress
from inference.job import ImageRole, InputImage, Job, Lora, Mode, ReferenceTag
from inference.loras.spec import LoraSpec
from inference.references.spec import ReferenceSpec, Way
from inference.settings import EngineSettings
from inference.status import ModelAction, ModelState
from tests.inference.loras import random_lora, saved
from tests.inference.making import ENTRIES, PICTURES, Bench, catalog_over, difference, job

MIB = 1024**2
PALETTE = InputImage(role=ImageRole.REFERENCE, key="other", tag=ReferenceTag.PALETTE, weight=0.7)
STEPS = (1, 3, 6)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Catalog:
    """Three models of one size, one a twin of another; each with LoRAs and a palette."""
    root = tmp_path_factory.mktemp("stress")
    third = skeletons.tiny_flux(seed=2)
    third.save_pretrained(root / "third")
    files = {
        name: saved(
            random_lora(third.transformer, "transformer", seed), root / f"{name}.safetensors"
        )
        for seed, name in enumerate("ab")
    }
    places = {"flux": folders["flux"], "twin": folders["flux"], "third": root / "third"}
    made = catalog_over(places, dict.fromkeys(places, ENTRIES["flux"]))
    extras: dict[str, Any] = {
        "modes": (Mode.GENERATE,),
        "loras": {name: LoraSpec(source=str(file)) for name, file in files.items()},
        "references": {ReferenceTag.PALETTE: ReferenceSpec(by=Way.TRANSFER)},
    }
    models = {name: spec.model_copy(update=extras) for name, spec in made.models.items()}
    return made.model_copy(update={"models": models})


@pytest.fixture(autouse=True)
def _one_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One call to a forward: how many pay is measured, and memory goes with it."""
    monkeypatch.setattr(selftest, "MEASURED_SIZES", 1)
    yield
    torch.set_grad_enabled(True)


def one_of(dice: random.Random, name: str) -> Job:
    """A random small job."""
    more: dict[str, Any] = {}
    if dice.random() < 0.4:
        more["loras"] = (Lora(name=dice.choice("ab"), strength=0.8),)
    if dice.random() < 0.3:
        more["images"] = (PALETTE,)
    return job(
        name,
        dice.choice(("flux", "twin", "third")),
        num_inference_steps=dice.choice(STEPS),
        priority=dice.choice((0, 0, 0, 1)),
        **more,
    )


def essence(wanted: Job) -> tuple[object, ...]:
    """Equal for jobs whose pictures are the same; twins make the same ones."""
    source = "third" if wanted.model == "third" else "flux"
    return source, wanted.num_inference_steps, wanted.loras, wanted.images


class Ends:
    """How each picture ended; waits for them."""

    def __init__(self) -> None:
        self.found: dict[str, list[Event]] = {}
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Progress):
            with self._changed:
                self.found.setdefault(event.job_id, []).append(event)
                self._changed.notify_all()

    def wait_for(self, count: int, seconds: float = 60.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.found) >= count, seconds), (
                f"{len(self.found)} of {count} ended"
            )


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def alone(catalog: Catalog, jobs: list[Job]) -> dict[tuple[object, ...], Image]:
    """Each different picture of the jobs, made with nothing else in the making."""
    bench = Bench(catalog)
    made: dict[tuple[object, ...], Image] = {}
    for number, wanted in enumerate(jobs):
        if essence(wanted) not in made:
            name = f"alone-{number}"
            bench.submit(wanted.__class__(**{**fields_of(wanted), "id": name}))
            bench.finish()
            made[essence(wanted)] = bench.seen.picture(name)
    return made


def fields_of(wanted: Job) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in wanted.__dataclass_fields__}


@pytest.mark.parametrize(("seed", "ram_bytes", "devices"), [(1, 0, 1), (2, 100 * MIB, 2)])
def test_whatever_is_asked_in_any_order_every_picture_ends_well(
    served: Catalog, seed: int, ram_bytes: int, devices: int
) -> None:
    dice, ends = random.Random(seed), Ends()
    weights = max(one.weight_bytes for one in Bench(served).worker.status(True).models)
    settings = EngineSettings(
        devices=("cpu",) * devices,
        device_memory_bytes=int(weights * dice.uniform(1.2, 1.6)) + MIB,
        ram_bytes=ram_bytes,
        lora_bytes=MIB,
        model_wait_seconds=0.3,
        model_stay_seconds=0.05,
        max_running_images=4,
    )
    engine = Engine(served, settings)
    engine.start()
    jobs = [one_of(dice, f"{number}") for number in range(20)]
    cancelled: set[str] = set()
    for number, wanted in enumerate(jobs):
        engine.submit(wanted, PICTURES, ends)
        if dice.random() < 0.25:
            gone = dice.choice(jobs[: number + 1]).id
            cancelled.add(gone)
            engine.cancel(gone)
        if dice.random() < 0.25:
            # none is pinned: another would rightly be refused beside it
            action = dice.choice((ModelAction.LOAD, ModelAction.UNLOAD, ModelAction.UNPIN))
            engine.manage(dice.choice(sorted(served.models)), action)
        time.sleep(dice.choice((0.0, 0.0, 0.01, 0.05)))
    ends.wait_for(len(jobs))
    for name in served.models:
        engine.manage(name, ModelAction.UNLOAD)
    until(lambda: all(is_empty(one) for one in engine.status().devices))
    assert all(one.alive for one in engine.status().devices)
    engine.close(5)
    assert not any(one.alive for one in engine.status().devices)
    pictures = alone(served, jobs)
    for wanted in jobs:
        (end,) = ends.found[wanted.id]
        assert not isinstance(end, Failed), (wanted.id, end)
        if isinstance(end, Cancelled):
            assert wanted.id in cancelled
            continue
        assert isinstance(end, ImageDone)
        assert difference(end.picture, pictures[essence(wanted)]) <= 1


def is_empty(device: Any) -> bool:
    """Whether nothing counts on a device any more."""
    states = {one.state for one in device.models}
    return (device.used_memory_bytes, device.used_ram_bytes, states) == (
        0,
        0,
        {ModelState.UNLOADED},
    )
