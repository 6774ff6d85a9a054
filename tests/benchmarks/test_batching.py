"""The benchmark measures what it says: the same work in every system, no request left out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from benchmarks import systems
from benchmarks.batching import compare, figures, percentile
from benchmarks.systems import Clock, Plain, all_systems
from benchmarks.traces import Arrival, mixed, short_behind_long, uniform
from inference.catalog import Catalog
from inference.job import Job
from inference.skeletons import tiny_sdxl


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("bench") / "sdxl"
    tiny_sdxl().save_pretrained(folder)
    spec = {
        "name": "sdxl",
        "family": "sdxl",
        "source": str(folder),
        "modes": ("generate",),
        "preload": True,
        "defaults": {"size": (64, 64)},
        "limits": {"min_side": 64, "max_side": 128},
    }
    return Catalog.model_validate({"models": {"sdxl": spec}})


@pytest.fixture(scope="module")
def every(catalog: Catalog) -> Any:
    torch.set_grad_enabled(False)
    yield all_systems(catalog)
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("gap", [0.0, 0.02])
def test_every_system_finishes_every_request_after_it_came(every: Any, gap: float) -> None:
    trace = [
        Arrival(one.at, _short(one.job)) for one in mixed("sdxl", (64, 128), 6, seed=1, gap=gap)
    ]
    for name, run in every.items():
        finished = run(trace)
        assert set(finished) == {one.job.id for one in trace}, name
        assert all(finished[one.job.id] > one.at for one in trace), name


def _short(job: Job) -> Job:
    return Job(**{name: getattr(job, name) for name in job.__slots__} | {"num_inference_steps": 2})


def test_batching_systems_call_the_pipeline_with_equal_requests_together(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = Plain(catalog)

    def counted(jobs: Sequence[Job]) -> None:
        assert len({systems.equality(job) for job in jobs}) == 1
        sizes.append(len(jobs))

    monkeypatch.setattr(plain, "make", counted)
    trace = uniform("sdxl", 64, 10, 2)
    for run in (systems.static, systems.lit_serve):
        sizes.clear()
        run(plain, trace)
        assert sizes == [8, 2]
    sizes.clear()
    systems.sequential(plain, trace)
    assert sizes == [1] * 10


def test_the_clock_counts_work_and_jumps_over_idleness() -> None:
    clock = Clock()
    time.sleep(0.2)
    assert clock.now() < 0.1
    clock.jump_to(5.0)
    assert 5.0 <= clock.now() < 5.1
    clock.jump_to(1.0)
    assert clock.now() >= 5.0


def test_figures_are_latencies_from_the_arrival() -> None:
    trace = short_behind_long("sdxl", (64, 64), 1, 2, gap=1.0)
    finished = {"long0": 10.0, "short0": 3.0, "short1": 5.0}
    assert figures(trace, finished) == {
        "throughput": 0.3,
        "p50": 3.0,
        "p95": 10.0,
        "short p95": 3.0,
    }
    assert percentile([3.0, 1.0, 2.0, 4.0], 50) == 2.0


def test_ratios_are_taken_within_a_round() -> None:
    trace = uniform("sdxl", 64, 2, 2)
    speeds = iter([1.0, 2.0, 4.0, 8.0])

    def run(trace: Sequence[Arrival]) -> dict[str, float]:
        speed = next(speeds)
        return {one.job.id: speed for one in trace}

    ratios = compare(trace, {"sequential": run, "other": run}, repeats=2)
    assert ratios["sequential"] == {"throughput": 1.0, "p50": 1.0, "p95": 1.0}
    assert ratios["other"] == {"throughput": 0.5, "p50": 2.0, "p95": 2.0}
