"""The wire types of ModelMux.

Keys it does not know are ignored, as the hosted service publishes no list of those it refuses and
a client must not break over one; values of the keys it knows are checked. A null is taken as left
out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

AspectRatio = Literal["1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9"]
Quality = Literal["standard", "medium", "high"]
Status = Literal["pending", "processing", "completed", "failed"]

# Quality is a choice, and a price, of GPT Image only; for these it changes nothing.
WITHOUT_QUALITY = frozenset({"nano-banana", "nano-banana-2", "nano-banana-pro"})


class GenerationRequest(BaseModel):
    """`POST /api/v1/generations`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: Annotated[str, Field(examples=["a red fox in fresh snow, golden hour"])]
    model: Annotated[str, Field(min_length=1, max_length=200)] = "nano-banana"
    resolution: Annotated[
        str,
        Field(min_length=1, max_length=20, description="1k, 2k or 4k in any case"),
        AfterValidator(str.lower),
    ] = "1k"
    quality: Annotated[Quality | None, Field(description="GPT Image only")] = None
    aspectRatio: AspectRatio = "1:1"


class Created(BaseModel):
    """The reply to a creation, and to a poll before the end; `createdAt` is epoch milliseconds."""

    historyId: str
    status: Status
    model: str
    aspectRatio: str
    resolution: str
    creditsCharged: int
    provider: str
    createdAt: int


class Ended(BaseModel):
    """The reply to a poll after the end: with `outputUrl`, or `errorMessage` and no credits used.

    `outputUrl` is relative to the server's root; `completedAt` is epoch milliseconds.
    """

    historyId: str
    status: Status
    provider: str
    outputUrl: str | None = None
    errorMessage: str | None = None
    creditsUsed: int
    model: str
    resolution: str
    aspectRatio: str
    completedAt: int


class Error(BaseModel):
    """Every error."""

    error: str
    code: str
