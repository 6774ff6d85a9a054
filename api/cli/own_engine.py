"""An engine in the process of a command, for who asks no server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from api.cli.terminal import Failure
from api.logs import configure_logging
from api.settings import Settings
from inference.catalog import Catalog
from inference.errors import DeviceMissing

if TYPE_CHECKING:
    from api.workshop import EnginePort


@contextmanager
def own_engine(catalog: Catalog, settings: Settings) -> Iterator[EnginePort]:
    """A started engine, closed at the end; raises Failure where a device of it is not there."""
    # torch takes seconds to import: only once the wish is known to be a good one
    from api.build import build_engine

    quiet = settings.model_copy(update={"log_level": "error"})
    configure_logging(quiet.log_level)
    engine = build_engine(catalog, quiet)
    try:
        engine.start()
        yield engine
    except DeviceMissing as error:
        raise Failure(f"DARKROOM_DEVICES: {error}") from None
    finally:
        engine.close(timeout_seconds=0)
