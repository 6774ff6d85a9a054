"""Mynth's destinations: places of the account that get copies of its pictures."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, SecretStr, model_validator

from api.body import read_body
from api.clock import iso_utc
from api.destinations import Destination
from api.dialects.base import DeskOf
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.mynth.schema import Wire
from api.dialects.mynth.translate import plain_json
from api.dialects.wire import json_docs, parse
from api.errors import ApiError, BadRequest, Unavailable

DestinationId = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$")]
BUCKET = "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
# What its tokens are here; the ending is put behind by the server.
TOKENS = {"{id}": "{task_id}-{number}", "{YYYY}": "{year}", "{MM}": "{month}", "{DD}": "{day}"}
ENDING = ".{ext}"
R2 = "r2.cloudflarestorage.com"
R2_REGION = "auto"

router = APIRouter()


class DestinationTestFailed(ApiError):
    """The place takes nothing from us; the message says why."""

    kind = "destination_test_failed"


class Provider(Wire):
    """A kind of server and the bucket on it; `s3` is any that speaks S3, at `endpoint`."""

    id: Literal["s3", "r2", "bunny"]
    bucket: Annotated[str | None, Field(pattern=BUCKET)] = None
    region: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    endpoint: Annotated[str | None, Field(max_length=1000)] = None
    force_path_style: Annotated[bool, Field(description="pictures are always put so")] = True
    account_id: Annotated[str | None, Field(pattern="^[a-z0-9]{1,63}$")] = None
    jurisdiction: Literal["default", "eu", "fedramp"] = "default"

    @model_validator(mode="after")
    def _agree(self) -> Provider:
        if self.id == "bunny":
            raise ValueError("bunny is not supported here; use s3 or r2")
        if self.bucket is None:
            raise ValueError("needs a bucket")
        if self.id == "s3" and self.region is None:
            raise ValueError("s3 needs a region")
        if self.id == "r2" and self.account_id is None:
            raise ValueError("r2 needs an account_id")
        if not self.force_path_style:
            raise ValueError("force_path_style cannot be false here")
        return self


class Secret(Wire):
    """The key for it, kept to sign with and never shown."""

    access_key_id: Annotated[str, Field(min_length=1, max_length=200)]
    secret_access_key: SecretStr


class Config(Wire):
    """What copies are called there, without an ending, and where others reach them."""

    path_template: Annotated[
        str | None, Field(min_length=1, max_length=700, examples=["images/{YYYY}/{id}"])
    ] = None
    url_template: Annotated[
        str | None, Field(max_length=1000, examples=["https://cdn.example/{path}"])
    ] = None


class PlaceRequest(Wire):
    """Where copies go; without `secret` the one that is there stays."""

    provider: Provider
    config: Config = Config()
    secret: Secret | None = None
    name: Annotated[str | None, Field(description="must stay as it is")] = None


class DestinationRequest(PlaceRequest):
    """A new destination."""

    name: Annotated[str, Field(pattern="^[a-z0-9-]{1,64}$", examples=["my-bucket"])]
    secret: Secret


class ProbeRequest(Wire):
    """Where to put a small object."""

    path: Annotated[str, Field(min_length=1, max_length=700)]


class DestinationData(BaseModel):
    """A destination as it is used, without its secret."""

    id: str
    name: str
    provider: dict[str, str]
    config: dict[str, str]
    createdAt: str
    updatedAt: str


class DestinationReply(BaseModel):
    """The reply to whoever makes, changes or reads one."""

    data: DestinationData


class DestinationList(BaseModel):
    """All of an account's, by name."""

    data: list[DestinationData]


