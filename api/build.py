"""The composition root: settings become services. Only here are concrete classes named."""

from __future__ import annotations

from dataclasses import dataclass

from api.dispatcher import EnginePort
from api.links import Links
from api.settings import Settings
from api.submit import Darkroom
from inference.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a running service consists of; `start` before the first request, `stop` after."""

    settings: Settings
    catalog: Catalog
    engine: EnginePort
    links: Links
    darkroom: Darkroom

    async def start(self) -> None:
        """Lock and migrate the data folder, start the engine behind, begin to dispatch."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Take no more, finish or put back what runs, close the engine and the store."""
        raise NotImplementedError


def build(settings: Settings, *, engine: EnginePort | None = None) -> Services:
    """The services of one process; raises CatalogError or SettingsError before anything starts."""
    raise NotImplementedError
