"""The engine that is made when it is started."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from api.late_engine import LateEngine
from inference.catalog import load_catalog
from inference.errors import EngineClosed
from inference.settings import EngineSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(120)
def test_one_that_was_closed_while_it_was_made_starts_no_device() -> None:
    engine = LateEngine(load_catalog(ROOT / "models.yaml"), EngineSettings(devices=("cpu",)))
    engine.close()
    engine.start()
    assert engine.status().devices == ()
    assert not [one for one in threading.enumerate() if one.name == "engine-cpu"]
    with pytest.raises(EngineClosed):
        engine.cancel("nobody")
        engine.submit(None, {}, print)  # type: ignore[arg-type]
