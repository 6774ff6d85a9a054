"""One server for all tests of a file that change nothing about it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.api.http.served import Served, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def served(server: Served) -> Iterator[Served]:
    """The server, with its script as it was at first."""
    yield server
    server.script.gate.set()
    server.script.fails = lambda job, index: None


@pytest.fixture
def client(served: Served) -> httpx2.Client:
    return served.client
