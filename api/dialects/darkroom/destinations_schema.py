"""The wire types of destinations."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

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


class PlaceRequest(BaseModel):
    """A place on an S3 server and the key for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: PlaceUrl
    endpoint: Endpoint = None
    region: Annotated[str, Field(description="what the server calls its region")] = "us-east-1"
    access_key_id: str
    secret_access_key: Annotated[SecretStr, Field(description="kept to sign with, never shown")]
    public_url: PublicUrl = None


class DestinationRequest(PlaceRequest):
    """A new destination."""

    name: Annotated[str, Field(description="1 to 64 of a-z, 0-9 and '-'", examples=["my-bucket"])]


class DestinationInfo(BaseModel):
    """A destination as it is used; its secret is never shown."""

    name: str
    url: PlaceUrl
    endpoint: Endpoint
    region: str
    access_key_id: str
    public_url: PublicUrl


class DestinationList(BaseModel):
    """An account's destinations, by name."""

    destinations: list[DestinationInfo]


class DestinationTest(BaseModel):
    """Whether a small object could be put there and deleted; `reason` says why it could not."""

    ok: bool
    reason: str | None
