"""Requests that nobody would write, to what manages keys and accounts; with a key that may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from api.accounts import Scope
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.http.test_fuzz import CHECKS, EXAMPLES

OPERATIONS = (
    *("GET /darkroom/admin/keys", "POST /darkroom/admin/keys"),
    "DELETE /darkroom/admin/keys/{key_id}",
    *("GET /darkroom/admin/accounts", "GET /darkroom/admin/accounts/{name}"),
    "POST /darkroom/admin/accounts/{name}/credits",
    "POST /darkroom/admin/models/{name}/{action}",
    *("GET /darkroom/account", "GET /darkroom/account/webhook-secret"),
    "POST /darkroom/account/webhook-secret/rotate",
)
# The others take nothing that could be wrong.
TAKING = [one for one in OPERATIONS if "{" in one or one == "POST /darkroom/admin/keys"]
ASKED = [
    *((operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
    *((operation, GenerationMode.NEGATIVE) for operation in TAKING),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def admin(folder: Path) -> dict[str, str]:
    return bearer(make_key(folder, "team", scopes=frozenset(Scope)))


@pytest.fixture(scope="module")
def server(folder: Path, admin: dict[str, str]) -> Iterator[Served]:
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/darkroom/openapi.json")


@pytest.mark.parametrize(
    ("operation", "mode"), ASKED, ids=lambda value: getattr(value, "value", value)
)
def test_no_request_breaks_the_books(
    document: schemathesis.BaseSchema, admin: dict[str, str], operation: str, mode: GenerationMode
) -> None:
    method, path = operation.split(" ")
    found = document[path][method]

    @given(case=found.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS, headers=admin)

    ask()


def test_every_account_can_be_asked_about_afterwards(served: Served, admin: dict[str, str]) -> None:
    """Whatever was made above is named so that its own route finds it."""
    told = served.client.get("/darkroom/admin/accounts", headers=admin).json()["accounts"]
    names = [one["name"] for one in told if one["name"]]
    assert "team" in names
    for name in names:
        path = f"/darkroom/admin/accounts/{name}"
        assert served.client.get(path, headers=admin).status_code == 200, name


def test_every_operation_is_asked(served: Served) -> None:
    paths = served.client.get("/darkroom/openapi.json").json()["paths"]
    described = [
        f"{method.upper()} {path}"
        for path in paths
        for method in paths[path]
        if path.startswith(("/darkroom/admin", "/darkroom/account"))
    ]
    assert sorted(described) == sorted(OPERATIONS)
