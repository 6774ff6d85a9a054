"""What helps around the making of pictures: raters, prompt writers, web search, describers.

Each is a port that models.yaml may set up, and none is needed to make a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from api.tasks import Enhanced, Extras, RatingWish, TaskKind
from inference.errors import JobError, Unsupported

if TYPE_CHECKING:
    from PIL.Image import Image


class AssistantFailed(JobError):
    """An assistant could not do its part; the message says which and why, and holds no secret."""

    kind = "assistant_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing that a search found; `text` is an excerpt."""

    title: str
    url: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What is to be said of a picture; `score` is 1, not usable, to 4, as good as it gets."""

    score: int
    summary: str
    findings: tuple[str, ...] = ()
    strengths: tuple[str, ...] = ()


class Rater(Protocol):
    """Says which level a picture belongs to; raises AssistantFailed."""

    async def rate(self, picture: Image, wish: RatingWish) -> str: ...


class Enhancer(Protocol):
    """Writes a prompt out for a model, with what was found on the web; raises AssistantFailed."""

    async def enhance(
        self, prompt: str, negative_prompt: str | None, notes: Sequence[Note], model: str
    ) -> Enhanced: ...


class Searcher(Protocol):
    """Finds what the web says of a prompt; raises AssistantFailed."""

    async def search(self, query: str) -> tuple[Note, ...]: ...


class Viewer(Protocol):
    """Puts a picture into words; raises AssistantFailed."""

    async def describe(self, picture: Image) -> str: ...

    async def review(self, picture: Image, effort: Literal["low", "high"]) -> Review: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Assistants:
    """Those that models.yaml sets up; the others are None.

    `rates_levels`: the rater knows levels that a request describes. `reviews`: the viewer judges.
    """

    rater: Rater | None = None
    enhancer: Enhancer | None = None
    searcher: Searcher | None = None
    viewer: Viewer | None = None
    rates_levels: bool = True
    reviews: bool = True

    def check(self, extras: Extras) -> None:
        """Raise Unsupported for what nobody here can do, naming the key of models.yaml."""
        rates = extras.rating is not None or extras.kind is TaskKind.RATE
        views = extras.kind in (TaskKind.ALT, TaskKind.REVIEW)
        both = {"search": self.searcher, "enhancer": self.enhancer}
        needed: tuple[tuple[str, bool, Mapping[str, object]], ...] = (
            ("rating", rates, {"rater": self.rater}),
            (extras.kind.value, views, {"viewer": self.viewer}),
            ("real_time", extras.real_time, both),
            ("magic_prompt", extras.magic_prompt, {"enhancer": self.enhancer}),
        )
        for field, wanted, ports in needed:
            missing = " and no ".join(repr(key) for key, port in ports.items() if port is None)
            if wanted and missing:
                what = f"{field} is not set up on this server; its models.yaml has no {missing}"
                raise Unsupported(field, what)
        if extras.rating is not None and extras.rating.levels and not self.rates_levels:
            what = "levels of one's own cannot be rated: models.yaml's 'rater' has no 'clip'"
            raise Unsupported("rating", what)
        if extras.kind is TaskKind.REVIEW and not self.reviews:
            what = "review is not set up: models.yaml's 'viewer' has no 'endpoint'"
            raise Unsupported("review", what)


NO_ASSISTANTS = Assistants()
