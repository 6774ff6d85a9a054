"""How much memory there is for models, and what their operations take beside their weights."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inference.residency.standing import Budget
from inference.settings import EngineSettings

# Of a card that is otherwise free: its libraries' own, and what falls between blocks.
_CARD_SHARE = 0.93
# Of a machine's memory: the rest is for pictures, the system and its file cache.
_CPU_SHARE, _RAM_SHARE = 0.8, 0.5
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def budget_of(device: str, settings: EngineSettings) -> Budget:
    """What models may take on a device and in RAM; what the settings leave open, by the machine.

    A model that leaves the CPU as a device gains nothing from a second place in the same memory.
    """
    on_cpu = not device.startswith("cuda")
    if on_cpu:
        device_bytes, ram_bytes = int(machine_bytes() * _CPU_SHARE), 0
    else:
        free_bytes, _ = torch.cuda.mem_get_info(device)
        device_bytes = int(free_bytes * _CARD_SHARE) - settings.prompt_cache_bytes
        ram_bytes = int(machine_bytes() * _RAM_SHARE) // torch.cuda.device_count()
    if settings.device_memory_bytes is not None:
        device_bytes = settings.device_memory_bytes
    if settings.ram_bytes is not None:
        ram_bytes = settings.ram_bytes
    return Budget(device_bytes=device_bytes, ram_bytes=ram_bytes)


def machine_bytes() -> int:
    """The machine's memory, or the smaller part of it that this process's group may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        found += [int(text)] if text.isdigit() else []
    return min(found)


@dataclass(frozen=True, slots=True)
class Working:
    """What operations take beside the weights, measured at the default size.

    By operation ("transformer", "decoder"), the peak bytes of one call, and how many calls share
    a forward at most.
    """

    operations: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def peak_bytes(self, share: float = 1.0) -> int:
        """The most at any time, for pictures of `share` times the default size's pixels."""
        peaks = [size * max(calls, share) for size, calls in self.operations.values()]
        return int(max(peaks, default=0))

    def within(self, room_bytes: int) -> Working:
        """The same with as many calls to a forward as there is room for, but one at least."""
        return Working(
            {
                name: (size, max(1, min(calls, room_bytes // size)) if size else calls)
                for name, (size, calls) in self.operations.items()
            }
        )


class Gauge:
    """The most that was allocated at a time by what ran under `watch`, in bytes, by name."""

    def __init__(self, device: str) -> None:
        self._on_card = device.startswith("cuda")
        self._device = device
        self.peaks: dict[str, int] = {}

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Count what runs within as `name`."""
        if self._on_card:
            before = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            yield
            peak = torch.cuda.max_memory_allocated(self._device) - before
        else:
            with _Allocations() as made:
                yield
            peak = made.peak_bytes
        self.peaks[name] = max(self.peaks.get(name, 0), peak)


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor that operations return until its memory is given back.

    The CPU's allocator keeps no count. What an operation allocates and frees within itself is not
    seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._held_bytes = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(output):
            if id(storage) not in given and id(storage) not in self._alive:
                self._follow(storage)
        return output

    def _follow(self, storage: torch.UntypedStorage) -> None:
        name, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            if self._alive.pop(name, None) is not None:
                self._held_bytes -= size

        self._alive[name] = weakref.ref(storage, gone)
        self._held_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._held_bytes)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [one.untyped_storage() for one in tree_leaves(values) if isinstance(one, torch.Tensor)]