@router.get("/destinations", response_model=DestinationList)
async def list_destinations(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """The caller's destinations."""
    return {"data": [to_data(one) for one in await desk.destinations.list(caller.account)]}


@router.post(
    "/destinations",
    status_code=201,
    response_model=DestinationReply,
    openapi_extra=json_docs(DestinationRequest),
)
async def add_destination(request: Request, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """Keep a new destination, without connecting to it yet."""
    wire = parse(DestinationRequest, plain_json(await read_body(request, desk.limits)))
    wanted = to_destination(wire, caller.account, wire.name, wire.secret)
    return {"data": to_data(await desk.destinations.add(wanted))}


@router.get("/destinations/{destination_id}", response_model=DestinationReply)
async def read_destination(
    destination_id: DestinationId, desk: DeskOf, caller: CallerOf
) -> dict[str, Any]:
    """One of them."""
    return {"data": to_data(await desk.destinations.of_id(caller.account, destination_id))}


@router.put(
    "/destinations/{destination_id}",
    response_model=DestinationReply,
    openapi_extra=json_docs(PlaceRequest),
)
async def replace_destination(
    destination_id: DestinationId, request: Request, desk: DeskOf, caller: CallerOf
) -> dict[str, Any]:
    """Another place or key; the name stays."""
    wire = parse(PlaceRequest, plain_json(await read_body(request, desk.limits)))
    old = await desk.destinations.of_id(caller.account, destination_id)
    if wire.name not in (None, old.name):
        raise BadRequest("a destination keeps its name; make another one", field="name")
    kept = Secret(access_key_id=old.access_key_id, secret_access_key=SecretStr(old.secret))
    wanted = to_destination(wire, caller.account, old.name, wire.secret or kept)
    return {"data": to_data(await desk.destinations.replace(wanted))}


@router.delete("/destinations/{destination_id}", status_code=204)
async def remove_destination(destination_id: DestinationId, desk: DeskOf, caller: CallerOf) -> None:
    """Forget one, not what lies there."""
    old = await desk.destinations.of_id(caller.account, destination_id)
    await desk.destinations.remove(caller.account, old.name)


# Counted like a creation: it makes the server connect to another.
@router.post(
    "/destinations/{destination_id}/test", status_code=204, openapi_extra=json_docs(ProbeRequest)
)
async def test_destination(
    destination_id: DestinationId, request: Request, desk: DeskOf, caller: AskerOf
) -> None:
    """Put a small object beside `path` and delete it; 502 where that fails."""
    wire = parse(ProbeRequest, plain_json(await read_body(request, desk.limits)))
    found = await desk.destinations.of_id(caller.account, destination_id)
    try:
        await desk.destinations.test(caller.account, found.name, wire.path.lstrip("/"))
    except Unavailable as error:
        raise DestinationTestFailed(f"nothing could be put there: {error}") from None
    except BadRequest as error:
        if error.field != "endpoint":
            raise
        raise DestinationTestFailed(f"nothing could be put there: {error}") from None


def to_destination(wire: PlaceRequest, account: str, name: str, secret: Secret) -> Destination:
    """What is to be kept under that name of the account; raises BadRequest."""
    provider, config = wire.provider, wire.config
    endpoint, region = provider.endpoint, provider.region or R2_REGION
    if provider.id == "r2":
        own = "" if provider.jurisdiction == "default" else f"{provider.jurisdiction}."
        endpoint, region = f"https://{provider.account_id}.{own}{R2}", R2_REGION
    return Destination(
        account=account,
        name=name,
        url=f"s3://{provider.bucket}",
        endpoint=endpoint,
        region=region,
        access_key_id=secret.access_key_id,
        secret=secret.secret_access_key.get_secret_value(),
        public_url=None,
        provider=provider.id,
        path_template=_inner_path(config.path_template),
        url_template=_inner_url(config.url_template),
    )


def to_data(destination: Destination) -> dict[str, Any]:
    """A `DestinationData`."""
    config = {
        "path_template": _outer_path(destination.path_template),
        "url_template": destination.url_template,
    }
    return {
        "id": destination.id,
        "name": destination.name,
        "provider": _provider(destination),
        "config": {name: value for name, value in config.items() if value is not None},
        "createdAt": iso_utc(destination.created_ms),
        "updatedAt": iso_utc(destination.updated_ms),
    }


def _provider(destination: Destination) -> dict[str, str]:
    bucket, _, prefix = destination.url.removeprefix("s3://").partition("/")
    told = {"id": destination.provider, "bucket": bucket}
    if destination.provider == "r2":
        host = urlsplit(destination.endpoint or "").hostname or ""
        account_id, _, jurisdiction = host.removesuffix(f".{R2}").partition(".")
        return told | {"account_id": account_id, "jurisdiction": jurisdiction or "default"}
    told["region"] = destination.region
    # only our own API puts copies below a prefix
    more = {"prefix": prefix, "endpoint": destination.endpoint}
    return told | {name: value for name, value in more.items() if value}


def _inner_path(template: str | None) -> str | None:
    if template is None:
        return None
    unknown = [one for one in re.findall(r"\{[^{}]*\}", template) if one not in TOKENS]
    braces = template.count("{"), template.count("}")
    known = sum(template.count(token) for token in TOKENS)
    if unknown or braces != (known, known):
        told = ", ".join(TOKENS)
        raise BadRequest(
            f"path_template may hold these tokens and no other braces: {told}",
            field="path_template",
        )
    for token, inner in TOKENS.items():
        template = template.replace(token, inner)
    return template.lstrip("/") + ENDING


def _outer_path(template: str | None) -> str | None:
    if template is None:
        return None
    for token, inner in TOKENS.items():
        template = template.replace(inner, token)
    return template.removesuffix(ENDING)


def _inner_url(template: str | None) -> str | None:
    if template is not None and "{path}" not in template:
        raise BadRequest("url_template must hold {path}", field="url_template")
    return template
