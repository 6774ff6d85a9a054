"""The devices that entries are checked for, and which of them each may be on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from inference.catalog import Catalog
from inference.devices import devices_of
from inference.homes import Homes
from inference.residency.memory import budget_of
from inference.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Card:
    """A device by its name, and what models may take of it."""

    name: str
    memory_bytes: int

    @property
    def kind(self) -> str:
        """What decides the dtype that `auto` comes to, and whether weights may lie elsewhere."""
        return torch.device(self.name).type


def cards_of(devices: Sequence[str], memory_bytes: int | None) -> tuple[Card, ...]:
    """Those that would serve, by the settings or as they are here.

    Raises DeviceMissing where one is to be asked that is not here.
    """
    if devices and memory_bytes is not None:
        # as another machine would serve it
        return tuple(Card(name, memory_bytes) for name in devices)
    return tuple(
        Card(name, budget_of(name, EngineSettings(device_memory_bytes=memory_bytes)).device_bytes)
        for name in devices_of(devices)
    )


class Cards:
    """All of them; one `any_card` stands for whichever an entry names."""

    def __init__(self, catalog: Catalog, cards: Sequence[Card], any_card: bool = False) -> None:
        self._all = tuple(cards)
        self._any = any_card
        self._homes = Homes(catalog, [one.name for one in cards])

    def of(self, model: str) -> tuple[Card, ...]:
        """Those that an entry may be on, the smallest first; none where it names others."""
        numbers = range(len(self._all)) if self._any else self._homes.of(model)
        return tuple(sorted((self._all[one] for one in numbers), key=lambda one: one.memory_bytes))

    def problem(self, model: str) -> str:
        """Why an entry may be on none, or nothing."""
        return "" if self.of(model) else f"devices: {self._homes.reason(model)}"
