"""Two paths are for pages of every origin; no other is, and a page changes nothing by them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from api.app import create_app
from api.dialects.base import Dialect, ErrorBody, ErrorContext, status_of
from api.errors import ApiError
from api.services import Services
from inference.errors import EngineError

PAGE = {"Origin": "https://app.example"}
ASKS = PAGE | {"Access-Control-Request-Method": "GET"}

router = APIRouter()


@router.get("/open/{name}")
@router.get("/closed/{name}")
@router.post("/open/{name}")
async def anything(name: str) -> Response:
    return PlainTextResponse(name)


def to_error(error: ApiError | EngineError, context: ErrorContext) -> ErrorBody:
    return ErrorBody(status=status_of(error), body={"message": str(error)})


DIALECT = Dialect(
    name="pages",
    owns=("/open", "/closed"),
    router=router,
    to_error=to_error,
    alias="/pages",
    for_pages=(r"/open/[a-z]+",),
)


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(services, (DIALECT,)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("path", ["/open/a", "/pages/open/a"])
async def test_a_page_of_any_origin_reads(client: httpx2.AsyncClient, path: str) -> None:
    reply = await client.get(path, headers=PAGE)
    assert (reply.status_code, reply.text) == (200, "a")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize("path", ["/open/a", "/pages/open/a"])
async def test_a_preflight_lets_the_key_be_sent(client: httpx2.AsyncClient, path: str) -> None:
    asked = ASKS | {"Access-Control-Request-Headers": "authorization,x-other"}
    reply = await client.options(path, headers=asked)
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-allow-headers"] == "authorization,x-other"
    assert "POST" not in reply.headers["access-control-allow-methods"]


@pytest.mark.parametrize("path", ["/closed/a", "/open/a/b", "/open/1", "/pages/closed/a", "/other"])
async def test_no_other_path_is_for_pages(client: httpx2.AsyncClient, path: str) -> None:
    read = await client.get(path, headers=PAGE)
    asked = await client.options(path, headers=ASKS)
    assert (read.status_code, asked.status_code) == (403, 403)
    for reply in (read, asked):
        assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_a_page_writes_nothing(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/open/a", headers=PAGE)).status_code == 403
    assert (await client.post("/open/a")).status_code == 200


async def test_an_error_can_be_read_by_the_page(client: httpx2.AsyncClient) -> None:
    reply = await client.options("/open/a", headers=PAGE)
    assert reply.status_code == 403
    assert reply.headers["access-control-allow-origin"] == "*"


async def test_another_name_of_this_server_stays_refused(client: httpx2.AsyncClient) -> None:
    """Or a page could reach it by a name of its own that leads here."""
    reply = await client.get("/open/a", headers=PAGE | {"Host": "app.example"})
    assert reply.status_code == 403
