"""The wire types of destinations."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from api.copies import TOKENS, URL_TOKENS


def _tokens(names: tuple[str, ...]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


NAME = r"^[a-z0-9-]{1,64}$"
PlaceUrl = Annotated[str, Field(description="s3://bucket/prefix", examples=["s3://bucket/prefix"])]
Endpoint = Annotated[
    str | None,
    Field(description="the server's origin; null: AWS's own", examples=["https://s3.example"]),
]
PublicUrl = Annotated[
    str | None,
    Field(
        description="where others reach the place; links begin with it",
        examples=["https://cdn.example"],
    ),
]
PathTemplate = Annotated[
    str | None,
    Field(
        description=f"what a copy is called, of {_tokens(TOKENS)}; "
        "null: {task_id}/{index}.{ext}",
        examples=["{date}/{task_id}-{number}.{ext}"],
    ),
]
UrlTemplate = Annotated[
    str | None,
    Field(
        description=f"the address of a copy, of {_tokens(URL_TOKENS)}; it goes before public_url",
        examples=["https://cdn.example/{path}"],
    ),
]
Provider = Annotated[str, Field(description="the kind of server, for its owner alone")]


class PlaceRequest(BaseModel):
    """A place on an S3 server and the key for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: PlaceUrl
    endpoint: Endpoint = None
    region: Annotated[str, Field(description="what the server calls its region")] = "us-east-1"
    access_key_id: str
    secret_access_key: Annotated[SecretStr, Field(description="kept to sign with, never shown")]
    public_url: PublicUrl = None
    path_template: PathTemplate = None
    url_template: UrlTemplate = None
    provider: Provider = "s3"


class DestinationRequest(PlaceRequest):
    """A new destination."""

    name: Annotated[str, Field(description="1 to 64 of a-z, 0-9 and '-'", examples=["my-bucket"])]


class DestinationInfo(BaseModel):
    """A destination as it is used; its secret is never shown."""

    id: str
    name: str
    url: PlaceUrl
    endpoint: Endpoint
    region: str
    access_key_id: str
    public_url: PublicUrl
    path_template: PathTemplate
    url_template: UrlTemplate
    provider: Provider
    created_at: str
    updated_at: str


class DestinationList(BaseModel):
    """An account's destinations, by name."""

    destinations: list[DestinationInfo]


class DestinationTest(BaseModel):
    """Whether a small object could be put there and deleted; `reason` says why it could not."""

    ok: bool
    reason: str | None
