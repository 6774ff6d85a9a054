"""Budgets, and what operations are seen to take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.residency import memory
from inference.residency.memory import Gauge, Working, budget_of, machine_bytes
from inference.residency.placement import packed
from inference.settings import EngineSettings

KIB = 1024


def test_the_gauge_sees_what_is_held_at_a_time_and_nothing_that_was_there() -> None:
    weight = torch.ones(128, 128)
    gauge = Gauge("cpu")
    with gauge.watch("work"):
        first = torch.ones(128, 128)  # 64 KiB
        second = first @ weight.t()  # 128 KiB, the weight's view is no memory
        del first
        second.add_(1)
        third = second.view(-1) * 2  # 128 KiB
        del second, third
    assert gauge.peaks == {"work": 128 * KIB}
    with gauge.watch("work"):
        torch.ones(8)
    assert gauge.peaks == {"work": 128 * KIB}, "the most of all times"


def test_working_memory_grows_with_calls_or_with_pixels_and_is_capped_by_room() -> None:
    working = Working({"transformer": (10, 8), "decoder": (50, 1)})
    assert working.peak_bytes() == 80
    assert working.peak_bytes(share=4.0) == 200
    capped = working.within(55)
    assert capped.operations == {"transformer": (10, 5), "decoder": (50, 1)}
    assert working.within(5).operations["transformer"] == (10, 1)
    assert Working().peak_bytes() == 0


def test_what_the_settings_say_wins_over_the_machine() -> None:
    found = budget_of("cpu", EngineSettings())
    assert 0 < found.device_bytes < machine_bytes() and found.ram_bytes == 0
    told = budget_of("cpu", EngineSettings(device_memory_bytes=7, ram_bytes=5))
    assert (told.device_bytes, told.ram_bytes) == (7, 5)


def test_a_group_may_use_less_than_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, free = tmp_path / "memory.max", tmp_path / "free"
    limit.write_text("1048576\n")
    free.write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(free), str(limit)))
    assert machine_bytes() == 1 << 20
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(free), str(tmp_path / "none")))
    assert machine_bytes() > 1 << 20


def test_packed_tensors_are_the_same_and_share_what_they_shared() -> None:
    tied = torch.randn(40, 10)
    tensors = [tied, torch.randn(7).bfloat16(), tied, torch.arange(5), torch.empty(0)]
    found = packed(tensors, pin=False, slab_bytes=1024)
    assert all(torch.equal(one, other) for one, other in zip(found, tensors, strict=True))
    assert [one.dtype for one in found] == [one.dtype for one in tensors]
    assert found[0].data_ptr() == found[2].data_ptr() != tied.data_ptr()
    small = packed([torch.randn(3), torch.randn(3)], pin=False)
    assert len({one.untyped_storage().data_ptr() for one in small}) == 1
