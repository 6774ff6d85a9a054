"""Weights in RAM that visit the device: nothing of it on a CPU, and all of it where a CPU poses.

No card is needed to run the hooks: a device that is the CPU still has its own copies of weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inference import selftest
from inference.catalog import Catalog
from inference.job import Mode
from inference.residency import offload
from inference.residency.offload import Offload
from inference.residency.placement import Weights
from inference.residency.resident import Resident
from tests.inference.making import Bench, job, plain
from tests.inference.test_residents import changed, posing, status_of

__all__ = ["posing"]
MODES = ("model", "sequential", "group")


@pytest.fixture(autouse=True)
def _one_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(selftest, "MEASURED_SIZES", 1)
    yield
    torch.set_grad_enabled(True)


@pytest.fixture
def moving(posing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that weights are moved to and from by hooks."""
    monkeypatch.setattr(offload, "DEVICES", ("cpu",))


def only(catalog: Catalog, name: str, mode: str) -> Catalog:
    entry = {"offload": mode, "modes": (Mode.GENERATE,)}
    return changed(catalog, **{name: entry})


@pytest.mark.parametrize("mode", MODES)
def test_on_a_cpu_every_mode_is_none_and_says_so(catalog: Catalog, mode: str) -> None:
    bench = Bench(only(catalog, "flux", mode))
    assert status_of(bench, "flux").options["offload"].requested == mode
    bench.worker._residents.get("flux")
    bench.ticks(1)
    told = status_of(bench, "flux").options["offload"]
    assert (told.requested, told.effective) == (mode, "none") and "cpu" in told.reason
    assert "offload" not in status_of(bench, "sdxl").options


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["flux", "sdxl"])
@pytest.mark.usefixtures("moving")
def test_pictures_are_as_without(catalog: Catalog, model: str, mode: str) -> None:
    bench = Bench(only(catalog, model, mode))
    wanted = [
        job(f"{steps}", model, num_inference_steps=steps, seeds=(steps,), prompt=f"a {steps}")
        for steps in (3, 5)
    ]
    for one in wanted:
        bench.submit(one)
        bench.ticks(1)
    bench.finish()
    for one in wanted:
        alone = plain(catalog.models[model], one)
        assert bench.seen.picture(one.id).tobytes() == alone.tobytes()
    assert status_of(bench, model).options["offload"].effective == mode


@pytest.mark.usefixtures("moving")
def test_one_part_at_a_time_is_on_the_device_and_counts(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    most: list[int] = []
    bring = Weights.to_device

    def counted(self: Weights) -> None:
        bring(self)
        mine = bench.worker._residents._all["flux"].weights
        most.append(sum(one.on_device for one in mine))

    monkeypatch.setattr(Weights, "to_device", counted)
    bench = Bench(only(catalog, "flux", "model"))
    bench.submit(job())
    bench.finish()
    assert bench.seen.picture("j")
    # two text encoders, the denoiser and the VAE, in the self-test and in the picture
    assert len(most) >= 8 and set(most) == {1}
    one = bench.worker._residents._all["flux"]
    largest = max(weights.size_bytes for weights in one.weights)
    assert sum(one.parts(0.0).values()) == largest < status_of(bench, "flux").weight_bytes
    assert one.in_ram, "it leaves the device without being read again"


@pytest.mark.parametrize("order", [("twin", "flux"), ("flux", "twin")])
@pytest.mark.usefixtures("moving")
def test_parts_that_are_moved_are_no_others(catalog: Catalog, order: tuple[str, str]) -> None:
    """The same source twice: the hooks of one would send the other's text encoders away."""
    twin = catalog.models["flux"].model_copy(update={"name": "twin", "offload": "model"})
    both = catalog.model_copy(update={"models": {**catalog.models, "twin": twin}})
    both = changed(both, flux={"modes": (Mode.GENERATE,)}, twin={"modes": (Mode.GENERATE,)})
    bench = Bench(both)
    for name in order:
        bench.worker._residents.get(name)
    mine, its = ({id(w) for w in bench.worker._residents._all[n].weights} for n in ("twin", "flux"))
    assert not mine & its
    bench.submit(job("a"))
    bench.submit(job("b", "twin"))
    bench.finish()
    assert bench.seen.picture("a").tobytes() == bench.seen.picture("b").tobytes()


def test_what_counts_of_the_weights() -> None:
    assert offload.resident_bytes(Offload.MODEL, [3, 9, 4]) == 9
    assert offload.resident_bytes(Offload.GROUP, [3, 9, 4]) == 0


@pytest.mark.usefixtures("moving")
def test_an_offloaded_model_goes_and_comes_back(catalog: Catalog) -> None:
    bench = Bench(only(catalog, "flux", "model"))
    bench.submit(job("a"))
    bench.finish()
    found: Resident = bench.worker._residents._all["flux"]
    found.park([])
    assert not any(one.on_device for one in found.weights)
    bench.submit(job("b"))
    bench.finish()
    assert bench.seen.picture("a").tobytes() == bench.seen.picture("b").tobytes()
