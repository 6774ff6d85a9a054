"""How a model stands on its device, and what models take there together. No torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Parts = Mapping[Hashable, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bytes that models may take: on the device, working memory included, and in RAM."""

    device_bytes: int
    ram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One model as it stands; times are seconds of one clock.

    `parts` holds the bytes of its weights by their content; empty as long as nobody knows. Where
    only some of them are on the device at a time, `ram_parts` holds all.
    `waiting_since` is when its oldest request came that has not started, `waiting_priority` and
    `running_priority` the highest of each kind; `running` counts pictures in the making, which
    take `drain_seconds` more. `load_seconds` is what bringing it to the device takes.
    One that `reads_to_device` is never in RAM alone.
    A `busy` one is being read or tested and cannot be moved. `wanted` is asked for by an operator
    and not by a request, `gentle` only as far as there is free room; `leaving` asked to go.
    """

    name: str
    parts: Parts = field(default_factory=dict)
    ram_parts: Parts | None = None
    working_bytes: int = 0
    on_device: bool = False
    in_ram: bool = False
    reads_to_device: bool = False
    busy: bool = False
    pinned: bool = False
    wanted: bool = False
    gentle: bool = False
    leaving: bool = False
    waiting_since: float | None = None
    waiting_priority: int = 0
    running: int = 0
    running_priority: int = 0
    drain_seconds: float = 0.0
    load_seconds: float = 0.0
    arrived: float = 0.0
    used: float = 0.0

    @property
    def asked_for(self) -> bool:
        """Whether a request or an operator needs it on the device."""
        return self.waiting_since is not None or self.running > 0 or self.wanted

    @property
    def movable(self) -> bool:
        """Whether it could leave the device, now or once its pictures are finished."""
        return self.on_device and not self.pinned and not self.busy


def total_bytes(models: Iterable[Standing]) -> int:
    """What the models' weights take on a device, shared parts once."""
    return sum({key: size for one in models for key, size in one.parts.items()}.values())


def ram_bytes(models: Iterable[Standing]) -> int:
    """The same in RAM."""
    held = [one.parts if one.ram_parts is None else one.ram_parts for one in models]
    return sum({key: size for parts in held for key, size in parts.items()}.values())


def device_bytes(models: Sequence[Standing]) -> int:
    """What the models take on a device: their weights, and the largest working memory."""
    return total_bytes(models) + max((one.working_bytes for one in models), default=0)


def in_gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 // 10 else f"{size / 1024**2:.1f} MiB"
