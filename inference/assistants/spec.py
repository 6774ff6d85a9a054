"""What models.yaml says of the assistants: who rates, writes prompts, searches and describes.

No torch here. A source is a hub id or a folder; an endpoint is configuration and may be private.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from inference.model_spec import Strict

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


def _http(url: str) -> str:
    """A base URL without the slash at its end."""
    if not re.match(r"https?://[^/?#@\s]+(/[^?#\s]*)?$", url):
        raise ValueError("must be a base URL like http://127.0.0.1:8080/v1, without a key or query")
    return url.rstrip("/")


def _device(name: str) -> str:
    if not _DEVICE.fullmatch(name):
        raise ValueError("must be cpu, cuda or cuda:N")
    return name


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


BaseUrl = Annotated[str, AfterValidator(_http)]
Device = Annotated[str, AfterValidator(_device)]
Words = Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=1, strict=True)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class RaterSpec(Strict):
    """Who says what a picture shows: a classifier for sfw or nsfw, a CLIP for any levels."""

    classifier: str | None = None
    classifier_revision: str | None = None
    nsfw_labels: Words = ("nsfw",)
    threshold: Share = 0.5
    clip: str | None = None
    clip_revision: str | None = None
    device: Device = "cpu"

    @model_validator(mode="after")
    def _agree(self) -> RaterSpec:
        if self.classifier is None and self.clip is None:
            raise ValueError("needs a classifier, a clip or both")
        _lone(self, "classifier", ("classifier_revision", "nsfw_labels"))
        _lone(self, "clip", ("clip_revision",))
        return self


class EnhancerSpec(Strict):
    """Who writes prompts out: a chat endpoint, a local language model, or the demo's rule."""

    endpoint: BaseUrl | None = None
    model: str | None = None
    api_key_env: EnvName | None = None
    folder: str | None = None
    revision: str | None = None
    device: Device = "cpu"
    builtin: Literal["tiny-flux"] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=20, strict=True)] = 10

    @model_validator(mode="after")
    def _agree(self) -> EnhancerSpec:
        _just_one(self, ("endpoint", "folder", "builtin"))
        _lone(self, "endpoint", ("model", "api_key_env"))
        _lone(self, "folder", ("revision", "device"))
        if self.endpoint is not None and not self.model:
            raise ValueError("an endpoint needs the name of its model")
        return self


class SearchSpec(Strict):
    """Where live references come from: a SearXNG that answers in JSON."""

    searxng: BaseUrl
    results: Annotated[int, Field(ge=1, le=20, strict=True)] = 5
    timeout_seconds: Annotated[float, Field(gt=0, le=10, strict=True)] = 5


class ViewerSpec(Strict):
    """Who puts pictures into words: a chat endpoint that sees, or a local captioner."""

    endpoint: BaseUrl | None = None
    model: str | None = None
    api_key_env: EnvName | None = None
    captioner: str | None = None
    revision: str | None = None
    device: Device = "cpu"
    timeout_seconds: Annotated[float, Field(gt=0, le=120, strict=True)] = 60

    @model_validator(mode="after")
    def _agree(self) -> ViewerSpec:
        _just_one(self, ("endpoint", "captioner"))
        _lone(self, "endpoint", ("model", "api_key_env"))
        _lone(self, "captioner", ("revision", "device"))
        if self.endpoint is not None and not self.model:
            raise ValueError("an endpoint needs the name of its model")
        return self

    @property
    def reviews(self) -> bool:
        """Whether it can judge a picture, and not only say what is on it."""
        return self.endpoint is not None


def _just_one(spec: Strict, names: Sequence[str]) -> None:
    given = [name for name in names if getattr(spec, name) is not None]
    if len(given) != 1:
        told = " and ".join(given) if given else "none"
        raise ValueError(f"needs just one of {', '.join(names)}, and has {told}")


def _lone(spec: Strict, owner: str, keys: Sequence[str]) -> None:
    """Refuse keys that mean nothing without their owner."""
    if getattr(spec, owner) is not None:
        return
    if stray := [key for key in keys if key in spec.model_fields_set]:
        raise ValueError(f"{', '.join(stray)} means nothing without {owner}")
