"""A server that asks for keys, and a new account for each test: fixtures for files that want it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.http.served import Served, bearer, make_key, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a first key, so that its server is not open."""
    folder = tmp_path_factory.mktemp("data")
    make_key(folder, "first")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """It asks for keys."""
    with serving(folder) as running:
        yield running


@pytest.fixture
def key(folder: Path) -> dict[str, str]:
    """A key of an account that nobody else has."""
    return bearer(make_key(folder, f"a{secrets.token_hex(6)}"))
