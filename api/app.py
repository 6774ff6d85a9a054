"""Services become a web application: routes, errors in the shape of their path's owner, a page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from api import openapi, probes, scrape
from api.body import BodyLimits
from api.cors import Cors
from api.deliveries import Deliveries
from api.dialects import DIALECTS, fork
from api.dialects.base import (
    Desk,
    Dialect,
    Internal,
    MethodNotAllowed,
    dialect_of,
    error_reply,
    owner_of,
    spoken,
)
from api.dialects.wire import complaint
from api.errors import ApiError, BadRequest, NotFound, kind_of
from api.limits import Limiter
from api.metrics import Metrics, Timed
from api.middleware import Guard, Hosts, Net, hosts_of
from api.picture_folder import PictureFolder
from api.playground import routes as playground
from api.services import Services
from api.settings import Settings
from api.versions import version_of
from inference.errors import EngineError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def create_app(services: Services, dialects: tuple[Dialect, ...] = DIALECTS) -> FastAPI:
    """The application; it starts the services and stops them again."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await services.start()
        try:
            yield
        finally:
            await services.stop()

    app = FastAPI(
        title="Darkroom",
        version=version_of("darkroom"),
        description="Pictures on your own GPUs, by the APIs your clients already speak.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Operation ids become method names of generated clients.
        generate_unique_id_function=lambda route: f"{(route.tags or ['server'])[0]}_{route.name}",
    )
    app.state.desk = _desk(services, dialects)
    app.openapi = partial(openapi.document, app)  # type: ignore[method-assign]
    _mount(app, dialects)
    app.include_router(scrape.routes(services.scraper))
    _dress_errors(app, dialects, hosts_of(services.settings), services.metrics)
    # The one added last is the first to see a request.
    app.add_middleware(Timed, passed=services.metrics.passed)
    return app


def _desk(services: Services, dialects: tuple[Dialect, ...]) -> Desk:
    settings = services.settings
    limits = BodyLimits(body_bytes=settings.max_body_bytes, text_bytes=settings.max_part_bytes)
    return Desk(
        darkroom=services.darkroom,
        accounts=services.accounts,
        destinations=services.destinations,
        deliveries=Deliveries(services.darkroom, services.outbox, services.courier.wake),
        uploads=services.uploads,
        hooks=services.hooks,
        catalog=services.catalog,
        engine_status=services.engine.status,
        manage_model=services.engine.manage,
        links=services.links,
        tokens=services.tokens,
        presign=services.presign,
        limiter=Limiter(),
        limits=limits,
        picture_folder=_picture_folder(settings),
        dialects=dialects,
        rate_per_minute=settings.rate_per_minute,
        sync_wait_seconds=settings.sync_wait_seconds,
        credit_usd=settings.credit_usd,
        apimodels_sync_models=settings.apimodels_sync_models,
        mynth_compat=settings.mynth_compat,
        mynth_balance_status=settings.mynth_balance_status,
        public_url=settings.public_url or "",
    )


def _picture_folder(settings: Settings) -> PictureFolder:
    return PictureFolder(settings.image_path_folder, max_bytes=settings.max_picture_bytes)


def _mount(app: FastAPI, dialects: tuple[Dialect, ...]) -> None:
    app.include_router(fork.router)
    for dialect in dialects:
        told = [Depends(spoken(dialect))]
        app.include_router(dialect.router, dependencies=told)
        if dialect.alias is not None:
            app.include_router(
                dialect.router, prefix=dialect.alias, dependencies=told, include_in_schema=False
            )
    app.include_router(probes.router)
    app.include_router(openapi.router)
    app.include_router(playground.router)


def _dress_errors(
    app: FastAPI, dialects: tuple[Dialect, ...], hosts: Hosts, metrics: Metrics
) -> None:
    def dress(scope: Scope, error: ApiError | EngineError) -> Response:
        request = Request(scope)
        dialect, request_id = dialect_of(request, dialects), request.state.request_id
        metrics.refused(dialect.name, kind_of(error))
        return error_reply(dialect, error, path=scope["path"], request_id=request_id)

    async def reply(request: Request, raised: Exception) -> Response:
        return dress(request.scope, _neutral(raised, request))

    for kind in (ApiError, EngineError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, reply)

    def is_for_pages(path: str) -> bool:
        return owner_of(dialects, path).is_for_pages(path)

    app.add_middleware(Guard, hosts=hosts, dress=dress, is_for_pages=is_for_pages)
    app.add_middleware(Cors, is_for_pages=is_for_pages)
    app.add_middleware(Net, dress=dress)


def _neutral(raised: Exception, request: Request) -> ApiError | EngineError:
    """What a framework's exception means in our own terms."""
    if isinstance(raised, RequestValidationError):
        return _bad_parameter(raised)
    if isinstance(raised, HTTPException):
        return _from_http(raised, request)
    if isinstance(raised, ApiError | EngineError):
        return raised
    return Internal("something broke here")


def _bad_parameter(raised: RequestValidationError) -> ApiError:
    problem = raised.errors()[0]
    source, *location = problem["loc"]
    if source == "path":
        return NotFound("there is nothing here")
    return complaint(problem["type"], tuple(location), problem["msg"])


def _from_http(raised: HTTPException, request: Request) -> ApiError:
    if raised.status_code == 404:
        return NotFound("there is nothing here; see /darkroom/openapi.json for what is")
    if raised.status_code == 405:
        allow = ", ".join(_methods_at(request))
        return MethodNotAllowed(f"use one of: {allow}", allow=allow)
    return BadRequest(str(raised.detail))


def _methods_at(request: Request) -> list[str]:
    """Every method of the path: the framework itself names those of the first route alone."""

    def is_served(method: str) -> bool:
        scope = {"type": "http", "path": request.scope["path"], "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if is_served(method)]
