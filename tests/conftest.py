"""What every test gets: one compute thread, no network for the model hub, a folder of its own."""

from __future__ import annotations

import os

# Before anything imports torch. Two OpenMP threads that spin against each other on loaded cores
# were measured two to six times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# The tests have every weight they need; a hub lookup would only wait for its time-out.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["DIFFUSERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine is slow now and then: how long one example takes is no finding.
settings.register_profile("darkroom", deadline=None, print_blob=True)
settings.load_profile("darkroom")

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of slow tests first: left to the end, one process would wait for the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No DARKROOM_ variable of the shell reaches a test."""
    for name in [name for name in os.environ if name.startswith("DARKROOM_")]:
        monkeypatch.delenv(name)
    yield


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty folder for one service's database and pictures."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder
