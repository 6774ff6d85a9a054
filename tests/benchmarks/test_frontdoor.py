"""The benchmark of the service's cost measures all it says, and nothing of it by half."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.frontdoor import main


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_figure_is_there_and_is_one() -> None:
    figures = asyncio.run(main(rounds=1, polls=20, submits=2, images=16))
    assert figures["images_of_a_batch"] == 16
    assert set(figures["engine_in"]) == {"thread", "process"}
    for told in figures["engine_in"].values():
        assert 0 < told["poll_ms"]["p50"] <= told["poll_ms"]["p99"]
        costs = told["ms_per_image"]
        assert set(costs) == {"alone", "quiet", "loaded"}
        assert all(cost > 0 for one in costs.values() for cost in one.values())
        for ratio, cost, base in (
            ("slowed", costs["loaded"]["time"], costs["quiet"]["time"]),
            ("server_tax", costs["quiet"]["time"], costs["alone"]["time"]),
            ("server_tax_cpu", costs["quiet"]["cpu"], costs["alone"]["cpu"]),
        ):
            assert told[ratio]["median"] == pytest.approx(cost / base - 1)
