"""The OpenAPI document, without the replies that FastAPI imagines."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.requests import Request

router = APIRouter(include_in_schema=False)

# Keys are read by hand, in more headers than one; a server without keys asks for none.
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"api_key": []}, {}]

# What FastAPI calls a type whose name others have too, by its module.
SHARED_NAME = re.compile(r"api__dialects__([a-z]+)__(?:[a-z_]+?__)?([A-Z]\w*)")

IMAGINED = ("HTTPValidationError", "ValidationError")


@router.get("/darkroom/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """The document of this server."""
    return JSONResponse(request.app.openapi())


def document(app: FastAPI) -> dict[str, Any]:
    """The document; made once.

    FastAPI adds a 422 in a shape of its own to everything with a parameter; here such errors are
    the 400 of the dialect, which every operation's default reply describes.
    """
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for operations in made["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        made["security"] = SECURITY
        made["components"]["securitySchemes"] = SCHEMES
        for name in IMAGINED:
            made.get("components", {}).get("schemas", {}).pop(name, None)
        app.openapi_schema = _with_plain_names(made)
    return app.openapi_schema


def _with_plain_names(made: dict[str, Any]) -> dict[str, Any]:
    """Types by dialect and name: generated clients must not change where a module is moved."""
    plain: dict[str, Any] = json.loads(
        SHARED_NAME.sub(lambda found: found[1].title() + found[2], json.dumps(made))
    )
    return plain
