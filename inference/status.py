"""What the engine tells of itself, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from inference.job import Mode
from inference.options.spec import OptionStatus


class ModelState(StrEnum):
    """Where a model stands on its way to serving; `in_ram` is near, and not on the device."""

    UNLOADED = "unloaded"
    IN_RAM = "in_ram"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ModelAction(StrEnum):
    """What an operator may want of a model."""

    LOAD = "load"
    UNLOAD = "unload"
    PIN = "pin"
    UNPIN = "unpin"


class Lane(StrEnum):
    """How calls of one pipeline may share the device, decided by the self-test at load.

    `merge`: many calls in one forward. `interleave`: one call per forward, step by step in turn.
    `exclusive`: one call from start to end, nothing else on that model meanwhile.
    """

    MERGE = "merge"
    INTERLEAVE = "interleave"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """One model on one device; `reason` says why it failed when it was tried last.

    Requests for one that `is_barred` fail at once, since that was a moment ago.
    `weight_bytes` are those of its files until it is loaded, then its own; `working_bytes` is what
    its operations take beside them, once measured. While it or a LoRA of it is being fetched,
    `fetched_bytes` of `fetch_bytes` are here. `last_used_at` is in seconds since 1970.
    """

    name: str
    state: ModelState
    reason: str = ""
    is_barred: bool = False
    pinned: bool = False
    weight_bytes: int = 0
    working_bytes: int = 0
    fetched_bytes: int = 0
    fetch_bytes: int = 0
    last_used_at: float | None = None
    lanes: dict[Mode, Lane] = field(default_factory=dict)
    dtype: str = ""
    token_budget: int = 0
    options: dict[str, OptionStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """One device and its worker; `idle_seconds` since the worker last showed a sign of life.

    `memory_bytes` and `ram_bytes` are what models may take of the device and of RAM,
    `used_memory_bytes` and `used_ram_bytes` what they take; `swaps` counts models that had to leave
    the device for others, `restarts` the processes of the device that were started again.
    """

    device: str
    name: str
    alive: bool
    idle_seconds: float
    running_images: int
    waiting_images: int
    memory_bytes: int = 0
    used_memory_bytes: int = 0
    ram_bytes: int = 0
    used_ram_bytes: int = 0
    swaps: int = 0
    restarts: int = 0
    models: tuple[ModelStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """All devices of one engine."""

    devices: tuple[DeviceStatus, ...]

    def model(self, name: str) -> ModelStatus:
        """The best state `name` has on any device: ready before loading before failed."""
        order = [
            *(ModelState.READY, ModelState.LOADING, ModelState.IN_RAM),
            *(ModelState.FAILED, ModelState.UNLOADED),
        ]
        found = [model for device in self.devices for model in device.models if model.name == name]
        unloaded = ModelStatus(name=name, state=ModelState.UNLOADED)
        return min(found, key=lambda model: order.index(model.state), default=unloaded)
