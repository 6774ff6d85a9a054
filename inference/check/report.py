"""What `check` found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.check.assistants import AssistantReport
from inference.job import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """One part with weights; `shared_with` are other entries that have the same."""

    name: str
    kind: str
    size_bytes: int
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReport:
    """What one picture of a mode and size takes in all, and what would make it fit.

    It `fits` where it does on every device that its model may be on; `fits_on` names those.
    """

    mode: Mode
    size: str
    needs_bytes: int
    working_bytes: int
    fits: bool
    fits_on: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class ModelReport:
    """One entry; with a problem it cannot be served, and a note is worth knowing.

    `devices` are those of this machine that it may be on, the smallest first, which all is
    estimated for.
    """

    name: str
    source: str
    where: str = ""
    devices: tuple[str, ...] = ()
    missing_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dtype: str = ""
    weight_bytes: int = 0
    parts: list[PartReport] = field(default_factory=list)
    pictures: list[PictureReport] = field(default_factory=list)

    @property
    def is_servable(self) -> bool:
        """Whether nothing stands against it."""
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReport:
    """One device, and the entries that may be on it and can be served.

    `weight_bytes` counts shared parts once; `working_bytes` is the most that one picture of a
    default size takes beside.
    """

    name: str
    memory_bytes: int
    models: tuple[str, ...]
    weight_bytes: int
    working_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All entries, and what those that can be served take together, by device.

    `device` and `memory_bytes` are of the smallest.
    """

    device: str
    memory_bytes: int
    devices: tuple[CardReport, ...]
    models: tuple[ModelReport, ...]
    assistants: tuple[AssistantReport, ...] = ()
