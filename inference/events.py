"""What the engine reports while it works.

Every image of a job ends in exactly one of `ImageDone`, `Failed` and `Cancelled`; any number of
`Progress` may come before. Events are delivered on the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from inference.errors import JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`step` of `steps` denoising steps are done; `preview` is a small RGB picture of the latents.

    Step 0 says that the image has started.
    """

    job_id: str
    index: int
    step: int
    steps: int
    preview: Image | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDone:
    """The finished picture number `index`; encoding it is the receiver's work."""

    job_id: str
    index: int
    picture: Image
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Picture number `index` could not be made."""

    job_id: str
    index: int
    error: JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Picture number `index` was given up on request, or because its device stopped."""

    job_id: str
    index: int


Event = Progress | ImageDone | Failed | Cancelled
Emit = Callable[[Event], None]
