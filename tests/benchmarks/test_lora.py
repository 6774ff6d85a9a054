"""The LoRA benchmark measures what it says: equal work, mixed in one way and not in the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.lora import compare, jobs_of, ways, with_adapters
from inference import coalesce, steps
from inference.catalog import Catalog
from inference.job import Job, Lora
from inference.skeletons import tiny_flux


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bench")
    tiny_flux().save_pretrained(folder / "flux")
    spec = {
        "name": "flux",
        "family": "flux",
        "source": str(folder / "flux"),
        "modes": ("generate",),
        "preload": True,
        "max_sequence_length": 16,
        "defaults": {"size": (64, 64)},
        "limits": {"min_side": 64, "max_side": 128},
    }
    torch.set_grad_enabled(False)
    catalog = Catalog.model_validate({"models": {"flux": spec}})
    yield ways(with_adapters(catalog, 3, Path(folder)), 3)
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    return jobs_of("flux", 64, 3, 2)


def test_it_asks_for_every_adapter_at_every_strength(jobs: list[Job]) -> None:
    asked = {(job.loras[0].name, job.loras[0].strength) for job in jobs}
    assert asked == {(f"l{number}", strength) for number in range(3) for strength in (1.0, 0.5)}
    assert len({job.id for job in jobs}) == len(jobs) == 6


@pytest.mark.parametrize(("way", "most"), [("none", 0), ("mixed", 3), ("one at a time", 1)])
def test_each_way_mixes_as_many_as_it_says(
    table: Any, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, way: str, most: int
) -> None:
    seen: list[int] = []

    def counted(calls: Any) -> Any:
        seen.append(len(frozenset().union(*(call.parts for call in calls))))
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", counted)
    assert table[way](jobs) > 0
    assert max(seen) == most


def test_diffusers_makes_them_with_their_adapters(table: Any, jobs: list[Job]) -> None:
    assert table["diffusers"](jobs[:2]) > 0
    with pytest.raises(ValueError, match="nothing"):
        table["diffusers"]([replace(jobs[0], loras=(Lora(name="nothing", strength=1.0),))])


def test_ratios_are_taken_within_a_round() -> None:
    taken = {"none": [1.0, 8.0, 3.0], "mixed": [2.0, 10.0, 4.0], "one at a time": [4.0, 10.0, 6.0]}

    def way(name: str) -> Any:
        seconds = iter([0.0, *taken[name]])  # the first is a warm-up
        return lambda jobs: next(seconds)

    def nothing(jobs: Sequence[Job]) -> float:
        return 1.0

    ratios = compare([], {name: way(name) for name in taken}, rounds=3)
    assert ratios == {"none": 0.75, "one at a time": 1.5}
    assert compare([], {"mixed": nothing, "none": nothing}, rounds=1) == {"none": 1.0}
