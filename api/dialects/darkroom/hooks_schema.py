"""The wire types of registered webhooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.hooks import EVENTS, MOST_FAILURES

Events = Annotated[
    Literal["all"] | list[str],
    Field(description=f'"all", or some of: {", ".join(sorted(EVENTS))}', examples=["all"]),
]
Enabled = Annotated[
    bool,
    Field(description=f"turned off by {MOST_FAILURES} messages that failed one after another"),
]


class HookRequest(BaseModel):
    """An address that is to be told of the end of every generation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(examples=["https://hooks.example/darkroom"])]
    events: Events = "all"
    enabled: Enabled = True


class HookInfo(BaseModel):
    """A registered webhook; its secret is never shown again."""

    id: str
    url: str
    events: Events
    enabled: Enabled
    failures: Annotated[int, Field(description="messages that failed since the last that did not")]
    created_at: str
    updated_at: str


class NewHook(HookInfo):
    """A webhook that was just registered, with what its messages are signed with."""

    secret: Annotated[str, Field(examples=["whsec_…"])]


class HookList(BaseModel):
    """An account's registered webhooks, oldest first."""

    hooks: list[HookInfo]
