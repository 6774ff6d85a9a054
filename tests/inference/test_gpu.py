"""What only a card can show: the same promises on CUDA, and memory that really runs out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.calls import generator
from inference.catalog import Catalog
from inference.errors import OutOfMemory
from inference.events import Failed
from inference.job import Mode
from inference.loading import load_pipelines
from inference.pixels import Pictures
from inference.residency.plan import Patience
from inference.residency.standing import Budget
from inference.settings import EngineSettings
from inference.status import Lane, ModelAction
from inference.worker import Worker
from tests.inference.guided import asks, serve
from tests.inference.making import PICTURES, Recorder, difference, job

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]


class CudaBench:
    """A worker on the first card, ticked by the test."""

    def __init__(self, catalog: Catalog) -> None:
        torch.set_grad_enabled(False)
        self.worker = Worker("cuda:0", catalog, EngineSettings())
        self.seen = Recorder()

    def run(self, *jobs: Any, apart: int = 0) -> None:
        """Submit the jobs so many ticks apart and finish them."""
        for one in jobs:
            self.worker.submit(one, PICTURES, self.seen, range(len(one.seeds)))
            for _ in range(apart):
                self.worker.tick()
        while self.worker.busy:
            self.worker.tick()


@pytest.fixture(scope="module")
def bench(catalog: Catalog) -> Iterator[CudaBench]:
    yield CudaBench(catalog)
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def _fresh(bench: CudaBench) -> None:
    bench.seen.events.clear()


def plain(catalog: Catalog, wanted: Any) -> Any:
    spec = catalog.models[wanted.model]
    pipe = load_pipelines(spec, "cuda:0")[wanted.mode]
    arguments = spec.rules.routes[wanted.mode].arguments(wanted, spec, Pictures())
    return pipe(**arguments, generator=generator(wanted.seeds[0])).images[0]


@pytest.mark.parametrize("model", ["flux", "flux-cfg", "sdxl"])
def test_alone_is_bit_exact(bench: CudaBench, catalog: Catalog, model: str) -> None:
    wanted = job(model=model)
    bench.run(wanted)
    assert bench.seen.picture("j").tobytes() == plain(catalog, wanted).tobytes()
    lanes = {one.name: one.lanes for one in bench.worker.status(True).models}[model]
    assert set(lanes.values()) == {Lane.MERGE}


@pytest.mark.parametrize("model", ["flux", "flux-cfg", "sdxl"])
def test_staggered_requests_are_as_alone(bench: CudaBench, catalog: Catalog, model: str) -> None:
    wanted = [
        job(f"j{seed}", model, seeds=(seed,), num_inference_steps=3 + seed, guidance_scale=seed)
        for seed in (2, 3, 4, 5)
    ]
    bench.run(*wanted, apart=2)
    for one in wanted:
        assert difference(bench.seen.picture(one.id), plain(catalog, one)) <= 1


def test_models_that_share_a_card_come_back_the_same(catalog: Catalog) -> None:
    """From copies in RAM, and with nothing of the other left on the card."""
    served = CudaBench(catalog)
    residents = served.worker._residents
    for name in ("flux", "sdxl"):
        residents.get(name)
    told = [one for one in served.worker.status(True).models if one.weight_bytes]
    needed = max(one.weight_bytes + one.working_bytes for one in told)
    residents.budget = Budget(device_bytes=needed, ram_bytes=1 << 30)
    residents._patience = Patience(min_stay_seconds=0.0)
    for name in ("flux", "sdxl"):
        served.worker.command(name, ModelAction.UNLOAD)
    while served.worker.at_work:
        served.worker.tick()
    empty = torch.cuda.memory_allocated()
    served.run(job("a"))
    held = torch.cuda.memory_allocated()
    served.run(job("b", model="sdxl"))
    served.run(job("c"))
    assert served.worker.status(True).swaps == 2
    assert served.seen.picture("a").tobytes() == served.seen.picture("c").tobytes()
    assert served.seen.picture("c").tobytes() == plain(catalog, job()).tobytes()
    gc.collect()
    assert empty < held and torch.cuda.memory_allocated() < held + (1 << 20)


@pytest.mark.parametrize("mode", ["model", "sequential", "group"])
def test_offloaded_weights_visit_the_card(catalog: Catalog, mode: str) -> None:
    entry = catalog.models["flux"].model_copy(update={"offload": mode})
    served = CudaBench(catalog.model_copy(update={"models": {"flux": entry}}))
    wanted = [job(f"j{seed}", seeds=(seed,)) for seed in (1, 2)]
    served.run(*wanted, apart=1)
    for one in wanted:
        assert difference(served.seen.picture(one.id), plain(catalog, one)) <= 1
    (told,) = served.worker.status(True).models
    assert told.options["offload"].effective == mode


@pytest.mark.timeout(600)
def test_a_compiled_model_is_ready_while_another_makes_pictures(catalog: Catalog) -> None:
    """By the real compiler, on its own thread and this card."""
    entry = catalog.models["flux"].model_copy(update={"compile": True})
    models = {"flux": entry, "sdxl": catalog.models["sdxl"]}
    served = CudaBench(catalog.model_copy(update={"models": models}))
    served.run(job("before", model="sdxl"))
    served.run(job("a"), job("b", model="sdxl"), apart=1)
    told = {one.name: one.options for one in served.worker.status(True).models}["flux"]
    assert told["compile"].effective == "on", told["compile"].reason
    assert difference(served.seen.picture("a"), plain(catalog, job())) <= 2
    assert served.seen.picture("b").tobytes() == served.seen.picture("before").tobytes()


def test_what_another_was_read_ahead_with_leaves_the_card(catalog: Catalog) -> None:
    """Its copy in RAM had been given back, and is made again."""
    twin = catalog.models["flux"].model_copy(update={"name": "twin"})
    models = {"flux": catalog.models["flux"], "twin": twin}
    served = CudaBench(catalog.model_copy(update={"models": models}))
    residents = served.worker._residents
    residents.budget = Budget(device_bytes=residents.budget.device_bytes, ram_bytes=1 << 30)
    empty = torch.cuda.memory_allocated()
    residents.get("flux")
    first, ahead = residents._all["flux"], residents._all["twin"]
    first.keeps_ram = False
    first.forget_ram([])
    ahead.keeps_ram = True
    ahead.read()
    while not ahead.is_read:
        served.worker.tick()
    served.worker.command("flux", ModelAction.UNLOAD)
    while served.worker.at_work:
        served.worker.tick()
    gc.collect()
    assert torch.cuda.memory_allocated() < empty + (1 << 20)
    served.run(job("j", model="twin"))
    assert difference(served.seen.picture("j"), plain(catalog, job())) <= 1


def test_references_are_on_the_card_too(tmp_path: Path) -> None:
    """Each of the ways, beside a picture without any, as it is alone."""
    served = CudaBench(serve(tmp_path))
    ways = {"flux": ["pose", "style", "character", "palette"], "sdxl": ["pose", "style"]}
    for model, tags in ways.items():
        wanted = [asks(model, Mode.GENERATE, name=f"{model}-none")]
        for number, tag in enumerate(tags):
            for weight in (0.4, 0.9):
                name = f"{model}-{tag}-{weight}"
                more = {"name": name, "num_inference_steps": 4 + number}
                wanted.append(asks(model, Mode.GENERATE, (tag, weight), **more))
        served.run(*wanted, apart=1)
        together = {one.id: served.seen.picture(one.id) for one in wanted}
        served.seen.events.clear()
        for one in wanted:
            served.run(one)
            assert difference(served.seen.picture(one.id), together[one.id]) <= 1
        references = served.worker._residents.get(model).references
        assert references.held_bytes > 0
        for attached in references.attached:
            assert {one.device.type for one in attached.module.parameters()} == {"cuda"}


def test_memory_that_runs_out_fails_one_image_and_the_next_pass(bench: CudaBench) -> None:
    bench.run(job("warm-up"))
    torch.cuda.set_per_process_memory_fraction(
        torch.cuda.memory_reserved(0) / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        held = []
        while True:
            try:
                held.append(torch.empty(1 << 20, device="cuda:0"))
            except torch.OutOfMemoryError:
                break
        bench.run(job("big", width=256, height=256))
        del held
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    failed = bench.seen.outcome("big")
    assert isinstance(failed, Failed) and isinstance(failed.error, OutOfMemory)
    bench.run(*[job(f"next{number}") for number in range(20)])
    assert all(bench.seen.picture(f"next{number}") for number in range(20))
