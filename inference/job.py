"""The work, as plain data: what a caller asks for and what the engine is told to make.

`ImageRequest` is a wish: `None` means "as the model does it". The catalog turns it into a `Job`,
in which every value is decided (seeds too), so that a job run again after a crash makes the same
pictures. Both are frozen, JSON-serialisable and know no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import TypeAdapter

# Of a reference that says none.
DEFAULT_WEIGHT = 0.5


class Mode(StrEnum):
    """What a pipeline does with its inputs.

    IMG2IMG starts from a noised source; EDIT follows an instruction about one or several.
    """

    GENERATE = "generate"
    IMG2IMG = "img2img"
    INPAINT = "inpaint"
    EDIT = "edit"


class ImageRole(StrEnum):
    """What an input picture is for: to be changed, to say where, or to be guided by."""

    SOURCE = "source"
    MASK = "mask"
    REFERENCE = "reference"


class ReferenceTag(StrEnum):
    """What of a reference picture is to be taken over."""

    STYLE = "style"
    CHARACTER = "character"
    PALETTE = "palette"
    COMPOSITION = "composition"
    POSE = "pose"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputImage:
    """A picture the caller gave; its bytes travel beside the job under `key`.

    A reference has a `tag`, and a `weight` from 0 to 1.
    """

    role: ImageRole
    key: str
    tag: ReferenceTag | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA by name, and how strongly it counts in one picture.

    1 is as trained, 0 not at all, below 0 the other way. `rank` keeps only that many components
    of each of its layers. A request may leave both to the model; a job has its strength. `path` is
    where the file of one that was fetched lies, told to the engine alone.
    """

    name: str
    strength: float | None = None
    rank: int | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """What a caller asks for, in the field's own terms; `None` leaves the choice to the model.

    A size is asked for either as `width` and `height` in pixels, or as `aspect_ratio` ("16:9")
    with an optional `resolution` tier ("1k", "2k", "4k"). `lora_strength` and `lora_rank` are for
    every LoRA that says none of its own, those of the `profile` too. `downsizing_mp`, in millions
    of pixels, is what input pictures are shrunk to; `mask_blur`, in pixels of the picture made, is
    how far beyond the mask it fades into the source. `offloading` says whether the weights are kept
    off the device until they are used: the model's entry decides that, another wish is refused.
    `by_default` names the fields that but repeat a default of the API they came by: where the model
    has no use for one, it asks for nothing.
    """

    model: str
    prompt: str
    negative_prompt: str | None = None
    mode: Mode | None = None
    images: tuple[InputImage, ...] = ()
    width: int | None = None
    height: int | None = None
    aspect_ratio: str | None = None
    resolution: str | None = None
    quality: str | None = None
    count: int = 1
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None
    profile: str | None = None
    loras: tuple[Lora, ...] = ()
    lora_strength: float | None = None
    lora_rank: int | None = None
    downsizing_mp: float | None = None
    sampler: str | None = None
    mask_blur: int | None = None
    offloading: bool | None = None
    by_default: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`len(seeds)` pictures of one prompt, with nothing left to choose.

    `width` and `height` are pixels the model can make; `strength` is used by img2img and inpaint
    only, `mask_blur` by inpaint. Without a `sampler` the model's own is used. `account` and
    `priority` (higher first) order jobs against one another.
    """

    id: str
    model: str
    mode: Mode
    prompt: str
    negative_prompt: str | None
    images: tuple[InputImage, ...]
    width: int
    height: int
    seeds: tuple[int, ...]
    num_inference_steps: int
    guidance_scale: float
    strength: float
    loras: tuple[Lora, ...] = ()
    downsizing_mp: float | None = None
    sampler: str | None = None
    mask_blur: int = 0
    account: str = ""
    priority: int = 0

    @property
    def takes_strength(self) -> bool:
        """Whether it starts from a noised picture, so that `strength` says how far to leave it."""
        return self.mode in (Mode.IMG2IMG, Mode.INPAINT)

    def key_of(self, role: ImageRole) -> str | None:
        """The key of the first input picture with that role."""
        return next((image.key for image in self.images if image.role == role), None)


_JOB = TypeAdapter(Job)


def dump_job(job: Job) -> str:
    """A job as JSON text."""
    return _JOB.dump_json(job).decode()


def load_job(text: str) -> Job:
    """The job that `dump_job` wrote; raises pydantic's ValidationError on anything else."""
    return _JOB.validate_json(text)
