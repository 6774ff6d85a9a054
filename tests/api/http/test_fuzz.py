"""Requests that nobody would write, made from the OpenAPI document: never a 5xx, never a lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.http.served import Served, serving

# All of a file's examples together are to stay within a minute on two cores.
EXAMPLES = 50
CHECKS: list[Callable[..., Any]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = (
    "POST /darkroom/generations",
    "GET /darkroom/generations",
    "GET /darkroom/generations/{task_id}",
    "DELETE /darkroom/generations/{task_id}",
    "POST /darkroom/generations/{task_id}/cancel",
    "GET /darkroom/generations/{task_id}/events",
    "GET /darkroom/generations/{task_id}/images/{index}",
    "GET /darkroom/files/{task_id}/{index}/{name}",
    "GET /darkroom/generations/{task_id}/webhooks",
    "POST /darkroom/generations/{task_id}/webhooks/{message_id}/resend",
    "POST /darkroom/destinations",
    "GET /darkroom/destinations/{name}",
    "PUT /darkroom/destinations/{name}",
    "DELETE /darkroom/destinations/{name}",
    "POST /darkroom/destinations/{name}/test",
    "POST /darkroom/uploads",
    "GET /darkroom/uploads/{upload_id}",
    "DELETE /darkroom/uploads/{upload_id}",
    "POST /darkroom/hooks",
    "GET /darkroom/hooks/{hook_id}",
    "PUT /darkroom/hooks/{hook_id}",
    "DELETE /darkroom/hooks/{hook_id}",
    "POST /v1/images/generate",
    "POST /v1/images/edit",
    "GET /v1/images/generate/{generation_id}",
    "GET /v1/generations/{generation_id}",
    "GET /o/{generation_id}/{index}.{extension}",
    "POST /api/v1/generations",
    "GET /api/v1/generations/{history_id}",
    "GET /api/v1/generations/{history_id}/image",
    "GET /api/storage/file",
    "POST /api/v1/generate",
    "GET /api/v1/generate/status",
    "GET /api/v1/generate/result",
    "POST /api/v1/images/generations",
    "POST /api/v1/images/generations-sync",
    "POST /api/v1/images/edit",
    "GET /api/v1/images/generations",
    "GET /api/v1/images/files/{task_id}/{index}.{extension}",
    "POST /api/v1/files",
    "POST /v1/images/generations",
    "POST /v1/images/edits",
    "POST /v1/images/variations",
    "GET /v1/images/files/{task_id}/{index}.{extension}",
    "POST /image/generate",
    "POST /image/generate/estimate",
    "POST /image/rate",
    "POST /image/alt",
    "POST /image/review",
    "POST /image/upload",
    "GET /image/files/{task_id}/{index}.{extension}",
    "GET /tasks",
    "GET /tasks/{task_id}",
    "GET /tasks/{task_id}/status",
    "GET /tasks/{task_id}/result",
    "POST /webhook",
    "GET /webhook/{hook_id}",
    "PUT /webhook/{hook_id}",
    "DELETE /webhook/{hook_id}",
    "POST /destinations",
    "GET /destinations/{destination_id}",
    "PUT /destinations/{destination_id}",
    "DELETE /destinations/{destination_id}",
    "POST /destinations/{destination_id}/test",
)
# These take nothing that could be wrong.
BARE = (
    *("GET /darkroom/models", "GET /darkroom/queue", "GET /darkroom/devices"),
    *("GET /darkroom/destinations", "GET /darkroom/hooks"),
    *("GET /models", "GET /me", "GET /balance", "GET /webhook", "GET /destinations"),
    "GET /api/v1/balance",
    *("GET /livez", "GET /readyz", "GET /v1/models", "GET /v1/models/{model_id}"),
)
ASKED = [
    *((operation, GenerationMode.POSITIVE) for operation in (*OPERATIONS, *BARE)),
    *((operation, GenerationMode.NEGATIVE) for operation in OPERATIONS),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # The limit that a provider publishes would refuse most of the examples.
    with serving(tmp_path_factory.mktemp("data"), rate_per_minute=100_000) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/darkroom/openapi.json")


@pytest.mark.parametrize(
    ("operation", "mode"), ASKED, ids=lambda value: getattr(value, "value", value)
)
def test_no_request_breaks_the_server(
    document: schemathesis.BaseSchema, operation: str, mode: GenerationMode
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
        case.call_and_validate(checks=CHECKS)

    ask()


def test_every_operation_is_asked(client: httpx2.Client) -> None:
    paths = client.get("/darkroom/openapi.json").json()["paths"]
    described = [
        f"{method.upper()} {path}"
        for path in paths
        for method in paths[path]
        # asked in test_fuzz_keys.py, where a first key may close the server
        if not path.startswith(("/darkroom/admin", "/darkroom/account"))
    ]

    assert sorted(described) == sorted((*OPERATIONS, *BARE))
