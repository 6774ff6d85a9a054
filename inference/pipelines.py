"""Which diffusers pipeline serves which mode of a family, and how a job becomes its arguments.

A family is a row of `FAMILIES`, not a class: adding one means adding the row, and functions only
where its arguments differ. No torch here: class names are strings, pictures are PIL images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.job import ImageRole, Job, Mode, ReferenceTag
from inference.pixels import as_mask, fit

if TYPE_CHECKING:
    from PIL.Image import Image

    from inference.catalog import ModelSpec

Pictures = Mapping[ImageRole, "Image"]
Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """One mode of a family: the pipeline class by name and the maker of its call arguments."""

    pipeline: str
    arguments: Callable[[Job, ModelSpec, Pictures], Arguments]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What every model of one architecture shares.

    `size_multiple` is in pixels. `guidance_field` is the call argument that carries guidance when
    models.yaml does not say otherwise. `reference_tags` are what it can take from reference
    pictures.
    """

    routes: Mapping[Mode, Route]
    denoisers: tuple[str, ...]
    size_multiple: int
    native_side: int
    guidance_field: str = "guidance_scale"
    negative_prompt: bool = True
    max_sequence_length: bool = False
    loras: bool = True
    reference_tags: frozenset[ReferenceTag] = frozenset()


def _common(job: Job, spec: ModelSpec) -> Arguments:
    arguments: Arguments = {
        "prompt": job.prompt,
        "width": job.width,
        "height": job.height,
        "num_inference_steps": job.num_inference_steps,
        spec.guidance_field: job.guidance_scale,
    }
    if job.negative_prompt is not None:
        arguments["negative_prompt"] = job.negative_prompt
    if spec.max_sequence_length is not None:
        arguments["max_sequence_length"] = spec.max_sequence_length
    return arguments


def generate(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Arguments of a text-to-image call."""
    return _common(job, spec)


def img2img(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Arguments of a call that starts from a noised source picture."""
    source = fit(pictures[ImageRole.SOURCE], job.width, job.height)
    return _common(job, spec) | {"image": source, "strength": job.strength}


def inpaint(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Arguments of a call that redraws the white part of the mask."""
    mask = as_mask(pictures[ImageRole.MASK], job.width, job.height)
    return img2img(job, spec, pictures) | {"mask_image": mask}


def _sized_by_image(arguments: Callable[[Job, ModelSpec, Pictures], Arguments]) -> Any:
    """For pipelines that take the size from the picture and have no width and height."""

    def without_size(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
        made = arguments(job, spec, pictures)
        del made["width"], made["height"]
        return made

    return without_size


FAMILIES: Mapping[str, Family] = {
    "flux": Family(
        routes={
            Mode.GENERATE: Route("FluxPipeline", generate),
            Mode.IMG2IMG: Route("FluxImg2ImgPipeline", img2img),
            Mode.INPAINT: Route("FluxInpaintPipeline", inpaint),
        },
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        max_sequence_length=True,
    ),
    "sdxl": Family(
        routes={
            Mode.GENERATE: Route("StableDiffusionXLPipeline", generate),
            Mode.IMG2IMG: Route("StableDiffusionXLImg2ImgPipeline", _sized_by_image(img2img)),
            Mode.INPAINT: Route("StableDiffusionXLInpaintPipeline", inpaint),
        },
        denoisers=("unet",),
        size_multiple=8,
        native_side=1024,
    ),
}
