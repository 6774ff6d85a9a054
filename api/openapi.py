"""The OpenAPI document, without the replies that FastAPI imagines."""

from __future__ import annotations

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
        app.openapi_schema = made
    return app.openapi_schema
