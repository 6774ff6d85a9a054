"""What only runs on a card, on cards that are not there: see `cards`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image
from structlog.testing import capture_logs

from inference import selftest, skeletons
from inference.calls import generator
from inference.catalog import Catalog
from inference.devices import devices_of
from inference.engine import Engine
from inference.errors import OutOfMemory
from inference.events import Failed, ImageDone
from inference.faults import is_out_of_memory
from inference.job import Job, Lora, Mode
from inference.loading import load_pipelines, pick_dtype
from inference.loras.spec import LoraSpec
from inference.model_spec import ModelSpec
from inference.options import quantization
from inference.options.spec import Quantization, QuantizationKind
from inference.pixels import Pictures
from inference.residency import reader
from inference.residency.placement import Weights, packed
from inference.residency.standing import Budget
from inference.settings import EngineSettings
from inference.worker import Worker
from tests.inference.cards import Cards, cards
from tests.inference.loras import random_lora, saved
from tests.inference.making import PICTURES, Recorder, difference, job

# Not the first, which is where a thread begins.
DEVICE = "cuda:1"


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cards]:
    """Two cards; of what is measured, the least."""
    monkeypatch.setattr(selftest, "MEASURED_SIZES", 1)
    monkeypatch.setattr(selftest, "LEAST_MEASURED_SECONDS", 0.0)
    with cards(2) as made:
        torch.cuda.set_device(DEVICE)
        torch.set_grad_enabled(False)
        yield made
        torch.set_grad_enabled(True)


class Table:
    """A worker on the second card, ticked by the test."""

    def __init__(self, catalog: Catalog, **settings: Any) -> None:
        self.worker = Worker(DEVICE, catalog, EngineSettings(**settings))
        self.seen = Recorder()

    def run(self, *jobs: Job, apart: int = 0) -> None:
        """Submit the jobs so many ticks apart and finish them."""
        for one in jobs:
            self.worker.submit(one, PICTURES, self.seen, range(len(one.seeds)), lambda: True)
            for _ in range(apart):
                self.worker.tick()
        while self.worker.busy:
            self.worker.tick()


def wait_for(done: Callable[[], bool], seconds: float = 120.0) -> None:
    """Until it is so."""
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.02)
    assert done()


def entry(catalog: Catalog, name: str, **changes: Any) -> Catalog:
    """Of the catalog one entry, changed."""
    changed = catalog.models[name].model_copy(update=changes)
    return catalog.model_copy(update={"models": {name: changed}})


def plain(spec: ModelSpec, wanted: Job) -> Image:
    """The picture as diffusers alone makes it on that card."""
    pipe = load_pipelines(spec, DEVICE)[wanted.mode]
    arguments = spec.rules.routes[wanted.mode].arguments(wanted, spec, Pictures())
    made: Image = pipe(**arguments, generator=generator(wanted.seeds[0])).images[0]
    return made


def held(there: Cards) -> tuple[int, ...]:
    return tuple(there.held_bytes(f"cuda:{index}") for index in range(there.count))


@pytest.mark.parametrize("offload", ["none", "model", "sequential", "group"])
def test_pictures_are_those_that_diffusers_makes_there(
    catalog: Catalog, tmp_path: Path, there: Cards, offload: str
) -> None:
    """With previews and a LoRA, in company, and by prompts that are remembered."""
    kind = skeletons.tiny_flux().transformer
    path = saved(random_lora(kind, "transformer", 0), tmp_path / "lora.safetensors")
    loras = {"a": LoraSpec(source=str(path))}
    served = Table(entry(catalog, "flux", loras=loras, offload=offload, modes=(Mode.GENERATE,)))
    served.run(job("alone"))
    served.run(job("beside"), job("lora", loras=(Lora(name="a", strength=0.8),)), apart=1)
    expected = plain(catalog.models["flux"], job())
    assert served.seen.picture("alone").tobytes() == expected.tobytes()
    assert difference(served.seen.picture("beside"), expected) <= 1
    assert difference(served.seen.picture("lora"), expected) > 1
    assert any(step.preview is not None for step in served.seen.progress("lora"))
    assert held(there)[0] == 0 and not there.foreign


@pytest.mark.parametrize(
    ("dtype", "offload"),
    [("bfloat16", "model"), ("bfloat16", "group"), ("float16", "none"), ("float16", "sequential")],
)
def test_a_vae_is_cast_in_the_middle_of_a_call(catalog: Catalog, dtype: str, offload: str) -> None:
    """Pipelines of SDXL take theirs to float32 and back, whoever else is being made."""
    modes = (Mode.GENERATE, Mode.IMG2IMG)
    served = Table(entry(catalog, "sdxl", dtype=dtype, offload=offload, modes=modes))
    wanted = [job(f"{how}-{n}", "sdxl", mode=how, seeds=(n,)) for how in modes for n in (1, 2)]
    served.run(*wanted)
    assert all(served.seen.picture(one.id) for one in wanted)


def test_a_vae_is_as_it_was_after_what_was_raised_while_it_was_cast(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Table(entry(catalog, "sdxl", dtype="float16", modes=(Mode.GENERATE,)))
    served.run(job("before", "sdxl"))
    vae = served.worker._residents.get("sdxl").pipes[Mode.GENERATE].vae

    def no_room(*_: Any, **__: Any) -> None:
        assert vae.dtype is torch.float32
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as short:
        short.setattr(vae.decoder, "forward", no_room)
        served.run(job("short", "sdxl"))
    failed = served.seen.outcome("short")
    assert isinstance(failed, Failed) and isinstance(failed.error, OutOfMemory)
    served.run(job("after", "sdxl"))
    assert served.seen.picture("before").tobytes() == served.seen.picture("after").tobytes()


def test_what_is_narrowed_on_its_card_is_read_there_and_nowhere_else(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, there: Cards
) -> None:
    """As bitsandbytes does it: the denoiser comes on the card that the reading thread is on."""
    read = reader.read_pipelines

    def narrowed(spec: Any, *rest: Any) -> Mapping[Mode, Any]:
        made = read(spec, *rest)
        if spec.quantization is not None:
            with quantization.placing(spec, DEVICE):
                made[spec.modes[0]].transformer.to("cuda")
        return made

    monkeypatch.setattr(reader, "read_pipelines", narrowed)
    monkeypatch.setattr(quantization, "needs_package", lambda *_: "")
    monkeypatch.setattr(quantization, "arguments", lambda *_: {})
    monkeypatch.setattr(quantization, "check", lambda *_: None)
    kind = Quantization(kind=QuantizationKind.BITSANDBYTES_4BIT)
    entries = {
        "flux": catalog.models["flux"].model_copy(update={"quantization": kind}),
        "flux-cfg": catalog.models["flux-cfg"],
    }
    served = Table(catalog.model_copy(update={"models": entries}), model_stay_seconds=0.0)
    served.run(job("a"))
    residents = served.worker._residents
    (told,) = [one for one in served.worker.status(True).models if one.name == "flux"]
    assert told.options["quantization"].effective == kind.kind
    stand = {one.name: one.reads_to_device for one in residents._standing(0.0)}
    assert stand == {"flux": True, "flux-cfg": False}
    room = int(1.4 * (told.weight_bytes + told.working_bytes))
    residents.budget = Budget(device_bytes=room, ram_bytes=1 << 30)
    served.run(job("b", "flux-cfg"))
    assert not residents._all["flux"].is_read, "there is no other place that it could wait in"
    served.run(job("c"))
    assert residents.swaps == 2 and held(there)[0] == 0
    assert served.seen.picture("a").tobytes() == served.seen.picture("c").tobytes()


def test_each_card_has_its_own(catalog: Catalog, there: Cards) -> None:
    """By the threads that serve them: what one makes is nowhere on the other."""
    served = entry(catalog, "flux", preload=True, modes=(Mode.GENERATE,))
    engine, seen = Engine(served, EngineSettings(devices=("cuda:0", "cuda:1"))), Recorder()
    engine.start()
    try:
        wait_for(lambda: all(one.models[0].lanes for one in engine.status().devices))
        for name in ("a", "b"):
            engine.submit(job(name), PICTURES, seen)
        wait_for(lambda: sum(isinstance(one, ImageDone) for one in seen.events) == 2)
    finally:
        engine.close()
    assert seen.picture("a").tobytes() == seen.picture("b").tobytes()
    assert min(held(there)) > 0 and not there.foreign


def test_ram_that_cannot_be_pinned_will_do_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def limited(*args: Any, pin_memory: bool = False, **more: Any) -> Any:
        if pin_memory:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return real(*args, **more)

    monkeypatch.setattr(torch, "empty", limited)
    module = torch.nn.Linear(3, 2)
    before = [one.clone() for one in module.parameters()]
    weights = Weights(module, "a", DEVICE)
    weights.read(pin=True)
    weights.to_device()
    assert [one.device for one in module.parameters()] == [torch.device(DEVICE)] * 2
    assert all(torch.equal(a, b.cpu()) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(("count", "words"), [(0, ["devices.no_card"]), (2, [])])
def test_a_torch_for_cards_that_finds_none_says_so(
    monkeypatch: pytest.MonkeyPatch, count: int, words: list[str]
) -> None:
    """A driver that is too old looks like a machine without any."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with capture_logs() as said:
        assert devices_of(()) == (("cuda:0", "cuda:1") if count else ("cpu",))
        devices_of(("cpu",))
    assert [one["event"] for one in said] == words


def test_the_dtype_is_by_the_kind_of_device(catalog: Catalog) -> None:
    spec = catalog.models["flux"].model_copy(update={"dtype": "auto"})
    told = {device: pick_dtype(spec, device) for device in ("cpu", "cpu:0", "cuda:0")}
    assert told == {"cpu": torch.float32, "cpu:0": torch.float32, "cuda:0": torch.bfloat16}


def test_what_came_on_the_card_has_nothing_to_pin() -> None:
    module = torch.nn.Linear(3, 2).to(DEVICE)
    weights = Weights(module, "a", DEVICE)
    weights.read(pin=True)
    assert weights.on_device and not weights.in_ram
    assert {one.device for one in module.parameters()} == {torch.device(DEVICE)}


def test_what_is_copied_to_a_card_is_pinned() -> None:
    made = packed([torch.ones(3), torch.ones(2, 2)], pin=True)
    assert all(one.is_pinned() for one in made)


@pytest.mark.parametrize(
    ("said", "is_short"),
    [
        ("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_a_shortage_that_torch_has_no_class_for(said: str, is_short: bool) -> None:
    assert is_out_of_memory(RuntimeError(said)) is is_short
    assert is_out_of_memory(torch.AcceleratorError(said)) is is_short
