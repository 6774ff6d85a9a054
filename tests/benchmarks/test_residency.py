"""The residency benchmark measures what it says, and its promises hold on a shorter trace."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks.residency import MODELS, Clock, catalog_of, compare, device_for_one, trace_of
from inference import selftest
from inference.worker import Worker


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Clock]]:
    before = selftest.MEASURED_SIZES
    torch.set_grad_enabled(False)
    yield device_for_one(catalog_of(Path(tmp_path_factory.mktemp("bench"))))
    torch.set_grad_enabled(True)
    selftest.MEASURED_SIZES = before


def test_requests_of_a_trace_are_for_every_model_in_no_order() -> None:
    names = [one.job.model for one in trace_of(30, 1.0, 0)]
    assert all(names.count(name) == 10 for name in MODELS)
    changes = sum(one != other for one, other in pairwise(names))
    assert changes > 12
    assert trace_of(30, 1.0, 0) == trace_of(30, 1.0, 0) != trace_of(30, 1.0, 1)


@pytest.mark.slow
def test_all_at_once_takes_a_swap_per_model_and_nobody_waits_past_the_bound(
    device: tuple[Worker, Clock],
) -> None:
    told = compare(*device, 24, None, 400.0, 0)
    served, ours = told["first come, first served"], told["darkroom"]
    names = [one.job.model for one in trace_of(24, 0.0, 0)]
    changes = sum(one != other for one, other in pairwise([MODELS[0], *names]))
    assert served["swaps"] == changes
    assert ours["swaps"] <= len(MODELS) - 1 and served["swaps"] >= 5 * ours["swaps"]
    assert ours["wait_longest_seconds"] < told["bound"]["seconds"]


@pytest.mark.slow
def test_a_bound_that_counts_costs_fewer_swaps_than_turns(device: tuple[Worker, Clock]) -> None:
    """It costs swaps, and fewer than serving everybody in turn; the figures are the benchmark's."""
    told = compare(*device, 24, 0.3, 30.0, 1)
    ours, others = told["darkroom"], told["first come, first served"]
    assert ours["swaps"] < others["swaps"]
    assert ours["wait_longest_seconds"] < others["wait_longest_seconds"]
