"""What a picture costs, as models.yaml says it: one number, per resolution tier, per quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

Credits = Annotated[int, Field(ge=0, strict=True)]
Tier = Literal["1k", "2k", "4k"]


def _shape(value: object) -> str:
    """Which form of a price it is, so that a wrong one is judged as what it was meant to be."""
    return "table" if isinstance(value, Mapping) else "number"


Table = Annotated[dict[str, Credits], Field(min_length=1), Tag("table")]
Number = Annotated[Credits, Tag("number")]
PerTier = Annotated[
    dict[Tier, Annotated[Number | Table, Discriminator(_shape)]], Field(min_length=1), Tag("table")
]
Price = Annotated[Number | PerTier, Discriminator(_shape)]
